"""The generator of a GAN: one network call from noise to an image, or to a point as an image of shape (2, 1, 1)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.generators.condition import in_turn, repeated
from sparring.generators.generator import Generator
from sparring.generators.loop import drawn, rows_at_once
from sparring.generators.merging import merged_network
from sparring.generators.own import write_own
from sparring.generators.prior import Prior
from sparring.generators.sampling import Sampling, clamped
from sparring.networks.modes import eval_mode
from sparring.networks.precision import at_least_float32

ONE_CALL = "one call"
"""Stands where the scheduler of a denoiser stands."""


@runtime_checkable
class OfSource(Protocol):
    """A network that is conditioned on another image, and called with it as `source`."""

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of that image."""


class LatentGenerator(Generator):
    """A network from latents to images: `generator(z)`, or `generator(z, labels)` if it is class-conditional.

    Args:
        net: called as `net(z)` or, with `num_classes`, `net(z, labels)`, z [B, latent_dim] standard normal, labels [B];
            gives images [B, C, H, W]. A folder can hold it if its class and arguments make it again
            (`describe`).
        latent_dim: numbers in z.
        num_classes: classes that it is conditioned on; None: none.
        prior: law of z, if it is not the standard normal one.
        time: the network is also given `t=`, a number for each row [B], which a method uses in training; in samples it
            is 0.

    Raises:
        ValueError: a latent without numbers, no class, a network that fails on them, or a prior of other latents.
    """

    def __init__(
        self,
        net: nn.Module,
        latent_dim: int,
        num_classes: int | None = None,
        prior: Prior | None = None,
        time: bool = False,
    ) -> None:
        super().__init__()
        if latent_dim < 1 or (num_classes or 1) < 1:
            raise ValueError(f"`latent_dim={latent_dim}`, `num_classes={num_classes}` must be at least 1")
        if prior is not None and prior.latent_dim != latent_dim:
            raise ValueError(f"`latent_dim={latent_dim}`: the {type(prior).__name__} prior makes {prior.latent_dim}")
        self.net = net
        self.prior = prior
        self.latent_dim = latent_dim
        self.noise_dim = latent_dim if prior is None else prior.noise_dim
        self.classes = num_classes
        self.time = time
        self.source_shape = net.source_shape if isinstance(net, OfSource) else None
        self._image_shape = self._probe()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the network gives it."""
        return self._image_shape

    @property
    def takes_labels(self) -> bool:
        """Whether it is class-conditional."""
        return self.classes is not None

    @property
    def num_classes(self) -> int | None:
        """The classes it is conditioned on."""
        return self.classes

    @property
    def takes_source(self) -> bool:
        """Whether it is conditioned on another image (`OfSource`)."""
        return self.source_shape is not None

    def forward(
        self, z: Tensor, labels: Tensor | None = None, t: Tensor | None = None, source: Tensor | None = None
    ) -> Tensor:
        """Images [B, C, H, W], at least float32, of latents [B, latent_dim], labels [B] and, with `time`, t [B] or 0.

        A network that is conditioned on another image takes `source` [B, *source_shape].

        `images_seen` grows by B.
        """
        if self.classes is None:
            labels = None  # training without conditions on labelled data is normal
        elif labels is None:
            raise ValueError(f"{type(self.net).__name__} is class-conditional and no labels were given")
        if self.takes_source and source is None:
            raise ValueError(f"{type(self.net).__name__} is conditioned on a source image, and none was given")
        self.images_seen += len(z)
        return at_least_float32(self._call(z, labels, t, source))

    def _call(self, z: Tensor, labels: Tensor | None, t: Tensor | None = None, source: Tensor | None = None) -> Tensor:
        given = () if labels is None else (labels,)
        beside = {"t": z.new_zeros(len(z)) if t is None else t} if self.time else {}
        beside |= {"source": source} if self.takes_source and source is not None else {}
        return self.net(z, *given, **beside)

    def latents(self, batch: Batch) -> Tensor:
        """Latents [B, latent_dim] for the rows of a batch, from its draws: standard normal, or of the prior."""
        return self.of_noise(batch.draws.normal((len(batch), self.noise_dim)).to(batch.images))

    def of_noise(self, noise: Tensor) -> Tensor:
        """The latents [B, latent_dim] that standard normal numbers [B, noise_dim] make."""
        return noise if self.prior is None else self.prior(noise)

    # -- training ------------------------------------------------------------------------------------------------------

    def check(self, data: ImageData) -> None:
        name = type(self.net).__name__
        if data.text:
            raise ValueError(f"`text_column`: {name} takes no captions; leave it out")
        if self.classes is not None and (data.num_classes or 0) != self.classes:
            has = "no labels" if data.num_classes is None else f"{data.num_classes} classes"
            raise ValueError(f"`num_classes={self.classes}`: `{data.name}` has {has}: build the generator with as many")
        if self.source_shape is not None and data.source_shape != self.source_shape:
            has = "no sources" if data.source_shape is None else f"sources of shape {data.source_shape}"
            raise ValueError(f"{name} is conditioned on sources of shape {self.source_shape}: `{data.name}` has {has}")
        self.check_shape(data.image_shape)

    def check_shape(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape != self.image_shape:
            raise ValueError(
                f"{type(self.net).__name__} makes images of shape {self.image_shape} and not {tuple(image_shape)}: "
                "build it for the images of the data"
            )

    @torch.no_grad()
    def _probe(self) -> tuple[int, int, int]:
        """The shape of one image, found without leaving a trace."""
        like = next((p for p in self.net.parameters() if p.is_floating_point()), torch.zeros(0))
        labels = None if self.classes is None else torch.zeros(1, dtype=torch.long, device=like.device)
        name = type(self.net).__name__
        try:
            with eval_mode(self.net):
                of = self.source_shape
                source = None if of is None else torch.zeros(1, *of, device=like.device, dtype=like.dtype)
                z = torch.zeros(1, self.latent_dim, device=like.device, dtype=like.dtype)
                image = self._call(z, labels, source=source)
        except Exception as error:
            raise ValueError(
                f"{name} cannot take latents of {self.latent_dim} numbers"
                f"{'' if labels is None else ' and labels'} ({' '.join(str(error).split()) or type(error).__name__})"
            ) from error
        if not isinstance(image, Tensor) or image.ndim != 4:
            shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"{name} must give images [B, C, H, W] as a tensor, and gives {shape}")
        return image.shape[1], image.shape[2], image.shape[3]

    def networks(self) -> list[nn.Module]:
        return [self.net]

    # -- samples -------------------------------------------------------------------------------------------------------

    def plan(self, steps: int, scheduler: str | None = None) -> tuple[str, int]:
        if scheduler not in (None, ONE_CALL):
            name = type(self.net).__name__
            raise ValueError(f"`scheduler={scheduler}`: {name} makes an image in one call; leave it out")
        return ONE_CALL, 1

    def draw(self, sampling: Sampling) -> Iterator[Tensor]:
        """The images of a sampling, in one call whatever its `steps` say.

        The latents are `torch.randn((n, latent_dim), generator=torch.Generator().manual_seed(seed))`, or of n seeds one
        row each; with a prior, what it makes of noise [n, noise_dim] drawn alike.
        """
        self.plan(sampling.steps, sampling.scheduler)
        n, labels, name = sampling.n, sampling.labels, type(self.net).__name__
        if sampling.guidance != 1:
            raise ValueError(f"`guidance={sampling.guidance}`: {name} makes an image in one call; leave it out")
        for one in sampling.using:
            if not one.of_latents:
                raise ValueError(f"`{one.label}`: {name} makes an image in one call; leave it out")
        if len(sampling.using) > 1 or (sampling.using and not isinstance(sampling.seed, int)):
            raise ValueError(
                f"`{sampling.using[0].label}` is the only one that acts on latents, and takes one seed of them all"
            )
        if sampling.prompts:
            raise ValueError(f"`prompt`: {name} takes no captions; leave it out")
        if labels is not None and self.classes is None:
            raise ValueError(f"`labels={labels}`: {name} takes no classes; leave it out")
        sources = sampling.sources
        if sources is not None and not self.takes_source:
            raise ValueError(f"`sources`: {name} takes no source images; leave it out")
        if self.takes_source:
            if sources is None:
                raise ValueError(f"`sources`: {name} is conditioned on source images: sample it from its run")
            sources = repeated(sources, n, self.device)
        classes = None if self.classes is None else in_turn(labels, self.classes, n, self.device)
        size = sampling.batch_size or rows_at_once(torch.empty(0, *self.image_shape))
        for rows, z in self._noise(sampling, classes, size):
            own = None if classes is None else classes[rows]
            source = None if sources is None else sources[rows]
            images = clamped(self._images(z.to(self.device), own, source, size))
            if sampling.watch is not None:
                sampling.watch(images)  # one call: the only state is the last
            yield images

    def classes_drawn(self, sampling: Sampling) -> list[int] | None:
        if self.classes is None:
            return None
        return in_turn(sampling.labels, self.classes, sampling.n, self.device).tolist()

    def _noise(self, sampling: Sampling, classes: Tensor | None, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Noise [b, noise_dim] of the latents a batch at a time, as something says that acts on them, if it does."""
        if not sampling.using:
            for rows, noise, _ in drawn(sampling.n, (self.noise_dim,), size, sampling.seed):
                yield rows, noise
            return
        (one,) = sampling.using
        assert isinstance(sampling.seed, int)
        noise = one.noise(self, sampling.n, sampling.seed, classes, size)
        for first in range(0, sampling.n, size):
            rows = slice(first, min(first + size, sampling.n))
            yield rows, noise[rows]

    def grid(self, data: ImageData, n: int, seed: int, *, scheduler: str, steps: int) -> Tensor:
        classes = None if self.classes is None else in_turn(None, self.classes, n, self.device)
        sources = data.source_images(min(n, len(data)), seed) if self.takes_source else None
        if sources is not None:
            sources = repeated(sources, n, self.device)
        noise = Draws(seed, phase="samples", device=self.device).normal((n, self.noise_dim))
        return self._images(noise, classes, sources)

    @torch.no_grad()
    def _images(
        self, noise: Tensor, labels: Tensor | None, sources: Tensor | None, batch_size: int | None = None
    ) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), noise.dtype)
        size = batch_size or rows_at_once(torch.empty(0, *self.image_shape))
        parts = [slice(first, first + size) for first in range(0, len(noise), size)]
        sources = None if sources is None else sources.to(dtype)
        given = [[None if x is None else x[rows] for x in (labels, sources)] for rows in parts]
        with eval_mode(self):
            z = self.of_noise(noise.to(dtype))
            images = [self(z[rows], own, source=source) for rows, (own, source) in zip(parts, given, strict=True)]
        return torch.cat(images)

    # -- folders -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, sampler: str = "ddim") -> bool:
        """Writes generator.json, which says how to make the network again, and generator.safetensors.

        Adapters are multiplied into the weights.
        """
        settings = {"latent_dim": self.latent_dim, "num_classes": self.classes, "time": self.time}
        return write_own(folder, merged_network(self.net), prior=self.prior, **settings)
