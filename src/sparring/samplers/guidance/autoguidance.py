"""Autoguidance: guiding a diffusion model with a bad version of itself (Karras et al., arXiv 2406.02507).

Status: no gain over equal calls on digits and Fashion-MNIST with classes, and little harm (docs/results/sampling.md).

A weaker model of the same task (less trained, smaller) makes the errors of the strong one, only larger. Going from the
weak estimate through the strong one and further removes them, without a condition and with less loss of diversity than
classifier-free guidance:

    D_w(x_t) = D_weak(x_t) + w (D_strong(x_t) - D_weak(x_t)),        w = 1: the strong model itself.

Nothing is trained here: the weak model is any run or pipeline on the same noise. Both see the same condition. The
interval of noise levels is that of limited-interval guidance (arXiv 2404.07724), which the paper uses beside it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparring.generators import Condition, Denoiser, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.loading import opened
from sparring.generators.predictor import Intervention, Predictor, check_interval, within
from sparring.samplers.denoisers import check_beside


class Autoguidance(Intervention):
    """Away from a weaker model.

    Args:
        weak: run or pipeline folder of the weaker model, or a denoiser.
        weight: w; 1 is none, and costs no call.
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
        allow: further packages whose networks the folder may name.

    Raises:
        ValueError: when it is used, if the weak model does not fit the one that is sampled, or is the same.
    """

    place = "mix"

    def __init__(
        self,
        weak: str | Denoiser,
        *,
        weight: float = 2.0,
        interval: tuple[float, float] | None = None,
        allow: Sequence[str] = (),
    ):
        self.weak = weak
        self.weight = weight
        self.interval = check_interval(interval)
        self.model = opened(weak, allow).eval()

    @property
    def cost(self) -> int:
        return self.model.images_seen

    def check(self, denoiser: DenoisingNetwork) -> None:
        check_beside(self.model, denoiser, "weak")
        ours, theirs = denoiser.net.state_dict(), self.model.net.state_dict()
        if theirs and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours):
            raise ValueError(
                "`weak` has the weights of the model that is sampled, so that it would change nothing: name one that "
                "is smaller or trained less"
            )

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        def guided(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            strong = inner(x_t, level, condition)
            if not within(self.interval, level):
                return strong
            weak = self.model.predict(x_t, level, condition).to(strong.kind)
            return replace(strong, output=weak + self.weight * (strong.output - weak))

        return inner if self.weight == 1 else guided
