"""EDM2's magnitude-preserving U-Net (Karras et al., arXiv 2312.02696), small: no group norm, no biases, unit weights.

Every layer keeps the mean square of what it is given: weights have unit norm for each output, and sums, joins and the
activation are scaled so that independent inputs of unit magnitude stay so. Attention, dropout and the learned
uncertainty of the paper are left out (ours).
"""

import math
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

LARGEST = 256.0  # activations are clipped here, as in the official code
RESIDUAL, LABEL, JOIN = 0.3, 0.5, 0.5  # t of `mp_sum` and `mp_cat`


def normalised(weight: Tensor) -> Tensor:
    """A weight whose mean square is 1 for each output (dimension 0)."""
    norm = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
    return weight / (1e-4 + norm / math.sqrt(weight[0].numel()))


def mp_silu(x: Tensor) -> Tensor:
    """SiLU, of unit magnitude on standard normal numbers."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)."""
    return torch.lerp(a, b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, t: float = JOIN) -> Tensor:
    """a and b [B, C, ...] joined along their channels, so that shares 1 - t and t of the magnitude are of them."""
    channels_a, channels_b = a.shape[1], b.shape[1]
    scale = math.sqrt((channels_a + channels_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([scale / math.sqrt(channels_a) * (1 - t) * a, scale / math.sqrt(channels_b) * t * b], dim=1)


def pixel_norm(x: Tensor) -> Tensor:
    """x [B, C, H, W] with mean square 1 over the channels of each pixel."""
    return x / (1e-4 + x.square().mean(1, keepdim=True).sqrt())


class MPConv(nn.Module):
    """A convolution, or with `kernel` 0 a linear layer, without bias, whose weight counts by its direction only.

    Args:
        c_in: Channels of the input.
        c_out: Channels of the output.
        kernel: Side of the kernel, odd; 0: a linear layer.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, *[kernel] * (2 * (kernel > 0))))
        self.normalise()

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """`gain` times the layer's output, of the magnitude of x."""
        weight = normalised(self.weight) * (gain / math.sqrt(self.weight[0].numel()))
        if weight.ndim == 2:
            return x @ weight.to(x.dtype).T
        return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)

    @torch.no_grad()
    def normalise(self) -> None:
        """Forced normalisation: the stored weight itself gets unit magnitude, as after every update."""
        self.weight.copy_(normalised(self.weight))


class Block(nn.Module):
    """One residual block; of the encoder with pixel norm, of the decoder without.

    Args:
        c_in: Channels of the input.
        c_out: Channels of the output.
        embedded: Numbers of the embedding.
        encoder: Which half it belongs to.
        resample: "keep", "down" (2x2 means) or "up" (doubled).
    """

    def __init__(self, c_in: int, c_out: int, embedded: int, encoder: bool, resample: str = "keep") -> None:
        super().__init__()
        self.encoder, self.resample = encoder, resample
        self.skip = MPConv(c_in, c_out, 1) if c_in != c_out else None
        self.first = MPConv(c_out if encoder else c_in, c_out, 3)
        self.second = MPConv(c_out, c_out, 3)
        self.told = MPConv(embedded, c_out, 0)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.encoder:
            x = pixel_norm(x if self.skip is None else self.skip(x))
        scale = 1 + self.told(embedding, self.gain)
        y = self.second(mp_silu(self.first(mp_silu(x)) * scale[:, :, None, None]))
        if not self.encoder and self.skip is not None:
            x = self.skip(x)
        return mp_sum(x, y, RESIDUAL).clamp(-LARGEST, LARGEST)


class MPUNet(ModelMixin, ConfigMixin):
    """The U-Net of EDM2 for small images: `net(x, time)` or `net(x, time, class_labels)`; its output is 0 at the start.

    It is made for inputs of unit magnitude and the time ln(sigma) / 4, that is, for the EDM process. After each update
    the stored weights are normalised (`Denoiser.after_update`). As a diffusers model it is saved and put into pipelines
    as UNet2DModel is; a pipeline opens if sparring is installed.

    Args:
        sample_size: Side of the images.
        in_channels: Channels of the images.
        out_channels: Channels of the output; None: as many.
        widths: Channels of each resolution; the image is halved between them.
        blocks: Of each resolution, in either half.
        num_class_embeds: Classes; with guidance, the last one means "none". None: no classes.

    Raises:
        ValueError: No resolution, or a side that cannot be halved so often; labels without classes, or the reverse.
    """

    frequencies: Tensor
    phases: Tensor

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 1,
        out_channels: int | None = None,
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        if min(widths, default=0) < 1 or blocks < 1 or sample_size % 2 ** (len(widths) - 1):
            raise ValueError(
                f"`widths={list(widths)}`, `blocks={blocks}`, `sample_size={sample_size}`: the side must be a multiple "
                f"of {2 ** (len(widths) - 1)}, and there must be a block"
            )
        embedded = 2 * max(widths)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(widths[0]))
        self.register_buffer("phases", 2 * math.pi * torch.rand(widths[0]))
        self.time_embedding = MPConv(widths[0], embedded, 0)
        self.class_embedding = None if num_class_embeds is None else MPConv(num_class_embeds, embedded, 0)
        self.read_in = MPConv(in_channels + 1, widths[0], 3)
        self.encoder, skips, c = nn.ModuleList(), [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.encoder.append(Block(c, c, embedded, True, "down"))
                skips.append(c)
            for _ in range(blocks):
                self.encoder.append(Block(c, width, embedded, True))
                c = width
                skips.append(c)
        self.middle = Block(c, c, embedded, False)
        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                self.decoder.append(Block(c, c, embedded, False, "up"))
            for _ in range(blocks + 1):
                self.decoder.append(Block(c + skips.pop(), width, embedded, False))
                c = width
        self.read_out = MPConv(c, out_channels or in_channels, 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for images [B, C, H, W] at times (a number or [B]); labels [B] for a network with classes."""
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class_labels and `num_class_embeds` of the MPUNet belong together: give both or none")
        time = torch.as_tensor(timestep, device=sample.device).to(sample.dtype).expand(len(sample))
        waves = (time[:, None] * self.frequencies.to(sample) + self.phases.to(sample)).cos() * math.sqrt(2)
        embedding = self.time_embedding(waves)
        if self.class_embedding is not None and class_labels is not None:
            classes = self.class_embedding.weight.shape[1]
            chosen = math.sqrt(classes) * F.one_hot(class_labels, classes).to(sample)  # of unit magnitude
            embedding = mp_sum(embedding, self.class_embedding(chosen), LABEL)
        embedding = mp_silu(embedding)
        x = self.read_in(torch.cat([sample, torch.ones_like(sample[:, :1])], dim=1))
        skips = [x]
        for block in self.encoder:
            x = block(x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for block in self.decoder:
            x = block(x if block.resample == "up" else mp_cat(x, skips.pop()), embedding)
        output = self.read_out(x, self.gain)
        return UNet2DOutput(sample=output) if return_dict else (output,)
