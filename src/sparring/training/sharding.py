"""A generator that is spread over the processes (FSDP2): each keeps a share of weights, gradients, moments and average.

The discriminator, teachers and references stay whole in every process.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sparring.training import processes


def shard(net: nn.Module, average: nn.Module, device: torch.device, precision: str) -> None:
    """Replaces the parameters of a network and of its average by this process's share of them, block by block.

    A block is gathered when it computes and given up again after, in the forward and in the backward pass. Gradients
    arrive as shares, already averaged over the processes.

    Raises:
        ValueError: a single process; precision "fp16"; a network of which only a part is trained.
    """
    if processes.world() == 1:
        raise ValueError("`sharding=fsdp2` spreads the generator over processes: start several, with torchrun")
    if precision == "fp16":
        raise ValueError("`sharding=fsdp2` with `precision=fp16`: an overflow is seen in one share only; use bf16")
    if not all(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError(
            "`sharding=fsdp2` spreads a network that is trained whole: leave it out, or leave out the tuning"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes.world(),))
    for part in [*blocks(net), net, *blocks(average), average]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def is_cut(module: nn.Module) -> bool:
    """Whether a module's parameters are shares."""
    return isinstance(next(module.parameters(), None), DTensor)


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The members of a network's outermost lists of modules: the stages of a U-Net, the layers of a transformer."""
    for child in net.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks(child)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's share; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes, which must all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole value on the device of a tensor, and cut as that is."""
    value = value.to(tensor.device)
    if isinstance(tensor, DTensor):
        return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return value


def gather(groups: dict[str, dict[str, Tensor]], keep: bool) -> dict[str, dict[str, Tensor]]:
    """Groups of named tensors with those that are cut made whole, one after the other, on the CPU of who keeps them."""
    gathered: dict[str, dict[str, Tensor]] = {}
    for group, tensors in groups.items():
        gathered[group] = {}
        for name, tensor in tensors.items():
            found = gather_full(tensor)
            if keep:
                gathered[group][name] = found.cpu() if isinstance(tensor, DTensor) else found
    return gathered
