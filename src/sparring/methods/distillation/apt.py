"""APT: diffusion adversarial post-training (Lin et al., arXiv 2501.08316).

Status: proven on digits at one call (0.88) over plain training of equal calls; no control at rest has run
(docs/results/students.md).

A denoiser becomes a generator of one call, against a copy of itself, on real images only:

    G(z) = xhat_0(sigma_1 z, 1),        z ~ N(0, I),        t ~ p(t),        sp(u) = log(1 + e^u)
    L_D = mean sp(D(G(z), t)) + mean sp(-D(x, t)) + lambda mean (D(x, t) - D(x + s n, t))^2
    L_G = mean sp(-D(G(z), t))

Fake: one call from pure noise. Discriminator: a copy of the network with a read-out; the images are clean, and t is
random. The last term is R1 without a second derivative, of gamma = 2 lambda s^2 (0.02 in the paper, with lambda 100 and
s 0.01); without it the training collapses. The start is a consistency-distilled student in the paper; a plain denoiser,
whose first samples are the data's mean, is possible. A follow-up adds the same penalty at fakes (`ApproximateR2`), and
pairs (`Relativistic`).

Ours: the averaged read-out of the last layer, where the paper reads three layers by tokens of their own; Adam, where it
has RMSProp; several calls; rates and sizes.
"""

from dataclasses import replace

from sparring.data import Batch
from sparring.discriminators import DenoiserDiscriminator, Discriminator, Given
from sparring.generators import Denoiser
from sparring.methods.adversarial_student import AdversarialStudent
from sparring.objectives import ApproximateR1, NonSaturating, Objective, Penalty
from sparring.process import Times, Uniform


class APT(AdversarialStudent):
    """Turns a denoiser, distilled or plain, into a generator of one call against a copy of itself.

    Args:
        generator: a trained denoiser.
        discriminator: any that looks at single images, which may be given t; a copy of the generator when None.
        num_steps: network calls of an image.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator; the approximate R1 of the paper when None.
        times: distribution of the t that the discriminator is given; uniform when None.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        num_steps: int = 1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
    ):
        super().__init__(
            generator,
            discriminator or DenoiserDiscriminator(generator),
            num_steps=num_steps,
            objective=objective or NonSaturating(),
            penalty=ApproximateR1(weight=0.02) if penalty is None else penalty,
            discriminator_input="latents",
        )
        self.times = times or Uniform()

    def given(self, batch: Batch) -> Given:
        """Labels, condition and a random t, the same for an image and the fake of its row."""
        return replace(super().given(batch), t=self.times(self.generator.process, batch.draws, len(batch)))
