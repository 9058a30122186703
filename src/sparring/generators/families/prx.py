"""PRX: a transformer whose image tokens look at the caption's, which are not changed on the way."""

from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sparring.generators.condition import TextCondition
from sparring.generators.families.family import Family


class PRX(Family):
    """Tokens of a T5Gemma of the cleaned caption; no caption is the empty one. diffusers cleans captions with `ftfy`.

    Raises:
        ValueError: `ftfy` is not installed.
    """

    pipelines = ("PRXPipeline",)
    patch = 2
    last = "final_layer.linear"
    attention = ("img_qkv_proj", "txt_kv_proj", "to_out.0")

    def __init__(self, pipe: Any):
        from diffusers.pipelines.prx import pipeline_prx

        if "ftfy" not in vars(pipeline_prx):
            raise ValueError("PRXPipeline cleans its captions with the package ftfy: install it (pip install ftfy)")
        super().__init__(pipe)

    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        tokens, mask, _, _ = self.pipe.encode_prompt(texts, device, do_classifier_free_guidance=False)
        return TextCondition(tokens, mask=mask)

    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        return net(
            hidden_states=x,
            timestep=time / 1000,
            encoder_hidden_states=condition.tokens,
            attention_mask=condition.mask,
            return_dict=False,
        )[0]

    def parts(self) -> dict[str, Any]:
        """With the text encoder as diffusers 0.42 can load it, which is not how it saves what it has loaded.

        It puts a class of its own into transformers, and reads only the inner part of the encoder's configuration. That
        is copied: what saves it takes the kind of attention out of it, and the encoder that goes on would compute
        without its mask.
        """
        from transformers import T5GemmaConfig

        encoder = copy(self.pipe.text_encoder)
        encoder.__class__ = type("T5GemmaEncoder", (type(encoder),), {"__module__": "transformers"})
        encoder.config = deepcopy(encoder.config)
        if encoder.config.model_type != "t5gemma":
            encoder.config = T5GemmaConfig(encoder=encoder.config, is_encoder_decoder=False)
        return self.pipe.components | {"text_encoder": encoder}

    @property
    def pixels(self) -> int:
        return self.pipe.config.default_sample_size or super().pixels
