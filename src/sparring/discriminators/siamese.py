"""The siamese judge of ADT: is the candidate image like the real reference, in the eyes of a frozen backbone?"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone
from sparring.data import Draws
from sparring.discriminators.heads import Head, SpectralConv2d
from sparring.discriminators.on_backbone import OnFrozenBackbone


class SiameseDiscriminator(OnFrozenBackbone):
    """Similarity of a candidate and a real reference image as a logit, high for a real candidate.

    Both images are augmented independently and seen by one frozen backbone; per map, head h of the candidate and
    head g of the reference are compared by cosine over channels, `s_l = scale_l * cos + bias_l`: position by position
    and by their means over positions, half and half. Maps are averaged. Source: Shen et al. 2025, "ADT: Tuning
    Diffusion Models with Adversarial Supervision" (siamese network, frozen backbone, convolutional heads,
    differentiable augmentation); formulas and sizes: default (ours).

    Args:
        backbone: Gives the maps. It is frozen and stays in eval mode; gradient passes through it to the candidate.
        width: Channels of the heads and of the compared maps.
        mode: "siamese", or "single": an ordinary logit of the candidate from the same heads; the reference is ignored.
        augment: Policy of `DiffAugment`; "" for none.

    Raises:
        ValueError: Candidate and reference of different shapes.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        width: int = 32,
        mode: Literal["siamese", "single"] = "siamese",
        augment: str = "color,translation,cutout",
    ) -> None:
        super().__init__(backbone, augment)
        self.mode = mode
        self.candidate_heads = self._heads(width)
        if mode == "single":
            self.outputs = nn.ModuleList(SpectralConv2d(width, 1, 1) for _ in backbone.channels)
            return
        self.reference_heads = self._heads(width)
        self.scale = nn.Parameter(torch.full((len(backbone.channels),), 10.0))
        self.bias = nn.Parameter(torch.zeros(len(backbone.channels)))

    def _heads(self, width: int) -> nn.ModuleList:
        return nn.ModuleList(Head(channels=c, width=width, out_channels=width) for c in self.backbone.channels)

    def forward(self, candidate: Tensor, reference: Tensor | None, draws: Draws) -> Tensor:
        """Logits [B], float32, of images [B,C,H,W] in [-1,1]; `reference` may be None in mode "single"."""
        images = [candidate]
        if self.mode == "siamese":
            if reference is None or reference.shape != candidate.shape:
                given = None if reference is None else tuple(reference.shape)
                raise ValueError(
                    f"reference images {given}, candidates {tuple(candidate.shape)}: give one reference each"
                )
            images.append(reference)
        maps = self.feature_maps(images, draws)
        return self.logits_from_maps(maps[:1], maps[-1])[0]

    def logits_from_maps(self, candidates: Sequence[list[Tensor]], reference: list[Tensor]) -> list[Tensor]:
        """Logits [B] of each candidate from `feature_maps`, all compared with one reference, whose heads run once.

        Args:
            candidates: maps of one or more candidates.
            reference: maps of the references; ignored in mode "single".
        """
        if self.mode == "single":
            return [self._single(maps) for maps in candidates]
        heads = zip(self.reference_heads, reference, strict=True)
        directions = [self._directions(_exact(head(maps))) for head, maps in heads]
        return [self._similarity(maps, directions) for maps in candidates]

    def _single(self, maps: list[Tensor]) -> Tensor:
        layers = zip(self.candidate_heads, self.outputs, maps, strict=True)
        return torch.stack([_exact(output(head(a))).mean((1, 2, 3)) for head, output, a in layers]).mean(0)

    def _similarity(self, maps: list[Tensor], directions: list[list[Tensor]]) -> Tensor:
        """Mean over maps of `scale_l * cos + bias_l`, [B], where cos compares with the reference's directions."""
        scores = []
        for i, (head, a) in enumerate(zip(self.candidate_heads, maps, strict=True)):
            scored = zip(_compared(_exact(head(a))), directions[i], strict=True)
            with torch.autocast(a.device.type, enabled=False):
                cosines = [_cosine(vectors, unit).mean(1) for vectors, unit in scored]
                scores.append(self.scale[i] * torch.stack(cosines).mean(0) + self.bias[i])
        return torch.stack(scores).mean(0)

    def _directions(self, r: Tensor) -> list[Tensor]:
        """What is compared of a reference, as unit vectors over channels."""
        with torch.autocast(r.device.type, enabled=False):
            return [vectors * _inverse_length(vectors)[:, None] for vectors in _compared(r)]


def _compared(x: Tensor) -> list[Tensor]:
    """What is compared of a head's map [B,K,g,g]: the vectors at its positions [B,K,g*g], and their mean [B,K,1]."""
    vectors = x.flatten(2)
    return [vectors, vectors.mean(2, keepdim=True)]


def _cosine(vectors: Tensor, unit: Tensor) -> Tensor:
    """Cosine over dimension 1 of vectors and unit vectors, in [-1,1]; 0 for a vector of length 0."""
    return (vectors * unit).sum(1) * _inverse_length(vectors)


def _inverse_length(vectors: Tensor) -> Tensor:
    """1 / length over dimension 1, at most 1e8. (torch's own norm is twenty times slower over this dimension.)"""
    return vectors.square().sum(1).clamp_min(1e-16).rsqrt()


def _exact(x: Tensor) -> Tensor:
    """The same values in float32, or in float64 when they are float64 already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
