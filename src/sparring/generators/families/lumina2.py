"""Lumina-Image 2.0: a transformer over caption and image in one sequence, which counts time from noise to image."""

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class Lumina2(Family):
    """The caption behind the pipeline's system prompt, in hidden states of a Gemma; no caption is the empty one.

    The network's output points from noise to image, the scheduler's from image to noise.
    """

    pipelines = ("Lumina2Pipeline",)
    patch = 2
    last = "norm_out.linear_2"

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        tokens, mask, _, _ = self.pipe.encode_prompt(texts, do_classifier_free_guidance=False, device=device)
        return TextCondition(tokens, mask=mask)

    def encode_nothing(self, device: torch.device) -> TextCondition:
        _, _, tokens, mask = self.pipe.encode_prompt([""], device=device)
        return TextCondition(tokens, mask=mask)

    def written(self, text: str) -> str:
        return f"{self.pipe.system_prompt} <Prompt Start> {text}"

    def limits(self) -> dict[str, int]:
        return {"tokenizer": self.default_length()}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        return -net(
            hidden_states=x,
            timestep=1 - time / 1000,
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.mask,
            return_dict=False,
        )[0]

    def renormed(self, guided: Tensor, told: Tensor) -> Tensor:
        """Each row of pixels at the norm of `told`: the pipeline's `cfg_normalization`, over its last dimension."""
        return guided * (told.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def places(self, shape: tuple[int, int, int]) -> int:
        """The number of channels, which is what the pipeline counts (diffusers 0.42)."""
        return shape[0]
