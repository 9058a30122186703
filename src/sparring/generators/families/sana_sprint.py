"""SANA-Sprint (arXiv 2503.09641): SANA distilled to one to four calls, a consistency model that takes guidance."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.sana import Sana


class SanaSprint(Sana):
    """The caption as SANA's; the network takes a scale of guidance as a number.

    The scale is the default of the pipeline's `guidance_scale` (4.5), in training and samples. The network works on a
    rectified flow; the pipeline turns its output into TrigFlow's, for a scheduler that is the only one it can have.
    """

    pipelines = ("SanaSprintPipeline",)

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        asked = self._default("complex_human_instruction")
        tokens, mask = self.pipe.encode_prompt(texts, device=device, complex_human_instruction=asked)
        return TextCondition(tokens, mask=mask)

    def encode_nothing(self, device: torch.device) -> TextCondition:
        tokens, mask = self.pipe.encode_prompt([""], device=device)
        return TextCondition(tokens, mask=mask)

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        config: Any = net.config
        scale = self._default("guidance_scale") * config.guidance_embeds_scale
        return net(
            x,
            timestep=time / 1000,
            guidance=condition.tokens.new_full((len(x),), scale),
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.mask,
            return_dict=False,
        )[0]

    def shipped(self, scheduler: Any) -> Any:
        return self.pipe.scheduler

    def _default(self, name: str) -> Any:
        """What the pipeline takes if it is not told."""
        return signature(type(self.pipe).__call__).parameters[name].default
