"""TREAD: token routing, for cheaper training of diffusion transformers (Krause et al., arXiv 2501.04765).

Status: no gain: worse than fewer blocks of equal arithmetic, on digits of 16 tokens (docs/results/training.md).

In training a random share of each image's tokens passes blocks i to j of a DiT by, and comes back behind them with the
value that it had before. So these blocks cost less, and the loss is the plain one, on all tokens:

    h_j[keep] = blocks_i..j(h_{i-1}[keep]),    h_j[rest] = h_{i-1}[rest]

Sampling and every other pass use all tokens. Fake: the one-step prediction; there is no discriminator. Paper: the
route, ratio 0.5, blocks 2 to 8 of 12. Ours: one route, from the second block to the last but one.
"""

from typing import Any

from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method
from sparring.networks.tap import TokenRoute
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, denoising_error, one_step


class TREAD(Method):
    """Denoising training with routed tokens.

    Args:
        generator: the denoiser to train, a DiT.
        ratio: share of the tokens that passes by, in [0, 1); 0 is plain training, bit for bit.
        first: number of the first block that they pass by, from 0.
        last: number of the last; -2 is the last but one.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        *,
        ratio: float = 0.5,
        first: int = 1,
        last: int = -2,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        if not 0 <= ratio < 1:
            raise ValueError(f"`ratio={ratio}` must lie in [0, 1)")
        super().__init__(generator)
        self.route = TokenRoute(generator.net, first, last)
        self.ratio = ratio
        self.times = times or generator.process.default_times()
        self.weighting = weighting

    def rollout(self, batch: Batch) -> OneStep:
        with self.route.only(self.ids(batch)):
            return one_step(self.generator, batch, self.times)

    def ids(self, batch: Batch) -> Tensor | None:
        """The tokens [B, k] of each image that go through the blocks, in their order."""
        net: Any = self.generator.net
        if net.gradient_checkpointing:
            raise ValueError("`gradient_checkpointing`: TREAD's blocks cannot be computed again; leave it out")
        tokens = batch.x_0[0, 0].numel() // net.config["patch_size"] ** 2
        keep = max(1, round((1 - self.ratio) * tokens))
        if keep == tokens:
            return None
        return batch.draws.uniform((len(batch), tokens)).argsort(1)[:, :keep].sort(1).values

    def generator_loss(self, batch: Batch, rollout: OneStep) -> Losses:
        return {"diffusion": denoising_error(self.generator, rollout, self.weighting).mean()}
