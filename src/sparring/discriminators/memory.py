"""A memory of features, so that the images of a small batch are compared with many others."""

import torch
from torch import Tensor, nn

from sparring.discriminators.affinity import Past


class FeatureMemory(nn.Module):
    """The features of the newest images of earlier steps, real and fake, as an encoder saw them then.

    What a step stores is read from the next step on, and each image has its place by its number in the whole run. So
    neither the order in which micro-batches or processes store theirs nor how a batch was cut changes what is read.
    Features age: the encoder and the denoiser have moved since, by as many steps as M images take. Source of the idea:
    Wang et al. 2020, "Cross-Batch Memory for Embedding Learning" (arXiv 1912.06798); pairs of fakes: ours.

    Args:
        size: M, the number of images that are read, at least the size of a batch.
        dim: d of the features.
    """

    real: Tensor
    fake: Tensor
    weight: Tensor
    labels: Tensor
    step: Tensor

    def __init__(self, *, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        places = 2 * size  # a step writes over none of the M images that it reads
        self.register_buffer("real", torch.zeros(places, dim))
        self.register_buffer("fake", torch.zeros(places, dim))
        self.register_buffer("weight", torch.zeros(places))
        self.register_buffer("labels", torch.zeros(places, dtype=torch.int64))
        self.register_buffer("step", torch.full((places,), -1))

    @classmethod
    def of(cls, encoder: nn.Module, size: int) -> "FeatureMemory":
        """A memory for the features of an encoder, which says their number as `dim`.

        Raises:
            ValueError: It does not, or a negative size.
        """
        dim = getattr(encoder, "dim", None)
        if size < 0 or not isinstance(dim, int):
            why = "must be 0 or more" if size < 0 else f"needs the attribute `dim` of {type(encoder).__name__}"
            raise ValueError(f"`memory={size}` {why}")
        return cls(size=size, dim=dim)

    def past(self, step: int, batch_size: int) -> Past | None:
        """What was stored before this step, the newest M images in their order; None: nothing yet.

        Args:
            step: Number of the step, from 0.
            batch_size: Images of the global batch.
        """
        newest = step * batch_size
        number = torch.arange(max(newest - self.size, 0), newest, device=self.step.device)
        place = number % len(self.step)
        place = place[self.step[place] == number // batch_size]  # a step that was not taken has left none
        if not len(place):
            return None
        return Past(self.real[place], self.fake[place], self.weight[place], self.labels[place])

    @torch.no_grad()
    def store(
        self,
        step: int,
        batch_size: int,
        rows: Tensor,
        real: Tensor,
        fake: Tensor,
        weight: Tensor,
        labels: Tensor | None = None,
    ) -> None:
        """Keeps features [B,d] and weights [B] of the rows [B] of a global batch, over the oldest ones.

        Raises:
            ValueError: A batch larger than the memory.
        """
        if batch_size > self.size:
            raise ValueError(f"`memory={self.size}` must hold at least the {batch_size} images of a batch, or be 0")
        place = (step * batch_size + rows) % len(self.step)
        self.real[place], self.fake[place] = real.to(self.real), fake.to(self.fake)
        self.weight[place], self.step[place] = weight.to(self.weight), step
        if labels is not None:
            self.labels[place] = labels
