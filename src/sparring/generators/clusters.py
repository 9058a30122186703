"""Clusters of the training images as the condition of a denoiser: classes that no label gave."""

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.data import Batch
from sparring.generators.own_source import OwnSource


class Clusters(OwnSource):
    """One of K clusters as K numbers [B, count], of which one is 1; all 0 say "none", as guidance needs it.

    Samples draw a cluster as often as it is among the training images. Which image is in which is known to who finds
    them (`SelfGuided.prepare`). Source: self-guided diffusion (Hu et al. 2022, arXiv 2210.06462); draws by frequency,
    and zeros for "none", are ours.

    Args:
        count: K.

    Raises:
        ValueError: A number below 1.
    """

    noise_dim = 1
    sizes: Tensor

    @register_to_config
    def __init__(self, count: int = 10) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"`count={count}` must be at least 1")
        self.sizes = nn.Parameter(torch.ones(count), requires_grad=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.config["count"],)

    @property
    def none(self) -> Tensor:
        return torch.zeros_like(self.sizes)

    def of(self, clusters: Tensor) -> Tensor:
        """Sources [B, count] of clusters [B] in 0..count-1."""
        return nn.functional.one_hot(clusters, self.config["count"]).to(self.sizes)

    def forward(self, noise: Tensor) -> Tensor:
        ends = self.sizes.double().cumsum(0)
        places = torch.special.ndtr(noise[:, 0].double()) * ends[-1]
        return self.of(torch.searchsorted(ends, places, right=True))

    def of_batch(self, batch: Batch, training: bool) -> Tensor:
        """The source that says "none": an image by itself does not say in which cluster it is."""
        return self.none.expand(len(batch), -1)

    def fill(self, clusters: Tensor) -> None:
        """Takes over how many of the images are in which cluster, from the clusters [N] of all."""
        self.sizes.data.copy_(torch.bincount(clusters, minlength=self.config["count"]))
