"""The projected discriminator: small heads on the maps of a frozen backbone, one logit per position of each map."""

import math

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone
from sparring.discriminators.discriminator import Features, Given
from sparring.discriminators.heads import Head
from sparring.discriminators.on_backbone import OnFrozenBackbone
from sparring.networks.precision import at_least_float32


class ProjectedDiscriminator(OnFrozenBackbone):
    """Real-or-fake logits of one image from the maps of a frozen backbone, high for real.

    Head of Sauer et al. 2023, "StyleGAN-T", as ADD uses it, on 2-D maps and with GroupNorm in place of virtual batch
    norm (see `Head`). With classes, the heads' last maps are projected on a class embedding, divided by sqrt(width).
    Every position of every map is one logit of equal weight: in a pyramid the finer maps count more, in a vision
    transformer all count the same.

    Args:
        backbone: Gives the maps. It is frozen and stays in eval mode; gradient passes through it to the images.
        width: Channels of the heads.
        num_classes: Number of classes to condition on; None: the labels are ignored.
        augment: Policy of `DiffAugment`; "" for none.
        crop: Share of the images larger than the backbone's `image_size` that are cropped to it instead of resized.

    Raises:
        ValueError: `num_classes` given and a batch without labels.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        width: int = 64,
        num_classes: int | None = None,
        augment: str = "color,translation,cutout",
        crop: float = 0.5,
    ) -> None:
        super().__init__(backbone, augment, crop)
        out_channels = 1 if num_classes is None else width
        self.heads = nn.ModuleList(Head(channels=c, width=width, out_channels=out_channels) for c in backbone.channels)
        self.classes = None if num_classes is None else nn.Embedding(num_classes, width)

    def logits(self, features: Features, given: Given) -> Tensor:
        """Logits [B, M], float32; M counts the positions of all maps."""
        if self.classes is not None and given.labels is None:
            raise ValueError("`ProjectedDiscriminator(num_classes=...)` is conditioned on labels; the batch has none")
        logits = []
        for head, x in zip(self.heads, features, strict=True):
            y = at_least_float32(head(x))
            if self.classes is not None:
                y = (y * self.classes(given.labels)[:, :, None, None]).sum(1) / math.sqrt(y.shape[1])
            logits.append(y.flatten(1))
        return torch.cat(logits, 1)
