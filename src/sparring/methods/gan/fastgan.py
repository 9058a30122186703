"""FastGAN: a light GAN for few images, whose discriminator must also reconstruct (Liu et al., arXiv 2101.04775).

Status: no gain that three seeds prove: 4.7 with reconstruction, 6.0 without, 100 digits (docs/results/gans.md).

    L_D = mean relu(m - D(x)) + mean relu(m + D(G(z))) + weight sum_k mean |decoder_k(maps(x)) - T_k(x)|
    L_G = -mean D(G(z)),        z ~ N(0, 1),        m ~ U(0.8, 1]

With few images a discriminator learns these by heart from a few details. Decoders that have to make the images again
from its maps force it to see all of them: T_k is the whole image, or a random quadrant. Only real images are
reconstructed, and as they were augmented. Fake: one network call from noise; the generator's smallest map gates the
channels of its largest (`SkipExcitation`). Discriminator: `ReconstructingDiscriminator`, at two sizes of the image.
Ours: absolute differences in place of a perceptual distance, residual networks without noise injection and batch
normalisation, sizes and rates.
"""

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Given, ReconstructingDiscriminator, Views
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN, in_full_groups
from sparring.methods.method import Losses, check_not_negative, held_out
from sparring.objectives import Hinge, Penalty


class FastGAN(GAN):
    """A generator of images, trained from scratch: a `GAN` with the hinge of random margins and reconstruction.

    Args:
        generator: from latents to images.
        discriminator: with decoders.
        reconstruction: weight of the reconstruction of real images.
        shuffled: the decoders have to make the image of another row: a control.
        penalty: one penalty or several on the discriminator; the paper has none.

    Raises:
        ValueError: a negative weight.
    """

    discriminator: ReconstructingDiscriminator

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: ReconstructingDiscriminator,
        *,
        reconstruction: float = 1.0,
        shuffled: bool = False,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(reconstruction=reconstruction)
        super().__init__(generator, discriminator, objective=Hinge(spread=0.2), penalty=penalty)
        self.reconstruction, self.shuffled = reconstruction, shuffled
        discriminator.decoders.requires_grad_(reconstruction > 0)

    def discriminator_loss(self, batch: Batch, rollout: Views) -> Losses:
        losses = super().discriminator_loss(batch, rollout)
        if self.reconstruction > 0:
            error = self.discriminator.reconstruction(rollout.real, batch.draws, shuffled=self.shuffled)
            losses["reconstruction"] = self.reconstruction * error
        return losses

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`overfitting`: how much higher the mean logit of training images is than that of held-out ones."""
        seen = Batch.of(data.images(n := min(len(data), 960)).to(draws.device), data.labels(n), draws)
        logits = []
        for batch in (seen, held_out(data, draws, 960)):
            labels = None if batch.labels is None else in_full_groups(batch.labels)
            logits.append(self.discriminator.logits([in_full_groups(batch.images)], Given(labels=labels)).mean())
        return {"overfitting": float(logits[0] - logits[1])}
