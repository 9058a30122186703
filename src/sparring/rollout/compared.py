"""What a discriminator compares: real images and fakes that went the same way."""

from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.runs.choice import check_choice

DiscriminatorInput = Literal["decoded", "pixels", "latents"]
"""Of a denoiser of latents: both sides decoded; only the fakes, beside the data's own pixels; or the latents."""


def real_and_fake(
    denoiser: Denoiser, batch: Batch, x_0_fake: Tensor, discriminator_input: DiscriminatorInput = "decoded"
) -> tuple[Tensor, Tensor]:
    """The real images of a batch and the fakes made from it, as a discriminator sees them.

    An autoencoder loses detail. Real images that never passed it would differ from the fakes of a perfect denoiser, so
    by default they are decoded from their latents too. In pixel space all of these are the images themselves.

    Args:
        denoiser: its `decode` makes images of what it works on.
        batch: real images, and what is diffused of them.
        x_0_fake: [B, c, h, w] fakes, with their graph.
        discriminator_input: see `DiscriminatorInput`.

    Returns:
        Real images, without a graph, and fakes, both [B, C, H, W], or both [B, c, h, w] for "latents".
    """
    check_choice("decoded", "pixels", "latents", discriminator_input=discriminator_input)
    if discriminator_input == "latents":
        return batch.x_0, x_0_fake
    fake = denoiser.decode(x_0_fake)
    if discriminator_input == "pixels" or denoiser.space is None:
        return batch.images, fake
    with torch.no_grad():
        return denoiser.decode(batch.x_0), fake
