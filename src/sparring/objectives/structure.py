"""How the images of a batch are related in an encoder's features, and how far two batches differ in that."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.networks.precision import at_least_float32


def structure_distance(z_real: Tensor, z_fake: Tensor, weight: Tensor) -> Tensor:
    """Distance between the pair-wise relations (affinity matrices) of two index-aligned batches of features.

    `sum_{i != j} sqrt(w_i w_j) |cos(real_i, real_j) - cos(fake_i, fake_j)|` over the number of pairs, B(B-1), and not
    over the sum of weights: low weights mean a small distance. Cosines are free of the scale of the features, so that
    no encoder wins by growing its weights.

    Affinity and distance: default (ours), after Yang et al. 2024, "Structure-Guided Adversarial Training of Diffusion
    Models", which does not fix them in the parts we could read. Others did worse, see docs/results/sadm.md.

    Args:
        z_real: [B,d] features of real images.
        z_fake: [B,d] features of the fakes made from the same images.
        weight: [B] weight of each image, >= 0.

    Returns:
        Scalar in [0, 2 max(weight)], float32 (float64 for float64 features); 0 for equal batches.

    Raises:
        ValueError: Fewer than two images, shapes that differ.
    """
    if z_real.shape != z_fake.shape or weight.shape != z_real.shape[:1] or z_real.ndim != 2:
        shapes = f"{tuple(z_real.shape)}, {tuple(z_fake.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"features and weight have shapes {shapes}: use [B,d], [B,d] and [B]")
    if len(z_real) < 2:
        raise ValueError(f"structure lies in pairs of images, but the batch has {len(z_real)}: use at least 2")
    with torch.autocast(z_real.device.type, enabled=False):
        z_real, z_fake, weight = map(at_least_float32, (z_real, z_fake, weight))
        delta = (cosines(z_real) - cosines(z_fake)).abs()
        root = weight.to(delta.dtype).sqrt()
        return (root[:, None] * root * delta).fill_diagonal_(0).sum() / (len(delta) * (len(delta) - 1))


def cosines(z: Tensor) -> Tensor:
    """[B,B] cosines of all pairs of features [B,d]."""
    z = F.normalize(z, dim=1, eps=1e-8)
    return z @ z.T
