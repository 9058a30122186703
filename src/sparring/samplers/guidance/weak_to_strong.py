"""W2SD: weak-to-strong diffusion, by reflection (arXiv 2502.00473).

Status: no gain; worse on digits with classes (docs/results/sampling.md).

Before each step the state goes down one level with a strong model and back up with a weak one; what the two do not
share stays in it. With both outputs taken at (x_t, t), rho = sigma / alpha and s the next level, that is

    x_t <- x_t + w alpha_t (1 - rho_s / rho_t) (x_0,strong - x_0,weak)        (w = 1: the reflection; 0: none)

so guidance by the difference of two models, with a weight that the step size sets: more steps, weaker pushes. This
exact form is ours, and does nothing for equal models. The official code calls the weak model at x_s with time t instead
(`form="code"`), which moves the state also for equal models. The strong model is the one that is sampled, with its
guidance; the weak one is another run, or the same without guidance.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from sparring.data import Draws
from sparring.generators import Condition, Denoiser, DenoisingNetwork
from sparring.generators.level import Level
from sparring.generators.loading import opened
from sparring.generators.predictor import Intervention, Predictor
from sparring.samplers.denoisers import check_beside


class WeakToStrong(Intervention):
    """Reflection between a strong and a weak model before each step but the last.

    Args:
        weak: run or pipeline folder of the weak model, or a denoiser; None: the sampled model without its guidance.
        weight: w; 0 is none.
        form: "exact" asks both models at x_t; "code" asks the weak one at the state below, as the official code does.
        allow: further packages whose networks the folder may name.
    """

    moves = True

    def __init__(
        self,
        weak: str | Denoiser | None = None,
        *,
        weight: float = 1.0,
        form: Literal["exact", "code"] = "exact",
        allow: Sequence[str] = (),
    ):
        if form not in ("exact", "code"):
            raise ValueError(f"`form={form}` must be exact or code")
        self.weak = weak
        self.weight = weight
        self.form = form
        self.model = None if weak is None else opened(weak, allow).eval()

    @property
    def cost(self) -> int:
        return 0 if self.model is None else self.model.images_seen

    def check(self, denoiser: DenoisingNetwork) -> None:
        if self.model is not None:
            check_beside(self.model, denoiser, "weak")

    def move(
        self,
        x_t: Tensor,
        level: Level,
        condition: Condition,
        predict: Predictor,
        denoiser: DenoisingNetwork,
        draws: Draws,
    ) -> Tensor:
        if level.after is None or self.weight == 0:
            return x_t
        if self.model is None and predict == denoiser.predict:
            raise ValueError(
                "weak_to_strong: nothing makes the sampled model stronger than itself: give --guidance, or a weaker "
                "model with --with.weak"
            )
        weak, below = (self.model or denoiser).predict, level.after
        strong = predict(x_t, level, condition)
        if self.form == "exact":
            share = (1 - below.noise_to_signal / level.noise_to_signal) * float(level.alpha)
            return x_t + self.weight * share * (strong.x0 - weak(x_t, level, condition).x0)
        x_s = float(below.alpha) * strong.x0 + float(below.sigma) * strong.eps
        back = weak(x_s, level, condition).eps  # of another state: the mix of the official code
        x_0 = (x_s - float(below.sigma) * back) / float(below.alpha)
        return x_t + self.weight * (float(level.alpha) * x_0 + float(level.sigma) * back - x_t)
