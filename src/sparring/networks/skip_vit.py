"""A plain vision transformer with long skips that denoises images: time and class are tokens beside the patches."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class SkipViT(ModelMixin, ConfigMixin):
    """`net(x, time)` or `net(x, time, class_labels)`: encoder blocks, decoder blocks, and skips to them.

    The last encoder blocks are joined to the first decoder blocks, the last to the first: `Linear([h, skip])`, at first
    h only; a 3x3 convolution, at first the identity, comes last. Sources: Cao et al. 2022 (arXiv 2212.13771), from the
    abstract (a plain ViT, an encoder stronger than the decoder helps); tokens and skips as in the concurrent U-ViT. The
    starts are ours.

    Args:
        sample_size: Width and height of the images.
        in_channels: Channels of the images.
        patch_size: Pixels of a token, along one side.
        width: Of the tokens.
        heads: Of the attention; they divide the width.
        encoder_blocks: Blocks before the skips' end.
        decoder_blocks: Blocks behind it; 0: a plain transformer without skips.
        skips: The long skips.
        convolution: The last convolution.
        num_class_embeds: Classes; with guidance, the last one means "none". None: no classes.

    Raises:
        ValueError: Sizes that do not fit; labels without classes, or the reverse.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 1,
        patch_size: int = 2,
        width: int = 64,
        heads: int = 4,
        encoder_blocks: int = 2,
        decoder_blocks: int = 2,
        skips: bool = True,
        convolution: bool = True,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        if sample_size % patch_size or width % (2 * heads) or min(encoder_blocks, decoder_blocks + 1) < 1:
            raise ValueError(
                f"`sample_size={sample_size}` must be a multiple of `patch_size={patch_size}`, `width={width}` of "
                f"twice `heads={heads}`, and there must be a block in the encoder"
            )
        self.read_in = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.places = nn.Parameter(0.02 * torch.randn((sample_size // patch_size) ** 2, width))
        self.time_steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, width)

        def block() -> nn.Module:
            return nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )

        self.encoder = nn.ModuleList(block() for _ in range(encoder_blocks))
        self.decoder = nn.ModuleList(block() for _ in range(decoder_blocks))
        joined = min(encoder_blocks, decoder_blocks) if skips else 0
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(joined))
        join: Any
        for join in self.joins:
            nn.init.zeros_(join.bias)
            nn.init.eye_(join.weight)
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, in_channels * patch_size**2)
        self.last = None
        if convolution:
            self.last = nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False)
            nn.init.dirac_(self.last.weight)
        self.patch = patch_size

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for images [B, C, H, W] at times (a number or [B]); labels [B] for a network with classes."""
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class_labels and `num_class_embeds` of the SkipViT belong together: give both or none")
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        told = [self.time_embedding(self.time_steps(times).to(sample.dtype))]
        if self.class_embedding is not None:
            told.append(self.class_embedding(class_labels))
        patches = self.read_in(sample)
        h = torch.cat([torch.stack(told, 1), patches.flatten(2).transpose(1, 2) + self.places], dim=1)
        skips = []
        for block in self.encoder:
            h = block(h)
            skips.append(h)
        for number, block in enumerate(self.decoder):
            if number < len(self.joins):
                h = self.joins[number](torch.cat([h, skips[-1 - number]], dim=2))
            h = block(h)
        tokens = self.read_out(self.norm(h[:, len(told) :]))
        output = F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, patches.shape[2:]), self.patch)
        output = output if self.last is None else self.last(output)
        return UNet2DOutput(sample=output) if return_dict else (output,)
