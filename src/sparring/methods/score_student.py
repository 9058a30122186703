"""What students of two scores share (DMD2, SiD, SiDA, rCM): calls from noise, a teacher, a fake score that learns."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Given, Views
from sparring.discriminators.middle_head import DenoiserAndHead
from sparring.generators import Denoiser
from sparring.generators.predictor import ClassifierFree
from sparring.methods.method import Losses, Method, frozen_copy
from sparring.networks.frozen import copy_of_trained
from sparring.objectives import Objective
from sparring.process import Times, Uniform
from sparring.rollout import Noised, denoising_loss, from_noise, noise, own_steps, student_levels, student_sampler
from sparring.rollout.ode_step import check_guidance


@dataclass
class ScoreRollout:
    """The student's images [B, c, h, w] with their graph, and what a discriminator sees of them."""

    x_0: Tensor
    views: Views = field(default_factory=Views)


class ScoreStudent(Method):
    """A student of a few calls, its teacher, and a fake score: a denoiser that learns what the student makes.

    All three start as the same network. `discriminator` is the opponent with the fake score in it; its update fits the
    fake score to the student's images without their graph.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        num_steps: network calls of the student at sampling time.
        simulate: calls at cleaner levels start from the student's own calls before them, and not from noised images.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        score_times: levels at which the two scores are compared.
        times: levels at which the fake score learns; the process's own when None.
    """

    generator: Denoiser
    discriminator: DenoiserAndHead

    def __init__(
        self,
        generator: Denoiser,
        *,
        num_steps: int,
        simulate: bool,
        guidance: float,
        score_times: Times | None,
        times: Times | None,
    ):
        if generator.slot is not None:
            raise ValueError("a teacher that is conditioned on a latent z has no score: start from another")
        check_guidance(generator, guidance)
        super().__init__(generator, DenoiserAndHead(copy_of_trained(generator)))
        self.teacher = frozen_copy(generator)
        self.sampler, self.sample_steps = student_sampler(num_steps), num_steps
        student_levels(generator, num_steps)  # are there any?
        self.simulate = simulate
        self.guidance = guidance
        self.score_times = score_times or Uniform(low=0.02, high=0.98)
        self.times = times or generator.process.default_times()

    @property
    def levels(self) -> Tensor:
        """Times [num_steps] of the student's calls, rising."""
        return student_levels(self.generator, self.sample_steps)

    @property
    def fake_score(self) -> Denoiser:
        return self.discriminator.denoiser

    def images(self, batch: Batch) -> Tensor:
        """The student's images or latents [B, c, h, w], with their graph."""
        return (own_steps if self.simulate else from_noise)(self.generator, batch, self.levels).x0

    def shown(self, batch: Batch, x_0: Tensor) -> ScoreRollout:
        """The student's images or latents [B, c, h, w], and what the head sees of them and of the real ones."""
        head = self.discriminator.head
        views = Views() if head is None else head.views(batch.x_0, x_0, self.given(batch), batch.draws)
        return ScoreRollout(x_0, views)

    def given(self, batch: Batch) -> Given:
        """What a discriminator knows beside the images."""
        return Given(labels=batch.labels, condition=batch.condition)

    def head_terms(self, batch: Batch, rollout: ScoreRollout, objective: Objective, weight: float) -> Losses:
        """The head's terms of the opponent's loss, with their weight; none if there is no head."""
        head = self.discriminator.head
        if head is None:
            return {}
        return self.discriminator_terms(head, rollout.views, objective, [], batch.draws, weight=weight)

    def noised(self, batch: Batch, x_0: Tensor, times: Times) -> Noised:
        """The student's images at drawn levels."""
        process = self.generator.process
        return noise(process, replace(batch, x_0=x_0), times(process, batch.draws, len(batch)))

    def estimates(self, batch: Batch, noised: Noised) -> tuple[Tensor, Tensor]:
        """What the teacher and the fake score take for the clean images [B, c, h, w] of noisy ones."""
        x_t, t = noised.x_t, noised.t
        real = self.teacher(x_t, t, batch.condition)
        if self.guidance != 1:
            none = self.teacher(x_t, t, self.teacher.unconditional(batch.condition))
            real = ClassifierFree(self.guidance).linear(none, real)
        return real.x0, self.fake_score(x_t, t, batch.condition).x0

    def fake_score_loss(self, batch: Batch, noised: Noised) -> Tensor:
        """The ordinary denoising loss of the fake score on the student's images, equal in its output at all levels."""
        return denoising_loss(self.fake_score, noised, batch.condition, None)
