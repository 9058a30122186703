"""Discriminator guidance: refining the generative process (Kim et al., arXiv 2211.17091).

Status: no gain; on digits (docs/results/sampling.md).

A discriminator that tells noised real images from noised samples of a denoiser knows what the denoiser gets wrong: the
logit of the best one is log p_data(x_t) / p_model(x_t), so that

    score' = score + w grad logit D(x_t, t),        eps' = eps - w sigma grad logit

is the score of the data for w = 1, and the sampler draws the data. The denoiser stays as it is. The discriminator is
trained by `sparring fit noisy_discriminator --init RUN`. That gradients act at middle noise levels only is ours.
"""

from collections.abc import Sequence

from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Guide
from sparring.generators.level import Level
from sparring.samplers.gradients import ACTS_IN, GuidedByGradient
from sparring.samplers.trained import check_trained_beside


class DiscriminatorGuidance(GuidedByGradient):
    """Towards what a discriminator of noisy images holds for real.

    Args:
        discriminator: run of `sparring fit noisy_discriminator`, or the guide itself.
        weight: w; 0 is none, 1 is all that the discriminator says.
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
        allow: further packages whose networks the folder may name.
    """

    trained_by = ("noisy_discriminator",)

    def __init__(
        self,
        discriminator: str | Guide,
        *,
        weight: float = 1.0,
        interval: tuple[float, float] | None = ACTS_IN,
        allow: Sequence[str] = (),
    ):
        super().__init__(discriminator, "discriminator", weight, interval, allow)
        self.discriminator = discriminator

    def check(self, denoiser: DenoisingNetwork) -> None:
        super().check(denoiser)
        if self.guide.outputs != 1:
            raise ValueError(f"`discriminator`: it gives {self.guide.outputs} numbers an image, and a logit is one")
        check_trained_beside(self.discriminator, self.name, denoiser, tuned=False)

    def log_weight(self, x_t: Tensor, level: Level, condition: Condition) -> Tensor:
        """The logit [B], log p_data(x_t) / p_model(x_t) for the best discriminator."""
        return self.guide(x_t, level.times(len(x_t)))[:, 0]
