"""What the discriminators with trained heads on a frozen backbone share: the siamese one and the projected one."""

from typing import Self

from torch import Tensor

from sparring.backbones import Backbone, freeze, images_to_learn
from sparring.data import Draws, ImageData
from sparring.discriminators.augment import DiffAugment, crop_or_resize
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.discriminators.heads import advance_spectral_norms


class OnFrozenBackbone(Discriminator):
    """Sees augmented images through a frozen backbone, whose maps are the features; subclasses add heads on them.

    Args:
        backbone: Gives the maps. It is frozen and stays in eval mode; gradient passes through it to the images.
        augment: Policy of `DiffAugment`; "" for none.
        crop: Share of the images larger than the backbone's `image_size` that are cropped to it instead of resized.

    Raises:
        ValueError: `crop` outside [0, 1].
    """

    def __init__(self, backbone: Backbone, augment: str, crop: float) -> None:
        super().__init__()
        if not 0 <= crop <= 1:
            raise ValueError(f"`crop={crop}` must lie in [0, 1]")
        self.crop = crop
        self.backbone = freeze(backbone)
        self.augment = DiffAugment(policy=augment)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the heads; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The backbone's maps of the augmented images: the inputs of the heads, where R1 is cheap."""
        if self.backbone.image_size is not None:
            x = crop_or_resize(x, self.backbone.image_size, self.crop, draws)
        return self.backbone.maps(self.augment(x, draws))

    @property
    def needs_images(self) -> bool:
        return self.backbone.needs_images

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the backbone if it needs that; no image is read for one that learns nothing."""
        if self.needs_images:
            self.backbone.prepare(*images_to_learn(data), seed)

    def after_update(self) -> None:
        """One power iteration of the spectral norms."""
        advance_spectral_norms(self)
