"""Which of a network's weights are trained: adapters, biases and norms, named parts; and how adapters are shipped."""

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from copy import copy, deepcopy
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from sparring.denoiser import Denoiser

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""diffusers' names of the projections of an attention layer; the last four are the text stream of SD3."""
BRANCH_ENDS = ("to_out.0", "to_add_out", "ff.net.2", "ff_context.net.2", "conv2")
"""diffusers' names of the last layer of a residual branch: attention, feed-forward, convolutions of a U-Net."""
NORMS = re.compile(r"(Batch|Group|Layer|RMS)Norm")
ADAPTER = "default"
Module = TypeVar("Module", bound=nn.Module)


class Tuning(ABC):
    """Chooses what of a network is trained. Everything else is frozen."""

    @abstractmethod
    def apply(self, net: nn.Module) -> None:
        """Freezes the network in place but for what is trained, and adds new layers where there are any.

        The output stays, bit for bit, what it was.

        Raises:
            ValueError: nothing in this network matches.
        """


class LoRA(Tuning):
    """Low-rank adapters: W x becomes W x + (alpha / rank) B A x, and only A and B are trained (Hu et al., 2106.09685).

    B starts at 0. Made by peft; `Trainer` ships the weights with the adapters multiplied into them, and the adapters by
    themselves where diffusers' pipeline can load them.

    Args:
        rank: of B A.
        alpha: scale of the adapters times rank; rank when None.
        targets: endings of the names of the linear and convolutional layers that get one, such as [to_q, to_v]. None:
            the projections of attention layers; of a network without attention, its convolutions.
    """

    def __init__(self, *, rank: int = 16, alpha: float | None = None, targets: list[str] | None = None):
        if rank < 1:
            raise ValueError(f"`rank={rank}` must be at least 1")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"`alpha={alpha}` must be positive: at 0 the adapters would do nothing")
        self.rank = rank
        self.alpha = alpha
        self.targets = targets

    def apply(self, net: nn.Module) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        net.requires_grad_(False)
        scale = self.rank if self.alpha is None else self.alpha
        layers = self.layers(net)
        config = LoraConfig(r=self.rank, lora_alpha=scale, target_modules=layers)  # type: ignore[arg-type]
        inject_adapter_in_model(config, net, ADAPTER)
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # beside a base in half precision, too

    def layers(self, net: nn.Module) -> list[str]:
        """Names of the layers that get an adapter."""
        names = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        found = ending(names, self.targets or ATTENTION)
        if not found and self.targets is None:
            found = [name for name, layer in names.items() if isinstance(layer, nn.Conv2d)]
        if not found:
            raise no_match(f"`targets={self.targets}`", "linear or convolutional layer", net, names, self.targets or [])
        return found


class DiffFit(Tuning):
    """Biases, normalisation weights, class embeddings, and a scale factor on each residual branch, from 1.

    Source: Xie et al. 2023, "DiffFit", arXiv 2304.06648, for transformers. Scale factors on the convolutional branches
    of a U-Net are ours.
    """

    def apply(self, net: nn.Module) -> None:
        net.requires_grad_(False)
        for name, module in net.named_modules():
            whole = NORMS.search(type(module).__name__) or re.search(r"(class|label)_embed", name)
            for own, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(own == "bias" or whole is not None)
        layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        for name in ending(layers, BRANCH_ENDS):
            net.set_submodule(name, Scaled(layers[name]))
        if not any(parameter.requires_grad for parameter in net.parameters()):
            raise ValueError(f"`tuning=DiffFit`: {type(net).__name__} has no bias, norm or known residual branch")


class Parts(Tuning):
    """Only parameters whose name matches.

    Args:
        pattern: regular expression, searched for in each name: "attn", "^mid_block", "to_[kv]" …
    """

    def __init__(self, *, pattern: str):
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"`pattern={pattern}` is not a regular expression ({error})") from None

    def apply(self, net: nn.Module) -> None:
        net.requires_grad_(False)
        named = dict(net.named_parameters())
        found = [name for name in named if self.pattern.search(name)]
        if not found:
            raise no_match(f"`pattern={self.pattern.pattern}`", "parameter", net, named, [self.pattern.pattern])
        for name in found:
            named[name].requires_grad_(True)


class Scaled(nn.Module):
    """gamma times a layer, with gamma from 1."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.base_layer = layer
        self.gamma = nn.Parameter(torch.ones((), device=next(layer.parameters()).device))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * self.base_layer(x)


def ending(names: Iterable[str], ends: Iterable[str]) -> list[str]:
    """The names that are, or end with a dot and, one of `ends`."""
    return [name for name in names if any(f".{name}".endswith(f".{end}") for end in ends)]


def no_match(setting: str, kind: str, net: nn.Module, names: Iterable[str], given: Iterable[str]) -> ValueError:
    """The error for a name that is not there, with names that are close to it."""
    known = list(names)
    words = {word: name for name in reversed(known) for word in (*name.split("."), name)}
    near = [words[word] for text in given for word in difflib.get_close_matches(text, words, 3, 0.5)]
    examples = ", ".join(list(dict.fromkeys(near or known))[:3]) or "none"
    return ValueError(f"{setting} matches no {kind} of {type(net).__name__}, which has: {examples}")


# -- what is frozen, and shared ----------------------------------------------------------------------------------------


def frozen_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What training never changes, under every name it has: parameters without gradient, and buffers of modules in eval
    mode whose parameters, of which there are some, are all frozen."""
    every = module.named_parameters(remove_duplicate=False)
    tensors: dict[str, Tensor] = {name: parameter for name, parameter in every if not parameter.requires_grad}
    for prefix, part in module.named_modules(remove_duplicate=False):
        trained = [parameter.requires_grad for parameter in part.parameters()]
        if trained and not any(trained) and not part.training:
            buffers = part.named_buffers(remove_duplicate=False)
            tensors |= {f"{prefix}.{name}".removeprefix("."): buffer for name, buffer in buffers}
    return tensors


def copy_of_trained(module: Module) -> Module:
    """A copy that shares the memory of what is frozen with the original."""
    return deepcopy(module, {id(tensor): tensor for tensor in frozen_tensors(module).values()})


# -- adapters leave the network ----------------------------------------------------------------------------------------


def added_layers(net: nn.Module) -> dict[str, Any]:
    """Layers that a tuning put in the place of others, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in net.named_modules() if isinstance(layer, Scaled | LoraLayer)}


def merged(denoiser: Denoiser) -> Denoiser:
    """The denoiser as it was before its tuning added layers, with these multiplied into its weights; on the CPU then.

    The denoiser itself where nothing was added. Merged weights are float32; others keep their precision.
    """
    if not added_layers(denoiser.net):
        return denoiser
    plain = copy(denoiser)
    plain._modules = {**denoiser._modules, "net": merged_network(denoiser.net)}
    return plain


@torch.no_grad()
def merged_network(net: nn.Module) -> nn.Module:
    """A diffusers network without added layers, which shares what it can with the one that has them."""
    state = net.state_dict()
    for name, layer in added_layers(net).items():
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        base = layer.base_layer.state_dict()
        if isinstance(layer, Scaled):
            base = {key: layer.gamma * tensor for key, tensor in base.items()}
        else:
            base["weight"] = base["weight"].float() + layer.get_delta_weight(ADAPTER)
        state |= {f"{name}.{key}": tensor for key, tensor in base.items()}
    with init_empty_weights():
        plain = type(net).from_config(net.config)  # type: ignore[attr-defined]
    plain.load_state_dict({key: tensor.cpu() for key, tensor in state.items()}, assign=True)
    return plain.eval()


@torch.no_grad()
def lora_weights(net: nn.Module) -> dict[str, Tensor]:
    """The adapters under the names by which diffusers' `load_lora_weights` takes them, at scale 1.

    Empty without adapters, and for networks whose pipelines cannot load any (UNet2DModel, DiT).
    """
    from diffusers.loaders import PeftAdapterMixin

    weights: dict[str, Tensor] = {}
    if isinstance(net, PeftAdapterMixin):
        part = "transformer" if "Transformer" in type(net).__name__ else "unet"
        for name, layer in added_layers(net).items():
            if not isinstance(layer, Scaled):
                weights[f"{part}.{name}.lora_A.weight"] = layer.lora_A[ADAPTER].weight
                weights[f"{part}.{name}.lora_B.weight"] = layer.scaling[ADAPTER] * layer.lora_B[ADAPTER].weight
    return weights
