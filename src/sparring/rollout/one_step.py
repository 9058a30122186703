"""A real batch at a noise level, the one-step prediction of it, and the error of that prediction."""

from dataclasses import dataclass, replace

from torch import Tensor

from sparring.data import Batch, Draws
from sparring.generators import Condition, Denoiser, Prediction
from sparring.process import Process, Times, Weighting
from sparring.process.process import Drawn


@dataclass
class Noised:
    """Real images or latents at a noise level: `x_t = alpha(t) x_0 + sigma(t) eps`, [B, C, H, W], `t` [B] in (0, 1].

    `drawn` is how the times were drawn, if losses at them are balanced by it.
    """

    x_0: Tensor
    eps: Tensor
    t: Tensor
    x_t: Tensor
    drawn: Drawn | None = None


@dataclass
class OneStep:
    """A noised batch and the denoiser's prediction for it; `prediction.x0` is index-aligned with `noised.x_0`."""

    noised: Noised
    prediction: Prediction


def noise(process: Process, batch: Batch, t: Tensor) -> Noised:
    """Noises what is diffused of a batch at times `t` [B], with noise from `batch.draws` as the process couples it."""
    eps = process.coupling(batch.draws, batch.x_0, process.kernel)
    return Noised(x_0=batch.x_0, eps=eps, t=t, x_t=process.add_noise(batch.x_0, eps, t))


def noise_at(process: Process, batch: Batch, times: Times) -> Noised:
    """Noises what is diffused of a batch at drawn times; `denoising_error` balances those that are drawn more often."""
    drawn = times.draw(process, batch.draws, len(batch))
    return replace(noise(process, batch, drawn.t), drawn=drawn)


def standard_normal(batch: Batch) -> Tensor:
    """Noise of the shape and precision of what is diffused of a batch, from its draws."""
    return batch.draws.normal(tuple(batch.x_0.shape)).to(batch.x_0)


def one_step(denoiser: Denoiser, batch: Batch, times: Times) -> OneStep:
    """One prediction of the clean image at a drawn noise level, as in ordinary denoising training (fake of SADM).

    In training, `denoiser.condition_dropout` of the labels or captions are left out, for guidance.
    """
    noised = noise_at(denoiser.process, batch, times)
    return OneStep(noised, denoiser(noised.x_t, noised.t, denoiser.condition_with_dropout(batch)))


class OneForAll(Times):
    """One time for all rows of a batch.

    Args:
        times: its distribution.
    """

    def __init__(self, times: Times):
        self.times = times

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        common = Draws(draws.seed, step=draws.step, phase=f"{draws.phase}, for all", device=draws.device)
        return self.times(process, common, 1).repeat(n)


def denoising_error(denoiser: Denoiser, fake: OneStep, weighting: Weighting | None = None) -> Tensor:
    """[B] squared error of the denoiser in its own output space, mean over dimensions, weighted over the noise level.

    Times that were drawn more often than the objective has them are balanced (`noise_at`).

    Args:
        denoiser: the one that made the prediction.
        fake: a noised batch and its prediction.
        weighting: weight of the squared x0-error as a function of log-SNR; None weights the error of the network's
            own output (eps, v, flow, EDM's unit-variance target) equally at all levels.
    """
    noised, prediction = fake.noised, fake.prediction
    loss = error = denoiser.output_error(prediction, noised.x_0, noised.eps)
    if weighting is not None:
        log_snr, of_x_0 = denoiser.process.log_snr(noised.t), denoiser.x0_slope(noised.t).square()
        loss = weighting.combine(error, log_snr, of_x_0)
        error = error * weighting(log_snr) * of_x_0  # without what a learned weighting adds, which may be negative
    return loss if noised.drawn is None else noised.drawn.balanced(loss, error)


def denoising_loss(denoiser: Denoiser, noised: Noised, condition: Condition, weighting: Weighting | None) -> Tensor:
    """The ordinary denoising loss with a forward pass of its own: the mean of `denoising_error` over the batch."""
    prediction = denoiser(noised.x_t, noised.t, condition)
    return denoising_error(denoiser, OneStep(noised, prediction), weighting).mean()
