"""Z-Image: a transformer over image and caption in one sequence, which takes lists and counts time from noise."""

from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class ZImage(Family):
    """Hidden states of a Qwen 3 that is asked in its chat format; no caption is the empty question.

    The network's output points from noise to image, the scheduler's from image to noise. Guidance here is none +
    w (told - none); the pipeline's `guidance_scale` is w - 1.
    """

    filled = True
    pipelines = ("ZImagePipeline",)
    patch = 2
    images_first = True
    last = "all_final_layer.2-1.linear"

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        found, _ = self.pipe.encode_prompt(texts, device=device, do_classifier_free_guidance=False)
        return TextCondition.of_rows(found)

    def written(self, text: str) -> str:
        return chat(self.pipe.tokenizer, text, enable_thinking=True)

    def limits(self) -> dict[str, int]:
        return {"tokenizer": self.default_length()}

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        assert condition.mask is not None
        tokens = [row[mask] for row, mask in zip(condition.tokens, condition.mask, strict=True)]
        images = list(x[:, :, None].unbind(0))
        output = net(images, (1000 - time) / 1000, tokens, return_dict=False)[0]
        return -torch.stack(output)[:, :, 0]


def chat(tokenizer: Any, text: str, enable_thinking: bool) -> str:
    """A question as a language model is asked it."""
    messages = [{"role": "user", "content": text}]
    settings = dict(tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking)
    return tokenizer.apply_chat_template(messages, **settings)
