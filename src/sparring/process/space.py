"""Where diffusion happens when it is not the pixels: the latents of a frozen autoencoder."""

import json
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils.checkpoint import checkpoint

from sparring.networks.device import lent
from sparring.networks.kept import Kept, content
from sparring.networks.precision import at_least_float32

PIXELS_AT_ONCE = 2**20  # ours: one image of 1024x1024, four of 512x512, in one pass of the autoencoder


class Latents:
    """The latents of a frozen `AutoencoderKL`, shifted and scaled as its configuration says.

    It is no module on purpose: the autoencoder is never trained, averaged, sharded or saved in a checkpoint. Copies of
    a denoiser share it. It follows its input to the device and computes in the precision of its weights.

    Args:
        vae: the autoencoder, taken over and frozen.

    Attributes:
        offload: whether it leaves the device when it has encoded, or decoded what no gradient passes; from the first
            image that gradient passes it stays, since the backward pass needs it.
    """

    def __init__(self, vae: Any):
        self.vae: Any = vae
        vae.eval().requires_grad_(False)
        self.image_channels, self.channels, self.factor = self._sizes()
        self.shift, self.scale = self._shift_and_scale()
        self.kept: Kept | None = None
        self.offload = False

    def _sizes(self) -> tuple[int, int, int]:
        """Channels of images and latents, and pixels per latent along one side."""
        self.vae.enable_gradient_checkpointing()  # a block at a time: 6 instead of 11 GiB for 1024x1024 pixels in bf16
        config = self.vae.config
        return config.in_channels, config.latent_channels, 2 ** (len(config.block_out_channels) - 1)

    def _shift_and_scale(self) -> tuple[Tensor, Tensor]:
        """What is subtracted of latents, and by what the rest is multiplied, in double precision."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        shift = _per_channel(mean if mean is not None else config.get("shift_factor") or 0.0)
        return shift, config.get("scaling_factor", 1.0) / _per_channel(std if std is not None else 1.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Latents":
        return self

    def shape(self, image_shape: tuple[int, int, int], patch: int = 1) -> tuple[int, int, int]:
        """(c, h, w) of the latents of images (C, H, W).

        Args:
            image_shape: of the images.
            patch: side of the squares of latents that the network sees as one place.

        Raises:
            ValueError: images of another number of channels, or of a size that the autoencoder cannot halve so often
                or the network cannot cut into patches.
        """
        channels, height, width = image_shape
        if channels != self.image_channels:
            needs = self.image_channels
            raise ValueError(f"`channels`: the pipeline takes images of {needs} channels and the data has {channels}")
        step = self.factor * patch
        if height % step or width % step:
            whom = "the autoencoder" if patch == 1 else f"the autoencoder and the network's {patch}x{patch} patches"
            raise ValueError(
                f"`size`: images of {width}x{height} pixels do not fit {whom}; sides must be multiples of {step}"
            )
        return self.channels, height // self.factor, width // self.factor

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Latents [B, c, h, w], at least float32: a sample of the encoder's Gaussian by the standard normal `noise`."""
        if self.kept is None:
            encoded = self._encoded(images)
        else:
            contents = [f"{row.dtype} {tuple(row.shape)}\0".encode() + content(row) for row in images.cpu()]
            encoded = self.kept(contents, lambda: {"encoded": self._encoded(images)}, images.device)["encoded"]
        latents = self._sample(encoded, noise)
        return (latents - self.shift.to(latents)) * self.scale.to(latents)

    def keep(self, folder: str) -> None:
        """Keeps what the autoencoder makes of images in a folder, and reads it there the next time."""
        self.kept = Kept(folder, json.dumps(dict(self.vae.config), default=str), self.vae)

    def _encoded(self, images: Tensor) -> Tensor:
        """What the autoencoder makes of images, and a latent is sampled from."""
        with lent([self.vae], images.device, back=self.offload), torch.autocast(images.device.type, enabled=False):
            return torch.cat([self._of_part(images[rows].to(self.vae.dtype)) for rows in self._parts(images)])

    def _of_part(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of a Gaussian, one channel behind the other."""
        distribution = self.vae.encode(images).latent_dist
        return torch.cat([distribution.mean, distribution.std], dim=1)

    def _sample(self, encoded: Tensor, noise: Tensor) -> Tensor:
        mean, std = encoded.to(noise.dtype).chunk(2, dim=1)
        return mean + std * noise

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W], nominally in [-1, 1], at least float32.

        Gradient passes to the latents; the decoder's activations are then made again in the backward pass, a few images
        at a time, instead of being kept.
        """
        latents = (latents / self.scale.to(latents) + self.shift.to(latents)).to(self.vae.dtype)
        keeps = latents.requires_grad and torch.is_grad_enabled()
        back = self.offload and not keeps
        with lent([self.vae], latents.device, back), torch.autocast(latents.device.type, enabled=False):
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


class PatchedLatents(Latents):
    """The latents of FLUX.2's `AutoencoderKLFlux2`: 2x2 of them are one place, normed by its running statistics."""

    def _sizes(self) -> tuple[int, int, int]:
        image_channels, channels, factor = super()._sizes()
        return image_channels, 4 * channels, 2 * factor

    def _shift_and_scale(self) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        std = (
            norm.running_var + self.vae.config.batch_norm_eps
        ).sqrt()  # in the precision in which the pipeline has it
        return norm.running_mean.double().view(1, -1, 1, 1), 1 / std.double().view(1, -1, 1, 1)

    def _sample(self, encoded: Tensor, noise: Tensor) -> Tensor:
        return pixel_unshuffle(super()._sample(encoded, pixel_shuffle(noise, 2)), 2)

    def _decoded(self, latents: Tensor) -> Tensor:
        return super()._decoded(pixel_shuffle(latents, 2))


class VideoLatents(Latents):
    """The latents of Qwen-Image's `AutoencoderKLQwenImage`, which sees an image as a video of one frame."""

    def _sizes(self) -> tuple[int, int, int]:
        config = self.vae.config
        return config.input_channels, config.z_dim, 2 ** len(config.temperal_downsample)

    def _of_part(self, images: Tensor) -> Tensor:
        return super()._of_part(images[:, :, None])[:, :, 0]

    def _decoded(self, latents: Tensor) -> Tensor:
        return super()._decoded(latents[:, :, None])[:, :, 0]


class DeepLatents(Latents):
    """The latents of SANA's `AutoencoderDC`, which encodes without a Gaussian: there is nothing random in them."""

    def _sizes(self) -> tuple[int, int, int]:
        config = self.vae.config
        return config.in_channels, config.latent_channels, 2 ** (len(config.encoder_block_out_channels) - 1)

    def _of_part(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent

    def _sample(self, encoded: Tensor, noise: Tensor) -> Tensor:
        return encoded.to(noise.dtype)


class Bands(Latents):
    """The bands of the Haar wavelet transform, in place of an autoencoder's latents.

    Args:
        wavelet: the transform.
    """

    def _sizes(self) -> tuple[int, int, int]:
        channels = self.vae.config["in_channels"]
        return channels, 4 * channels, 2

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Bands [B, c, h, w], in the precision of the images; there is nothing random in them."""
        return self.vae.encode(images)

    def keep(self, folder: str) -> None:
        """Keeps nothing: the transform is faster than a file."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W], nominally in [-1, 1]; gradient passes."""
        return self.vae.decode(latents)[0]


KINDS: dict[str, type[Latents]] = {
    "HaarWavelet": Bands,
    "AutoencoderKL": Latents,
    "AutoencoderKLFlux2": PatchedLatents,
    "AutoencoderKLQwenImage": VideoLatents,
    "AutoencoderDC": DeepLatents,
}
"""The space of each class of autoencoders, by name: not every version of diffusers has them all."""


def space_of(vae: Any) -> Latents:
    """The space that an autoencoder or wavelet transform encodes into.

    Raises:
        ValueError: one of another kind.
    """
    found = next((KINDS[kind.__name__] for kind in type(vae).__mro__ if kind.__name__ in KINDS), None)
    if found is None:
        raise ValueError(f"the autoencoder is a {type(vae).__name__}, which is unknown here; known: {', '.join(KINDS)}")
    return found(vae)


def _per_channel(value: float | list[float]) -> Tensor:
    """(1, c or 1, 1, 1), in double precision."""
    return torch.tensor(value, dtype=torch.float64).reshape(1, -1, 1, 1)
