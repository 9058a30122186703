"""Images from a trained denoiser: from a run or a pipeline folder, as tensors, a grid or a folder of PNG files."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sparring.generators import load_pipeline
from sparring.generators.pipeline import image_shape
from sparring.runs.pictures import image_grid, to_uint8
from sparring.samplers.loop import generate

NAMES = {
    "ddim": ("DDIMScheduler",),
    "dpm": ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"),
    "unipc": ("UniPCMultistepScheduler",),
    "euler": ("EulerDiscreteScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"),
    "heun": ("HeunDiscreteScheduler", "EDMHeunScheduler", "FlowMatchHeunDiscreteScheduler"),
    "ddpm": ("DDPMScheduler",),
    "lcm": ("LCMScheduler",),
    "pndm": ("PNDMScheduler",),
}
"""What a scheduler is called here, by diffusers' classes; any other goes by its class."""


@dataclass
class Samples:
    """Images [n, C, H, W] in [-1, 1] (clamped), scheduler, network calls per image, and the seconds it took."""

    images: Tensor
    scheduler: str
    nfe: int
    seconds: float


class Sampler:
    """A denoiser that is loaded once and sampled with any scheduler.

    Args:
        source: run of sparring or pipeline folder.
        device: where to run.
        size: width and height of the images, where the network can make others than its configuration says.

    Raises:
        ValueError: what `load_pipeline` refuses; a size that the network cannot make.
    """

    def __init__(self, source: str | Path, device: str | torch.device | None = None, size: int | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.denoiser, self.own_scheduler = load_pipeline(source)
        self.denoiser.to(self.device).eval()
        self.shape = image_shape(self.denoiser)
        if size is not None:
            self.resize((self.shape[0], size, size))

    def resize(self, image_shape: tuple[int, int, int]) -> None:
        """Makes images (C, H, W) from now on; raises ValueError where the network cannot."""
        if image_shape != self.shape:
            self.denoiser.check(image_shape)
            self.shape = image_shape

    def __call__(
        self,
        n: int,
        steps: int,
        *,
        scheduler: str | None = None,
        seed: int = 0,
        labels: list[int] | None = None,
        prompts: list[str] | None = None,
        guidance: float = 1.0,
        batch_size: int | None = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Samples:
        """Samples n images.

        The noise is `torch.randn((n, C, H, W), generator=torch.Generator().manual_seed(seed))`, in the shape of latents
        where the pipeline has an autoencoder: equal for every scheduler and model, and what a diffusers pipeline draws
        from this generator for a batch of n.

        Args:
            n: number of images.
            steps: sampler steps.
            scheduler: "ddim", "dpm" …; the pipeline's own when None.
            seed: of the latents and of the noise of stochastic schedulers.
            labels: classes, repeated to n images; all in turn when None. Only for a conditional network.
            prompts: captions, repeated to n images. Only for a text-to-image pipeline, and needed there.
            guidance: scale of classifier-free guidance; 1 is none.
            batch_size: images at once; None: 256, or fewer of large ones. Stochastic schedulers draw their noise for as
                many, so that it is a part of what the images depend on there.
            watch: called with the state of a batch, as images, before the first and after every step.

        Raises:
            ValueError: n or steps below 1; a scheduler that the process does not have; classes out of range; prompts
                that are missing or of no use; guidance of a network without classes and captions.
        """
        for name, value in (("n", n), ("steps", steps)):
            if value < 1:
                raise ValueError(f"`{name}={value}` must be at least 1")
        if scheduler is None:
            stepper = self.own_scheduler
        else:
            stepper = self.denoiser.process.scheduler(scheduler, self.denoiser.prediction)
        captions = self.captions(prompts, n)
        condition = self.classes(labels, n, guidance) if captions is None else captions
        noise = torch.Generator().manual_seed(seed)
        latents = torch.randn((n, *self.denoiser.latent_shape(self.shape)), generator=noise).to(self.device)
        started = time.perf_counter()
        with torch.inference_mode():
            x_0 = generate(
                self.denoiser,
                stepper,
                steps,
                latents=latents,
                condition=condition,
                guidance=guidance,
                generator=noise,
                batch_size=batch_size,
                watch=None if watch is None else lambda state: watch(self.denoiser.decode(state)),
            )
            images = self.denoiser.decode(x_0)
        seconds = time.perf_counter() - started
        kind = type(stepper).__name__
        name = scheduler or next((name for name, kinds in NAMES.items() if kind in kinds), kind)
        return Samples(images.clamp(-1, 1).cpu(), name, len(stepper.timesteps), seconds)

    def captions(self, prompts: list[str] | None, n: int) -> list[str] | None:
        """n captions for a text-to-image network, None for another."""
        if self.denoiser.text is None:
            if prompts:
                raise ValueError(f"`prompt`: {type(self.denoiser.net).__name__} takes no captions; leave it out")
            return None
        if not prompts:
            raise ValueError('`prompt`: a text-to-image pipeline needs captions: give --prompt "a red apple"')
        return [prompts[i % len(prompts)] for i in range(n)]

    def classes(self, labels: list[int] | None, n: int, guidance: float) -> Tensor | None:
        """[n] class numbers for a conditional network, None for another; with guidance, never the class for "none"."""
        if not self.denoiser.conditional:
            name = type(self.denoiser.net).__name__
            if guidance != 1:
                raise ValueError(f"`guidance={guidance}`: {name} takes neither classes nor captions")
            if labels is not None:
                raise ValueError(f"`labels={labels}`: {name} takes no classes; leave it out")
            return None
        total = self.denoiser.num_classes if guidance == 1 else self.denoiser.null_class
        chosen = labels if labels is not None else list(range(total or 1))
        for label in chosen:
            if label < 0 or (total is not None and label >= total):
                raise ValueError(f"`label={label}`: the network has the classes 0 to {(total or 1) - 1}")
        return torch.tensor([chosen[i % len(chosen)] for i in range(n)], device=self.device)


def save_images(images: Tensor, out: Path, *, scale: int = 1) -> str:
    """Writes images [n, C, H, W] in [-1, 1]: a path that ends in .png is a grid, any other a new folder of PNG files.

    Args:
        images: what to write.
        out: .png file, or folder.
        scale: enlarges each pixel of a grid, so that small images can be seen.

    Returns:
        What was written, in words.

    Raises:
        ValueError: the folder holds files already, or cannot be written.
    """
    try:
        if out.suffix.lower() == ".png":
            out.parent.mkdir(parents=True, exist_ok=True)
            grid = image_grid(images)
            grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST).save(out)
            return f"a grid of {len(images)} images as {out}"
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"`out={out}` already holds files: give a new folder, or a name that ends in .png")
        out.mkdir(parents=True, exist_ok=True)
        pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
        for i, image in enumerate(pixels):
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out / f"{i:06d}.png")
    except OSError as error:
        raise ValueError(f"`out={out}` cannot be written ({error.strerror})") from None
    return f"{len(images)} PNG files in {out}"


def save_animation(states: list[Tensor], out: Path, *, scale: int = 1) -> str:
    """Writes the states of a sampler, each [n, C, H, W], as an animated GIF of grids that rests on the last one.

    States are shown in [-1, 1]; those of a scheduler that starts from large noise are divided by their standard
    deviation where it exceeds 1.
    """
    shown = [state / state.std().clamp(min=1.0) for state in states[:-1]] + [states[-1]]
    grids = [image_grid(state) for state in shown]
    frames = [grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST) for grid in grids]
    milliseconds = [max(40, 2000 // len(frames))] * (len(frames) - 1) + [2000]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(out, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    except OSError as error:
        raise ValueError(f"`out={out}` cannot be written ({error.strerror})") from None
    return f"the denoising path of {len(states[-1])} images as {out}"
