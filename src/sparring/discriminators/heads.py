"""Small spectral-norm heads that trainable discriminators put on the maps of a frozen backbone."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.backbones.backbone import group_norm


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight, as a matrix [out, in*k*k], is divided by its largest singular value.

    The singular vectors move only in `advance`, one power iteration per update of the discriminator, and never in
    forward: the same weights give the same output any number of times, so micro-batches add up to the gradient of
    the whole batch exactly (torch's own parametrization iterates in every forward).
    Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", algorithm 1.
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        generator = torch.Generator().manual_seed(0)  # any start does; a fixed one leaves the global generator alone
        matrix = self.weight.flatten(1)
        self.register_buffer("u", torch.zeros(matrix.shape[0]))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1], generator=generator), dim=0))
        for _ in range(15):
            self.advance()

    @torch.no_grad()
    def advance(self) -> None:
        """One power iteration with the present weight."""
        matrix = self.weight.flatten(1)
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight / torch.dot(self.u, self.weight.flatten(1) @ self.v)
        return self._conv_forward(x, weight, self.bias)


def advance_spectral_norms(module: nn.Module) -> None:
    """One power iteration of every `SpectralConv2d` in a module; to be called after each update of it."""
    for layer in module.modules():
        if isinstance(layer, SpectralConv2d):
            layer.advance()


class Head(nn.Module):
    """Map [B,D,g,g] to [B,out,g,g]: 1x1 block, residual 3x3 block, 1x1 convolution; default (ours).

    A block is a spectral-norm convolution, GroupNorm and LeakyReLU 0.2. The layout follows Sauer et al. 2023,
    "StyleGAN-T", with 2-D convolutions in place of 1-D ones over tokens, and GroupNorm in place of batch norm over
    virtual groups of 8 samples, which would make the logit of an image depend on its neighbours in the batch.
    GroupNorm undoes the scale of the convolution before it, so only the last spectral norm bounds the slope, and under
    a cosine none does: `R1` is what regularises these heads.

    Args:
        channels: D, channels of the map.
        width: Channels inside.
        out_channels: Channels of the result.

    Raises:
        ValueError: `width` below 1.
    """

    def __init__(self, *, channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width={width}` must be at least 1")
        self.first = self._block(channels, width, 1)
        self.second = self._block(width, width, 3)
        self.last = SpectralConv2d(width, out_channels, 1)

    @staticmethod
    def _block(c_in: int, c_out: int, kernel_size: int) -> nn.Sequential:
        return nn.Sequential(SpectralConv2d(c_in, c_out, kernel_size), group_norm(c_out), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to(self.last.weight.dtype))  # maps of a base in half precision
        return self.last((x + self.second(x)) / math.sqrt(2))
