"""DiffGAN-VC: voice conversion with denoising diffusion GANs (arXiv 2308.14319).

Status: no gain; pitch 0.034 bands off and the right speaker, without the GAN 0.036 (docs/results/gans.md).

A voice is converted to that of another speaker without parallel data: a DDGAN is conditioned on what is said, c, and
on the speaker s, and learns to make each voice again,

    xhat = G(x_t, t, c, s),    x_s' ~ q(x_s | x_t, xhat),    D(x_s, x_t, t, s),    losses of the players as in DDGAN
    L_G += a mean |xhat - x_0| + b mean |E(xhat) - E(x_0)|,        E(x) = x - mean of x over time

To convert is to sample with another speaker. Fake: a step of the chain, as in DDGAN. Discriminator: of a step, told
the speaker. From the paper's abstract: few steps of a diffusion GAN, no parallel data. Only the abstract was read: that
DDGAN is taken as it is, the content E, both terms and their weights are ours, and so is that speakers are equal in
training. What is said must not tell who says it, or conversion fails: E leaves nothing of an envelope that is the same
in every frame. Voices are synthetic (`Voices`), so that speaker and pitch of what is made are known.
"""

from typing import Any

from sparring.data import Batch, Draws, ImageData
from sparring.data.voices import content, spoken_by
from sparring.discriminators import Discriminator, Views, generator_loss
from sparring.generators import Denoiser, Generator
from sparring.methods.denoising_gan.ddgan import DDGAN, DDGANRollout
from sparring.methods.method import Losses, check_not_negative, held_out
from sparring.objectives import Objective, Penalty
from sparring.rollout import posterior_step

NUM_MEASURED = 200


class DiffGANVC(DDGAN):
    """A denoiser of a few steps that makes a voice of its content and a speaker.

    Args:
        generator: a denoiser of a VP process, whose network takes a source (`SourceUNet`).
        discriminator: of a step, conditioned on the speaker: one that is given labels, t and x_t.
        num_steps: T, the steps of the chain, and network calls of a voice.
        reconstruction_weight: a, of the mean absolute error to the true voice.
        content_weight: b, of the mean absolute error to its content.
        adversarial_weight: of the discriminator; 0 leaves it out: with many steps, a diffusion model remains.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    discriminator: Any  # None without its weight

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_steps: int = 4,
        reconstruction_weight: float = 10.0,
        content_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        weights = dict(reconstruction_weight=reconstruction_weight, content_weight=content_weight)
        check_not_negative(**weights, adversarial_weight=adversarial_weight)
        if reconstruction_weight == adversarial_weight == 0:
            raise ValueError("`reconstruction_weight=0`, `adversarial_weight=0`: one of them must be above 0")
        if not generator.takes_source:
            raise ValueError(
                f"{type(generator.net).__name__} takes no source, which holds content and speaker: use --on voices"
            )
        super().__init__(generator, discriminator, num_steps=num_steps, objective=objective, penalty=penalty)
        if adversarial_weight == 0:
            self.discriminator = None
        self.reconstruction_weight, self.content_weight = reconstruction_weight, content_weight
        self.adversarial_weight = adversarial_weight

    def rollout(self, batch: Batch) -> DDGANRollout:
        if self.discriminator is None:
            return DDGANRollout(posterior_step(self.generator, batch, self.levels), Views())
        return super().rollout(batch)

    def generator_loss(self, batch: Batch, rollout: DDGANRollout) -> Losses:
        made = rollout.step.prediction.x0
        losses: Losses = {
            "reconstruction": self.reconstruction_weight * (made - batch.x_0).abs().mean(),
            "content": self.content_weight * (content(made) - content(batch.x_0)).abs().mean(),
        }
        if self.discriminator is not None:
            adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        return losses

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Of 200 held-out voices, converted each to the next speaker and to their own: what the ear would check.

        `speaker_accuracy` is the share of conversions that have the speaker asked for; `pitch_error` the mean distance
        of their pitch from the source's, in bands, and `own_pitch_error` that of voices made again.
        """
        batch = held_out(data, draws, NUM_MEASURED)
        known = data.speech(batch.images)
        if known is None or batch.source is None or batch.labels is None:
            return {}
        speaker, pitch = batch.labels, known[1]
        found = {}
        for name, asked in (("", (speaker + 1) % (data.num_classes or 1)), ("own_", speaker)):
            sources = spoken_by(batch.source, asked)
            settings = dict(scheduler=self.sampler, sources=sources, seed=draws.seed)
            heard = data.speech(generator.sample(len(batch), self.sample_steps, **settings))
            assert heard is not None
            found[f"{name}pitch_error"] = (heard[1] - pitch).abs().mean().item()
            if not name:
                found["speaker_accuracy"] = (heard[0] == asked).double().mean().item()
        return found
