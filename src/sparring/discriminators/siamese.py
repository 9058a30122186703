"""The siamese discriminator of ADT: does a candidate look like a real reference image, through a frozen backbone?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone
from sparring.discriminators.discriminator import Features, Given
from sparring.discriminators.heads import Head
from sparring.discriminators.on_backbone import OnFrozenBackbone
from sparring.networks.precision import at_least_float32
from sparring.objectives import Scores


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
        augment: Policy of `DiffAugment`; "" for none.
        crop: Share of the images larger than the backbone's `image_size` that are cropped to it instead of resized.

    Raises:
        ValueError: Logits without a reference, or with one of another shape.
    """

    needs_reference = "any"

    def __init__(
        self, *, backbone: Backbone, width: int = 32, augment: str = "color,translation,cutout", crop: float = 0.5
    ) -> None:
        super().__init__(backbone, augment, crop)
        self.candidate_heads = self._heads(width)
        self.reference_heads = self._heads(width)
        self.scale = nn.Parameter(torch.full((len(backbone.channels),), 10.0))
        self.bias = nn.Parameter(torch.zeros(len(backbone.channels)))

    def _heads(self, width: int) -> nn.ModuleList:
        return nn.ModuleList(Head(channels=c, width=width, out_channels=width) for c in self.backbone.channels)

    def logits(self, features: Features, given: Given) -> Tensor:
        """Logits [B], float32."""
        return self.scores([features], given)[0].logits

    def scores(self, candidates: Sequence[Features], given: Given) -> list[Scores]:
        """Scores of each batch of candidates; all are compared with one reference, whose heads run once."""
        reference = given.reference
        shapes = [[x.shape for x in maps] for maps in (*candidates, reference or [])]
        if reference is None or any(shape != shapes[-1] for shape in shapes):
            raise ValueError("`SiameseDiscriminator` compares with real images: give one reference for each candidate")
        heads = zip(self.reference_heads, reference, strict=True)
        directions = [self._directions(at_least_float32(head(maps))) for head, maps in heads]
        return [Scores(self._similarity(maps, directions), maps) for maps in candidates]

    def _similarity(self, maps: list[Tensor], directions: list[list[Tensor]]) -> Tensor:
        """Mean over maps of `scale_l * cos + bias_l`, [B], where cos compares with the reference's directions."""
        scores = []
        for i, (head, a) in enumerate(zip(self.candidate_heads, maps, strict=True)):
            scored = zip(_compared(at_least_float32(head(a))), directions[i], strict=True)
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
