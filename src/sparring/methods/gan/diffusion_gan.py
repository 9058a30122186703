"""Diffusion-GAN: a GAN whose discriminator sees noised images (Wang et al., arXiv 2206.02262).

Status: no gain of diffused inputs with 100 images; digits in one call 1.03 (docs/results/gans.md).

    y = sqrt(abar_t) x + sqrt(1 - abar_t) noise_std eps,      t = 0 for half of the images, else t in 1..T, P(t) ~ t - 1
    L_D = mean sp(-D(y)) + mean sp(D(y_fake)) + gamma/2 mean |grad D(y)|^2,        L_G = mean sp(-D(y_fake))
    T = 10 + round(990 p),    p <- p +- n / adapt_images after every 4 updates, up if mean sign(D(y)) > target

There is no diffusion model here: the noise keeps the two distributions overlapping, so that the generator has a slope
to follow and the discriminator cannot learn the training images by heart. Gradient flows to the generator through the
noise.
Fake: one network call from noise. Discriminator: any, inside `Diffused`. What is ours stands there; the penalty is
taken at the noised images (the official program: at the clean ones), and its weight and the sizes are ours.
"""

from sparring.discriminators import Diffused
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.objectives import NonSaturating, Penalty


class DiffusionGAN(GAN):
    """A generator of images or points, trained from scratch: a non-saturating `GAN` with diffused inputs.

    Args:
        generator: from latents to images.
        discriminator: of single images, inside `Diffused`.
        penalty: one penalty or several on the discriminator; the paper has R1.
    """

    discriminator: Diffused

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Diffused,
        *,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        super().__init__(generator, discriminator, objective=NonSaturating(), penalty=penalty)
