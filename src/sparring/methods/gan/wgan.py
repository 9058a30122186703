"""WGAN: Wasserstein GAN (Arjovsky et al., arXiv 1701.07875).

Status: proven on eight modes in the plane, in five seeds, and no better than GAN there (docs/results/gans.md).

    L_D = mean D(G(z)) - mean D(x) + penalty,        L_G = -mean D(G(z)),        z ~ N(0, 1)

If the slope of D is at most 1, the gap is at most the earth mover's distance of fakes and reals. Fake: one network call
from noise. Discriminator: any that looks at single images. Its slope is bounded by `GradientPenalty` (Gulrajani et al.,
arXiv 1704.00028) or, as in the first paper, by clipped weights (`PlainDiscriminator.clip`). Sizes and rates are ours.
"""

from sparring.data import Draws, ImageData
from sparring.discriminators import Discriminator
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import held_out
from sparring.metrics.toys import wasserstein
from sparring.objectives import Penalty, Wasserstein

MEASURED = 256


class WGAN(GAN):
    """A generator of images or points, trained from scratch: a `GAN` with the Wasserstein objective.

    Args:
        generator: from latents to images.
        discriminator: of single images.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        super().__init__(generator, discriminator, objective=Wasserstein(), penalty=penalty)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`earth_mover`: the distance of up to 256 held-out images and as many fakes, which `statistics/gap` estimates.

        It is exact, in the units of the pixels; a gap under another bound on the slope has another scale.
        """
        assert isinstance(generator, LatentGenerator)
        batch = held_out(data, draws, MEASURED)
        return {"earth_mover": wasserstein(batch.images, generator(generator.latents(batch), batch.labels))}
