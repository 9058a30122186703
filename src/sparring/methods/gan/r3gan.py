"""R3GAN: the GAN with relativistic pairs and both gradient penalties (Huang et al., arXiv 2501.05441).

Status: proven on 25 modes in the plane, in three seeds (docs/results/gans.md).

    L_D = mean sp(-(D(x) - D(G(z)))) + gamma/2 (mean |grad D(x)|^2 + mean |grad D(G(z))|^2),    sp(u) = log(1 + e^u)
    L_G = mean sp(-(D(G(z)) - D(x))),        z ~ N(0, 1)

Real i is compared with fake i, so that dropping modes is no way out; the penalties at reals (R1) and at fakes (R2),
both in every step, make the training converge locally. Fake: one network call from noise. Discriminator: any of single
images. The paper lowers gamma along half a cosine over the run, and the recipe has its other schedules (rates, second
moments, EMA). Its networks are residual, without normalisation (`ConvGenerator`, `ConvDiscriminator`). Sizes, rates and
gamma are ours.
"""

from sparring.data import Batch
from sparring.discriminators import Discriminator, Views
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses, check_not_negative
from sparring.objectives import R1, R2, Relativistic, cosine


class R3GAN(GAN):
    """A generator of images or points, trained from scratch: a `GAN` with `Relativistic`, `R1` and `R2`.

    Args:
        generator: from latents to images.
        discriminator: of single images.
        gamma: weight of both penalties at the start of the run.
        gamma_end: and at its end.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self, generator: LatentGenerator, discriminator: Discriminator, *, gamma: float = 0.1, gamma_end: float = 0.01
    ):
        check_not_negative(gamma=gamma, gamma_end=gamma_end)
        penalties = [R1(weight=gamma), R2(weight=gamma)]
        super().__init__(generator, discriminator, objective=Relativistic(), penalty=penalties)
        self.gamma, self.gamma_end = gamma, gamma_end

    def discriminator_loss(self, batch: Batch, rollout: Views) -> Losses:
        gamma = cosine(self.gamma, self.gamma_end, self.step / self.steps)
        self.penalties = [R1(weight=gamma), R2(weight=gamma)]
        self.log(gamma=gamma)
        return super().discriminator_loss(batch, rollout)
