"""Images from a trained generator: from a run or a pipeline folder, as tensors, a grid or a folder of PNG files."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.generators import Generator, Sampling, load_generator
from sparring.runs.pictures import POINTS, image_grid, save_gif, to_uint8


@dataclass
class Samples:
    """Images [n, C, H, W] in [-1, 1] (clamped), scheduler, network calls per image, and the seconds it took."""

    images: Tensor
    scheduler: str
    nfe: int
    seconds: float


@dataclass
class SampleStream:
    """Samples that are drawn when it is iterated, once, a batch [b, C, H, W] at a time; `seconds` of drawing so far.

    Images with NaN raise ValueError.
    """

    batches: Iterator[Tensor]
    scheduler: str
    nfe: int
    seconds: float = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        started = time.perf_counter()
        for batch in self.batches:
            images = batch.cpu()
            self.seconds += time.perf_counter() - started
            if (bad := int(images.isnan().flatten(1).any(1).sum())) > 0:
                raise ValueError(f"{bad} of {len(images)} images are not numbers (NaN): the network diverged")
            yield images
            started = time.perf_counter()


class Sampler:
    """A generator that is loaded once and sampled with any scheduler.

    Args:
        source: run of sparring, pipeline folder, or a generator.
        device: where to run.
        size: width and height of the images, if the network can make others than its configuration says.
        allow: further packages whose networks a folder may name.

    Raises:
        ValueError: what `load_generator` refuses; a size that the network cannot make.
    """

    def __init__(
        self,
        source: str | Path | Generator,
        device: str | torch.device | None = None,
        size: int | None = None,
        allow: Sequence[str] = (),
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.generator = source if isinstance(source, Generator) else load_generator(source, allow)
        self.generator.to(self.device).eval()
        if size is not None:
            self.resize((self.shape[0], size, size))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.generator.image_shape

    def resize(self, image_shape: tuple[int, int, int]) -> None:
        """Makes images (C, H, W) from now on; raises ValueError if the generator cannot."""
        if image_shape != self.shape:
            self.generator.check_shape(image_shape)

    def __call__(self, n: int, steps: int, *, scheduler: str | None = None, **settings: Any) -> Samples:
        """Samples n images; the settings are those of `stream`."""
        stream = self.stream(n, steps, scheduler=scheduler, **settings)
        images = torch.cat(list(stream))
        return Samples(images, stream.scheduler, stream.nfe, stream.seconds)

    def stream(self, n: int, steps: int, *, scheduler: str | None = None, **settings: Any) -> SampleStream:
        """n images, to be drawn one batch after the other, so that any number can be made without holding them.

        Args:
            n: number of images.
            steps: sampler steps.
            scheduler: "ddim", "dpm" …; the pipeline's own when None.
            settings: `seed`, `labels`, `prompts`, `guidance`, `using` …: those of `Sampling`.

        Raises:
            ValueError: n or steps below 1; a scheduler that the process does not have; and, when the first batch is
                drawn, classes out of range; prompts that are missing or of no use; guidance of a network without
                classes and captions.
        """
        sampling = Sampling(n=n, steps=steps, scheduler=scheduler, **settings)
        name, nfe = self.generator.plan(steps, scheduler)
        return SampleStream(self.generator.draw(sampling), name, nfe)


FILES = (".png", ".jpg", ".jpeg", ".npz")


def save_images(images: Tensor, out: Path, *, scale: int = 1, real: Tensor | None = None) -> str:
    """Writes images [n, C, H, W] in [-1, 1] by the ending of the path.

    .png, .jpg: a grid. .npz: all of them as `arr_0`, uint8 [n, H, W, C] (points: float32 [n, 2]), as other evaluators
    read them. Anything else: a new folder of PNG files.

    Args:
        images: what to write.
        out: the file, or folder.
        scale: enlarges each pixel of a grid, so that small images can be seen.
        real: real points that points are drawn over.

    Returns:
        What was written, in words.

    Raises:
        ValueError: the ending of another picture format; the folder holds files already, or cannot be written.
    """
    points = tuple(images.shape[1:]) == POINTS
    ending = out.suffix.lower()
    if ending not in FILES and ending in Image.registered_extensions():
        raise ValueError(
            f"`out={out}`: the ending is one of {', '.join(FILES)}; anything else is a folder of PNG files"
        )
    try:
        if ending in FILES:
            out.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".npz":
            np.savez(out, images.flatten(1).numpy() if points else to_uint8(images).permute(0, 2, 3, 1).numpy())
            return f"{len(images)} {'points' if points else 'images'} as {out}"
        if ending in FILES:
            image_grid(images, scale=scale, real=real).save(out, quality=95)
            return f"{f'{len(images)} points' if points else f'a grid of {len(images)} images'} as {out}"
        if points:
            raise ValueError(f"`out={out}`: points are drawn in one picture: give a name that ends in .png, or in .npz")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"`out={out}` already holds files: give a new folder, or a name that ends in .png")
        out.mkdir(parents=True, exist_ok=True)
        pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
        for i, image in enumerate(pixels):
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out / f"{i:06d}.png")
    except OSError as error:
        raise ValueError(f"`out={out}` cannot be written ({error.strerror})") from None
    return f"{len(images)} PNG files in {out}"


def save_animation(states: list[Tensor], out: Path, *, scale: int = 1, real: Tensor | None = None) -> str:
    """Writes the states of a sampler, each [n, C, H, W], as an animated GIF of grids that rests on the last one.

    States are shown in [-1, 1]; those of a scheduler that starts from large noise are divided by their standard
    deviation where it exceeds 1. Points are drawn over `real` ones.
    """
    if len(states) < 2:
        raise ValueError(f"`out={out}`: a generator that makes images in one call has no path to show: give a .png")
    shown = [state / state.std().clamp(min=1.0) for state in states[:-1]] + [states[-1]]
    frames = [image_grid(state, scale=scale, real=real) for state in shown]
    try:
        save_gif(frames, out)
    except OSError as error:
        raise ValueError(f"`out={out}` cannot be written ({error.strerror})") from None
    what = "points" if tuple(states[-1].shape[1:]) == POINTS else "images"
    return f"the denoising path of {len(states[-1])} {what} as {out}"
