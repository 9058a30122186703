"""Self-play of a denoiser: it learns against images of a frozen reference, and takes its place after each round."""

from typing import Any, Self

import torch
from torch import Tensor

from sparring.backbones import Backbone, freeze, images_to_learn
from sparring.data import Draws, ImageData
from sparring.data.characters import characters, texts_of
from sparring.generators import Denoiser, Generator
from sparring.methods.method import Method, frozen_copy, held_out, moving_copy
from sparring.methods.own_samples import own_samples
from sparring.networks.frozen import MovingCopy
from sparring.objectives import Distance, squared_mmd
from sparring.process import set_timesteps


class SelfPlay(Method):
    """A model, its reference, and images that the reference generates before the first step and after each round.

    Args:
        generator: a trained denoiser; its state at the start is the (first) reference.
        num_fakes: how many images each reference generates, from the seed of the run.
        scheduler: the sampler that makes them.
        num_steps: its network calls per image.
        rounds: parts of the run, equally long; behind each of them the model becomes the reference and draws new fakes.
        average: decay per step of an average of the model, which becomes the reference in its place, and from which the
            next round starts; 0: the model itself.
        validate: end the self-play when a round has brought the samples no nearer to held-out images: the model is then
            the last reference again and rests until the end of the run. Near is meant by the energy distance.
        features: what that distance sees the images through; None: pixels.

    Attributes:
        fakes: [num_fakes, c, h, w] images, or latents, of the reference.
        accepted: rounds that are over and brought the model nearer.
        over: the self-play has ended.

    Raises:
        ValueError: a setting out of range, or without effect.
    """

    generator: Denoiser
    reference: Denoiser | MovingCopy[Denoiser]
    fakes: Tensor
    seed: Tensor
    over: Tensor
    accepted: Tensor
    distance: Tensor

    def __init__(
        self,
        generator: Denoiser,
        *,
        num_fakes: int,
        scheduler: str,
        num_steps: int,
        rounds: int,
        average: float,
        validate: bool,
        features: Backbone | None,
    ):
        if num_fakes < 1:
            raise ValueError(f"`num_fakes={num_fakes}` must be at least 1: it learns from the reference's own images")
        if rounds < 1:
            raise ValueError(f"`rounds={rounds}` must be at least 1")
        if not 0 <= average < 1:
            raise ValueError(f"`average={average}` is a decay per step and must lie in [0, 1)")
        if average > 0 and rounds == 1 and not validate:
            raise ValueError(f"`average={average}` would be the next reference, and there is none: raise `rounds`")
        if features is not None and not validate:
            raise ValueError("`features` are for `validate=true`; leave them out")
        if validate and num_fakes < 2:
            raise ValueError(f"`num_fakes={num_fakes}`: a distance needs at least 2")
        set_timesteps(generator.process.scheduler(scheduler, generator.prediction), num_steps)  # can it walk them?
        super().__init__(generator)
        self.rounds, self.validate = rounds, validate
        self.plays = rounds > 1 or validate
        self.jumps = validate or average > 0
        self.reference = moving_copy(generator) if self.plays else frozen_copy(generator)
        self.average_decay = average
        self.average = moving_copy(generator) if average > 0 else None
        self.eyes = None if features is None else freeze(features)
        self.sampler, self.num_steps, self.num_fakes = scheduler, num_steps, num_fakes
        self.fake_labels = torch.nn.Parameter(torch.empty(0, dtype=torch.int64), requires_grad=False)
        if not self.plays:
            self.fakes = torch.nn.Parameter(torch.empty(0), requires_grad=False)
            return
        self.register_buffer("fakes", torch.empty(0))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("over", torch.zeros((), dtype=torch.bool))
        self.register_buffer("accepted", torch.zeros((), dtype=torch.int64))
        self.register_buffer("distance", torch.zeros((), dtype=torch.float64))

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; the generator stays in eval mode: dropout in one model would be read as a ratio."""
        super().train(mode)
        self.generator.eval()
        return self

    def size_for(self, data: ImageData) -> None:
        self.data = data
        if self.plays:
            self.fakes = self.fakes.new_zeros(self.num_fakes, *self.generator.latent_shape(data.image_shape))

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        self.size_for(data)
        if self.rounds > self.steps:
            raise ValueError(f"`rounds={self.rounds}`: the run has {self.steps} steps, at least one for each round")
        if self.eyes is not None and self.eyes.needs_images:
            self.eyes.prepare(*images_to_learn(data), seed)
        start = self.reference.module if isinstance(self.reference, MovingCopy) else self.reference
        fakes, told = self.samples(start, seed)
        if told is not None:
            self.fake_labels.data = characters(told).to(self.fakes.device) if isinstance(told, list) else told
        self.fakes.data = fakes
        if self.plays:
            self.seed.fill_(seed)
        if self.validate:
            self.distance.fill_(self.distance_to_held_out(fakes))

    def samples(
        self, denoiser: Denoiser, seed: int, told: Tensor | list[str] | None = None, *, number: int = 0
    ) -> tuple[Tensor, Tensor | list[str] | None]:
        """What a model generates for a round [num_fakes, C, H, W], and the classes or captions that it was given."""
        draws = Draws(seed, phase="fakes", step=number, device=self.fakes.device)
        settings: dict[str, Any] = dict(scheduler=self.sampler, num_steps=self.num_steps, draws=draws, told=told)
        return own_samples(denoiser, self.data, self.num_fakes, **settings)

    def told(self, index: Tensor) -> Tensor | list[str] | None:
        """The classes or captions of some of the generated images; None without."""
        if self.generator.text is not None:
            return texts_of(self.fake_labels[index])
        return self.fake_labels[index] if self.generator.takes_labels else None

    def after_step(self) -> None:
        if not self.plays or self.over:
            return
        if self.average is not None:
            self.average.follow(self.generator, 1 - self.average_decay)
        due = (self.step + 1) * self.rounds // self.steps
        if due > self.accepted and (due < self.rounds or self.validate):
            self.end_round()

    def end_round(self) -> None:
        """Makes the model the reference of the next round, or ends the self-play."""
        assert isinstance(self.reference, MovingCopy)
        model = self.generator if self.average is None else self.average.module
        told, number = self.told(torch.arange(self.num_fakes)), int(self.accepted) + 1
        fakes, _ = self.samples(model, int(self.seed), told, number=number)
        if self.validate:
            distance = self.distance_to_held_out(fakes)
            if not distance < self.distance:
                self.over.fill_(True)
                self.reference.put_back(self.generator)
                self.jumped = True
                return
            self.distance.fill_(distance)
        self.accepted += 1
        self.fakes.copy_(fakes)
        self.reference.refreeze(model)
        if self.average is not None:
            self.average.put_back(self.generator)
            self.jumped = True

    @torch.no_grad()
    def distance_to_held_out(self, fakes: Tensor) -> float:
        """The energy distance of generated images, or latents, to held-out images; unbiased, so it may be below 0."""
        real = held_out(self.data, Draws(int(self.seed), phase="held out", device=fakes.device)).images
        see = self.eyes or torch.nn.Identity()
        seen = [torch.cat([see(part).flatten(1).double() for part in real.split(256)])]
        seen.append(torch.cat([see(self.generator.decode(part)).flatten(1).double() for part in fakes.split(256)]))
        return float(squared_mmd(Distance(), *seen))

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Rounds that were accepted, and the energy distance of the last of them."""
        if not self.plays:
            return {}
        distance = {"energy distance": float(self.distance)} if self.validate else {}
        return {"rounds": float(self.accepted), **distance}
