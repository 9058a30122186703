"""Exit-tuning: fine-tuning for early exit, adaptive score estimation (Moon et al., arXiv 2408.05927).

Status: no gain over fewer steps of equal cost; on digits (docs/results/sampling.md).

Ordinary denoising training of a diffusion transformer in which each row leaves after k(t) blocks, as it will be in
sampling with `--with early_exit`:

    h_k = block_k(h_(k-1)) for k <= k(t), else h_(k-1),        L = the plain loss of last layer(h_K)

All blocks run, and each row keeps what it had at its exit; so a step costs what a plain one does. Fake: the one-step
prediction; there is no discriminator. Official code: the whole network is tuned from a trained one, with the schedule
of blocks that is the default here, and the loss has no weight over time.
"""

from collections.abc import Sequence

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.networks.exits import SHARES, Exits
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, noise_at


class ExitTuning(Diffusion):
    """Denoising training of a network that is left early at noisy levels.

    Args:
        generator: a trained denoiser whose network is a DiT.
        shares: of the blocks over equal parts of the time, from clean images to noise; only ones: plain training.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    def __init__(
        self,
        generator: Denoiser,
        *,
        shares: Sequence[float] = SHARES,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        super().__init__(generator, times=times, weighting=weighting)
        self.exits = Exits(generator.net, shares)

    def rollout(self, batch: Batch) -> OneStep:
        denoiser = self.generator
        noised = noise_at(denoiser.process, batch, self.times)
        with self.exits.after_each(self.exits.at(noised.t)):
            return OneStep(noised, denoiser(noised.x_t, noised.t, denoiser.condition_with_dropout(batch)))
