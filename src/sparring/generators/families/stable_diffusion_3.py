"""Stable Diffusion 3: a transformer that sees the tokens of two CLIPs and a T5, and the whole caption."""

from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class StableDiffusion3(Family):
    """Tokens and the whole caption; no caption is the empty one. The T5 may be left out of the pipeline."""

    pipelines = ("StableDiffusion3Pipeline",)
    patch = 2

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        tokens, _, pooled, _ = self._encoded(texts, device, guided=False)
        return TextCondition(tokens, pooled)

    def encode_nothing(self, device: torch.device) -> TextCondition:
        _, tokens, _, pooled = self._encoded([""], device, guided=True)
        return TextCondition(tokens, pooled)

    def _encoded(self, texts: list[str], device: torch.device, guided: bool) -> tuple[Any, Any, Any, Any]:
        """Tokens of the captions and of no caption, then the same of the whole."""
        settings = dict(num_images_per_prompt=1, do_classifier_free_guidance=guided, prompt_2=None, prompt_3=None)
        return self.pipe.encode_prompt(prompt=texts, device=device, **settings)

    def limits(self) -> dict[str, int]:
        limits = super().limits()
        return limits | ({"tokenizer_3": self.default_length()} if "tokenizer_3" in limits else {})

    @staticmethod
    def arguments(condition: TextCondition) -> dict[str, Any]:
        """The network's own keyword arguments."""
        return {"encoder_hidden_states": condition.tokens, "pooled_projections": condition.pooled}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        return net(x, timestep=time, **self.arguments(condition), return_dict=False)[0]
