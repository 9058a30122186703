"""One step of a coarse reverse chain (Denoising Diffusion GAN, arXiv 2112.07804)."""

from dataclasses import dataclass

from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser, Prediction
from sparring.process import per_image
from sparring.rollout.one_step import noise, standard_normal


@dataclass
class PosteriorStep:
    """Two neighbouring noise levels s < t of the same images, and the denoiser's draw of x_s from x_t."""

    x_s_real: Tensor
    x_s_fake: Tensor
    x_t: Tensor
    s: Tensor
    t: Tensor
    prediction: Prediction


def posterior_step(denoiser: Denoiser, batch: Batch, levels: Tensor) -> PosteriorStep:
    """One step of a coarse reverse chain: `x_s ~ q(x_s | x_t, x0_pred)` for neighbouring levels s < t.

    The pair of real images is a true pair of the forward process: `x_s` is drawn first and noised further to `x_t`
    (Denoising Diffusion GAN, arXiv 2112.07804: the fake of its discriminator). A latent z of the denoiser is drawn.

    Args:
        denoiser: predicts x_0 from x_t.
        batch: real images.
        levels: [N+1] increasing times from 0 (clean) to the noisiest.
    """
    process = denoiser.process
    index = batch.draws.integers(len(levels) - 1, (len(batch),))
    levels = levels.to(batch.x_0.device)
    s, t = levels[index], levels[index + 1]
    x_s = noise(process, batch, s).x_t
    scale = process.alpha(t) / process.alpha(s)
    variance = process.sigma(t).square() - (scale * process.sigma(s)).square()
    x_t = per_image(scale, x_s) * x_s + per_image(variance.sqrt(), x_s) * standard_normal(batch)
    prediction = denoiser(x_t, t, batch.condition, denoiser.z(batch))
    mean, std = process.posterior(prediction.x0, x_t, s, t)
    x_s_fake = mean + std * standard_normal(batch)
    return PosteriorStep(x_s_real=x_s, x_s_fake=x_s_fake, x_t=x_t, s=s, t=t, prediction=prediction)
