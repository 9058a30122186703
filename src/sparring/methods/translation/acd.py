"""ACD: faster SAR-to-optical translation by adversarial consistency distillation (arXiv 2407.06095).

Status: no gain of its discriminator; three seeds on speckled digits (docs/results/translation.md).

A diffusion model that translates in many calls is distilled into one that needs one or a few. Of images x, noised to
x_t, and their sources y,

    L_G = consistency(f(x_t, t, y)) + w mean sp(-D(f(x_t, t, y), y))
    L_D = mean sp(-D(x, y)) + mean sp(D(f(x_t, t, y), y))

where the consistency loss pulls f to its own prediction, without gradient, one step of the frozen teacher further down
(see `Consistency`). Fake: the student's prediction of the clean image, one call from any noise level. Discriminator: of
a pair, the image and its source. From the paper, of which a summary was read: teacher and student conditioned on the
radar image, consistency distillation, and a discriminator for clarity and against false colours. Ours: the architecture
of both networks, D on pairs, w = 0.1 after a tenth of the run, the schedule of the jumps, speckled digits for radar.
"""

from typing import Literal

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, check_single
from sparring.generators import Denoiser
from sparring.methods.distillation.consistency import Consistency
from sparring.objectives import Objective, Penalty
from sparring.process import Times
from sparring.rollout import Noised
from sparring.runs.choice import check_choice

DELAY = 0.1  # of the run, without the discriminator's gradient


class ACD(Consistency):
    """Makes a translator of one or a few calls, from a trained one of many.

    Args:
        generator: a trained denoiser of a VP process or a flow, conditioned on a source; its state at the start is the
            teacher.
        discriminator: of images, or of pairs: given x_t, in whose place it sees the source.
        pairs: the source that it sees: the image's "own"; "shuffled", that of another row (a control); or "none".
        adversarial_weight: w; 0 leaves the discriminator out.
        stages: how often the jump is halved, plus one.
        huber: c of the consistency loss, below which the distance is a squared one.
        times: distribution of the noise level; the process's own when None.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        pairs: Literal["own", "shuffled", "none"] = "own",
        adversarial_weight: float = 0.1,
        stages: int = 8,
        huber: float = 1e-8,
        times: Times | None = None,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_choice("own", "shuffled", "none", pairs=pairs)
        if pairs != "none" and not generator.takes_source:
            raise ValueError(
                f"`pairs={pairs}`: {type(generator.net).__name__} takes no source: start from a run on digits-speckle, "
                "or set `pairs=none`"
            )
        check_single(discriminator)
        adversarial = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, stages=stages, huber=huber, times=times, **adversarial)  # type: ignore[arg-type]
        self.pairs = pairs

    def views(self, discriminator: Discriminator, batch: Batch, noised: Noised, image: Tensor) -> Views:
        source = None if self.pairs == "none" else batch.source
        if source is not None and self.pairs == "shuffled":
            source = source.roll(1, 0)
        return discriminator.views(batch.images, image, Given(labels=batch.labels, x_t=source), batch.draws)

    def adversarial_now(self) -> float:
        return self.adversarial_weight * self.ramp(1, delay=round(DELAY * self.steps))
