"""How adapters leave a network: multiplied into its weights, or as LoRA weights that diffusers loads."""

from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from sparring.networks.adapters.difffit import Scaled
from sparring.networks.adapters.lora import ADAPTER
from sparring.networks.quantized import whole_state


# -- adapters leave the network ----------------------------------------------------------------------------------------
def added_layers(net: nn.Module) -> dict[str, Any]:
    """Layers that a tuning put in the place of others, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in net.named_modules() if isinstance(layer, Scaled | LoraLayer)}


@torch.no_grad()
def merged_network(net: nn.Module) -> nn.Module:
    """A diffusers network with its added layers multiplied into its weights, on the CPU; `net` itself without any.

    Merged weights are float32; others keep their precision, or that in which quantised ones compute.
    """
    added = added_layers(net)
    if not added:
        return net
    state = whole_state(net)
    for name, layer in added.items():
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        base = whole_state(layer.base_layer)
        if isinstance(layer, Scaled):
            base = {key: layer.gamma * tensor for key, tensor in base.items()}
        else:
            delta = layer.get_delta_weight(ADAPTER)
            base["weight"] = base["weight"].float().to(delta.device) + delta
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
