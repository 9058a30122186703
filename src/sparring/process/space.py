"""Where diffusion happens when it is not the pixels: the latents of a frozen autoencoder."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sparring.networks.precision import at_least_float32
from sparring.networks.wavelet import HaarWavelet

PIXELS_AT_ONCE = 2**20  # ours: one image of 1024x1024, four of 512x512, in one pass of the autoencoder


class Latents:
    """The latents of a frozen `AutoencoderKL`, shifted and scaled as its configuration says.

    It is no module on purpose: the autoencoder is never trained, averaged, sharded or saved in a checkpoint. Copies of
    a denoiser share it. It follows its input to the device and computes in the precision of its weights.

    Args:
        vae: the autoencoder, taken over and frozen.

    Raises:
        ValueError: an autoencoder of another kind.
    """

    def __init__(self, vae: Any):
        self.vae: Any = vae
        if not isinstance(self.vae, AutoencoderKL):
            raise ValueError(f"the autoencoder is a {type(vae).__name__}; only AutoencoderKL is known")
        vae.eval().requires_grad_(False)
        vae.enable_gradient_checkpointing()  # a block at a time: 6 instead of 11 GiB for 1024x1024 pixels in bf16
        config = vae.config
        self.channels: int = config.latent_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self.shift = _per_channel(mean if mean is not None else config.get("shift_factor") or 0.0)
        self.scale = config.scaling_factor / _per_channel(std if std is not None else 1.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Latents":
        return self

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of images (C, H, W).

        Raises:
            ValueError: images of another number of channels, or of a size that the autoencoder cannot halve so often.
        """
        channels, height, width = image_shape
        if channels != self.vae.config["in_channels"]:
            needs = self.vae.config["in_channels"]
            raise ValueError(f"`channels`: the pipeline takes images of {needs} channels and the data has {channels}")
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"`size`: images of {width}x{height} pixels do not fit the autoencoder; sides must be multiples of "
                f"{self.factor}"
            )
        return self.channels, height // self.factor, width // self.factor

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Latents [B, c, h, w], at least float32: a sample of the encoder's Gaussian by the standard normal `noise`."""
        self.vae.to(images.device)
        parts = []
        with torch.autocast(images.device.type, enabled=False):
            for rows in self._parts(images):
                distribution = self.vae.encode(images[rows].to(self.vae.dtype)).latent_dist
                parts.append(distribution.mean.to(noise.dtype) + distribution.std.to(noise.dtype) * noise[rows])
        latents = torch.cat(parts)
        return (latents - self.shift.to(latents)) * self.scale.to(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W], nominally in [-1, 1], at least float32.

        Gradient passes to the latents; the decoder's activations are then made again in the backward pass, a few images
        at a time, instead of being kept.
        """
        self.vae.to(latents.device)
        latents = (latents / self.scale.to(latents) + self.shift.to(latents)).to(self.vae.dtype)
        keeps = latents.requires_grad and torch.is_grad_enabled()
        with torch.autocast(latents.device.type, enabled=False):
            images = [
                checkpoint(self._decoded, latents[rows], use_reentrant=False) if keeps else self._decoded(latents[rows])
                for rows in self._parts(latents, self.factor**2)
            ]
        return at_least_float32(torch.cat(images))

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents, return_dict=False)[0]

    def _parts(self, x: Tensor, pixels_of_one: int = 1) -> list[slice]:
        """The rows of x, cut into parts of at most `PIXELS_AT_ONCE` pixels."""
        n = max(1, PIXELS_AT_ONCE // (x.shape[-2] * x.shape[-1] * pixels_of_one))
        return [slice(first, first + n) for first in range(0, len(x), n)]


class Bands(Latents):
    """The bands of the Haar wavelet transform, in place of an autoencoder's latents.

    Args:
        wavelet: the transform.
    """

    def __init__(self, wavelet: HaarWavelet):
        self.vae = wavelet
        self.channels: int = 4 * wavelet.config["in_channels"]
        self.factor: int = 2

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Bands [B, c, h, w], in the precision of the images; there is nothing random in them."""
        return self.vae.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W], nominally in [-1, 1]; gradient passes."""
        return self.vae.decode(latents)[0]


def space_of(vae: Any) -> Latents:
    """The space that an autoencoder or wavelet transform encodes into.

    Raises:
        ValueError: one of another kind.
    """
    return Bands(vae) if isinstance(vae, HaarWavelet) else Latents(vae)


def _per_channel(value: float | list[float]) -> Tensor:
    """(1, c or 1, 1, 1), in double precision."""
    return torch.tensor(value, dtype=torch.float64).reshape(1, -1, 1, 1)
