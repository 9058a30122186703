"""What the judges with trained heads on a frozen backbone share: the siamese one and the projected one."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone, freeze
from sparring.data import Draws
from sparring.discriminators.augment import DiffAugment
from sparring.discriminators.heads import SpectralConv2d


class OnFrozenBackbone(nn.Module):
    """A judge that sees augmented images through a frozen backbone; subclasses add heads on its maps.

    Args:
        backbone: Gives the maps. It is frozen and stays in eval mode; gradient passes through it to the images.
        augment: Policy of `DiffAugment`; "" for none.
    """

    def __init__(self, backbone: Backbone, augment: str) -> None:
        super().__init__()
        self.backbone = freeze(backbone)
        self.augment = DiffAugment(policy=augment)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the heads; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    @property
    def needs_images(self) -> bool:
        """Whether `prepare` looks at the images."""
        return self.backbone.needs_images

    def prepare(self, images: Tensor, labels: Tensor | None) -> bool:
        """Trains the backbone where it needs that; once, before training. Returns whether its weights changed."""
        return self.backbone.prepare(images, labels)

    def after_update(self) -> None:
        """To be called after each update of this discriminator: one power iteration of the spectral norms."""
        for layer in self.modules():
            if isinstance(layer, SpectralConv2d):
                layer.advance()

    def feature_maps(self, images: Sequence[Tensor], draws: Draws) -> list[list[Tensor]]:
        """The backbone's maps of each batch of images, augmented one by one and seen in one pass.

        They are the inputs of the heads, where R1 is cheap.
        """
        seen = [self.augment(x, draws) for x in images]
        parts = [maps.split([len(x) for x in seen]) for maps in self.backbone.maps(torch.cat(seen))]
        return [list(maps) for maps in zip(*parts, strict=True)]
