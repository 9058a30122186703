"""Images from a trained generator: from a run or a pipeline folder, as tensors, a grid or a folder of PNG files."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import interpolate

from sparring.data.waiting import counted
from sparring.generators import Generator, Sampling, load_generator
from sparring.networks.device import default_device
from sparring.runs.pictures import POINTS, image_grid, save_gif, to_uint8


@dataclass
class Samples:
    """Images [n, C, H, W] in [-1, 1] (clamped), and how they were drawn.

    Attributes:
        scheduler: its name.
        nfe: steps of the path at which the network is asked.
        calls: images that passed through a network, guidance and further networks included, for each image; one that
            goes back through a network counts two.
        seconds: of drawing.
    """

    images: Tensor
    scheduler: str
    nfe: int
    calls: float
    seconds: float


class SampleStream:
    """Samples that are drawn when it is iterated, once, a batch [b, C, H, W] at a time.

    Images with NaN raise ValueError.

    Attributes:
        scheduler, nfe: as in `Samples`.
        name: of scheduler and guidance and what else is added, in tables.
        seconds: of drawing so far.
    """

    def __init__(self, generator: Generator, sampling: Sampling):
        self.generator, self.sampling = generator, sampling
        self.scheduler, self.nfe = generator.plan(sampling.steps, sampling.scheduler)
        self.name = self.scheduler + sampling.suffix
        self.seconds = 0.0
        self.drawn = 0
        self.before = self.cost

    @property
    def cost(self) -> int:
        return self.generator.images_seen + sum(one.cost for one in self.sampling.using)

    @property
    def calls(self) -> float:
        """See `Samples`; of those drawn so far."""
        return (self.cost - self.before) / max(self.drawn, 1)

    def __iter__(self) -> Iterator[Tensor]:
        started = time.perf_counter()
        for batch in self.generator.draw(self.sampling):
            images = batch.cpu()
            self.seconds += time.perf_counter() - started
            self.drawn += len(images)
            if (bad := int(images.isnan().flatten(1).any(1).sum())) > 0:
                raise ValueError(f"{bad} of {len(images)} images are not numbers (NaN): the network diverged")
            if self.sampling.progress is not None:
                self.sampling.progress(self.drawn / self.sampling.n)
            yield images
            started = time.perf_counter()


class Sampler:
    """A generator that is loaded once and sampled with any scheduler.

    Args:
        source: run of sparring, pipeline folder, or a generator.
        device: where to run; None: the GPU if there is one.
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
        self.device = torch.device(device or default_device())
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
        return Samples(images, stream.scheduler, stream.nfe, stream.calls, stream.seconds)

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
        return SampleStream(self.generator, Sampling(n=n, steps=steps, scheduler=scheduler, **settings))


FILES = (".png", ".jpg", ".jpeg", ".npz")


def save_images(
    images: Tensor,
    out: Path,
    *,
    scale: int = 1,
    real: Tensor | None = None,
    about: dict[str, Any] | None = None,
    each: Mapping[str, Sequence[Any]] | None = None,
) -> str:
    """Writes images [n, C, H, W] in [-1, 1] by the ending of the path.

    .png, .jpg: a grid. .npz: all of them as `arr_0`, uint8 [n, H, W, C] (points: float32 [n, 2]), as other evaluators
    read them. Anything else: a new folder of PNG files.

    Args:
        images: what to write.
        out: the file, or folder.
        scale: enlarges each pixel of a grid, so that small images can be seen.
        real: real points that points are drawn over.
        about: how they were drawn; PNG files hold it as JSON in the text `sparring`.
        each: further n values, one for each image, which a PNG file of one image holds of this one.

    Returns:
        What was written, in words.

    Raises:
        ValueError: the ending of another picture format; the folder holds files already, or cannot be written.
    """
    points = tuple(images.shape[1:]) == POINTS
    ending = out.suffix.lower()
    about, each = about or {}, each or {}
    if ending not in FILES and ending in Image.registered_extensions():
        raise ValueError(
            f"`out={out}`: the ending is one of {', '.join(FILES)}; anything else is a folder of PNG files"
        )
    try:
        if ending in FILES:
            out.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".npz":
            np.savez(out, images.flatten(1).numpy() if points else to_uint8(images).permute(0, 2, 3, 1).numpy())
            return f"{counted(len(images), 'point' if points else 'image')} as {out}"
        if ending in FILES:
            picture = image_grid(images, scale=scale, real=real)
            save_picture(picture, out, about | {name: list(values) for name, values in each.items()})
            return f"{'' if points else 'a grid of '}{counted(len(images), 'point' if points else 'image')} as {out}"
        if points:
            raise ValueError(f"`out={out}`: points are drawn in one picture: give a name that ends in .png, or in .npz")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"`out={out}` already holds files: give a new folder, or a name that ends in .png")
        out.mkdir(parents=True, exist_ok=True)
        pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
        for i, image in enumerate(pixels):
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            own = {"image": i} | {name: values[i] for name, values in each.items()}
            save_picture(picture, out / f"{i:06d}.png", about | own)
    except OSError as error:
        raise ValueError(f"`out={out}` cannot be written ({error.strerror})") from None
    return f"{counted(len(images), 'PNG file')} in {out}"


def save_picture(picture: Image.Image, file: Path, about: dict[str, Any]) -> None:
    """Writes a picture; a PNG with what it is `about`, as JSON in its text `sparring`."""
    if file.suffix.lower() != ".png" or not about:
        picture.save(file, quality=95)
        return
    text = PngInfo()
    text.add_text("sparring", json.dumps(about))
    picture.save(file, pnginfo=text)


def save_animation(states: list[Tensor], out: Path, *, scale: int = 1, real: Tensor | None = None) -> str:
    """Writes the states of a sampler, each [n, C, H, W], as an animated GIF of grids that rests on the last one.

    States are shown in [-1, 1]; those of a scheduler that starts from large noise are divided by their standard
    deviation where it exceeds 1. Points are drawn over `real` ones.
    """
    if len(states) < 2:
        raise ValueError(f"`out={out}`: a generator that makes images in one call has no path to show: give a .png")
    size = states[-1].shape[-2:]  # which a system may have enlarged on the way
    shown = [interpolate(state / state.std().clamp(min=1.0), size=size) for state in states[:-1]] + [states[-1]]
    frames = [image_grid(state, scale=scale, real=real) for state in shown]
    try:
        save_gif(frames, out)
    except OSError as error:
        raise ValueError(f"`out={out}` cannot be written ({error.strerror})") from None
    what = "point" if tuple(states[-1].shape[1:]) == POINTS else "image"
    return f"the denoising path of {counted(len(states[-1]), what)} as {out}"
