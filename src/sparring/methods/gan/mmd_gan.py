"""MMD-GAN: a kernel on learned embeddings in place of a classifier (Binkowski et al., arXiv 1801.01401).

Status: proven; 5.96, a kernel on pixels 15, on a random embedding 28, WGAN of equal calls 10 (docs/results/gans.md).

The discriminator gives embeddings h(x), numbers that have no sign for real or fake. A kernel k compares batches of
them:

    MMD^2 = E k(h(x), h(x')) - 2 E k(h(x), h(G)) + E k(h(G), h(G')),        unbiased: no pair of a row with itself
    L_G = MMD^2,        L_D = -MMD^2 + (|grad w| - 1)^2 + output_weight (mean h(x)^2 + mean h(G)^2)

w is the witness `w(u) = mean_j k(h(u), h(x_j)) - mean_j k(h(u), h(G_j))`, whose slope is held at 1 between reals and
fakes. Fake: one network call from noise. For a fixed discriminator the generator's gradient is unbiased; for one that
was fitted on samples it is not, which the paper shows. Kernel, weights and five discriminator updates are those of the
authors' program, as others used it; its learning rates, which fall when a three-sample test sees no progress, are left
out for a cosine. Sizes are ours.
"""

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.objectives import MMD, Drift, Kernel, WitnessPenalty
from sparring.objectives.kernel import check_group
from sparring.runs.field import Field


class MMDGAN(GAN):
    """A generator of images or points, trained from scratch.

    Args:
        generator: from latents to images.
        discriminator: of single images; its logits are their embedding.
        kernel: on embeddings; a sum of rational quadratics and a dot product when None.
        group: rows that are compared at once, a divisor of the rows that are seen together; all when None.
        witness_weight: factor of the penalty on the witness; 0 switches it off.
        output_weight: factor of the penalty on the embeddings; 0 switches it off.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        kernel: Kernel | None = None,
        group: int | None = None,
        witness_weight: float = 1.0,
        output_weight: float = 1.0,
    ):
        objective = MMD(kernel=kernel, group=group)
        witness = WitnessPenalty(weight=witness_weight, kernel=objective.kernel, group=group)
        outputs = Drift(weight=output_weight, fakes=True)
        super().__init__(generator, discriminator, objective=objective, penalty=[witness, outputs])
        self.group = group

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        check_group(self.group, batch_size)

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        """None: an embedding is no single number to draw."""
        return []
