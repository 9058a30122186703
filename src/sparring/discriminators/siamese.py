"""The siamese judge of ADT: is the candidate image like the real reference, in the eyes of a frozen backbone?"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.discriminators.augment import DiffAugment, Draws
from sparring.discriminators.backbones import Backbone, freeze
from sparring.discriminators.heads import Head, SpectralConv2d, advance_spectral_norms


class SiameseDiscriminator(nn.Module):
    """Similarity of a candidate and a real reference image as a logit, high for a real candidate.

    Both images are augmented independently and seen by one frozen backbone; per map, head h of the candidate and
    head g of the reference are compared by cosine over channels, `s_l = scale_l * cos + bias_l`, and averaged over
    positions and maps. Source: Shen et al. 2025, "ADT: Tuning Diffusion Models with Adversarial Supervision" (siamese
    network, frozen backbone, convolutional heads, differentiable augmentation); formulas and sizes: default (ours).

    Args:
        backbone: Gives the maps. It is frozen and stays in eval mode; gradient passes through it to the candidate.
        width: Channels of the heads and of the compared maps.
        tied: One head for candidate and reference instead of two.
        score: "spatial" compares position by position, "pooled" the means over positions, "both" averages the two.
        mode: "siamese", or "single": an ordinary logit of the candidate from the same heads; the reference is ignored.
        augment: Policy of `DiffAugment`; "" for none.

    Raises:
        ValueError: Candidate and reference of different shapes.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        width: int = 64,
        tied: bool = False,
        score: Literal["both", "spatial", "pooled"] = "both",
        mode: Literal["siamese", "single"] = "siamese",
        augment: str = "color,translation,cutout",
    ) -> None:
        super().__init__()
        self.backbone = freeze(backbone)
        self.score, self.mode, self.augment = score, mode, DiffAugment(policy=augment)
        self.candidate_heads = self._heads(width)
        if mode == "single":
            self.outputs = nn.ModuleList(SpectralConv2d(width, 1, 1) for _ in backbone.channels)
            return
        self.reference_heads = self.candidate_heads if tied else self._heads(width)
        self.scale = nn.Parameter(torch.full((len(backbone.channels),), 10.0))
        self.bias = nn.Parameter(torch.zeros(len(backbone.channels)))

    def _heads(self, width: int) -> nn.ModuleList:
        return nn.ModuleList(Head(channels=c, width=width, out_channels=width) for c in self.backbone.channels)

    def train(self, mode: bool = True) -> "SiameseDiscriminator":
        """Sets the mode of the heads; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def prepare(self, images: Tensor, labels: Tensor | None) -> bool:
        """Trains the backbone where it needs that; once, before training. Returns whether its weights changed."""
        return self.backbone.prepare(images, labels)

    def after_update(self) -> None:
        """To be called after each update of this discriminator: one power iteration of the spectral norms."""
        advance_spectral_norms(self)

    def forward(self, candidate: Tensor, reference: Tensor | None, draws: Draws) -> Tensor:
        """Logits [B], float32, of images [B,C,H,W] in [-1,1]; `reference` may be None in mode "single"."""
        maps = self.feature_maps(candidate, draws)
        if self.mode == "single":
            return self.logits_from_maps(maps)
        if reference is None or reference.shape != candidate.shape:
            given = None if reference is None else tuple(reference.shape)
            raise ValueError(f"reference images {given}, candidates {tuple(candidate.shape)}: give one reference each")
        return self.logits_from_maps(maps, self.feature_maps(reference, draws))

    def feature_maps(self, images: Tensor, draws: Draws) -> list[Tensor]:
        """The backbone's maps of the augmented images: the inputs of the heads, where R1 is cheap."""
        return self.backbone(self.augment(images, draws))

    def logits_from_maps(self, candidate: list[Tensor], reference: list[Tensor] | None = None) -> Tensor:
        """Logits [B] from `feature_maps` of candidates and references."""
        if self.mode == "single":
            layers = zip(self.candidate_heads, self.outputs, candidate, strict=True)
            scores = [_exact(output(head(a))).mean((1, 2, 3)) for head, output, a in layers]
            return torch.stack(scores).mean(0)
        assert reference is not None
        scores = []
        pairs = zip(self.candidate_heads, self.reference_heads, candidate, reference, strict=True)
        for i, (head_a, head_r, a, r) in enumerate(pairs):
            scores.append(self.scale[i] * self._similarity(_exact(head_a(a)), _exact(head_r(r))) + self.bias[i])
        return torch.stack(scores).mean(0)

    def _similarity(self, a: Tensor, r: Tensor) -> Tensor:
        """Cosine similarity [B] in [-1,1] of maps [B,K,g,g]."""
        with torch.autocast(a.device.type, enabled=False):
            spatial = F.cosine_similarity(a, r, dim=1).mean((1, 2))
            pooled = F.cosine_similarity(a.mean((2, 3)), r.mean((2, 3)), dim=1)
        return {"spatial": spatial, "pooled": pooled, "both": (spatial + pooled) / 2}[self.score]


def _exact(x: Tensor) -> Tensor:
    """The same values in float32, or in float64 when they are float64 already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
