"""A latent z, or a second time, for networks that take none: it is mapped and added to their time embedding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import ConfigMixin, DiTTransformer2DModel, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.networks.mlp import MLP, with_waves


class Slot(ModelMixin, ConfigMixin):
    """A vector that is added to the time embedding of a network, from outside.

    Once attached, the vector of `given` is added in every pass. The network stays the class that it is, with its own
    weights. A copy of both together stays attached: the hooks are bound methods.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vector: Tensor | None = None

    @staticmethod
    def width_of(net: Any, setting: str) -> int:
        """Numbers in the time embedding of a network.

        Raises:
            ValueError: the network is no UNet2DModel, DiT or MLP.
        """
        widths: dict[type, Callable[[Any], int]] = {
            UNet2DModel: lambda net: 4 * net.config["block_out_channels"][0],
            DiTTransformer2DModel: lambda net: net.inner_dim,
            MLP: lambda net: net.config["width"],
        }
        kind = next((kind for kind in widths if isinstance(net, kind)), None)
        if kind is None:
            raise ValueError(
                f"{setting}: no place for it is known in a {type(net).__name__}; UNet2DModel, "
                "DiTTransformer2DModel and MLP have one"
            )
        return widths[kind](net)

    def attach(self, net: Any) -> None:
        """Adds the vector of `given` to the network's time embedding from now on; a second call changes nothing."""
        dit = isinstance(net, DiTTransformer2DModel)  # the last modulation uses the embedding of block 0
        for embedding in [block.norm1.emb for block in net.transformer_blocks] if dit else [net.time_embedding]:
            if self.added not in embedding._forward_hooks.values():
                embedding.register_forward_hook(self.added)

    def added(self, embedding: nn.Module, given: Any, output: Tensor) -> Tensor:
        """The hook."""
        return output if self.vector is None else output + self.vector.to(output.dtype)

    @contextmanager
    def given(self, value: Tensor) -> Iterator[None]:
        """The network sees `value`, a row for each image, meanwhile."""
        self.vector = self.forward(value)
        try:
            yield
        finally:
            self.vector = None


class LatentSlot(Slot):
    """Latents [B, latent_dim], normalised to unit mean square, through a perceptron to vectors [B, embedding_dim].

    Source: the mapping network of Denoising Diffusion GAN (arXiv 2112.07804), three layers; the place is ours. With
    `resnet_time_scale_shift: scale_shift`, a UNet2DModel scales and shifts its normalised maps by this embedding.

    Args:
        latent_dim: Numbers in z.
        embedding_dim: Numbers in the time embedding.

    Raises:
        ValueError: A size below 1.
    """

    @register_to_config
    def __init__(self, latent_dim: int, embedding_dim: int) -> None:
        super().__init__()
        if min(latent_dim, embedding_dim) < 1:
            raise ValueError(f"`latent_dim={latent_dim}`, `embedding_dim={embedding_dim}` must be at least 1")
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, embedding_dim),
            nn.SiLU(),
            nn.Linear(embedding_dim, embedding_dim),
            nn.SiLU(),
            nn.Linear(embedding_dim, embedding_dim),
        )

    @classmethod
    def on(cls, net: Any, latent_dim: int) -> "LatentSlot":
        """A slot for a network, attached to it.

        Raises:
            ValueError: the network is no UNet2DModel, DiT or MLP.
        """
        slot = cls(latent_dim, cls.width_of(net, f"`latent_dim={latent_dim}`"))
        slot.attach(net)
        return slot

    def forward(self, z: Tensor) -> Tensor:
        """Vectors [B, embedding_dim] of latents [B, latent_dim]."""
        z = z.to(self.dtype)
        return self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class TimeSlot(Slot):
    """Where a step starts and how far it goes, times [B, 2] in [0, 1], through a perceptron to [B, embedding_dim].

    The last layer starts at zero, so that a network with a new slot is the network without. Both times come with sines
    and cosines of at most four periods, for methods that differentiate in them: stock networks take 1000 t. A
    network that is otherwise `time_blind` gets its time here only.

    Args:
        embedding_dim: Numbers in the time embedding.

    Raises:
        ValueError: A size below 1.
    """

    FREQUENCIES = 4

    @register_to_config
    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        if embedding_dim < 1:
            raise ValueError(f"`embedding_dim={embedding_dim}` must be at least 1")
        last = nn.Linear(embedding_dim, embedding_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2 * (1 + 2 * self.FREQUENCIES), embedding_dim), nn.SiLU(), last)

    @classmethod
    def on(cls, net: Any) -> "TimeSlot":
        """A slot for a network, attached to it.

        Raises:
            ValueError: the network is no UNet2DModel, DiT or MLP.
        """
        slot = cls(cls.width_of(net, "`second_time=True`"))
        slot.attach(net)
        return slot

    def forward(self, times: Tensor) -> Tensor:
        """Vectors [B, embedding_dim] of starts and lengths [B, 2]."""
        return self.layers(with_waves(times.to(self.dtype), self.FREQUENCIES))
