"""The denoiser that a guide is trained for."""

from sparring.generators import Denoiser, Guide
from sparring.generators.loading import opened
from sparring.methods.method import frozen_copy
from sparring.process import same_noise


def denoiser_of(guide: Guide | Denoiser, denoiser: str | Denoiser) -> Denoiser:
    """A frozen copy of a denoiser, which is given or lies in a folder.

    Raises:
        ValueError: nothing there; the guide is noised in another way, so that each would see levels of its own.
    """
    found = frozen_copy(opened(denoiser))
    if not same_noise(guide.process, found.process):
        raise ValueError(
            f"`generator.process`: {type(guide.process).__name__} noises in another way than the `denoiser`, whose "
            f"process is a {type(found.process).__name__}: give the guide that of the denoiser"
        )
    return found
