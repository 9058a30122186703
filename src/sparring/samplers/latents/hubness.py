"""Hubness: hubness priors for high-quality GAN latent sampling (Liang et al., arXiv 2206.06014).

Status: no gain; on digits hubs are small latents, and worse than latents as they are drawn (docs/results/sampling.md).

In many dimensions some latents are among the nearest neighbours of very many others. Of a pool of m latents,

    N_k(z) = how often z is among the k nearest of a latent of the pool (itself included, so the mean is k),

those with the highest counts, the hubs, are drawn. They lie near the mean, and truncation is a crude form of this. The
official code keeps all with N_k of 50 or more, 1 or 2 of a hundred; here, as many as images are wanted are kept, in the
order in which they were drawn.
"""

from typing import Literal

import torch
from torch import Tensor

from sparring.generators import DenoisingNetwork, LatentGenerator
from sparring.generators.predictor import Intervention

BLOCK = 1000  # latents whose distances to the whole pool are held at once


class Hubness(Intervention):
    """Latents that are in many neighbour lists; for a generator that makes an image in one call.

    Args:
        pool: m, latents that are drawn to choose from; as many as images are wanted is the plain sampler.
        neighbours: k.
        choose: "hubs"; or, as controls, "antihubs", with the lowest counts, and "small", of the smallest norm.
    """

    of_latents = True

    def __init__(
        self, *, pool: int = 10_000, neighbours: int = 5, choose: Literal["hubs", "antihubs", "small"] = "hubs"
    ):
        if neighbours < 1 or pool < neighbours or choose not in ("hubs", "antihubs", "small"):
            raise ValueError(
                f"`pool={pool}`, `neighbours={neighbours}`, `choose={choose}`: a pool of at least as many latents as "
                "neighbours, of which hubs, antihubs or small are chosen"
            )
        self.pool = pool
        self.neighbours = neighbours
        self.choose = choose

    def check(self, denoiser: DenoisingNetwork) -> None:
        raise ValueError("hubness chooses latents of a generator that makes images in one call, and this is a denoiser")

    def noise(self, generator: LatentGenerator, n: int, seed: int, labels: Tensor | None, size: int) -> Tensor:
        pool = torch.randn((self.pool, generator.noise_dim), generator=torch.Generator().manual_seed(seed))
        return pool[self.chosen(generator.of_noise(pool.to(generator.device)), n).cpu()]

    def chosen(self, z: Tensor, n: int) -> Tensor:
        """The rows [n] of latents z [m, d] that are drawn, in their order.

        Raises:
            ValueError: fewer latents than images.
        """
        if n > len(z):
            raise ValueError(f"`pool={self.pool}`: {n} images are wanted; choose them from more latents")
        rank = z.flatten(1).norm(dim=1) if self.choose == "small" else neighbour_counts(z, self.neighbours).double()
        order = torch.argsort(rank, descending=self.choose == "hubs", stable=True)
        return order[:n].sort().values


def neighbour_counts(z: Tensor, k: int) -> Tensor:
    """How often each of z [m, d] is among the k nearest of a row of z, itself included [m]; their mean is k."""
    counts = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    for block in z.split(BLOCK):
        nearest = torch.cdist(block, z).topk(k, largest=False).indices
        counts += torch.bincount(nearest.flatten(), minlength=len(z))
    return counts
