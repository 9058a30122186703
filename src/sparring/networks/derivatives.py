"""The door to derivatives of networks: along a direction, of vectors and of scalars, and gradients of gradients.

Stock networks have none of these as they are: the fused kernel of attention has neither a forward rule nor a second
derivative, the forward rule of group normalisation fails behind attention and in half precision, and a compiled network
cannot be differentiated twice. Inside of `differentiable` they have; nothing is left behind. `jvp` is for what has the
shape of an image (MeanFlow, sCM), `directional` for potentials (CAFM).
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from sparring.networks.precision import at_least_float32

Tangent = tuple[Tensor, Tensor | None]
"""A direction in (x, t): [B, ...] and [B]; None: time stands still."""

REFUSALS = re.compile(r"forward AD|forward-mode|derivative for|functorch transforms|batching rule|once_differentiable")


class _Differentiable(TorchFunctionMode):
    """Plain attention, whatever a network asks for.

    Args:
        forward: group normalisation with a forward rule that works, too.
    """

    def __init__(self, forward: bool) -> None:
        super().__init__()
        self.forward = forward

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **(kwargs or {}))
        if func is F.group_norm and self.forward:  # its forward rule wants contiguous tangents, and one precision
            x, *rest = args
            x = at_least_float32(x) if torch.is_autocast_enabled(x.device.type) else x
            return func(x.clone(memory_format=torch.contiguous_format), *rest, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def differentiable(*, forward: bool = False) -> Iterator[None]:
    """Networks that are called inside can be differentiated twice in reverse mode, and with `forward` in forward mode.

    Attention runs in its plain ("math") kernel and compiled networks run as they are written; afterwards both are as
    before. Backward passes may come later; with gradient checkpointing, the second pass has the kernel of the first.

    Raises:
        ValueError: diffusers' attention backend is one of another package, which has no second derivative.
    """
    if (dispatch := sys.modules.get("diffusers.models.attention_dispatch")) is not None:
        backend = dispatch._AttentionBackendRegistry.get_active_backend()[0].value
        if not backend.lstrip("_").startswith("native"):
            raise ValueError(f"the attention backend {backend!r} has no second derivative: set the backend 'native'")
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH), _Differentiable(forward):
        yield


def jvp(
    function: Callable[..., Tensor],
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    *,
    mode: Literal["forward", "reverse", "difference"] = "forward",
    step: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """A function and its derivative along a direction, `sum_i df/dx_i dx_i`; both without gradient.

    Forward mode costs about two passes. Reverse mode, the gradient of the gradient, costs four and works with all that
    can be differentiated twice. The central difference `(f(x + h dx) - f(x - h dx)) / 2h` is the fallback for
    everything else: its error is `h^2 / 6` times the third derivative, which is large for networks that take a time of
    1000 t, and it runs outside of autocast. Dropout must be off, or alike in all passes.

    Args:
        function: of the primals; row i of its value depends on row i of them only.
        primals: where the derivative is taken.
        tangents: the direction, shaped as the primals.
        mode: how it is computed.
        step: h.

    Raises:
        ValueError: a mode that is unknown, an operation that it cannot pass, or a `step` that is not above 0.
    """
    primals = [x.detach() for x in primals]
    tangents = [dx.detach().to(x.dtype) for dx, x in zip(tangents, primals, strict=True)]
    if mode == "forward":
        with torch.no_grad(), differentiable(forward=True), _told(mode):
            value, derivative, *_ = torch.func.jvp(function, tuple(primals), tuple(tangents))
        return value, derivative
    if mode == "reverse":
        leaves = [x.requires_grad_() for x in map(torch.clone, primals)]
        with torch.enable_grad(), differentiable(), _told(mode):
            value = function(*leaves)
            weights = torch.zeros_like(value, requires_grad=True)
            gradients = torch.autograd.grad(value, leaves, weights, create_graph=True, materialize_grads=True)
            slope = torch.stack([(g * dx).sum() for g, dx in zip(gradients, tangents, strict=True)]).sum()
            (derivative,) = torch.autograd.grad(slope, weights, allow_unused=True)
        if derivative is None:
            raise ValueError("`mode=reverse`: the gradient of this function cannot be differentiated again")
        return value.detach(), derivative
    if mode == "difference":
        with torch.no_grad(), _exact(primals[0], step):
            ahead, behind = (
                function(*(x + sign * step * dx for x, dx in zip(primals, tangents, strict=True))) for sign in (1, -1)
            )
            return function(*primals), (ahead - behind) / (2 * step)
    raise ValueError(f"`mode={mode}` of a derivative is one of forward, reverse, difference")


def directional(
    potential: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    tangents: Sequence[Tangent],
    *,
    mode: Literal["reverse", "interval", "difference"] = "reverse",
    step: float | Tensor = 1e-3,
    create_graph: bool = True,
) -> tuple[Tensor, Tensor]:
    """A potential and its slopes, `grad_x D . dx + d_t D dt`, along several directions at the same point.

    Reverse mode takes one gradient for all directions, whatever their number. `interval` is
    `(D(x, t) - D(x - h dx, t - h dt)) / h`, exact by definition where it is what a method means; `difference` is the
    central one, for networks with an operation that has no second derivative. Both run outside of autocast.

    Gradient passes to the tangents in every mode.

    Args:
        potential: `D(x, t)`, [B] or [B, ...], whose numbers of a row are summed; row i depends on row i only.
        x: [B, ...].
        t: [B] floating-point times.
        tangents: the directions; at least one.
        mode: how it is computed.
        step: h; for `interval` also [B].
        create_graph: in reverse mode, keep the graph behind the slopes, through which the potential learns.

    Returns:
        D [B] and the slopes [len(tangents), B], at least float32.

    Raises:
        ValueError: a mode that is unknown or cannot pass an operation; whole numbers as times; a potential that is not
            differentiable in t (it rounds t, or does not take it) with a tangent that moves t; a `step` that is not
            above 0.
    """
    if not t.is_floating_point():
        raise ValueError(f"`t` of a derivative is {t.dtype}: give floating-point times")
    if mode == "reverse":
        return _reverse(potential, x.detach(), t.detach(), tangents, create_graph)
    if mode not in ("interval", "difference"):
        raise ValueError(f"`mode={mode}` of a slope is one of reverse, interval, difference")
    with _exact(x, step):
        value = _per_row(potential(x, t), x)
        slopes = []
        for dx, dt in tangents:
            h = torch.as_tensor(step, dtype=at_least_float32(x).dtype, device=x.device)
            moved_x = h.view(-1, *[1] * (x.ndim - 1)) * dx if h.ndim else h * dx
            moved_t = torch.zeros_like(t) if dt is None else h * dt
            behind = _per_row(potential(x - moved_x, t - moved_t), x)
            if mode == "interval":
                slopes.append((value - behind) / h)
            else:
                slopes.append((_per_row(potential(x + moved_x, t + moved_t), x) - behind) / (2 * h))
    return value, torch.stack(slopes)


def _reverse(
    potential: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    tangents: Sequence[Tangent],
    create_graph: bool,
) -> tuple[Tensor, Tensor]:
    moves = any(dt is not None for _, dt in tangents)
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_(moves)
    with torch.enable_grad(), differentiable(), _told("reverse"):
        value = _per_row(potential(x, t), x)
        leaves = [x, t] if moves else [x]
        gradients = torch.autograd.grad(value.sum(), leaves, create_graph=create_graph, allow_unused=True)
    if gradients[0] is None or gradients[-1] is None:
        raise ValueError(
            f"the potential does not depend on `{'x' if gradients[0] is None else 't'}` in a differentiable way: it "
            "takes none, or rounds it"
        )
    grad_x, grad_t = at_least_float32(gradients[0]), at_least_float32(gradients[-1])
    slopes = []
    for dx, dt in tangents:
        slope = (grad_x * dx).flatten(1).sum(1)
        slopes.append(slope if dt is None else slope + grad_t * dt)
    return value if create_graph else value.detach(), torch.stack(slopes)


def _per_row(value: Tensor, x: Tensor) -> Tensor:
    """[B], at least float32."""
    if value.shape[:1] != x.shape[:1]:
        raise ValueError(f"a potential of {len(x)} rows gave numbers of shape {tuple(value.shape)}: [B, ...] is needed")
    return at_least_float32(value).reshape(len(x), -1).sum(1)


@contextmanager
def _exact(x: Tensor, step: float | Tensor) -> Iterator[None]:
    """Differences of half-precision numbers would be noise."""
    if bool((torch.as_tensor(step) <= 0).any()):
        raise ValueError(f"`step={step}` of a difference must be above 0")
    with torch.autocast(x.device.type, enabled=False):
        yield


@contextmanager
def _told(mode: str) -> Iterator[None]:
    """What torch says of an operation without such a derivative, in one line."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        if not REFUSALS.search(str(error)):
            raise
        first = str(error).splitlines()[0]
        raise ValueError(f"`mode={mode}`: {first[:200]}; another mode of the derivative may pass it") from error
