"""Adversarial training of diffusion models: train, tune and distil with a discriminator in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.data import Batch, Digits, HubData, ImageData, ImageFolder
    from sparring.discriminators import ProjectedDiscriminator, SiameseDiscriminator, StructureDiscriminator
    from sparring.generators import Denoiser, Generator, LatentGenerator, load_generator, load_pipeline
    from sparring.methods import Method
    from sparring.process import EDM, VP, RectifiedFlow
    from sparring.samplers import Sampler
    from sparring.training import AdamW, Trainer

_HOME = {
    "sparring.data": ("Batch", "Digits", "HubData", "ImageData", "ImageFolder"),
    "sparring.discriminators": ("ProjectedDiscriminator", "SiameseDiscriminator", "StructureDiscriminator"),
    "sparring.generators": ("Denoiser", "Generator", "LatentGenerator", "load_generator", "load_pipeline"),
    "sparring.methods": ("Method",),
    "sparring.process": ("EDM", "VP", "RectifiedFlow"),
    "sparring.samplers": ("Sampler",),
    "sparring.training": ("AdamW", "Trainer"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = [
    "AdamW",
    "Batch",
    "Denoiser",
    "Digits",
    "EDM",
    "Generator",
    "HubData",
    "ImageData",
    "ImageFolder",
    "LatentGenerator",
    "Method",
    "ProjectedDiscriminator",
    "RectifiedFlow",
    "Sampler",
    "SiameseDiscriminator",
    "StructureDiscriminator",
    "Trainer",
    "VP",
    "load_generator",
    "load_pipeline",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that `import sparring` and the command's help need no torch.

    Any other name is looked for among the methods: `from sparring import SADM`.
    """
    if name.startswith("_"):
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULE_OF.get(name, "sparring.methods")), name)
    except AttributeError:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}") from None
