"""Adversarial training of diffusion models: train, tune and distil with a discriminator in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.data import Batch, Digits, HubData, ImageData, ImageFolder
    from sparring.denoiser import Denoiser
    from sparring.discriminators import ProjectedDiscriminator, SiameseDiscriminator, StructureDiscriminator
    from sparring.methods import ADD, ADT, DDO, SADM, Diffusion, Method
    from sparring.pipeline import load_pipeline, save_pipeline
    from sparring.process import EDM, VP, RectifiedFlow
    from sparring.sampling import Sampler
    from sparring.training import AdamW, Trainer

_HOME = {
    "sparring.data": ("Batch", "Digits", "HubData", "ImageData", "ImageFolder"),
    "sparring.denoiser": ("Denoiser",),
    "sparring.discriminators": ("ProjectedDiscriminator", "SiameseDiscriminator", "StructureDiscriminator"),
    "sparring.methods": ("ADD", "ADT", "DDO", "SADM", "Diffusion", "Method"),
    "sparring.pipeline": ("load_pipeline", "save_pipeline"),
    "sparring.process": ("EDM", "VP", "RectifiedFlow"),
    "sparring.sampling": ("Sampler",),
    "sparring.training": ("AdamW", "Trainer"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = [
    "ADD",
    "ADT",
    "AdamW",
    "Batch",
    "DDO",
    "Denoiser",
    "Diffusion",
    "Digits",
    "EDM",
    "HubData",
    "ImageData",
    "ImageFolder",
    "Method",
    "ProjectedDiscriminator",
    "RectifiedFlow",
    "SADM",
    "Sampler",
    "SiameseDiscriminator",
    "StructureDiscriminator",
    "Trainer",
    "VP",
    "load_pipeline",
    "save_pipeline",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that `import sparring` and the command's help need no torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
