"""Stable Diffusion 1 and 2: a U-Net that sees the tokens of one CLIP."""

from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class StableDiffusion(Family):
    """Tokens of the caption; no caption is the empty one."""

    pipelines = ("StableDiffusionPipeline",)
    part = "unet"
    last = "conv_out"

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        return TextCondition(self._encoded(texts, device, guided=False)[0])

    def encode_nothing(self, device: torch.device) -> TextCondition:
        return TextCondition(self._encoded([""], device, guided=True)[1])

    def _encoded(self, texts: list[str], device: torch.device, guided: bool) -> tuple[Any, Any]:
        """Tokens of the captions, and of no caption if they are guided."""
        return self.pipe.encode_prompt(
            prompt=texts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=guided
        )

    @staticmethod
    def arguments(condition: TextCondition) -> dict[str, Any]:
        """The network's own keyword arguments."""
        return {"encoder_hidden_states": condition.tokens}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        return net(x, timestep=time, **self.arguments(condition), return_dict=False)[0]
