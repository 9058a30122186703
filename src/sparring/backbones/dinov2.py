"""DINOv2 through transformers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.backbones.backbone import Backbone, imagenet_input
from sparring.data.hub_access import without_waiting
from sparring.networks.loading import first_line, load_network


class DINOv2(Backbone):
    """DINOv2 vision transformer, with registers or without.

    Maps are the patch tokens after chosen blocks, features the normalised class token.
    Images (grey or RGB) are resized, antialiased, and normalised with gradient. Fused attention has no
    second derivative: penalise gradients at the feature maps (R1 on the heads' inputs), not at the images.
    Source: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision".

    Args:
        path: Folder or Hugging Face name of a `Dinov2Model` or `Dinov2WithRegistersModel`, for example
            "facebook/dinov2-small".
        blocks: Transformer blocks, from 0, whose outputs are the maps; None: four evenly spaced (2, 5, 8, 11 of 12).
        image_size: Side in pixels the images are resized to; a multiple of the patch size.
        interpolation: How they are resized; "bicubic" as for published evaluations (a Frechet distance on DINOv2 is
            proposed in Stein et al. 2023).

    Raises:
        ValueError: No such model, weights that do not fit it, `image_size` no multiple of the patch size, or a block
            that the model does not have.
    """

    image_size: int

    def __init__(
        self,
        *,
        path: str,
        blocks: Sequence[int] | None = None,
        image_size: int = 224,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        super().__init__()
        from transformers import AutoConfig, Dinov2Model, Dinov2WithRegistersModel  # seconds to import: only here

        answers = True
        try:
            with without_waiting(path) as answers:
                config: Any = AutoConfig.from_pretrained(path)
        except (OSError, ValueError) as error:
            reason = f"is no DINOv2 model: {first_line(error)} (give its folder"
            if not answers:
                reason = "is neither a folder here nor downloaded, and the hub cannot be reached (give a folder"
            raise ValueError(
                f"`path={path}` {reason}, or take an encoder of your own images: `sparring encoder DATA --out "
                "encoder.safetensors` and the class FileEncoder with `path: encoder.safetensors`)"
            ) from None
        kinds = {"dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel}
        if config.model_type not in kinds:
            raise ValueError(f"`path={path}` is no DINOv2 model but a {config.model_type}; known: {', '.join(kinds)}")
        self.model = load_network(
            kinds[config.model_type], path, f"`path={path}`", torch.float32, ignored="classifier."
        )
        self.before = 1 + (config.num_register_tokens if config.model_type == "dinov2_with_registers" else 0)
        depth, patch = config.num_hidden_layers, config.patch_size
        if blocks is None:
            blocks = sorted({math.ceil((k + 1) * depth / 4) - 1 for k in range(4)})
        if image_size % patch:
            raise ValueError(f"`image_size={image_size}` is no multiple of the patch size {patch} of {path}")
        if not blocks or min(blocks) < 0 or max(blocks) >= depth:
            raise ValueError(f"`blocks={list(blocks)}`, but {path} has the blocks 0 to {depth - 1}")
        if self.model.embeddings.mask_token is not None:
            self.model.embeddings.mask_token.requires_grad_(False)  # no patch is masked, so no loss reaches it
        self.blocks, self.image_size, self.grid = list(blocks), image_size, image_size // patch
        self.channels, self.dim = [config.hidden_size] * len(self.blocks), config.hidden_size
        self.interpolation = interpolation
        self.name, self.resize = f"DINOv2 {Path(path).name}", f"{interpolation}, antialiased, to {image_size}"

    def maps(self, images: Tensor) -> list[Tensor]:
        states = self.model(self._input(images), output_hidden_states=True).hidden_states
        tokens = [states[block + 1][:, self.before :] for block in self.blocks]  # states[0] is the patch embedding
        return [t.transpose(1, 2).unflatten(2, (self.grid, self.grid)) for t in tokens]

    def features(self, images: Tensor) -> Tensor:
        return self.model(self._input(images)).last_hidden_state[:, 0]

    def _input(self, images: Tensor) -> Tensor:
        return imagenet_input(images, self.image_size, self.interpolation)
