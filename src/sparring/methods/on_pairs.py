"""What students of a bank of pairs share (Diffusion2GAN, GET): noises, and what a trained denoiser makes of each."""

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Denoiser, Generator
from sparring.methods.method import Method, frozen_copy
from sparring.rollout import check_begins_in_noise, deterministic_scheduler


class OnPairs(Method):
    """A student of pairs that are made before the first step and kept in the run.

    Args:
        generator: what is trained.
        teacher: a trained denoiser; a frozen copy of it is kept.
        discriminator: the opponent, or None.
        num_pairs: pairs in the bank, in equal parts of all classes that the teacher takes.
        scheduler: the deterministic sampler that makes them.
        num_steps: its steps.

    Raises:
        ValueError: no pairs, or fewer than classes; a sampler that adds noise; a teacher of captions, of a source or of
            a latent z.
    """

    sample_steps = 1

    def __init__(
        self,
        generator: Generator,
        teacher: Denoiser,
        discriminator: torch.nn.Module | None = None,
        *,
        num_pairs: int,
        scheduler: str,
        num_steps: int,
    ):
        name = type(self).__name__
        if num_pairs < 1:
            raise ValueError(f"`num_pairs={num_pairs}` must be at least 1: it learns from the teacher's own images")
        if teacher.text is not None or teacher.takes_source:
            raise ValueError(f"{name} keeps pairs of classes or of nothing: start from a denoiser of these")
        check_begins_in_noise(teacher)
        deterministic_scheduler(teacher, scheduler, num_steps, 1)  # can it walk them?
        super().__init__(generator, discriminator)
        self.teacher = frozen_copy(teacher)
        self.num_pairs, self.scheduler, self.num_steps = num_pairs, scheduler, num_steps
        self.noises = torch.nn.Parameter(torch.empty(0), requires_grad=False)  # of the bank, class after class
        self.images = torch.nn.Parameter(torch.empty(0), requires_grad=False)

    def size_for(self, data: ImageData) -> None:
        if self.teacher.takes_labels:
            self.teacher.check_condition(data)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        self.size_for(data)
        teacher, told, n = self.teacher, None, self.num_pairs
        device = self.noises.device
        if teacher.takes_labels:
            classes = teacher.classes_of_data
            each = n // classes
            if each == 0:
                raise ValueError(f"`num_pairs={n}`: give one at least for each of {classes} classes")
            told = torch.arange(classes, device=device).repeat_interleave(each)
            n = len(told)
        noises = Draws(seed, phase="pairs", device=device).normal((n, *teacher.latent_shape(data.image_shape)))
        sampler = teacher.process.scheduler(self.scheduler, teacher.prediction)
        self.images.data = teacher.generate(sampler, self.num_steps, latents=noises, condition=told)
        self.noises.data = noises

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Noises z [B, c, h, w] and the teacher's images of them, drawn from the bank, of the classes of the batch."""
        if not len(self.noises):
            raise ValueError(f"{type(self).__name__} has no pairs yet: call `prepare(data)` before the first step")
        if self.teacher.takes_labels:
            each = len(self.noises) // self.teacher.classes_of_data
            index = batch.condition * each + batch.draws.integers(each, (len(batch),))
        else:
            index = batch.draws.integers(len(self.noises), (len(batch),))
        return self.noises[index].to(batch.x_0), self.images[index].to(batch.x_0)
