"""Early exit: adaptive score estimation, noisy levels with fewer blocks (Moon et al., arXiv 2408.05927).

Status: no gain over fewer steps of equal cost; on digits (docs/results/sampling.md).

The network of a noisy level has little to see. A diffusion transformer is left after k(t) blocks, straight to its last
layer, and k falls from all of them at clean levels to less than half at noise:

    h_k = block_k(h_(k-1)) for k <= k(t),        output = last layer(h_k(t))

A network that was not trained for it is bad at this: `sparring fit exit_tuning` trains one. The schedule is made by
hand, as in the official code. All rows of a step have one level, so that the other blocks do not run at all.
"""

from collections.abc import Sequence

from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Intervention, Predictor
from sparring.networks.exits import SHARES, Exits


class EarlyExit(Intervention):
    """Fewer blocks at noisy levels.

    Args:
        shares: of the blocks over equal parts of the time, from clean images to noise; the one that it was trained
            with. Only ones: the plain sampler.
    """

    place = "call"

    def __init__(self, *, shares: Sequence[float] = SHARES):
        self.shares = tuple(shares)

    def check(self, denoiser: DenoisingNetwork) -> None:
        Exits(denoiser.net, self.shares)

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        exits = Exits(denoiser.net, self.shares)

        def shallow(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            with exits.after(int(exits.at(level.t))):
                return inner(x_t, level, condition)

        return inner if min(exits.blocks) == exits.total else shallow
