"""The average of a run: shipped as a pipeline, sampled from fixed latents, measured on held-out images."""

from copy import deepcopy

import torch

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Denoiser, save_pipeline
from sparring.generators.merging import lora_weights, merged
from sparring.methods.method import Method
from sparring.rollout import denoising_error, one_step
from sparring.runs import RunFolder
from sparring.runs.folder import writing
from sparring.samplers import generate, rows_at_once
from sparring.training.sharding import gather, is_cut

NUM_HELD_OUT = 256


class Average:
    """The averaged denoiser and its files in the run folder. Every process calls, the main one writes.

    Args:
        denoiser: the average.
        method: says by which sampler, and in how many network calls.
        data: images trained on.
        folder: run folder.
        seed: of latents and of the noise of the error.
        num_samples: images in a grid.
        main: whether this process writes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        method: Method,
        data: ImageData,
        folder: RunFolder,
        seed: int,
        num_samples: int,
        main: bool,
    ):
        self.denoiser = denoiser
        self.sampler, self.sample_steps = method.sampler, method.sample_steps
        self.data = data
        self.folder = folder
        self.seed = seed
        self.num_samples = num_samples
        self.main = main
        self.whole: Denoiser | None = None

    def will_be_sharded(self) -> None:
        """Keeps a whole copy on the CPU of the main process, through which the average is shipped from then on."""
        if self.main:
            self.whole = deepcopy(self.denoiser).cpu()

    @property
    def sharded(self) -> bool:
        """Whether each process holds a share of it, so that all of them must take part in a forward pass."""
        return is_cut(self.denoiser)

    def ship(self) -> None:
        """Writes it as a pipeline, with adapters multiplied into its weights, and the adapters by themselves."""
        shipped = self.denoiser
        if self.sharded:
            state = gather({"net": self.denoiser.net.state_dict()}, keep=self.main)["net"]
            if self.whole is not None:
                self.whole.net.load_state_dict(state)
                shipped = self.whole
        if self.main:
            with writing("the pipeline", self.folder.pipeline):
                save_pipeline(merged(shipped), self.folder.pipeline, self.sampler)
            self.folder.save_lora(lora_weights(self.denoiser.net))

    def draw(self, step: int) -> None:
        """Writes a picture of samples, always from the same latents: class after class, or of captions of the data."""
        if not (self.main or self.sharded):
            return
        device = next(self.denoiser.parameters()).device
        told: torch.Tensor | list[str] | None = None
        if self.denoiser.text is not None:
            captions = self.data.captions(min(self.num_samples, len(self.data)), self.seed) or [""]
            told = [captions[i % len(captions)] for i in range(self.num_samples)]
        elif self.denoiser.conditional:
            told = (torch.arange(self.num_samples) % int(self.data.num_classes or 1)).to(device)
        draws = Draws(self.seed, phase="samples", device=device)
        x_0 = generate(
            self.denoiser,
            self.denoiser.process.scheduler(self.sampler, self.denoiser.prediction),
            self.sample_steps,
            latents=draws.normal((self.num_samples, *self.denoiser.latent_shape(self.data.image_shape))),
            condition=told,
            generator=torch.Generator(device).manual_seed(self.seed),
        )
        if self.main:
            with torch.no_grad():
                self.folder.save_grid(step, self.denoiser.decode(x_0))

    @torch.no_grad()
    def error(self) -> float:
        """Mean squared error of the output on the same images, times and noise in every call; lower is better.

        The images are up to 256 of the holdout, or of the training set where the data set knows no holdout; times are
        the process's own. It says how well the network denoises, which for a few-step student is not what its samples
        look like.
        """
        held_out = self.data.holdout() or self.data
        n = min(NUM_HELD_OUT, len(held_out))
        device = next(self.denoiser.parameters()).device
        images, labels = held_out.images(n, self.seed), held_out.labels(n, self.seed)
        captions = held_out.captions(n, self.seed)
        size = rows_at_once(images)
        errors, times = [], self.denoiser.process.default_times()
        for first in range(0, n, size):
            rows = slice(first, min(first + size, n))
            told = captions[rows] if captions is not None else None if labels is None else labels[rows]
            draws = Draws(self.seed, phase="held out", rows=rows, total=n, device=device)
            batch = self.denoiser.embed(Batch.of(images[rows].to(device), told, draws))
            errors.append(denoising_error(self.denoiser, one_step(self.denoiser, batch, times)))
        return float(torch.cat(errors).mean())
