"""A network that says something of noisy images and makes none: what guides a sampler, trained and kept like others."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.data import ImageData
from sparring.generators.generator import Generator
from sparring.generators.own import write_own
from sparring.generators.pipeline import scheduler_settings
from sparring.generators.sampling import Sampling
from sparring.generators.trial import trial
from sparring.networks.precision import at_least_float32
from sparring.process import EDM, Kind, Process, RectifiedFlow


class Guide(Generator):
    """Numbers [B, outputs] of noisy images: `guide(x_t, t)`.

    A run trains, averages and keeps it; there is nothing to sample from it. `sparring sample DENOISER --with …` names
    its run. It works on what a denoiser of the same process diffuses, in pixels.

    Args:
        net: called as `net(x, time)` with what the process shows to networks; gives [B, outputs], or [B, outputs, 1, 1]
            as a denoising network of points does.
        process: how its images are noised; that of the denoiser that it is to guide.
        channels: of what it sees in place of the images, at their size, such as features of a denoiser; None: images.

    Attributes:
        outputs: how many numbers it gives of an image; 0 before `check_shape`.
    """

    makes_images = False

    def __init__(self, net: nn.Module, process: Process, channels: int | None = None):
        super().__init__()
        self.net = net
        self.process = process
        self.channels = channels
        self.outputs = 0
        self._image_shape: tuple[int, int, int] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it was checked with.

        Raises:
            ValueError: with none so far.
        """
        if self._image_shape is None:
            raise ValueError(f"{type(self.net).__name__} has seen no images yet: call `check_shape` first")
        return self._image_shape

    def forward(self, x_t: Tensor, t: Tensor, **given: Tensor) -> Tensor:
        """[B, outputs], at least float32, of noisy images x_t [B, C, H, W] at times t [B]; `images_seen` grows by B.

        What else its network takes, such as classes, is `given` by name.
        """
        self.images_seen += len(x_t)
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), x_t.dtype)
        time = self.process.model_time(t).to(torch.float64 if dtype == torch.float64 else torch.float32)
        output = self.net(self.process.model_input(x_t, t).to(dtype), time, **given)
        output = output if isinstance(output, Tensor) else output.sample
        return at_least_float32(output.flatten(1))

    # -- training ------------------------------------------------------------------------------------------------------

    def check(self, data: ImageData) -> None:
        self.check_shape(data.image_shape)

    def check_shape(self, image_shape: tuple[int, int, int]) -> None:
        device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        shown = (self.channels or image_shape[0], *image_shape[1:])
        with trial(self, self.net, image_shape):
            output = self(torch.zeros(1, *shown, device=device), torch.full((1,), 0.5, device=device))
        self._image_shape = image_shape
        self.outputs = output.shape[1]

    def networks(self) -> list[nn.Module]:
        return [self.net]

    # -- samples -------------------------------------------------------------------------------------------------------

    def plan(self, steps: int, scheduler: str | None = None) -> tuple[str, int]:
        raise ValueError(
            f"a {type(self).__name__} makes no images: sample the denoiser that it guides, `sparring sample RUN --with`"
        )

    def draw(self, sampling: Sampling) -> Iterator[Tensor]:
        self.plan(sampling.steps)
        raise AssertionError

    def grid(self, data: ImageData, n: int, seed: int, *, scheduler: str, steps: int) -> Tensor:
        self.plan(steps)
        raise AssertionError

    # -- folders -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, sampler: str = "ddim") -> bool:
        """Writes generator.json, which says how to make the network again, and generator.safetensors."""
        kind: Kind = (
            "edm" if isinstance(self.process, EDM) else "flow" if isinstance(self.process, RectifiedFlow) else "v"
        )
        scheduler = scheduler_settings(self.process.scheduler("euler", kind))
        settings = {"image_shape": self._image_shape, "channels": self.channels, "scheduler": scheduler}
        return write_own(folder, self.net, guide=True, **settings)
