"""DINOv2 through transformers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.backbones.backbone import Backbone, imagenet_input


class DINOv2(Backbone):
    """DINOv2 vision transformer: maps are the patch tokens after chosen blocks, features the normalised class token.

    Images (grey or RGB) are resized, antialiased, and normalised with gradient. Fused attention has no
    second derivative: penalise gradients at the feature maps (R1 on the heads' inputs), not at the images.
    Source: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision".

    Args:
        path: Folder or Hugging Face name of a `Dinov2Model`, for example "facebook/dinov2-small".
        blocks: Transformer blocks, from 0, whose outputs are the maps; None: four evenly spaced (2, 5, 8, 11 of 12).
        image_size: Side in pixels the images are resized to; a multiple of the patch size.
        interpolation: How they are resized; "bicubic" as for published evaluations (a Frechet distance on DINOv2 is
            proposed in Stein et al. 2023).

    Raises:
        ValueError: No such model, `image_size` no multiple of the patch size, or a block that the model does not have.
    """

    def __init__(
        self,
        *,
        path: str,
        blocks: Sequence[int] | None = None,
        image_size: int = 224,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        super().__init__()
        from transformers import Dinov2Model  # seconds to import, so only where it is used

        try:
            loaded: Any = Dinov2Model.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        except OSError as error:
            raise ValueError(f"`path={path}` is no DINOv2 model: {str(error).splitlines()[0]}") from error
        self.model, info = loaded
        if info["missing_keys"]:
            raise ValueError(f"`path={path}` is no DINOv2 model: it lacks {len(info['missing_keys'])} of its weights")
        config: Any = self.model.config
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
        tokens = [states[block + 1][:, 1:] for block in self.blocks]  # states[0] is the patch embedding
        return [t.transpose(1, 2).unflatten(2, (self.grid, self.grid)) for t in tokens]

    def features(self, images: Tensor) -> Tensor:
        return self.model(self._input(images)).last_hidden_state[:, 0]

    def _input(self, images: Tensor) -> Tensor:
        return imagenet_input(images, self.image_size, self.interpolation)
