"""A further denoiser beside the one that is sampled: a weaker model, one of another condition."""

import torch

from sparring.generators import Denoiser, DenoisingNetwork
from sparring.process import Latents, same_noise


def same_space(one: Latents | None, other: Latents | None) -> bool:
    """Whether two denoisers work on pixels, or on latents of one kind with the same shift and scale."""
    if one is None or other is None:
        return one is other
    if (type(one), one.channels, one.factor) != (type(other), other.channels, other.factor):
        return False
    pairs = [(one.shift, other.shift), (one.scale, other.scale)]  # of which one may be in half precision
    return all(torch.allclose(ours, theirs, rtol=0.01, atol=0.01) for ours, theirs in pairs)


def classes_of(denoiser: DenoisingNetwork) -> int | None:
    """How many classes its data has, or else for how many its network was built, as far as is known."""
    return denoiser.classes_of_data or denoiser.num_classes


def same_classes(one: DenoisingNetwork, other: DenoisingNetwork) -> bool:
    """Whether two class-conditional denoisers have as many classes, as far as is known, and the same says "none"."""
    if one.takes_guidance and other.takes_guidance and one.null_class != other.null_class:
        return False
    if one.classes_of_data and other.classes_of_data:
        return one.classes_of_data == other.classes_of_data
    return one.takes_guidance or one.num_classes == other.num_classes


def check_beside(other: Denoiser, denoiser: DenoisingNetwork, name: str, own_classes: bool = False) -> None:
    """Moves `other` to the device of the sampled denoiser.

    Args:
        other: the further one.
        denoiser: the sampled one.
        name: of the setting that gives the other.
        own_classes: the other is asked for classes of its own.

    Raises:
        ValueError: they have other images, noise, latents or conditions, so that their predictions cannot be mixed.
    """
    times = torch.linspace(0.01, 1, 23, dtype=torch.float64)
    ours, theirs = (one.process.model_time(times) for one in (denoiser, other))
    shown = [one.process.model_input(torch.ones_like(times), times) for one in (denoiser, other)]
    laws = [(type(one.process.kernel), vars(one.process.kernel)) for one in (denoiser, other)]
    for what, equal in {
        "images": other.image_shape == denoiser.image_shape,
        "a space of latents": same_space(other.space, denoiser.space),
        "a noising process": same_noise(other.process, denoiser.process) and torch.allclose(ours, theirs),
        "the scale of its input (sigma_data)": torch.allclose(shown[0], shown[1]),
        "the law of its noise": laws[0] == laws[1],
        "captions": other.captioned == denoiser.captioned,
        "the family of text-to-image networks": type(other.text) is type(denoiser.text),
    }.items():
        if not equal:
            raise ValueError(f"`{name}`: it differs in {what} from the model that is sampled, so they cannot be mixed")
    if other.takes_labels and not (denoiser.takes_labels or own_classes):
        raise ValueError(f"`{name}`: it takes classes, and the model that is sampled takes none")
    if other.takes_labels and not own_classes and not same_classes(other, denoiser):
        numbers = f"{classes_of(other)} classes and the model that is sampled {classes_of(denoiser)}"
        raise ValueError(f"`{name}`: it has {numbers}, so they cannot be mixed")
    other.to(denoiser.device)
