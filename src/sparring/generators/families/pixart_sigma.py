"""PixArt-Sigma: a diffusion transformer over the latents of SDXL's autoencoder, which sees the tokens of a T5."""

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class PixArtSigma(Family):
    """Tokens of the caption; no caption is the empty one. The network learned a variance, which training leaves."""

    pipelines = ("PixArtSigmaPipeline",)
    patch = 2

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        tokens, mask, _, _ = self.pipe.encode_prompt(texts, do_classifier_free_guidance=False, device=device)
        return TextCondition(tokens, mask=mask)

    def limits(self) -> dict[str, int]:
        return {"tokenizer": self.default_length()}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        return net(
            x,
            timestep=time,
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
