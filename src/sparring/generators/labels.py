"""How a network takes classes, and which of them says "none"."""

import inspect
from typing import Any

from diffusers import DiTTransformer2DModel, UNet2DModel
from torch import nn

from sparring.networks.block_unet import BlockUNet
from sparring.networks.edm2 import MPUNet
from sparring.networks.energy import EnergyMLP, EnergyUNet
from sparring.networks.mlp import MLP
from sparring.networks.skip_vit import SkipViT

OWN_NETWORKS = (MLP, MPUNet, BlockUNet, SkipViT, EnergyUNet, EnergyMLP)
"""Networks of ours that stand in pipelines as diffusers' do: they have a `class_embedding`, or None."""

LABEL_NAMES = ("class_labels", "labels", "label", "y")
SOURCE = "source"
"""The argument by which a network takes the image that it is conditioned on."""


def label_argument(net: nn.Module) -> tuple[str | None, bool]:
    """The name of the argument a network takes labels by (None: it takes none), and whether it must have them."""
    parameters = list(inspect.signature(net.forward).parameters.values())
    single = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    name = next((p.name for p in single[2:] if p.name in LABEL_NAMES), None)
    required = [p.name for p in single[2:] if p.default is inspect.Parameter.empty and p.name not in (name, SOURCE)]
    if required or (len(single) < 2 and len(single) == len(parameters)):
        needs = f"needs {', '.join(required)}" if required else "takes no time"
        raise ValueError(
            f"{type(net).__name__} {needs}; it is called as net(x, time), with {'/'.join(LABEL_NAMES)} if any"
        )
    config: Any = net.config if isinstance(net, UNet2DModel) else {}
    if (embedded := config.get("class_embed_type")) is not None:
        raise ValueError(
            f"UNet2DModel with class_embed_type={embedded!r} takes numbers in place of classes, and no pipeline of "
            "diffusers passes them: leave it out, and for classes give num_class_embeds"
        )
    if name is None or (isinstance(net, (UNet2DModel, *OWN_NETWORKS)) and net.class_embedding is None):
        return None, False
    must = next(p for p in single if p.name == name).default is inspect.Parameter.empty
    return name, must or isinstance(net, (UNet2DModel, DiTTransformer2DModel, *OWN_NETWORKS))


def num_classes_of(net: nn.Module) -> int | None:
    """How many classes a network was built for, if it says so."""
    config: Any = getattr(net, "config", {})
    for name in ("num_class_embeds", "num_embeds_ada_norm", "num_classes"):
        value = config.get(name) if hasattr(config, "get") else getattr(config, name, None)
        if value is not None:
            return int(value)
    value = getattr(net, "num_classes", None)
    return None if value is None else int(value)


def null_class_of(net: nn.Module, total: int | None, of_data: int) -> int:
    """The class that means "none": beyond the classes of a DiT, the last class of any other network.

    Args:
        net: the network.
        total: number of its classes; None: it takes none, or does not say.
        of_data: number of classes that the data uses.

    Raises:
        ValueError: the network takes no classes, or does not say how many; or the data uses this one too.
    """
    name = type(net).__name__
    if total is None:
        raise ValueError(
            f"`guidance`, `condition_dropout`: {name} takes neither classes nor captions: "
            "start from a network that does, or train it anew"
        )
    null = total - (0 if isinstance(net, DiTTransformer2DModel) else 1)
    if null < of_data:
        raise ValueError(
            f"`guidance`, `condition_dropout`: {name} has {total} classes, the data {of_data}, and "
            'none is left to say "none" by: build it with one more'
        )
    return null
