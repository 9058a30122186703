"""The projected discriminator: small heads on the maps of a frozen backbone, one logit per position of each map."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import Backbone
from sparring.data import Draws
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
        mixing: Channels of the finest map after `RandomMixing`, which comes between backbone and heads as in Projected
            GAN; 0: the heads see the backbone's own maps.
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
        mixing: int = 0,
        augment: str = "color,translation,cutout",
        crop: float = 0.5,
    ) -> None:
        super().__init__(backbone, augment, crop)
        out_channels = 1 if num_classes is None else width
        self.mixing = None if mixing == 0 else RandomMixing(backbone.channels, mixing)
        channels = backbone.channels if self.mixing is None else self.mixing.channels
        self.heads = nn.ModuleList(Head(channels=c, width=width, out_channels=out_channels) for c in channels)
        self.classes = None if num_classes is None else nn.Embedding(num_classes, width)

    @property
    def takes_labels(self) -> bool:
        return self.classes is not None

    @property
    def num_classes(self) -> int | None:
        return None if self.classes is None else self.classes.num_embeddings

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The inputs of the heads: the backbone's maps of the augmented images, mixed if that is set."""
        maps = super().features(x, given, draws)
        return maps if self.mixing is None else self.mixing(maps)

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


class RandomMixing(nn.Module):
    """Random frozen mixing of a backbone's maps across channels and scales; it is never trained.

    A random 1x1 convolution takes each map to `channels` times 1, 2, 4, 8 … from the finest to the coarsest. Then, from
    the coarsest on, each map gets the next coarser one (random 1x1 convolution, bilinear upsampling) and a random 3x3
    convolution of the sum as a residual. So every head sees all channels and what is coarser, and a generator cannot
    serve one deep layer only. All of it is linear in the maps. Source: Sauer et al. 2021, "Projected GANs Converge
    Faster" (official code); that maps keep their resolution (there it doubles) is ours.

    Args:
        sources: Channels of the backbone's maps, the finest first.
        channels: Of the finest mixed map.

    Raises:
        ValueError: `channels` below 1.
    """

    def __init__(self, sources: Sequence[int], channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"`mixing={channels}` must be at least 1, or 0 for none")
        self.channels = [channels * 2**level for level in range(len(sources))]
        levels = list(zip(sources, self.channels, strict=True))
        self.across_channels = nn.ModuleList(nn.Conv2d(before, after, 1, bias=False) for before, after in levels)
        pairs = zip(self.channels[1:], self.channels[:-1], strict=True)
        self.from_coarser = nn.ModuleList(nn.Conv2d(coarse, fine, 1, bias=False) for coarse, fine in pairs)
        self.residual = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1, bias=False) for c in self.channels)
        for weight in self.parameters():
            nn.init.kaiming_normal_(weight, nonlinearity="linear")
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mixed maps of the same sizes, the finest first."""
        mixed: list[Tensor] = []
        for level in reversed(range(len(maps))):
            x = self.across_channels[level](maps[level])
            if mixed:
                coarser = self.from_coarser[level](mixed[0])
                x = x + F.interpolate(coarser, x.shape[2:], mode="bilinear", align_corners=False)
            mixed.insert(0, x + self.residual[level](x))
        return mixed
