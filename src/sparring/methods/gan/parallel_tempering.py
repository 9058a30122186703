"""PTGAN: parallelly tempered generative adversarial networks (Sohn and Song, arXiv 2411.11786).

Status: no gain: all 25 modes as its controls have, and fewer good points (docs/results/gans.md).

Mixtures of two independent images lie less far apart than images do. Generator and discriminator learn the family of
all mixtures, and are conditioned on how mixed they are:

    Q1 = alpha X1 + (1 - alpha) X2,    alpha = 1 in a share r of the rows, else uniform in [0, 1]
    tau = 1 - 2 |alpha - 1/2|          0 for images, 1 for the most mixed; samples are G(z, 0)
    L_D = mean D(G(z, tau), tau) - mean D(Q1, tau) + coherency_weight CP,        L_G = -mean D(G(z, tau), tau)
    CP = mean <grad_x D(Qt, tau_t), Q1 - Q2>^2
         Q2 = alpha2 X1 + (1 - alpha2) X2,    Qt = nu Q1 + (1 - nu) Q2,    alpha_t = nu alpha + (1 - nu) alpha2

CP, the coherency penalty, bounds the slope only along the way between two mixtures of the same pair; it needs no
gradient penalty beside it, and in the experiments of an independent implementation it is what does the work. Fake: one
network call from noise and tau. Discriminator: any of single images that takes t. X2 is the row beside X1 in the batch,
which pairs rows two by two: ours. The option of mixing latents, and fair data, are left out; classes are dropped. Sizes
and rates are ours.
"""

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, fields_of
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses, check_not_negative
from sparring.objectives import Penalty, Wasserstein, directional_derivatives
from sparring.runs.field import Field


class ParallelTempering(GAN):
    """A generator of images or points, trained from scratch on mixtures of them.

    Args:
        generator: from latents to images, with `time`.
        discriminator: of single images, given "t".
        share_of_images: r, the share of rows that are not mixed.
        coherency_weight: factor of the coherency penalty; 0 switches it off.
        penalty: one penalty or several on the discriminator, at mixtures.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        share_of_images: float = 0.5,
        coherency_weight: float = 100.0,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(coherency_weight=coherency_weight)
        if not 0 <= share_of_images <= 1:
            raise ValueError(f"`share_of_images={share_of_images}` must lie in [0, 1]")
        if not generator.time or generator.takes_labels:
            raise ValueError(
                "generator: it is conditioned on how mixed images are, and on no classes: use `time: true`"
            )
        super().__init__(generator, discriminator, objective=Wasserstein(), penalty=penalty)
        self.share_of_images, self.coherency_weight = share_of_images, coherency_weight

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        if batch_size % 2:
            raise ValueError(
                f"`batch_size={batch_size}`: images are mixed two by two; the rows seen at once must be even"
            )

    def rollout(self, batch: Batch) -> Views:
        uniform, kind = batch.draws.uniform((len(batch),)), batch.draws.uniform((len(batch),))
        alpha = torch.where(kind < self.share_of_images, 1.0, uniform).to(batch.images)
        given = Given(t=mixedness(alpha), condition=alpha)
        fake = self.generator(self.generator.latents(batch), t=given.t)
        return self.discriminator.views(mixed(batch.images, alpha), fake, given, batch.draws)

    def discriminator_loss(self, batch: Batch, rollout: Views) -> Losses:
        losses = super().discriminator_loss(batch, rollout)
        if self.coherency_weight > 0:
            losses["coherency"] = self.coherency_weight * self.coherency(batch, rollout.given.condition)
        return losses

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        """The potential of images, of half mixed and of fully mixed ones."""
        told = {f"tau {tau}": Given(t=points.new_tensor([tau])) for tau in (0.0, 0.5, 1.0)}
        return fields_of(self.discriminator, told, points, batch.images)

    def coherency(self, batch: Batch, alpha: Tensor) -> Tensor:
        """CP: the mean squared slope of D from one mixture to another of the same two images."""
        alpha2, nu = (batch.draws.uniform((len(batch),)).to(alpha) for _ in range(2))
        one, other = mixed(batch.images, alpha), mixed(batch.images, alpha2)
        share = per_row(nu)
        between = (share * one + (1 - share) * other).requires_grad_()
        given = Given(t=mixedness(nu * alpha + (1 - nu) * alpha2))
        logits = self.discriminator(between, given, batch.draws)
        return directional_derivatives(logits, [between], [one - other]).square().mean()


def mixed(images: Tensor, alpha: Tensor) -> Tensor:
    """`alpha X1 + (1 - alpha) X2`, X2 the other row of each consecutive two; images [B, C, H, W], alpha [B].

    Raises:
        ValueError: an odd number of rows.
    """
    if len(images) % 2:
        raise ValueError(f"images are mixed two by two, but {len(images)} are seen at once: use an even number")
    partners = images.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return per_row(alpha) * images + (1 - per_row(alpha)) * partners


def mixedness(alpha: Tensor) -> Tensor:
    """tau: 0 for an image, 1 for the mean of two."""
    return 1 - 2 * (alpha - 0.5).abs()


def per_row(values: Tensor) -> Tensor:
    """[B] as [B, 1, 1, 1]."""
    return values.view(-1, 1, 1, 1)
