"""Classifier guidance: diffusion models beat GANs on image synthesis (Dhariwal and Nichol, arXiv 2105.05233).

Status: proven; on digits it leads to the class, at the price of recall (docs/results/sampling.md).

A classifier of *noised* images shifts each step of a denoiser towards a class that the denoiser itself need not know:

    g = grad log p(y | x_t, t),        eps' = eps - w sigma g        (Algorithm 2; w = 0: none)

with the gradient at the noisy image, through the classifier only. The paper adds `w Sigma g` to the mean of ancestral
steps; here eps' goes to every scheduler, which for small steps is the same. The classifier is trained by
`sparring fit noisy_classifier`. Classes come from `--labels`, also for a denoiser without classes. That gradients act
at middle noise levels only is ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Guide
from sparring.generators.level import Level
from sparring.samplers.gradients import ACTS_IN, GuidedByGradient, check_classes


class ClassifierGuidance(GuidedByGradient):
    """Towards a class, by the gradient of a classifier of noisy images.

    Args:
        classifier: run of `sparring fit noisy_classifier`, or the guide itself.
        weight: w; 0 is none, and costs no call.
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
        allow: further packages whose networks the folder may name.
    """

    trained_by = ("noisy_classifier", "ppap")

    def __init__(
        self,
        classifier: str | Guide,
        *,
        weight: float = 1.0,
        interval: tuple[float, float] | None = ACTS_IN,
        allow: Sequence[str] = (),
    ):
        super().__init__(classifier, "classifier", weight, interval, allow)
        self.classifier = classifier

    def check(self, denoiser: DenoisingNetwork) -> None:
        super().check(denoiser)
        check_classes(self.guide, denoiser, self.name)

    @property
    def num_classes(self) -> int:
        return self.guide.outputs

    def log_weight(self, x_t: Tensor, level: Level, condition: Condition) -> Tensor:
        """log p(label | x_t) [B]."""
        if not isinstance(condition, Tensor):
            raise ValueError("`classifier`: it guides towards classes, and there are none: give them with --labels")
        log_p = torch.log_softmax(self.guide(x_t, level.times(len(x_t))), dim=1)
        return log_p.gather(1, condition[:, None]).squeeze(1)
