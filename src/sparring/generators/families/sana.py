"""SANA: a transformer with linear attention over few, deep latents, which sees the hidden states of a Gemma."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class Sana(Family):
    """The caption behind the pipeline's own instruction to the language model; no caption is the empty one without."""

    pipelines = ("SanaPipeline",)

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        asked = signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default
        settings = dict(do_classifier_free_guidance=False, complex_human_instruction=asked)
        tokens, mask, _, _ = self.pipe.encode_prompt(texts, device=device, **settings)
        return TextCondition(tokens, mask=mask)

    def encode_nothing(self, device: torch.device) -> TextCondition:
        _, _, tokens, mask = self.pipe.encode_prompt([""], device=device)
        return TextCondition(tokens, mask=mask)

    def limits(self) -> dict[str, int]:
        return {"tokenizer": self.default_length()}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        config: Any = net.config
        return net(
            x,
            timestep=time * config.timestep_scale,
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.mask,
            return_dict=False,
        )[0]
