"""A generator from the images of one domain to those of another, along a Brownian bridge of a few steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.generators.condition import repeated
from sparring.generators.generator import Generator
from sparring.generators.loop import drawn, rows_at_once
from sparring.generators.own import write_own
from sparring.generators.sampling import Sampling
from sparring.generators.trial import trial
from sparring.networks.latent_slot import LatentSlot
from sparring.networks.modes import eval_mode
from sparring.networks.precision import at_least_float32
from sparring.process.bridge import bridge_posterior
from sparring.process.process import per_image

BRIDGE = "bridge"


class Bridge(Generator):
    """Starts at a source image x_1 and draws x_0 in `num_steps` steps, each of which predicts it with a new latent z.

    The network predicts the way: `x_0 = x_t - t net(x_t, 1000 t)`, our choice.

    Args:
        net: a UNet2DModel, DiT or MLP without classes, called as `net(x, time)`.
        num_steps: steps, and network calls of an image.
        variance: of the Brownian motion at time 1, in the square of the images' units.
        latent_dim: numbers in z.

    Raises:
        ValueError: fewer than one step, a variance that is not above 0; another network.
    """

    takes_source = True

    def __init__(self, net: nn.Module, num_steps: int = 4, variance: float = 0.1, latent_dim: int = 16) -> None:
        super().__init__()
        if num_steps < 1 or variance <= 0:
            raise ValueError(f"`num_steps={num_steps}` must be at least 1, and `variance={variance}` above 0")
        self.net: Any = net
        self.slot = LatentSlot.on(net, latent_dim)
        self.num_steps, self.variance, self.latent_dim = num_steps, variance, latent_dim
        self._image_shape: tuple[int, int, int] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), as `check_shape` was given it or by the network's configuration."""
        config = self.net.config
        return self._image_shape or (config["in_channels"], config["sample_size"], config["sample_size"])

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """The predicted end x_0 [B, C, H, W], at least float32, for x_t [B, C, H, W], times [B] in (0, 1], z [B, d]."""
        self.images_seen += len(x_t)
        dtype = next(p.dtype for p in self.net.parameters())
        with self.slot.given(z):
            way = self.net(x_t.to(dtype), 1000 * t).sample
        return at_least_float32(x_t) - per_image(t, x_t) * at_least_float32(way)

    def z(self, batch: Batch) -> Tensor:
        """Standard normal latents [B, latent_dim] for the rows of a batch, from its draws."""
        return batch.draws.normal((len(batch), self.latent_dim)).to(batch.images)

    @property
    def noise_dim(self) -> int:
        """Standard normal numbers that one image takes on its way."""
        return self.num_steps * self.latent_dim + (self.num_steps - 1) * torch.Size(self.image_shape).numel()

    def walk(self, x_1: Tensor, noise: Tensor, watch: Any = None) -> Tensor:
        """Images x_0 [B, C, H, W] drawn from sources x_1 of the same shape by noise [B, noise_dim].

        With `watch`, it is called with the state before the first and after every step.
        """
        x, n = x_1, self.num_steps
        latents, between = noise[:, : n * self.latent_dim], noise[:, n * self.latent_dim :]
        states = [*between.view(len(x), n - 1, *x.shape[1:]).unbind(1), torch.zeros_like(x)]
        if watch is not None:
            watch(x)
        for step, (z, eps) in enumerate(zip(latents.view(len(x), n, -1).unbind(1), states, strict=True)):
            t, s = (torch.full((len(x),), (n - step - k) / n, device=x.device, dtype=x.dtype) for k in (0, 1))
            mean, std = bridge_posterior(self(x, t, z), x, s, t, self.variance)
            x = mean + std * eps
            if watch is not None:
                watch(x)
        return x

    # -- training ------------------------------------------------------------------------------------------------------

    def check(self, data: ImageData) -> None:
        if data.source_shape != data.image_shape:
            has = "no sources" if data.source_shape is None else f"sources of shape {data.source_shape}"
            raise ValueError(
                f"a bridge needs sources of the images' shape and `{data.name}` has {has}: give UnpairedData"
            )
        self.check_shape(data.image_shape)

    def check_shape(self, image_shape: tuple[int, int, int]) -> None:
        like = next(self.net.parameters())
        x = torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype)
        with trial(self, self.net, image_shape):
            self(x, x.new_ones(1), x.new_zeros(1, self.latent_dim))
        self._image_shape = image_shape

    def networks(self) -> list[nn.Module]:
        return [self.net]

    # -- samples -------------------------------------------------------------------------------------------------------

    def plan(self, steps: int, scheduler: str | None = None) -> tuple[str, int]:
        """Its own steps, whatever `steps` says."""
        if scheduler not in (None, BRIDGE):
            raise ValueError(f"`scheduler={scheduler}`: a bridge walks its own {self.num_steps} steps; leave it out")
        return BRIDGE, self.num_steps

    def draw(self, sampling: Sampling) -> Iterator[Tensor]:
        """The images of a sampling from its `sources` in turn, in the bridge's own steps.

        The noise of all steps is `torch.randn((n, noise_dim), generator=torch.Generator().manual_seed(seed))`, or of n
        seeds one row each: the latents of the steps, then what is added after each of them but the last.
        """
        self.plan(sampling.steps, sampling.scheduler)
        if sampling.guidance != 1 or sampling.using:
            raise ValueError("`guidance` and what else is added to samplers: a bridge takes none; leave it out")
        if sampling.prompts or sampling.labels is not None:
            raise ValueError("`labels`, `prompt`: a bridge takes neither classes nor captions; leave it out")
        if sampling.sources is None:
            raise ValueError("`sources`: a bridge starts at source images: sample it from its run")
        sources = sampling.sources[torch.arange(sampling.n) % len(sampling.sources)]
        size = sampling.batch_size or rows_at_once(sources)
        for rows, noise, _ in drawn(sampling.n, (self.noise_dim,), size, sampling.seed):
            with torch.inference_mode(), eval_mode(self):
                images = self.walk(sources[rows].to(self.device), noise.to(self.device), sampling.watch).clamp(-1, 1)
            if sampling.progress is not None:
                sampling.progress(min(1.0, rows.stop / sampling.n))
            yield images

    @torch.no_grad()
    def grid(self, data: ImageData, n: int, seed: int, *, scheduler: str, steps: int) -> Tensor:
        sources = data.source_images(min(n, len(data)), seed)
        assert sources is not None
        sources = repeated(sources, n, self.device)
        with eval_mode(self):
            return self.walk(sources, Draws(seed, phase="samples", device=self.device).normal((n, self.noise_dim)))

    # -- folders -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, sampler: str = "ddim") -> bool:
        """Writes generator.json and the weights of the network and, in the place of a prior, of its slot."""
        settings = {"num_steps": self.num_steps, "variance": self.variance, "latent_dim": self.latent_dim}
        return write_own(folder, self.net, prior=self.slot, bridge=settings, image_shape=self._image_shape)
