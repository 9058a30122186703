"""AVDM2: accelerating video diffusion models via distribution matching (arXiv 2412.05899).

Status: unproven.

A model of clips is distilled into a student of one or a few calls by two signals that complete each other:

    frames f of xhat = G(z),     f_t = alpha_t f + sigma_t eps,    g = (psi(f_t) - T(f_t)) / mean |f - T(f_t)|
    L_G   = frame_weight 0.5 |f - sg(f - g)|^2 + adversarial_weight mean sp(-C(xhat)),        sp(u) = log(1 + e^u)
    L_psi = |psi - f|^2 in the network's own output + mean sp(C(sg xhat)) + mean sp(-C(x_0))

T is a frozen image model of single frames, psi the fake score of frames; C is heads on what the frozen clip model makes
of noised clips. Fake: whole clips of the student, which C tells from real clips, and single frames of them for the two
scores. No frame score sees motion: a clip of frames that have nothing to do with each other has the same score.

Known from the sheet: clips are matched adversarially by heads on the frozen teacher at noised clips, frames by an image
model's score. No code or weights were found. Ours: weights 1 and 0.01, two frames of each clip at random, one level for
the frames of a clip, one network call, the image model, trained on single frames before the first step, and the data,
where the frames of a clip are channels.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.data.drifting import displacements, unsteadiness
from sparring.discriminators import DenoiserHeads, Given, Views, generator_loss
from sparring.generators import Denoiser, Generator
from sparring.generators.loading import load_denoiser
from sparring.methods.frame_model import fit_frames, noised_frames, of_frames, some_frames
from sparring.methods.method import Losses, Method, check_not_negative, check_weights, frozen_copy
from sparring.metrics.toys import sliced_wasserstein
from sparring.networks.frozen import copy_of_trained
from sparring.objectives import NonSaturating, Objective
from sparring.objectives.scores import distribution_matching
from sparring.process import LogitNormal, Times, Uniform
from sparring.rollout import denoising_loss, from_noise, student_levels, student_sampler
from sparring.runs.choice import check_choice

MEASURED = 64


@dataclass
class Clips:
    """The student's clips [B, F C, H, W] and k frames of each, [B k, C, H, W], with their graph, and what C sees."""

    x_0: Tensor
    frames: Tensor
    views: Views = field(default_factory=Views)


class FramesAndClips(nn.Module):
    """The opponent: a fake score of frames and a discriminator of clips, either of them or both.

    Args:
        fake_score: a denoiser of frames that learns; None: frames are not scored.
        clips: heads on the clip model; None: there is no discriminator.
    """

    def __init__(self, fake_score: Denoiser | None, clips: DenoiserHeads | None) -> None:
        super().__init__()
        self.fake_score = fake_score
        self.clips = clips


class AVDM2(Method):
    """Distils a trained denoiser of clips by scores of single frames and a discriminator of whole clips.

    Args:
        generator: a trained denoiser of clips, whose channels are frames; its state at the start is the teacher.
        frame_teacher: run or pipeline folder of a denoiser of single frames, or the denoiser; None: a network of the
            clip model's kind is trained on the frames of the data before the first step.
        frame_channels: C, channels of a frame.
        frame_steps: updates of that network.
        frames: k, frames of each clip that are scored in a step; at most all of them are.
        num_steps: network calls of the student; more than 1 need a VP process or a flow.
        frame_weight: of the difference of the frames' scores; 0 leaves a GAN.
        adversarial_weight: of the adversarial term; 0 leaves frames only, without a discriminator.
        order: of the frames that the discriminator sees: "own", or "shuffled" in each clip at random: a control.
        width: channels of the heads.
        objective: adversarial loss; non-saturating when None.
        score_times: levels at which the scores of frames are compared; uniform from 2% to 98% when None.
        times: levels at which the discriminator sees clips; sigmoid(1 + n), n normal, when None.

    Raises:
        ValueError: weights that are negative or all 0; clips that are not made of such frames; a denoiser of latents,
            captions, a source or a latent z; what `student_levels` refuses.
    """

    generator: Denoiser
    discriminator: FramesAndClips
    generator_first = True

    def __init__(
        self,
        generator: Denoiser,
        *,
        frame_teacher: str | Denoiser | None = None,
        frame_channels: int = 1,
        frame_steps: int = 1000,
        frames: int = 2,
        num_steps: int = 1,
        frame_weight: float = 1.0,
        adversarial_weight: float = 0.01,
        order: Literal["own", "shuffled"] = "own",
        width: int = 32,
        objective: Objective | None = None,
        score_times: Times | None = None,
        times: Times | None = None,
    ):
        check_weights(frame_weight=frame_weight, adversarial_weight=adversarial_weight)
        check_not_negative(frame_steps=frame_steps)
        if min(frames, frame_channels) < 1:
            raise ValueError(f"`frames={frames}`, `frame_channels={frame_channels}` must be at least 1")
        check_choice("own", "shuffled", order=order)
        if generator.space is not None or generator.text is not None or generator.takes_source or generator.slot:
            raise ValueError("AVDM2 takes denoisers of clips in pixels, without captions, sources or a latent z")
        teacher = load_denoiser(frame_teacher) if isinstance(frame_teacher, str) else frame_teacher
        self.made_here = teacher is None and frame_weight > 0
        if self.made_here:
            teacher = of_frames(generator, frame_channels)
        elif frame_weight == 0:
            teacher = None
        heads = DenoiserHeads(generator, width=width) if adversarial_weight > 0 else None
        super().__init__(generator, FramesAndClips(None if teacher is None else copy_of_trained(teacher), heads))
        self.teacher = None if teacher is None else frozen_copy(teacher)
        self.sampler, self.levels = student_sampler(num_steps), student_levels(generator, num_steps)
        self.sample_steps = num_steps
        self.frame_channels, self.frame_steps, self.frames = frame_channels, frame_steps, frames
        self.frame_weight, self.adversarial_weight = frame_weight, adversarial_weight
        self.shuffled = order == "shuffled"
        self.objective = objective or NonSaturating()
        self.score_times = score_times or Uniform(low=0.02, high=0.98)
        self.times = times or LogitNormal(logit_mean=1.0, logit_std=1.0)

    def size_for(self, data: ImageData) -> None:
        channels = data.image_shape[0]
        if channels % self.frame_channels or self.frames > channels // self.frame_channels:
            raise ValueError(
                f"`frames={self.frames}`, `frame_channels={self.frame_channels}`: the clips of `{data.name}` have "
                f"{channels} channels, which are {channels // self.frame_channels} frames"
            )
        if self.teacher is not None:
            self.teacher.check_condition(data)
            self.teacher.check_shape((self.frame_channels, *data.image_shape[1:]))

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the image model, if none was given, and starts the fake score from it."""
        super().prepare(data, seed)
        if not self.made_here:
            return
        psi = self.discriminator.fake_score
        assert self.teacher is not None
        assert psi is not None
        fit_frames(psi, data, self.frame_channels, self.frame_steps, seed)
        self.teacher.load_state_dict(psi.state_dict())

    def seen(self, clips: Tensor, draws: Draws) -> Tensor:
        """Clips as the discriminator sees them, with their frames in another order if these are shuffled."""
        if not self.shuffled:
            return clips
        every = clips.shape[1] // self.frame_channels
        return some_frames(clips, self.frame_channels, draws, every).view_as(clips)

    def rollout(self, batch: Batch) -> Clips:
        x_0 = from_noise(self.generator, batch, self.levels).x0
        frames = some_frames(x_0, self.frame_channels, batch.draws, self.frames)
        rollout = Clips(x_0, frames)
        if (heads := self.discriminator.clips) is not None:
            t = self.times(self.generator.process, batch.draws, len(batch))
            given = Given(labels=batch.labels, t=t, condition=batch.condition)
            real, fake = self.seen(batch.x_0, batch.draws), self.seen(x_0, batch.draws)
            rollout.views = heads.views(real, fake, given, batch.draws)
        return rollout

    def discriminator_loss(self, batch: Batch, rollout: Clips) -> Losses:
        losses: Losses = {}
        if (psi := self.discriminator.fake_score) is not None:
            times = psi.process.default_times()
            noised, condition = noised_frames(psi, batch, rollout.frames.detach(), times)
            losses["fake_score"] = denoising_loss(psi, noised, condition, None)
        if (heads := self.discriminator.clips) is not None:
            losses |= self.discriminator_terms(heads, rollout.views, self.objective, [], batch.draws)
        return losses

    def generator_loss(self, batch: Batch, rollout: Clips) -> Losses:
        losses: Losses = {}
        if (psi := self.discriminator.fake_score) is not None:
            assert self.teacher is not None
            with torch.no_grad():
                noised, condition = noised_frames(psi, batch, rollout.frames, self.score_times)
                real = self.teacher(noised.x_t, noised.t, condition).x0
                fake = psi(noised.x_t, noised.t, condition).x0
            losses["frames"] = self.frame_weight * distribution_matching(rollout.frames, real, fake)
        if (heads := self.discriminator.clips) is not None:
            losses["adversarial"] = self.adversarial_weight * generator_loss(heads, rollout.views, self.objective)
        return losses

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """How unsteadily 64 clips move, how fast, and how good their frames are; the first two of real ones beside.

        `unsteadiness` is the variance of the displacement from frame to frame, `speed` its mean size in pixels, and
        `frames` the sliced Wasserstein distance of single frames.
        """
        if data.image_shape[0] // self.frame_channels < 3 or self.frame_channels != 1:
            return {}
        made = generator.grid(data, MEASURED, draws.seed, scheduler=self.sampler, steps=self.sample_steps)
        real = data.images(min(MEASURED, len(data))).to(made)
        found = {"frames": sliced_wasserstein(*(clips.flatten(0, 1) for clips in (made, real)))}
        for clips, of in ((made, ""), (real, "_of_data")):
            found[f"unsteadiness{of}"] = float(unsteadiness(clips).mean())
            found[f"speed{of}"] = float(displacements(clips).abs().double().mean())
        return found
