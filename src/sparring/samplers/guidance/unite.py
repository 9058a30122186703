"""Unite-and-conquer: plug and play multi-modal synthesis using diffusion models (Nair et al., arXiv 2212.00793).

Status: proven on digits and their ink: nearly as good as one model of both, at four passes a step
(docs/results/sampling.md).

Denoisers that were trained for single conditions are combined without training. If the conditions are independent given
the image, p(x | c_1, c_2) is proportional to p(x | c_1) p(x | c_2) / p(x), and so, on outputs,

    out = g_1 told_1 + g_2 told_2 - (g_1 + g_2 - 1) (b none_1 + (1 - b) none_2)

with g_1 = g_2 = 1 for the product itself and b the reliability of the first model's prior. With one model it is
classifier-free guidance. The weights sum to one, so networks of any output can be mixed. Sums of scores are right for
clean images only: for products of Gaussians the result is biased (see the page), which `recycle` repairs.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparring.generators import Condition, Denoiser, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.loading import opened
from sparring.generators.predictor import Intervention, Predictor
from sparring.samplers.denoisers import check_beside


class Unite(Intervention):
    """The sampled model and another one, each for its own condition.

    Args:
        other: run or pipeline folder of the other model, or a denoiser.
        other_class: class that the other model is asked for; None: the classes of the sampled one.
        weight: g_2, of the other model.
        own_weight: g_1, of the sampled model.
        reliability: b, the share of the sampled model in the prior.
        allow: further packages whose networks the folder may name.
    """

    place = "mix"
    needs_none = True

    def __init__(
        self,
        other: str | Denoiser,
        *,
        other_class: int | None = None,
        weight: float = 1.0,
        own_weight: float = 1.0,
        reliability: float = 0.5,
        allow: Sequence[str] = (),
    ):
        if not 0 <= reliability <= 1:
            raise ValueError(f"`reliability={reliability}` must lie in [0, 1]")
        self.other = other
        self.other_class = other_class
        self.weight = weight
        self.own_weight = own_weight
        self.reliability = reliability
        self.model = opened(other, allow).eval()

    @property
    def cost(self) -> int:
        return self.model.images_seen

    def check(self, denoiser: DenoisingNetwork) -> None:
        own, takes = self.model.takes_labels and not denoiser.takes_labels, self.model.takes_labels
        if own and self.other_class is None:
            raise ValueError("`other_class`: the other model takes classes and the sampled one none: name one")
        if self.other_class is not None and not (takes and 0 <= self.other_class < self.model.null_class):
            raise ValueError(
                f"`other_class={self.other_class}`: the other model has no such class beside the one for none"
            )
        check_beside(self.model, denoiser, "other", own_classes=self.other_class is not None)

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        more = self.own_weight + self.weight - 1

        def united(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            told = inner(x_t, level, condition)
            own = condition
            if self.other_class is not None:
                own = torch.full((len(x_t),), self.other_class, device=x_t.device)
            output = self.own_weight * told.output
            if self.weight != 0:
                output = output + self.weight * self.model.predict(x_t, level, own).to(told.kind)
            if more != 0 and self.reliability > 0:
                none = inner(x_t, level, denoiser.unconditional(condition))
                output = output - more * self.reliability * none.to(told.kind)
            if more != 0 and self.reliability < 1:
                none = self.model.predict(x_t, level, self.model.unconditional(own))
                output = output - more * (1 - self.reliability) * none.to(told.kind)
            return replace(told, output=output)

        return inner if (self.own_weight, self.weight) == (1, 0) else united
