"""The encoder of a trained autoencoder, as a backbone."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.backbones.backbone import Backbone
from sparring.networks.loading import load_network


class AutoencoderFeatures(Backbone):
    """The mean latents of an `AutoencoderKL`; features are these, averaged over a coarse grid.

    Args:
        path: Folder of the autoencoder, or of a pipeline that has one.
        pool: Side of the grid: features are [B, channels * pool * pool].

    Raises:
        ValueError: No autoencoder there; in forward, images of other channels (grey ones are taken as RGB).
    """

    def __init__(self, *, path: str, pool: int = 4) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        folder = Path(path) / "vae" if (Path(path) / "vae").is_dir() else Path(path)
        if not folder.is_dir():
            raise ValueError(f"`path={path}` is no folder: give that of an autoencoder, or of a pipeline that has one")
        vae = load_network(AutoencoderKL, folder, f"`path={path}`", torch.float32)
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.in_channels, self.pool = vae.config["in_channels"], pool
        self.channels = [vae.config["latent_channels"]]
        self.dim = self.channels[0] * pool**2
        self.name = f"autoencoder {Path(path).name}"

    def maps(self, images: Tensor) -> list[Tensor]:
        if images.shape[1] not in (1, self.in_channels):
            raise ValueError(f"images have {images.shape[1]} channels and this autoencoder takes {self.in_channels}")
        moments = self.encoder(images.expand(-1, self.in_channels, -1, -1))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return [moments.chunk(2, dim=1)[0]]

    def features(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.maps(images)[0], self.pool).flatten(1)
