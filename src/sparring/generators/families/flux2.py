"""FLUX.2 (dev, klein): a transformer over 2x2 latents as one place, which sees three layers of a language model."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family
from sparring.networks.adapters.lora import ATTENTION


class Flux2(Family):
    """Hidden states of a Qwen 3 (klein) or a Mistral 3 (dev) that is asked in its chat format: 512 tokens, no mask.

    The dev network takes a scale of guidance, in training and samples the default of the pipeline's `guidance_scale`
    (4). It is not the guidance that is set here, none + w (told - none): the `guidance_scale` of klein. The shift
    follows the size and the number of steps.
    """

    pipelines = ("Flux2KleinPipeline", "Flux2Pipeline")
    attention = (*ATTENTION, "to_qkv_mlp_proj", "to_out")

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self.embedded_guidance: float = signature(type(pipe).__call__).parameters["guidance_scale"].default

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        return TextCondition(self.pipe.encode_prompt(texts, device=device)[0])

    def limits(self) -> dict[str, int]:
        return {"tokenizer": self.pipe.tokenizer_max_length}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        config: Any = net.config
        height, width = x.shape[2:]
        one, length = torch.arange(1), condition.tokens.shape[1]
        output = net(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=time / 1000,
            guidance=time.new_full((len(x),), self.embedded_guidance) if config.guidance_embeds else None,
            encoder_hidden_states=condition.tokens,
            txt_ids=torch.cartesian_prod(one, one, one, torch.arange(length)).to(x.device),
            img_ids=torch.cartesian_prod(one, torch.arange(height), torch.arange(width), one).to(x.device),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).unflatten(2, (height, width))

    def places(self, shape: tuple[int, int, int]) -> int:
        """One for each place of the latents, which are 2x2 of the autoencoder's."""
        return shape[1] * shape[2]

    def mu(self, places: int, num_steps: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return compute_empirical_mu(places, num_steps)
