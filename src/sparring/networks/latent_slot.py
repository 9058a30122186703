"""A latent z for networks that take none: it is mapped and added to their time embedding, from outside."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import ConfigMixin, DiTTransformer2DModel, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.networks.mlp import MLP


class LatentSlot(ModelMixin, ConfigMixin):
    """Latents [B, latent_dim], normalised to unit mean square, through a perceptron to vectors [B, embedding_dim].

    Once attached, the vector of `given` is added to the time embedding of every pass. The network stays the class that
    it is, with its own weights. A copy of both together stays attached: the hooks are bound methods.

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
        self.vector: Tensor | None = None

    @classmethod
    def on(cls, net: Any, latent_dim: int) -> "LatentSlot":
        """A slot for a network, attached to it.

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
                f"`latent_dim={latent_dim}`: no place for z is known in a {type(net).__name__}; UNet2DModel, "
                "DiTTransformer2DModel and MLP have one"
            )
        slot = cls(latent_dim, widths[kind](net))
        slot.attach(net)
        return slot

    def attach(self, net: Any) -> None:
        """Adds the vector of `given` to the network's time embedding from now on; a second call changes nothing."""
        dit = isinstance(net, DiTTransformer2DModel)  # the last modulation uses the embedding of block 0
        for embedding in [block.norm1.emb for block in net.transformer_blocks] if dit else [net.time_embedding]:
            if self.added not in embedding._forward_hooks.values():
                embedding.register_forward_hook(self.added)

    def added(self, embedding: nn.Module, given: Any, output: Tensor) -> Tensor:
        """The hook."""
        return output if self.vector is None else output + self.vector.to(output.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Vectors [B, embedding_dim] of latents [B, latent_dim]."""
        z = z.to(self.dtype)
        return self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())

    @contextmanager
    def given(self, z: Tensor) -> Iterator[None]:
        """The network sees latents z [B, latent_dim] meanwhile."""
        self.vector = self.forward(z)
        try:
            yield
        finally:
            self.vector = None
