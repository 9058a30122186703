"""How the images of a batch are related in the eyes of an encoder, and how far two batches differ in that."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Affinity = Literal["cosine", "euclidean", "rbf", "softmax"]
Distance = Literal["l1", "l2", "huber", "kl"]
Pairs = Literal["all", "same_class", "cross_class"]

TEMPERATURE = 0.1  # of the softmax affinity
HUBER_DELTA = 0.1


@dataclass
class Past:
    """Images of earlier batches with their fakes, as an encoder saw them; each image of a batch makes a pair with each.

    Attributes:
        real: [M,d] features of real images.
        fake: [M,d] features of the fakes made from them.
        weight: [M] weight of each image.
        labels: [M] class of each, or None.
    """

    real: Tensor
    fake: Tensor
    weight: Tensor
    labels: Tensor | None = None


def structure_distance(
    z_real: Tensor,
    z_fake: Tensor,
    weight: Tensor,
    *,
    affinity: Affinity = "cosine",
    distance: Distance = "l1",
    counted: Tensor | None = None,
    past: Past | None = None,
) -> Tensor:
    """Distance between the pair-wise relations (affinity matrices) of two index-aligned batches of features.

    `sum_{i != j} sqrt(w_i w_j) delta(A_real_ij, A_fake_ij)` over the number of pairs, B(B-1), and not over the sum of
    weights: low weights mean a small distance. For "kl": `sum_i w_i KL(A_real_i || A_fake_i) / B` over rows.
    All affinities are free of the scale of the features, so that no encoder wins by growing its weights:

    - cosine: cosine of the two vectors, in [-1,1]; "l1" is then at most 2;
    - euclidean: distance over the mean off-diagonal distance of the same batch, mean 1;
    - rbf: `exp(-|z_i-z_j|^2 / (2 h^2))`, h^2 the (detached) median squared distance of the real batch, in (0,1];
    - softmax: row softmax of cosine / 0.1 without the diagonal, rows sum to 1; the only one that "kl" takes.

    "huber" has delta 0.1. Affinities and distances: default (ours), after Yang et al. 2024, "Structure-Guided
    Adversarial Training of Diffusion Models", which does not fix them in the parts we could read.

    Args:
        z_real: [B,d] features of real images.
        z_fake: [B,d] features of the fakes made from the same images.
        weight: [B] weight of each image, >= 0.
        affinity: How two images of a batch are related.
        distance: How two affinities are compared.
        counted: [B,B+M] which pairs count (the diagonal never does); S is then the mean over these, 0 where there are
            none. None: all.
        past: M images of earlier batches; the matrices are then [B,B+M], with these as further columns.

    Returns:
        Scalar >= 0, float32 (float64 for float64 features); 0 for equal batches.

    Raises:
        ValueError: Fewer than two images, shapes that differ, "kl" without "softmax" or with `counted`.
    """
    check_kind(affinity, distance, counted is not None)
    if z_real.shape != z_fake.shape or weight.shape != z_real.shape[:1] or z_real.ndim != 2:
        shapes = f"{tuple(z_real.shape)}, {tuple(z_fake.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"features and weight have shapes {shapes}: use [B,d], [B,d] and [B]")
    if len(z_real) < 2:
        raise ValueError(
            f"structure lies in pairs of images, but the batch has {len(z_real)}: use at least 2 (better 32)"
        )
    with torch.autocast(z_real.device.type, enabled=False):
        z_real, z_fake, weight = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (z_real, z_fake, weight))
        columns_real, columns_fake, columns_weight = z_real, z_fake, weight
        if past is not None:
            columns_real, columns_fake = torch.cat([z_real, past.real]), torch.cat([z_fake, past.fake])
            columns_weight = torch.cat([weight, past.weight])
        b, n = len(z_real), len(columns_real)
        if distance == "kl":
            log_real, log_fake = _log_softmax_rows(z_real, columns_real), _log_softmax_rows(z_fake, columns_fake)
            rows = (log_real.exp() * (log_real - log_fake)).masked_fill(_diagonal(log_real), 0).sum(1)
            return (weight * rows).sum() / b
        a_real, a_fake = _affinities(z_real, columns_real, z_fake, columns_fake, affinity)
        if distance == "l1":
            delta = (a_real - a_fake).abs()
        elif distance == "l2":
            delta = (a_real - a_fake).square()
        else:
            delta = F.huber_loss(a_fake, a_real, reduction="none", delta=HUBER_DELTA)
        left_out = _diagonal(delta) if counted is None else _diagonal(delta) | ~counted
        num_pairs = b * (n - 1) if counted is None else (~left_out).sum().clamp_min(1)
        weights = weight.to(delta.dtype).sqrt()[:, None] * columns_weight.to(delta.dtype).sqrt()
        return (weights * delta).masked_fill(left_out, 0).sum() / num_pairs


def class_pairs(labels: Tensor, columns: Tensor, pairs: Pairs) -> Tensor | None:
    """[B,N] which pairs of images count, from the classes [B] of the rows and [N] of the columns; None: all of them."""
    if pairs == "all":
        return None
    same = labels[:, None] == columns
    return same if pairs == "same_class" else ~same


def check_kind(affinity: str, distance: str, some: bool) -> None:
    if distance == "kl" and affinity != "softmax":
        raise ValueError(f"`distance='kl'` compares distributions, but `affinity={affinity!r}`: use affinity='softmax'")
    if distance == "kl" and some:
        raise ValueError("`distance='kl'` compares whole rows, so that all pairs count: use pairs='all', or 'l1'")


def _diagonal(matrix: Tensor) -> Tensor:
    """[B,N] true where an image meets itself."""
    return torch.eye(*matrix.shape, dtype=torch.bool, device=matrix.device)


def _cosine(z: Tensor, columns: Tensor) -> Tensor:
    return F.normalize(z, dim=1, eps=1e-8) @ F.normalize(columns, dim=1, eps=1e-8).T


def _log_softmax_rows(z: Tensor, columns: Tensor) -> Tensor:
    """Log of the row softmax of cosine / temperature; the diagonal takes no part and has an arbitrary finite value."""
    logits = _cosine(z, columns) / TEMPERATURE
    return logits.masked_fill(_diagonal(logits), -1e4).log_softmax(1)


def _affinities(
    z_real: Tensor, columns_real: Tensor, z_fake: Tensor, columns_fake: Tensor, affinity: Affinity
) -> tuple[Tensor, Tensor]:
    """Affinity matrices [B,N] of both batches; their diagonals carry no information."""
    if affinity == "cosine":
        return _cosine(z_real, columns_real), _cosine(z_fake, columns_fake)
    if affinity == "softmax":
        return _log_softmax_rows(z_real, columns_real).exp(), _log_softmax_rows(z_fake, columns_fake).exp()
    d_real, d_fake = _distances(z_real, columns_real), _distances(z_fake, columns_fake)
    pairs = len(z_real) * (len(columns_real) - 1)
    if affinity == "euclidean":
        return d_real * (pairs / d_real.sum().clamp_min(1e-8)), d_fake * (pairs / d_fake.sum().clamp_min(1e-8))
    h_squared = d_real.detach().square()[~_diagonal(d_real)].median().clamp_min(1e-12)
    return (-d_real.square() / (2 * h_squared)).exp(), (-d_fake.square() / (2 * h_squared)).exp()


def _distances(z: Tensor, columns: Tensor) -> Tensor:
    """Euclidean distances [B,N], with gradient 0 where two features coincide."""
    return torch.cdist(z, columns, compute_mode="donot_use_mm_for_euclid_dist")
