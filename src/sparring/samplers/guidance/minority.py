"""Minority guidance: don't play favorites, for diffusion models (Um et al., arXiv 2301.12334).

Status: no gain; on digits it leads to intricate images, not to rare ones (docs/results/sampling.md).

Towards rare images: a classifier of noised images that knows how rare an image is (`sparring fit minority_classifier
--init RUN`) guides as in classifier guidance, to its rarest bin,

    eps' = eps - w sigma grad log p(rarest | x_t, t).

What is called rare is what the denoiser changes most, which grows with the complexity of an image, too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Guide
from sparring.generators.level import Level
from sparring.samplers.gradients import ACTS_IN, GuidedByGradient
from sparring.samplers.trained import check_trained_beside


class MinorityGuidance(GuidedByGradient):
    """Towards one bin of a classifier of rarity.

    Args:
        classifier: run of `sparring fit minority_classifier`, or the guide itself.
        weight: w; 0 is none, and costs no call.
        target: number of the bin, 0 the commonest; None: the rarest.
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
        allow: further packages whose networks the folder may name.
    """

    trained_by = ("minority_classifier",)

    def __init__(
        self,
        classifier: str | Guide,
        *,
        weight: float = 3.5,
        target: int | None = None,
        interval: tuple[float, float] | None = ACTS_IN,
        allow: Sequence[str] = (),
    ):
        super().__init__(classifier, "classifier", weight, interval, allow)
        self.classifier = classifier
        self.target = target

    def check(self, denoiser: DenoisingNetwork) -> None:
        super().check(denoiser)
        if self.target is not None and not 0 <= self.target < self.guide.outputs:
            raise ValueError(f"`target={self.target}`: the classifier has the bins 0 to {self.guide.outputs - 1}")
        check_trained_beside(self.classifier, self.name, denoiser)

    def log_weight(self, x_t: Tensor, level: Level, condition: Condition) -> Tensor:
        """log p(bin | x_t) [B]."""
        target = self.guide.outputs - 1 if self.target is None else self.target
        return torch.log_softmax(self.guide(x_t, level.times(len(x_t))), dim=1)[:, target]
