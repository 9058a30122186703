"""Progressive GAN: a GAN that grows from 4x4 pixels, doubling by doubling (Karras et al., arXiv 1710.10196).

Status: no gain; 8.9 when it grows, 7.5 at full size from the start (docs/results/gans.md).

    L_D = mean D(G(z)) - mean D(x) + penalty,        L_G = -mean D(G(z)),        z ~ N(0, 1)
    G = (1 - a) up(draw_old) + a draw_new,    D likewise,    x <- (1 - a) up(down(x)) + a x,    a from 0 to 1

Large forms are learned first, at little cost. Stages of equal length: the smallest size, then for each doubling a stage
in which it is faded in and one in which it is there. While fading, real images are blended as the fakes are, or their
detail would give them away. Fake: one network call from noise. Discriminator: `GrowingDiscriminator`, which sees images
of the present size. All layers are there from the start, and those of later stages rest. Ours: the moments of the
optimiser are not reset between stages, no term for classes, sizes and the length of stages.
"""

from sparring.data import Batch
from sparring.discriminators import Given, PlainDiscriminator, Views
from sparring.generators import LatentGenerator
from sparring.methods.gan.wgan import WGAN
from sparring.networks.growing import GrowingDiscriminator, GrowingGenerator
from sparring.objectives import Penalty


class ProgressiveGAN(WGAN):
    """A generator of images, trained from scratch: a `WGAN` whose networks grow.

    Args:
        generator: from latents to images, with a `GrowingGenerator`.
        discriminator: of single images, with a `GrowingDiscriminator`.
        penalty: one penalty or several on the discriminator.
        first: stage at which it begins: 0 is the smallest size, 1 one doubling, and so on.
        blend: real images are blended while a size is faded in.

    Raises:
        ValueError: networks that do not grow alike, or a first stage that they do not have.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: PlainDiscriminator,
        *,
        penalty: Penalty | list[Penalty] | None = None,
        first: float = 0.0,
        blend: bool = True,
    ):
        nets = (generator.net, discriminator.net)
        if not isinstance(nets[0], GrowingGenerator) or not isinstance(nets[1], GrowingDiscriminator):
            names = " and ".join(type(net).__name__ for net in nets)
            raise ValueError(f"{names} do not grow: use a GrowingGenerator and a GrowingDiscriminator")
        self.last = nets[0].stage.last
        if nets[1].stage.last != self.last:
            raise ValueError(f"{self.last} doublings of the generator and {nets[1].stage.last} of the discriminator")
        if not 0 <= first <= self.last:
            raise ValueError(f"`first={first}` must lie between 0 and {self.last}, the doublings of these images")
        super().__init__(generator, discriminator, penalty=penalty)
        self.stages = [nets[0].stage, nets[1].stage]
        self.first, self.blend = first, blend
        self.grow(0.0)

    def grow(self, progress: float) -> None:
        """Sets both networks to the stage of a share of the run."""
        for stage in self.stages:
            stage.value = max(self.first, stage_at(progress, self.last))

    def rollout(self, batch: Batch) -> Views:
        stage = self.stages[1]
        real = stage.at_level(batch.images, blend=self.blend)
        fake = stage.at_level(self.generator(self.generator.latents(batch)))
        self.log(stage=stage.value)
        return self.discriminator.views(real, fake, Given(labels=batch.labels), batch.draws)

    def after_step(self) -> None:
        self.grow((self.step + 1) / self.steps)


def stage_at(progress: float, last: int) -> float:
    """The stage of a share of the run: 2 last + 1 phases of equal length, of which the odd ones fade a doubling in."""
    phase = min(progress, 1.0) * (2 * last + 1)
    whole = min(int(phase), 2 * last)
    return whole / 2 if whole % 2 == 0 else (whole - 1) / 2 + (phase - whole)
