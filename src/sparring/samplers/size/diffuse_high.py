"""DiffuseHigh: training-free progressive high-resolution synthesis through structure guidance (arXiv 2406.18459).

Status: proven with the band to the end (2.95, bicubic 3.19); no gain at the published third (docs/results/sampling.md).

A network that was trained at one size makes images of a multiple of it. Sampled at that size from noise it repeats
objects. So the finished image y is enlarged (bicubic), sharpened, noised to a level near the end of the path, and
denoised from there at the larger size, while the coarse half of it is held:

    u = x + strength (x - blur x),       x = bicubic(y, factor),        x_t = alpha u + sigma eps
    x_0hat <- x_0hat + up(LL u - LL x_0hat)        in the first of these steps

LL is the low band of a Haar wavelet, the mean of squares of 2 x 2 pixels, and `up` repeats it; the noise is computed
again from the edited estimate. The last 15 of 50 steps and the band in 5 of them are the official code's. Haar in place
of db4, a fixed blur, and clamping the sharpened image to [-1, 1] are ours. For convolutional networks on pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Again, Intervention, Predictor
from sparring.networks.modes import eval_mode


class DiffuseHigh(Intervention):
    """Images of a multiple of the network's size, enlarged step by step.

    Args:
        factors: sizes that are made one after the other, each in units of the network's; 1: the plain sampler.
        tail: share of the steps that is walked at each size, in [0, 1]; 0: enlarged and sharpened only.
        band: share of these steps in which the low band is held; 0: image to image.
        strength: of the sharpening.
    """

    def __init__(
        self, *, factors: int | Sequence[int] = 2, tail: float = 0.3, band: float = 1 / 3, strength: float = 1.0
    ):
        sizes = (factors,) if isinstance(factors, int) else tuple(factors)
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"`factors={factors}` must be whole numbers from 1 on, each larger than the last")
        if not 0 <= tail <= 1 or not 0 <= band <= 1 or strength < 0:
            raise ValueError(f"`tail={tail}` and `band={band}` must lie in [0, 1], `strength={strength}` be 0 or more")
        self.factors = factors
        self.sizes = [size for size in sizes if size > 1]
        self.tail = tail
        self.band = band
        self.strength = strength
        self.enlarges = max(sizes)

    def check(self, denoiser: DenoisingNetwork) -> None:
        if denoiser.space is not None or denoiser.takes_source:
            raise ValueError("diffuse_high works on pixels, and this model diffuses latents or takes a source image")
        channels, height, width = denoiser.image_shape
        for factor in self.sizes:
            shape = (channels, factor * height, factor * width)
            if shape[1] % 2 or shape[2] % 2 or not takes(denoiser, shape):
                raise ValueError(
                    f"`factors={factor}`: {type(denoiser.net).__name__} cannot take images of shape {shape}: take a "
                    "convolutional network and a factor that gives even sides"
                )

    def finish(self, x_0: Tensor, again: Again, denoiser: DenoisingNetwork) -> Tensor:
        size = x_0.shape[-2:]
        for factor in self.sizes:
            target = (factor * size[0], factor * size[1])
            x_0 = sharpened(interpolate(x_0, size=target, mode="bicubic"), self.strength).clamp(-1, 1)
            if self.tail > 0:
                x_0 = again(x_0, self.tail, [KeptBand(x_0, 1 - self.tail + self.band * self.tail)])
        return x_0


class KeptBand(Intervention):
    """The low band of the clean estimate is that of an image.

    Args:
        image: [B, C, H, W].
        until: share of all calls up to which it is.
    """

    place = "edit"

    def __init__(self, image: Tensor, until: float):
        self.low = low_band(image)
        self.until = until

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        def kept(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            plain = inner(x_t, level, condition)
            if level.call >= round(self.until * level.calls):
                return plain
            return plain.shifted(x0=interpolate(self.low - low_band(plain.x0), scale_factor=2.0, mode="nearest"))

        return kept


def low_band(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, [B, C, H, W] to [B, C, H/2, W/2]: the band LL of `HaarWavelet`."""
    return avg_pool2d(x, 2)


def sharpened(x: Tensor, strength: float) -> Tensor:
    """x [B, C, H, W] plus `strength` times what a Gaussian blur of 3 x 3 pixels, sigma 1, takes from it."""
    line = torch.exp(-0.5 * torch.tensor([1.0, 0.0, 1.0], dtype=x.dtype, device=x.device))
    kernel = torch.outer(line, line) / line.sum() ** 2
    channels = x.shape[1]
    blurred = conv2d(pad(x, (1, 1, 1, 1), mode="reflect"), kernel.expand(channels, 1, 3, 3), groups=channels)
    return x + strength * (x - blurred)


def takes(denoiser: DenoisingNetwork, shape: tuple[int, int, int]) -> bool:
    """Whether the network of a denoiser of pixels can be shown an image of shape (C, H, W)."""
    x, seen = torch.zeros(1, *shape, device=denoiser.device), denoiser.images_seen
    label = torch.zeros(1, dtype=torch.long, device=denoiser.device) if denoiser.takes_labels else None
    z = None if denoiser.slot is None else x.new_zeros(1, denoiser.slot.config["latent_dim"])
    try:
        with torch.no_grad(), eval_mode(denoiser.net):
            return denoiser(x, x.new_full((1,), 0.1), label, z).output.shape == x.shape
    except Exception:  # whatever a network raises
        return False
    finally:
        denoiser.images_seen = seen
