"""A further denoiser beside the one that is sampled: a weaker model, one of another condition."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sparring.generators import Denoiser, DenoisingNetwork
from sparring.generators.loading import load_denoiser


def opened(source: str | Path | Denoiser, allow: Sequence[str] = ()) -> Denoiser:
    """A denoiser, or that of a run or pipeline folder, in eval mode.

    Raises:
        ValueError: what `load_denoiser` refuses.
    """
    return (source if isinstance(source, Denoiser) else load_denoiser(source, allow=allow)).eval()


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
    t = torch.linspace(0.01, 1, 23, dtype=torch.float64)
    ours, theirs = (torch.stack([one.process.log_snr(t), one.process.model_time(t)]) for one in (denoiser, other))
    for what, equal in {
        "images": other.image_shape == denoiser.image_shape,
        "a space of latents": (other.space is None) == (denoiser.space is None),
        "a noising process": bool(torch.allclose(ours, theirs)),
        "captions": other.captioned == denoiser.captioned,
    }.items():
        if not equal:
            raise ValueError(f"`{name}`: it differs in {what} from the model that is sampled, so they cannot be mixed")
    if other.takes_labels and not (denoiser.takes_labels or own_classes):
        raise ValueError(f"`{name}`: it takes classes, and the model that is sampled takes none")
    other.to(denoiser.device)
