"""What guides by a gradient: the score of what is wanted, added to that of the denoiser."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Guide, Prediction, load_generator
from sparring.generators.level import Level
from sparring.generators.prediction import SMALLEST
from sparring.generators.predictor import Interval, Intervention, Predictor, check_interval, within
from sparring.process import per_image, same_noise
from sparring.samplers.denoisers import classes_of
from sparring.samplers.trained import check_trained_by

ACTS_IN = (0.05, 20.0)
"""Noise levels sigma / alpha at which gradients act by default, log-SNR in [-6, 6]; beyond, 1 / alpha explodes."""


def towards(prediction: Prediction, level: Level, gradient: Tensor, weight: float) -> Prediction:
    """The prediction whose score is higher by `weight` times the gradient [B, C, H, W] of a log-weight of x_t.

    eps' = eps - weight sigma g, that is x_0' = x_0 + weight (sigma^2 / alpha) g (arXiv 2105.05233, Algorithm 2). Alpha
    is held above 1e-5 where it divides.
    """
    factor = (weight * level.sigma.square() / level.alpha.clamp(min=SMALLEST)).expand(len(gradient))
    return prediction.shifted(x0=per_image(factor, gradient) * gradient)


def gradient_of(log_weight: Callable[[Tensor], Tensor], x_t: Tensor) -> Tensor:
    """Gradient [B, C, H, W] of a log-weight [B] of each row with respect to this row."""
    with torch.enable_grad():
        leaf = x_t.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_weight(leaf).sum(), leaf)
    return gradient


class GuidedByGradient(Intervention):
    """A sampler guided by the gradient of a log-weight of x_t that a guide gives, `log_weight`.

    Args:
        guide: run folder of a guide, or the guide.
        name: of the setting that gives it.
        weight: of the gradient; 0 is none, and costs no call.
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
        allow: further packages whose networks the folder may name.

    Attributes:
        trained_by: names of `sparring fit` that train its guide; none: any.
    """

    place = "gradient"
    trained_by: Sequence[str] = ()

    def __init__(self, guide: str | Guide, name: str, weight: float, interval: Interval | None, allow: Sequence[str]):
        check_trained_by(guide, name, self.trained_by)
        self.guide = opened_guide(guide, name, allow)
        self.name = name
        self.weight = weight
        self.interval = check_interval(interval)
        self.backward_rows = 0

    @property
    def cost(self) -> int:
        return self.guide.images_seen + 2 * self.backward_rows

    def check(self, denoiser: DenoisingNetwork) -> None:
        check_guide(self.guide, denoiser, self.name)

    def log_weight(self, x_t: Tensor, level: Level, condition: Condition) -> Tensor:
        """[B], up to a constant; each row of x_t [B, C, H, W] by itself."""
        raise NotImplementedError

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        def guided(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            plain = inner(x_t, level, condition)
            if not within(self.interval, level):
                return plain
            self.backward_rows += len(x_t)
            gradient = gradient_of(lambda x: self.log_weight(x, level, condition), x_t)
            return towards(plain, level, gradient, self.weight)

        return inner if self.weight == 0 else guided


def opened_guide(source: str | Path | Guide, name: str, allow: Sequence[str] = ()) -> Guide:
    """A guide, or that of a run, in eval mode and without gradients of its own.

    Args:
        source: run folder, or the guide.
        name: of the setting that gives it.
        allow: further packages whose networks the folder may name.

    Raises:
        ValueError: the folder holds none.
    """
    guide = source if isinstance(source, Guide) else load_generator(source, allow)
    if not isinstance(guide, Guide):
        raise ValueError(
            f"`{name}={source}` holds a {type(guide).__name__}, and a guide is needed: train one with `fit` "
            "(`sparring systems guides` lists them)"
        )
    return guide.eval().requires_grad_(False)


def check_classes(guide: Guide, denoiser: DenoisingNetwork, name: str) -> None:
    """Raises ValueError if a classifier knows other classes than a class-conditional denoiser, as far as is known."""
    total = classes_of(denoiser)
    if not denoiser.takes_labels or total is None:
        return
    last_says_none = not denoiser.classes_of_data and denoiser.takes_guidance and guide.outputs == denoiser.null_class
    if guide.outputs != total and not last_says_none:
        raise ValueError(f"`{name}` was trained on {guide.outputs} classes, and the model that is sampled has {total}")


def check_guide(
    guide: Guide, denoiser: DenoisingNetwork, name: str, channels: int | None = None, any_size: bool = False
) -> None:
    """Moves the guide to the device of the denoiser.

    Args:
        guide: what guides.
        denoiser: what is sampled.
        name: of the setting that gives the guide.
        channels: of what the guide is shown in place of images; None: images.
        any_size: it is shown parts of the images, scaled to its own.

    Raises:
        ValueError: it is for other images, sees something else, or was trained on another noising process.
    """
    if guide.channels != channels:
        seen = ["images" if one is None else f"features of {one} channels" for one in (guide.channels, channels)]
        raise ValueError(f"`{name}` was trained on {seen[0]}, and {seen[1]} are needed here")
    if denoiser.space is not None:
        raise ValueError(f"`{name}`: guides see pixels, and this model diffuses latents")
    same = guide.image_shape[0] == denoiser.image_shape[0] if any_size else guide.image_shape == denoiser.image_shape
    if not same:
        raise ValueError(
            f"`{name}` is for images of shape {guide.image_shape}, and the model makes {denoiser.image_shape}"
        )
    if not same_noise(guide.process, denoiser.process):
        raise ValueError(f"`{name}` was trained on another noising process than the model")
    guide.to(denoiser.device)
