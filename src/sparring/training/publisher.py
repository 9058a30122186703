"""The average of a run on its way out: shipped as a folder, sampled for pictures, measured on held-out images."""

import warnings
from copy import deepcopy

import torch

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Generator
from sparring.generators.loop import rows_at_once
from sparring.methods.method import Method
from sparring.networks.modes import eval_mode
from sparring.runs import RunFolder
from sparring.runs.field import field_picture
from sparring.runs.folder import writing
from sparring.runs.pictures import POINTS
from sparring.training.sharding import gather, is_cut

NUM_HELD_OUT = 256


class EmaPublisher:
    """Writes the averaged generator into the run folder. Every process calls, the main one writes.

    Args:
        generator: the average.
        method: says by which sampler, in how many steps, and which fields are drawn.
        data: images trained on.
        folder: run folder.
        seed: of latents and of the noise of the error.
        num_samples: images in a grid.
        main: whether this process writes.
    """

    def __init__(
        self,
        generator: Generator,
        method: Method,
        data: ImageData,
        folder: RunFolder,
        seed: int,
        num_samples: int,
        main: bool,
    ):
        self.generator = generator
        self.method = method
        self.data = data
        self.folder = folder
        self.seed = seed
        self.num_samples = num_samples
        self.main = main
        self.whole: Generator | None = None
        self.said = False

    def will_be_sharded(self) -> None:
        """Keeps a whole copy on the CPU of the main process, through which the average is shipped from then on."""
        if self.main:
            self.whole = deepcopy(self.generator).cpu()

    @property
    def sharded(self) -> bool:
        """Whether each process holds a share of it, so that all of them must take part in a forward pass."""
        return is_cut(self.generator)

    def ship(self) -> None:
        """Writes it as a folder, with adapters multiplied into its weights, and the adapters by themselves."""
        shipped = self.generator
        if self.sharded:
            state = gather({"average": self.generator.state_dict()}, keep=self.main)["average"]
            if self.whole is not None:
                self.whole.load_state_dict(state)
                shipped = self.whole
        if self.main:
            with writing("the pipeline", self.folder.pipeline):
                saved = shipped.save(self.folder.pipeline, self.method.sampler)
            if not saved and not self.said:
                self.said = True
                warnings.warn(
                    f"{self.folder.pipeline} is not written: the network cannot be made again from its class and "
                    "arguments. Give it attributes that are called like its arguments; from Python "
                    "`generator.sample(16)` works as it is",
                    stacklevel=2,
                )
            self.folder.save_lora(self.generator.adapters())

    def draw(self, step: int) -> None:
        """Writes a picture of samples, always from the same latents; of points also the discriminator's field.

        What makes no images has no picture.
        """
        if not (self.main or self.sharded) or not self.generator.makes_images:
            return
        grid = self.generator.grid(
            self.data, self.num_samples, self.seed, scheduler=self.method.sampler, steps=self.method.sample_steps
        )
        if self.main and self.data.image_shape == POINTS:
            real, labels = self.data.images(self.num_samples, self.seed), self.data.labels(self.num_samples, self.seed)
            self.folder.save_grid(step, grid, real)
            batch = Batch.of(real.to(grid), labels, Draws(self.seed, phase="field", device=grid.device))
            if fields := self.method.fields(batch, grid):
                self.folder.save_field(step, field_picture(fields, grid.flatten(1), real.flatten(1)))
        elif self.main:
            self.folder.save_grid(step, grid)

    def measures(self) -> dict[str, float]:
        """What the method measures of itself and of the average, with the same random numbers in every call."""
        draws = Draws(self.seed, phase="measures", device=self.generator.device)
        with torch.no_grad(), eval_mode(self.method):
            return self.method.measures(self.generator, self.data, draws)

    def error(self) -> float:
        """Mean of the generator's error on the same images and random numbers in every call; lower is better.

        The images are up to 256 of the holdout, or of the training set if the data set knows no holdout.
        """
        return float(self.errors(NUM_HELD_OUT).mean())

    @torch.no_grad()
    def errors(self, n: int) -> torch.Tensor:
        """[n] errors of as many held-out images, or of all; raises ValueError if the generator has none."""
        held_out = self.data.holdout() or self.data
        n = min(n, len(held_out))
        images, labels = held_out.images(n, self.seed), held_out.labels(n, self.seed)
        captions, sources = held_out.captions(n, self.seed), held_out.source_images(n, self.seed)
        size = rows_at_once(images)
        errors = []
        for first in range(0, n, size):
            rows = slice(first, min(first + size, n))
            condition = captions[rows] if captions is not None else None if labels is None else labels[rows]
            draws = Draws(self.seed, phase="held out", rows=rows, total=n, device=self.generator.device)
            source = None if sources is None else sources[rows].to(self.generator.device)
            batch = Batch.of(images[rows].to(self.generator.device), condition, draws, source=source)
            errors.append(self.generator.error(self.generator.embed(batch)))
        return torch.cat(errors)
