"""Multilayer perceptrons for points: a denoiser, and a plain one for latent generators and discriminators."""

import math
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


def with_waves(x: Tensor, frequencies: int) -> Tensor:
    """Coordinates [B, C] with sines and cosines of 1/2, 1, 2, 4 … periods per unit: [B, C (1 + 2 frequencies)]."""
    octaves = math.pi * 2.0 ** torch.arange(frequencies, device=x.device, dtype=x.dtype)
    angles = (x[:, :, None] * octaves).flatten(1)
    return torch.cat([x, angles.sin(), angles.cos()], dim=1)


class MLP(ModelMixin, ConfigMixin):
    """A denoising network for points: `net(x, time)` or `net(x, time, class_labels)`, [B, C, 1, 1] to [B, C, 1, 1].

    The coordinates come with sines and cosines of theirs, so that modes much narrower than the plane are seen; the time
    is embedded as in diffusers' UNet2DModel. Residual layers with SiLU, our choice. As a diffusers model it is saved,
    configured and put into pipelines as UNet2DModel is; a pipeline opens if sparring is installed.

    Args:
        in_channels: Coordinates of a point.
        width: Width of the hidden layers; even.
        depth: Residual layers.
        frequencies: Sines and cosines of each coordinate, with 1/2, 1, 2, 4 … periods per unit.
        num_class_embeds: Classes of the embedding; with guidance, the last one means "none". None: no classes.
        sample_size: 1, as for points; kept for pipelines.
        out_channels: Numbers that it gives of a point; None: as many as there are coordinates.

    Raises:
        ValueError: A setting that is out of range, or a `sample_size` other than 1.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 2,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 4,
        num_class_embeds: int | None = None,
        sample_size: int = 1,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        if min(in_channels, depth) < 1 or width < 2 or width % 2 or frequencies < 0:
            raise ValueError(
                f"`in_channels={in_channels}`, `width={width}`, `depth={depth}`, `frequencies={frequencies}`: an MLP "
                "needs a coordinate, an even width and a layer"
            )
        if sample_size != 1:
            raise ValueError(f"`sample_size={sample_size}`: an MLP takes points, which have sample_size 1")
        self.frequencies = frequencies
        self.read_in = nn.Linear(in_channels * (1 + 2 * frequencies), width)
        self.time_steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.read_out = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, out_channels or in_channels))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for points [B, C, 1, 1] at times (a number or [B]); labels [B] for a network with classes.

        Raises:
            ValueError: Labels without classes, or classes without labels.
        """
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class_labels and `num_class_embeds` of the MLP belong together: give both or none")
        x = with_waves(sample.flatten(1), self.frequencies)
        times = torch.as_tensor(timestep, device=x.device).expand(len(x))
        told = self.time_embedding(self.time_steps(times).to(x.dtype))
        if self.class_embedding is not None:
            told = told + self.class_embedding(class_labels)
        hidden = self.read_in(x)
        for layer in self.layers:
            hidden = hidden + layer(hidden + told)
        output = self.read_out(hidden)[:, :, None, None]
        return UNet2DOutput(sample=output) if return_dict else (output,)


class Perceptron(ModelMixin, ConfigMixin):
    """A plain multilayer perceptron with LeakyReLU (slope 0.2): [B, ...] of `in_features` numbers to [B, *out_shape].

    The generator of a GAN on points takes latents [B, z] to [B, 2, 1, 1], its discriminator points to [B, 1]; `net(x)`,
    or `net(x, labels, t=…, joined=…)`. What it is conditioned on is joined to the row, the class as a unit vector.

    Args:
        in_features: Numbers of a row, however they are shaped.
        out_shape: Shape of a row of the output.
        width: Width of the hidden layers.
        depth: Hidden layers.
        joined: Numbers of a vector that belongs to each row; 0: there is none.
        frequencies: Sines and cosines of each number, with 1/2, 1, 2, 4 … periods per unit, as in `MLP`; 0: none. With
            them a discriminator sees modes that are narrow and near each other.
        num_classes: Classes that it is conditioned on; None: it takes no labels.
        time: It is conditioned on the time t, a number.

    Raises:
        ValueError: A size below 1, or frequencies below 0; in `forward`, what is missing or what nobody takes.
    """

    @register_to_config
    def __init__(
        self,
        in_features: int = 2,
        out_shape: Sequence[int] = (1,),
        width: int = 128,
        depth: int = 3,
        joined: int = 0,
        frequencies: int = 0,
        num_classes: int | None = None,
        time: bool = False,
    ) -> None:
        super().__init__()
        if min(in_features, width, depth, num_classes or 1, *out_shape) < 1 or frequencies < 0:
            raise ValueError(
                f"`in_features={in_features}`, `out_shape={list(out_shape)}`, `width={width}`, `depth={depth}`, "
                f"`frequencies={frequencies}`, `num_classes={num_classes}`: every size of a Perceptron is at least 1, "
                "and frequencies 0"
            )
        self.joined, self.frequencies, self.num_classes, self.time = joined, frequencies, num_classes, time
        beside = joined + (num_classes or 0) + time
        first = [nn.Linear(in_features * (1 + 2 * frequencies) + beside, width), nn.LeakyReLU(0.2)]
        later = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.LeakyReLU(0.2))]
        self.hidden = nn.Sequential(*first, *later)
        self.out_shape = tuple(out_shape)
        self.read_out = nn.Linear(width, math.prod(out_shape))

    def features(
        self, x: Tensor, labels: Tensor | None = None, *, t: Tensor | None = None, joined: Tensor | None = None
    ) -> Tensor:
        """The last hidden layer [B, width], of rows [B, ...], labels [B], times [B] and vectors [B, joined]."""
        if (joined is None) != (self.joined == 0):
            raise ValueError(f"`joined={self.joined}` of the Perceptron and a vector: give both or none")
        if (labels is None) != (self.num_classes is None) or (t is None) == self.time:
            raise ValueError("labels and `num_classes` of a Perceptron belong together, and t and `time`: both or none")
        x = with_waves(x.flatten(1), self.frequencies)
        parts = [x] if joined is None else [x, joined]
        if labels is not None and self.num_classes is not None:
            parts.append(nn.functional.one_hot(labels, self.num_classes).to(x))
        if t is not None:
            parts.append(t.to(x)[:, None])
        return self.hidden(torch.cat(parts, dim=1))

    def forward(
        self, x: Tensor, labels: Tensor | None = None, *, t: Tensor | None = None, joined: Tensor | None = None
    ) -> Tensor:
        """[B, ...], labels [B], times [B] and vectors [B, joined] to [B, *out_shape]."""
        return self.read_out(self.features(x, labels, t=t, joined=joined)).view(len(x), *self.out_shape)


class StepPerceptron(ModelMixin, ConfigMixin):
    """A network that tells a true step x_t -> x_s of noisy points: `net(x_s, x_t=x_t, t=t)`, to logits [B, 1].

    The coordinates of both come with sines and cosines of theirs, and the time is embedded.

    Args:
        in_channels: Coordinates of a point.
        width: Width of the hidden layers; even.
        depth: Hidden layers.
        frequencies: Sines and cosines of each coordinate, with 1/8, 1/4, 1/2, 1 … periods per unit; longer ones than in
            `MLP`, so that noisy points far from the data are no others' repetition.
        neighbour: It sees x_t; without, only x_s.

    Raises:
        ValueError: A setting that is out of range; in `forward`, a neighbour too many or too few.
    """

    @register_to_config
    def __init__(
        self, in_channels: int = 2, width: int = 128, depth: int = 3, frequencies: int = 6, neighbour: bool = True
    ) -> None:
        super().__init__()
        if min(in_channels, depth) < 1 or width < 2 or width % 2 or frequencies < 0:
            raise ValueError(
                f"`in_channels={in_channels}`, `width={width}`, `depth={depth}`, `frequencies={frequencies}`: a "
                "StepPerceptron needs a coordinate, an even width and a layer"
            )
        self.frequencies = frequencies
        self.time_steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.neighbour = neighbour
        self.net = Perceptron((1 + neighbour) * in_channels * (1 + 2 * frequencies) + width, (1,), width, depth)

    def forward(self, x: Tensor, *, t: Tensor, x_t: Tensor | None = None) -> Tensor:
        """Logits [B, 1] of points x and their noisier neighbours x_t [B, C, 1, 1], whose times are t [B] in [0, 1]."""
        if (x_t is None) == self.neighbour:
            raise ValueError("x_t and `neighbour` of a StepPerceptron belong together: give both or none")
        x = x.flatten(1) if x_t is None else torch.cat([x.flatten(1), x_t.flatten(1)], dim=1)
        times = self.time_steps(1000 * t).to(x.dtype)
        return self.net(torch.cat([with_waves(x / 4, self.frequencies), times], dim=1))
