"""Stable Diffusion XL: a U-Net that sees the tokens of two CLIPs, the whole caption, and the size of the image."""

from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class StableDiffusionXL(Family):
    """Tokens, the whole caption and sizes; no caption is zeros if `force_zeros_for_empty_prompt` says so."""

    pipelines = ("StableDiffusionXLPipeline",)
    part = "unet"
    last = "conv_out"

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        tokens, _, pooled, _ = self._encoded(texts, device, guided=False)
        return TextCondition(tokens, pooled)

    def encode_nothing(self, device: torch.device) -> TextCondition:
        _, tokens, _, pooled = self._encoded([""], device, guided=True)
        return TextCondition(tokens, pooled)

    def _encoded(self, texts: list[str], device: torch.device, guided: bool) -> tuple[Any, Any, Any, Any]:
        """Tokens of the captions and of no caption, then the same of the whole."""
        settings = dict(num_images_per_prompt=1, do_classifier_free_guidance=guided, prompt_2=None)
        return self.pipe.encode_prompt(prompt=texts, device=device, **settings)

    def sizes(self, n: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """[n, 6] original height and width, top and left of the crop, height and width."""
        return torch.tensor([*size, 0, 0, *size], dtype=torch.float32, device=device).expand(n, 6)

    @staticmethod
    def arguments(condition: TextCondition) -> dict[str, Any]:
        """The network's own keyword arguments."""
        added = {"text_embeds": condition.pooled, "time_ids": condition.sizes}
        return {"encoder_hidden_states": condition.tokens, "added_cond_kwargs": added}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        return net(x, timestep=time, **self.arguments(condition), return_dict=False)[0]
