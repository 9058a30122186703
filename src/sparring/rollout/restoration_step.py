"""One step of a restoration chain: predict the clean image, and noise it again (RGM, arXiv 2303.05456)."""

from dataclasses import dataclass

from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser, Prediction
from sparring.process import per_image
from sparring.rollout.one_step import Noised, noise, standard_normal


@dataclass
class RestorationStep:
    """Images at a level t, the denoiser's restoration of them, noised to the level s < t, and real images at s."""

    noised: Noised
    prediction: Prediction
    x_s_real: Tensor
    x_s_fake: Tensor
    s: Tensor


def restoration_step(denoiser: Denoiser, batch: Batch, levels: Tensor) -> RestorationStep:
    """`x_s' = alpha_s xhat(x_t) + sigma_s eps'` for neighbouring levels s < t, drawn for each row.

    The real x_s and the input x_t have independent noises, so that nothing but x_0 links them. Latents are drawn.

    Args:
        denoiser: predicts x_0 from x_t.
        batch: real images.
        levels: [N+1] increasing times from 0 (clean) to the noisiest.
    """
    process = denoiser.process
    index = batch.draws.integers(len(levels) - 1, (len(batch),))
    levels = levels.to(batch.x_0.device)
    s, t = levels[index], levels[index + 1]
    real, noised = noise(process, batch, s), noise(process, batch, t)
    prediction = denoiser(noised.x_t, t, batch.condition, denoiser.z(batch))
    fake = process.add_noise(prediction.x0, standard_normal(batch), s)
    return RestorationStep(noised, prediction, real.x_t, fake, s)


def fidelity(denoiser: Denoiser, step: RestorationStep) -> Tensor:
    """[B] `|x_t - alpha_t xhat|^2 / (2 sigma_t^2)`, a sum over all numbers: the restoration's negative log-likelihood.

    With a perfect restoration its mean is half the number of pixels. Source: RGM (arXiv 2303.05456).
    """
    x_t, t, process = step.noised.x_t, step.noised.t, denoiser.process
    left = (x_t - per_image(process.alpha(t), x_t) * step.prediction.x0) / per_image(process.sigma(t), x_t)
    return 0.5 * left.square().flatten(1).sum(1)
