"""Differentiable augmentation of what a discriminator sees."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.data import Draws


class DiffAugment:
    """Random colour, shift and cutout, independent for each image, with gradient to the images.

    Colour: brightness +-0.5, saturation times U(0,2) about the mean of the channels (nothing for grey images),
    contrast times U(0.5,1.5) about the mean of the image. Translation: up to 1/8 of each side, zeros move in. Cutout: a
    square of half the side set to zero. Zero is mid-grey. Values may leave [-1,1].
    Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training".

    Args:
        policy: Any of "color", "translation" and "cutout", separated by commas, applied in that order; "" for none.

    Raises:
        ValueError: An unknown word in `policy`.
    """

    def __init__(self, *, policy: str = "color,translation,cutout") -> None:
        words = {word.strip() for word in policy.split(",")} - {""}
        if unknown := words - set(AUGMENTATIONS):
            raise ValueError(
                f"the augmentation policy {policy!r} has {sorted(unknown)}: use color, translation and cutout, or ''"
            )
        self.policy = words

    def __call__(self, images: Tensor, draws: Draws, probability: Tensor | None = None) -> Tensor:
        """Augmented images [B,C,H,W] of the same shape and dtype.

        Args:
            images: [B,C,H,W].
            draws: random numbers for the rows.
            probability: of each augmentation, for each image by itself; None: all happen.
        """
        for word, augment in AUGMENTATIONS.items():
            if word in self.policy:
                augmented = augment(images, draws)
                if probability is not None:
                    happens = _uniform(images, draws) < probability
                    augmented = torch.where(happens, augmented, images)
                images = augmented
        return images


def _uniform(images: Tensor, draws: Draws) -> Tensor:
    return draws.uniform((len(images),)).to(images).view(-1, 1, 1, 1)


def _integers(images: Tensor, draws: Draws, high: int) -> Tensor:
    return draws.integers(high, (len(images),)).to(images.device).view(-1, 1)


def _color(images: Tensor, draws: Draws) -> Tensor:
    images = images + (_uniform(images, draws) - 0.5)
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * (2 * _uniform(images, draws))
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (0.5 + _uniform(images, draws))


def _translate(images: Tensor, draws: Draws) -> Tensor:
    for dim in (2, 3):
        size = images.shape[dim]
        reach = int(size / 8 + 0.5)
        shift = _integers(images, draws, 2 * reach + 1) - reach
        source = torch.arange(size, device=images.device) - shift  # [B, size]
        shape = (len(images), 1, size, 1) if dim == 2 else (len(images), 1, 1, size)
        inside = ((source >= 0) & (source < size)).view(shape)
        index = source.clamp(0, size - 1).view(shape).expand_as(images)
        images = images.gather(dim, index) * inside
    return images


def _cutout(images: Tensor, draws: Draws) -> Tensor:
    inside = []
    for dim in (2, 3):
        size = images.shape[dim]
        side = size // 2
        start = _integers(images, draws, size + 1 - side % 2) - side // 2
        offset = torch.arange(size, device=images.device) - start
        inside.append((offset >= 0) & (offset < side))  # [B, size]
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


AUGMENTATIONS = {"color": _color, "translation": _translate, "cutout": _cutout}


def crop_or_resize(images: Tensor, size: int, share: float, draws: Draws) -> Tensor:
    """Images [B,C,size,size] of larger ones: each, with probability `share`, a random crop, and else resized whole.

    Resizing 1024 pixels to 224 leaves hardly anything of the finest detail; a crop keeps all of it. Images that are not
    larger stay as they are. Source: Sauer et al. 2023, "StyleGAN-T" (crops of 224 with probability 0.5).
    """
    n, channels, height, width = images.shape
    if share == 0 or min(height, width) < size or max(height, width) == size:
        return images
    cropped = draws.uniform((n,)).to(images.device) < share
    whole = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    place = torch.arange(size, device=images.device)
    rows = (_integers(images, draws, height - size + 1) + place).view(n, 1, size, 1)
    columns = (_integers(images, draws, width - size + 1) + place).view(n, 1, 1, size)
    crops = images.gather(2, rows.expand(n, channels, size, width))
    crops = crops.gather(3, columns.expand(n, channels, size, size))
    return torch.where(cropped.view(-1, 1, 1, 1), crops, whole)
