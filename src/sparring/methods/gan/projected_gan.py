"""Projected GAN: a GAN whose discriminators see a frozen backbone, randomly mixed (Sauer et al., arXiv 2111.01007).

Status: proven on digits: ahead of R3GAN in equal steps; three seeds, random features (docs/results/gans.md).

    L_D = sum_l mean relu(1 - D_l(P_l(x))) + mean relu(1 + D_l(P_l(G(z)))),        L_G = -sum_l mean D_l(P_l(G(z)))

P_l is the map of scale l of a frozen backbone, mixed across channels and scales by random convolutions that are never
trained; D_l is a small network with spectral norms. There is no gradient penalty. Fake: one network call from noise.
Discriminator: `ProjectedDiscriminator` with `mixing`, on any backbone; images are augmented alike for both. Ours: one
mean over all positions of all scales in place of the sum, GroupNorm heads that keep the resolution, sizes and rates.
"""

from sparring.discriminators import ProjectedDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.objectives import Hinge, Objective, Penalty


class ProjectedGAN(GAN):
    """A generator of images, trained from scratch: a `GAN` on projected features, with the hinge objective.

    Args:
        generator: from latents to images.
        discriminator: heads on a frozen backbone.
        objective: adversarial loss; hinge, as in the paper, when None.
        penalty: one penalty or several on the discriminator; the paper has none.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: ProjectedDiscriminator,
        *,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        super().__init__(generator, discriminator, objective=objective or Hinge(), penalty=penalty)
