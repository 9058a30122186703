"""ToDo: token downsampling for efficient generation of high-resolution images (Smith et al., arXiv 2402.13573).

Status: proven to take 0.52 of the time at 32x32 tokens (docs/performance.md); a quarter of the keys costs nothing at
noisy levels of digits, within 3 % (docs/results/sampling.md).

Neighbouring tokens of an image say nearly the same. In self-attention on the finest grid of tokens [B, H W, D], keys
and values are therefore taken from every f-th token of every f-th row, and the queries stay:

    attention(q(x), k(x'), v(x')),        x' [B, H W / f^2, D], nearest neighbours of a grid of H / f and W / f

Nothing is trained. The work of attention falls by f^2, so that it pays if attention dominates: at 32 x 32 tokens and
more. Tokens that are constant in blocks of f x f give the output of full attention, because each key stands for f^2
equal ones. That attention on the finest grid only is downsampled follows the official code; the levels are a setting.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Interval, Intervention, Predictor, check_interval, within


class ToDo(Intervention):
    """Keys and values of self-attention from a coarser grid.

    Args:
        factor: f, how much coarser along each side; 1 is the plain sampler.
        interval: levels sigma / alpha at which it acts, (low, high]; None: all of them.
    """

    place = "call"

    def __init__(self, *, factor: int = 2, interval: Interval | None = None):
        if factor < 1:
            raise ValueError(f"`factor={factor}` must be at least 1")
        self.factor = factor
        self.interval = check_interval(interval)

    def check(self, denoiser: DenoisingNetwork) -> None:
        if not self_attentions(denoiser):
            raise ValueError(
                f"{self.label} coarsens self-attention, and {type(denoiser.net).__name__} has none of diffusers' kind"
            )

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        layers = self_attentions(denoiser)

        def downsampled(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            if not within(self.interval, level):
                return inner(x_t, level, condition)
            with coarse_keys(layers, self.factor, (x_t.shape[-2], x_t.shape[-1])):
                return inner(x_t, level, condition)

        return inner if self.factor == 1 else downsampled


def self_attentions(network: nn.Module) -> list[Attention]:
    """The layers of a network in which tokens of an image look at each other and at nothing else."""
    found = [one for one in network.modules() if isinstance(one, Attention)]
    return [one for one in found if not one.is_cross_attention and one.added_kv_proj_dim is None]


@contextmanager
def coarse_keys(layers: list[Attention], factor: int, size: tuple[int, int]) -> Iterator[None]:
    """Within it, those layers that see the finest grid of tokens take keys and values from a coarser one.

    Args:
        layers: self-attention layers.
        factor: of the grid, along each side.
        size: (H, W) of what the network is shown.
    """
    finest = 0

    def coarsen(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal finest
        assert isinstance(layer, Attention)
        x = args[0] if args else kwargs["hidden_states"]
        tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        if tokens.shape[1] < finest:
            return None
        finest = tokens.shape[1]
        if layer.group_norm is not None:  # which the layer does to its queries
            tokens = layer.group_norm(tokens.transpose(1, 2)).transpose(1, 2)
        return args, kwargs | {"encoder_hidden_states": every(tokens, factor, grid(finest, size))}

    with ExitStack() as stack:
        for layer in layers:
            handle = layer.register_forward_pre_hook(coarsen, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of so many tokens of an image or latent of `size`: halved as often as it takes, and rounded up.

    Raises:
        ValueError: no such grid has so many.
    """
    rows, columns = size
    patch = 1
    while patch <= max(size):
        found = -(-rows // patch), -(-columns // patch)
        if found[0] * found[1] == tokens:
            return found
        patch *= 2
    raise ValueError(f"todo: {tokens} tokens are no grid of an image of {rows} x {columns}, halved any number of times")


def every(tokens: Tensor, factor: int, shape: tuple[int, int]) -> Tensor:
    """Nearest neighbours on the coarser grid: [B, H W, D] to [B, ceil(H / f) ceil(W / f), D].

    Args:
        tokens: row after row.
        factor: f.
        shape: (H, W).
    """
    return tokens.unflatten(1, shape)[:, ::factor, ::factor].flatten(1, 2)
