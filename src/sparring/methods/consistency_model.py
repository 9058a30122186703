"""What consistency models share (Consistency, sCM): the paths along which they are constant, and their sampler."""

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator
from sparring.generators import Denoiser
from sparring.methods.method import frozen_copy
from sparring.methods.opposed import Opposed
from sparring.objectives import Objective, Penalty
from sparring.process import Times
from sparring.rollout import Noised, noise
from sparring.rollout.ode_step import check_clean_end, check_guidance, guided


class ConsistencyModel(Opposed):
    """A student of one or a few calls whose predicted image is to be the same all along a path.

    Args:
        generator: a trained denoiser of a VP process or a flow; its state at the start is the teacher.
        discriminator: tells f(x_t, t) from the images, or None. One that compares gets the image itself.
        distil: the paths are the teacher's; without, those of images and their noise, and there is no teacher.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        times: distribution of the noise level; the process's own when None.
        adversarial_weight: of the adversarial term, if there is a discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: EDM's process; a teacher that cannot be guided; guidance without a teacher; in `check`, a network
            of x_0.
    """

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
        adversarial_weight: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if not distil and guidance != 1:
            raise ValueError(f"`guidance={guidance}` is the teacher's, and with `distil=False` there is none")
        check_guidance(generator, guidance)
        generator.process.scheduler(self.sampler, generator.prediction)
        opponent = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, **opponent)  # type: ignore[arg-type]
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
