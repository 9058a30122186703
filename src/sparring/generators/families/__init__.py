"""Text-to-image pipelines of diffusers: one file a family, found by the name of the pipeline's class."""

import pkgutil
from importlib import import_module
from typing import Any

from sparring.generators.families.family import Family

__all__ = ["Family", "families", "family_of", "family_of_class"]


def families() -> dict[str, type[Family]]:
    """The family of each class of pipelines, as the files of this folder say."""
    found: dict[str, type[Family]] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for kind in vars(import_module(module.name)).values():
            if isinstance(kind, type) and issubclass(kind, Family) and kind.__module__ == module.name:
                found |= dict.fromkeys(kind.pipelines, kind)
    return found


def family_of_class(name: str) -> type[Family]:
    """The family of the pipelines of a class.

    Raises:
        ValueError: none here, with the names of those that are.
    """
    known = families()
    if name not in known:
        raise ValueError(
            f"a {name} takes its captions in a way that is unknown here; known: {', '.join(sorted(known))}"
        )
    return known[name]


def family_of(pipe: Any) -> Family:
    """What has to be known of a text-to-image pipeline; its text encoders are frozen."""
    return family_of_class(type(pipe).__name__)(pipe)
