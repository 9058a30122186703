"""FLUX.1 (dev, schnell and their fine-tunes): a transformer over tokens of 2x2 latents, a T5 and the whole caption."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family
from sparring.generators.families.packing import packed, unpacked


class Flux(Family):
    """Tokens of the T5 and the whole caption of CLIP; no caption is the empty one.

    The dev network was distilled with guidance and takes a scale of it, in training and samples the default of the
    pipeline's `guidance_scale` (3.5). It is not the guidance that is set here, by which none + w (told - none) is
    meant, the pipeline's `true_cfg_scale`; with w = 1 there is none of it. The shift of dev follows the size.
    """

    pipelines = ("FluxPipeline",)
    patch = 2

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self.embedded_guidance: float = signature(type(pipe).__call__).parameters["guidance_scale"].default

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        tokens, pooled, _ = self.pipe.encode_prompt(prompt=texts, prompt_2=None, device=device)
        return TextCondition(tokens, pooled)

    def limits(self) -> dict[str, int]:
        return super().limits() | {"tokenizer_2": self.default_length()}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        config: Any = net.config
        height, width = x.shape[2:]
        places = torch.zeros(height // 2, width // 2, 3, device=x.device)
        places[..., 1] += torch.arange(height // 2, device=x.device)[:, None]
        places[..., 2] += torch.arange(width // 2, device=x.device)
        output = net(
            hidden_states=packed(x),
            timestep=time / 1000,
            guidance=time.new_full((len(x),), self.embedded_guidance) if config.guidance_embeds else None,
            pooled_projections=condition.pooled,
            encoder_hidden_states=condition.tokens,
            txt_ids=places.new_zeros(condition.tokens.shape[1], 3),
            img_ids=places.flatten(0, 1),
            return_dict=False,
        )[0]
        return unpacked(output, (height, width))

    def channels(self, net: Any) -> tuple[int, int]:
        takes, gives = super().channels(net)
        return takes // 4, gives // 4
