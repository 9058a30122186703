"""Qwen-Image: a transformer over tokens of 2x2 latents and the hidden states of a Qwen 2.5 VL."""

from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family
from sparring.generators.families.packing import packed, unpacked


class QwenImage(Family):
    """The caption in the pipeline's own template; no caption is the empty one in it. The shift follows the size.

    Guidance is the pipeline's `true_cfg_scale` with the negative prompt " " or "": the latter here. The language model
    sees each caption alone (ours): the pipeline fills a batch up before it, which changes the last bits.
    """

    filled = True
    pipelines = ("QwenImagePipeline",)
    patch = 2

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        return TextCondition.of_rows([self.pipe.encode_prompt([text], device=device)[0][0] for text in texts])

    def written(self, text: str) -> str:
        return self.pipe.prompt_template_encode.format(text)

    def limits(self) -> dict[str, int]:
        return {"tokenizer": self.pipe.tokenizer_max_length + self.pipe.prompt_template_encode_start_idx}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        height, width = x.shape[2:]
        output = net(
            hidden_states=packed(x),
            timestep=time / 1000,
            encoder_hidden_states=condition.tokens,
            encoder_hidden_states_mask=condition.mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpacked(output, (height, width))

    def channels(self, net: Any) -> tuple[int, int]:
        takes = net.config.in_channels // 4
        return takes, net.config.out_channels or takes

    def renormed(self, guided: Tensor, told: Tensor) -> Tensor:
        """Each token at the norm of `told`, as in the pipeline."""
        tokens = packed(guided)
        factor = packed(told).norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
        return unpacked(tokens * factor, (guided.shape[2], guided.shape[3]))
