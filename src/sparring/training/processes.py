"""What several processes tell each other: averaged gradients, joined batches, equal weights.

No network is wrapped. Each player's gradients are averaged after its backward pass and before its update, so that
alternating players, a graph that serves both of them, several forward passes for one backward pass and calls of any
method of a network are all exact. (DistributedDataParallel would overlap the transfer with the backward pass, and
forbids or silently breaks each of these.) Every function here does nothing in a single process.
"""

import atexit
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sparring.networks.digest import checksum

BUCKET_BYTES = 32 * 2**20


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@cache
def destroy_group_at_exit() -> None:
    """Destroys the process group when the program ends."""
    atexit.register(lambda: dist.destroy_process_group() if world() > 1 else None)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces gradients by their mean over the processes.

    A parameter that has a gradient in one process and none in another counts as 0 there; one that has none anywhere
    keeps none, so that its moments rest as they would in a single process.
    """
    if world() == 1 or not parameters:
        return
    present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    dist.all_reduce(present)
    taking_part = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
    for bucket in buckets(taking_part):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= world()
        parts = flat.split([grad.numel() for grad in grads])
        for parameter, grad, part in zip(bucket, grads, parts, strict=True):
            parameter.grad = grad.copy_(part.view_as(grad))


def buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in groups of one type and about BUCKET_BYTES, so that few transfers are made and little is copied."""
    group: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if group and (size >= BUCKET_BYTES or parameter.dtype != group[0].dtype):
            yield group
            group, size = [], 0
        group.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if group:
        yield group


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes, as a new tensor."""
    if world() == 1:
        return values
    summed = values.detach().to("cuda" if dist.get_backend() == "nccl" else values.device, copy=True)
    dist.all_reduce(summed)
    return summed.to(values.device)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        first = dist.get_rank() * ctx.rows
        return summed[first : first + ctx.rows]


def gather_rows(local: Tensor) -> Tensor:
    """[B, ...] of every process, joined in the order of the global batch to [world * B, ...], with gradient.

    The backward pass sums over the processes: where each of them computes the same loss from the joined rows, the mean
    of the parameters' gradients over the processes is the gradient of that one loss.
    """
    return local if world() == 1 else _Gather.apply(local)


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Overwrites tensors by those of the first process."""
    if world() > 1:
        for tensor in tensors:
            if not isinstance(tensor, DTensor):
                dist.broadcast(tensor.detach(), 0)


def check_agreement(tensors: dict[str, Tensor]) -> None:
    """Makes sure that all processes hold the same numbers, by a checksum of each tensor's bits.

    Raises:
        RuntimeError: they do not; names the first tensor that differs.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}
    if world() == 1 or not tensors:
        return
    device = next(iter(tensors.values())).device
    mine = torch.stack([checksum(tensor).to(device) for tensor in tensors.values()])
    everyones = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(everyones, mine)
    for rank, theirs in enumerate(everyones):
        wrong = (theirs != everyones[0]).nonzero().flatten().tolist()
        if wrong:
            names = list(tensors)
            raise RuntimeError(
                f"processes have drifted apart: {names[wrong[0]]} of process {rank} is not that of process 0 "
                f"({len(wrong)} of {len(names)} tensors differ). Batch statistics of one process are a common cause: "
                "use GroupNorm, or SyncBatchNorm"
            )
