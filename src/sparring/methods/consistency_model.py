"""What consistency models share (Consistency, sCM): the paths along which they are constant, and their sampler."""

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator
from sparring.generators import Denoiser
from sparring.methods.method import Method, frozen_copy
from sparring.process import Times
from sparring.rollout import Noised, noise
from sparring.rollout.ode_step import check_clean_end, check_guidance, guided


class ConsistencyModel(Method):
    """A student of one or a few calls whose predicted image is to be the same all along a path.

    Args:
        generator: a trained denoiser of a VP process or a flow; its state at the start is the teacher.
        discriminator: the opponent, or None.
        distil: the paths are the teacher's; without, those of images and their noise, and there is no teacher.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        times: distribution of the noise level; the process's own when None.

    Raises:
        ValueError: EDM's process; a teacher that cannot be guided; guidance without a teacher; in `check`, a network
            of x_0.
    """

    generator: Denoiser
    discriminator: Discriminator | None
    sampler = "lcm"
    sample_steps = 1

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        distil: bool,
        guidance: float,
        times: Times | None,
    ):
        if not distil and guidance != 1:
            raise ValueError(f"`guidance={guidance}` is the teacher's, and with `distil=False` there is none")
        check_guidance(generator, guidance)
        generator.process.scheduler(self.sampler, generator.prediction)
        super().__init__(generator, discriminator)
        self.teacher = frozen_copy(generator) if distil else None
        self.guidance = guidance
        self.times = times or generator.process.default_times()

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        check_clean_end(self.generator)

    def noised(self, batch: Batch) -> Noised:
        """The batch at drawn levels."""
        process = self.generator.process
        return noise(process, batch, self.times(process, batch.draws, len(batch)))

    def ends(self, batch: Batch, noised: Noised) -> tuple[Tensor, Tensor]:
        """Image and noise [B, c, h, w] of the path through x_t: what the teacher takes for them, or the true ones."""
        if self.teacher is None:
            return noised.x_0, noised.eps
        shown = guided(self.teacher, noised.x_t, noised.t, batch.condition, self.guidance)
        return shown.x0, shown.eps
