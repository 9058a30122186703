"""How a denoiser is sampled: its images a batch at a time, each walked from noise with all that is added on the way."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparring.data import Draws, ImageData, derived_seed
from sparring.data.waiting import Told
from sparring.generators.condition import Condition, in_turn, repeated
from sparring.generators.conditioning import Conditioning
from sparring.generators.denoising_network import DenoisingNetwork
from sparring.generators.loop import Noise, SeparateDraws, Walk, drawn, own_draws, rows_at_once
from sparring.generators.predictor import ClassifierFree, Intervention, check_moves, times_of, wrapped
from sparring.generators.sampling import Sampling, clamped
from sparring.networks.modes import eval_mode
from sparring.process.noise import HALF_STEP


@torch.no_grad()
def draw(denoiser: DenoisingNetwork, sampling: Sampling) -> Iterator[Tensor]:
    """The images of a sampling, a batch [b, C, H, W] at a time.

    The noise is `torch.randn((n, C, H, W), generator=torch.Generator().manual_seed(seed))`, in the shape of latents
    if the pipeline has an autoencoder: equal for every scheduler and model, and what a diffusers pipeline draws
    from this generator for a batch of n. Stochastic schedulers draw theirs behind it. Of n seeds each does this for
    one image, as a diffusers pipeline does with a list of generators.
    """
    stepper = denoiser.stepper(sampling.scheduler)
    condition = chosen(denoiser.conditioning, sampling, denoiser.device)
    shape = denoiser.latent_shape(denoiser.image_shape)
    size = sampling.batch_size or rows_at_once(torch.empty(0, *shape), denoiser.factor**2)
    watch = sampling.watched(denoiser.plan(sampling.steps, sampling.scheduler)[1] + 1, denoiser.decode)
    for rows, latents, noise in drawn(sampling.n, shape, size, sampling.seed):
        x_0 = generate(
            denoiser,
            stepper,
            sampling.steps,
            latents=latents.to(denoiser.device),
            condition=None if condition is None else condition[rows],
            using=sampling.interventions,
            generator=noise,
            draws=sampling.draws_of(rows, denoiser.device),
            batch_size=size,
            watch=watch,
        )
        yield clamped(denoiser.decode(x_0))


@torch.no_grad()
def draw_grid(denoiser: DenoisingNetwork, data: ImageData, n: int, seed: int, scheduler: str, steps: int) -> Tensor:
    """n images for the grids of a run, see `Generator.grid`."""
    latents = Draws(seed, phase="samples", device=denoiser.device).normal((n, *denoiser.latent_shape(data.image_shape)))
    batches = -(-n // rows_at_once(latents, denoiser.factor**2))
    x_0 = generate(
        denoiser,
        denoiser.stepper(scheduler),
        steps,
        latents=latents,
        condition=shown(denoiser.conditioning, data, n, seed, denoiser.device),
        generator=torch.Generator(denoiser.device).manual_seed(seed),
        watch=Told(f"drawing the picture of {n} samples", batches * (denoiser.plan(steps, scheduler)[1] + 1)),
    )
    return denoiser.decode(x_0)


@torch.no_grad()
def generate(
    denoiser: DenoisingNetwork,
    scheduler: Any,
    num_steps: int,
    *,
    latents: Tensor,
    condition: Tensor | list[str] | None = None,
    guidance: float = 1.0,
    using: Sequence[Intervention] = (),
    generator: Noise | None = None,
    draws: Callable[[slice, int, str], Draws] | None = None,
    batch_size: int | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Samples from given noise with a given diffusers scheduler; latents are to be decoded by `decode`.

    Args:
        denoiser: what is sampled; it is in eval mode meanwhile.
        scheduler: a diffusers scheduler, configured for this denoiser; left as it is.
        num_steps: sampler steps; one network call each (Heun: two, but for the last step).
        latents: [n, C, H, W] standard normal noise.
        condition: [n] classes, or n captions, of a conditional network.
        guidance: scale of classifier-free guidance; 1 is none, and any other doubles the work.
        using: what else is added to the sampler.
        generator: source of the noise that stochastic schedulers add on the way, and of latents z, or one for each
            image.
        draws: random numbers of what is added, for rows, a call and a phase; None: those of seed 0.
        batch_size: images that pass through the network at once; see `rows_at_once` when None.
        watch: called with the state [b, C, H, W] of a batch before the first and after every step.

    Returns:
        [n, C, H, W] images, nominally in [-1, 1] (not clamped), or latents of images; in the precision of `latents`
        (at least float32). They are larger if something in `using` enlarges them.
    """
    using = [*using] if guidance == 1 else [ClassifierFree(guidance), *using]
    check_using(using, denoiser, scheduler)
    if draws is None:
        draws = partial(own_draws, 0, total=len(latents), device=latents.device)
    size = batch_size or rows_at_once(latents, denoiser.factor**2)
    finished = []
    with eval_mode(denoiser):
        for first in range(0, len(latents), size):
            rows = slice(first, min(first + size, len(latents)))
            given = denoiser.condition(None if condition is None else condition[rows], latents[rows])
            walker = Walker(denoiser, scheduler, num_steps, given, using, partial(draws, rows), watch)
            noise = generator[rows] if isinstance(generator, list) else generator
            finished.append(walker.from_noise(latents[rows], noise))
    return torch.cat(finished)


@dataclass
class Walker:
    """Walks a batch of rows from noise; again from images that it noises: what `Intervention.finish` is given.

    Attributes:
        denoiser: what is sampled.
        scheduler: its diffusers scheduler.
        num_steps: steps of the whole path.
        condition: of the rows.
        using: what is laid around the denoiser.
        draws: random numbers for these rows, a call and a phase. Each further walk has phases of its own, and noise
            that a stochastic scheduler adds there comes from here too: that of the first walk stays as it was.
        watch: called with every state.
        rounds: how often it walked again.
    """

    denoiser: DenoisingNetwork
    scheduler: Any
    num_steps: int
    condition: Condition
    using: Sequence[Intervention]
    draws: Callable[[int, str], Draws]
    watch: Callable[[Tensor], None] | None = None
    rounds: int = 0

    def from_noise(self, latents: Tensor, noise: Noise | None) -> Tensor:
        """Samples from standard normal latents [B, c, h, w], finished by what is used; schedulers draw from `noise`."""
        walk = self.walk(latents.device)
        walk.draws = self.draws if self.using else None
        state = walk.noise(latents)
        if self.denoiser.start is not None:
            state = start_state(self.denoiser, walk, latents, self.draws(0, "start"))
        x_0 = self.run(walk, state, self.using, noise)
        for one in self.using:
            x_0 = one.finish(x_0, self, self.denoiser)
        return x_0

    def __call__(self, x_0: Tensor, share: float, more: Sequence[Intervention]) -> Tensor:
        """See `predictor.Again`."""
        self.rounds += 1
        walk = self.walk(x_0.device, self.num_steps - math.ceil(share * self.num_steps - 1e-9))
        walk.draws = partial(self.numbers, self.rounds)
        eps = self.denoiser.process.kernel(walk.draws(0, "start"), tuple(x_0.shape))
        state = walk.noised(x_0, eps.to(x_0))
        return self.run(walk, state, [*self.using, *more], generator_of(walk.draws(0, "noise")))

    def walk(self, device: torch.device, start: int | None = None) -> Walk:
        """The scheduler on its grid, or at the levels that something has chosen."""
        return walk_of(self.denoiser, self.scheduler, self.num_steps, self.using, device, start)

    def run(self, walk: Walk, state: Tensor, using: Sequence[Intervention], noise: Noise | None) -> Tensor:
        """The end of a walk from its first state, with all that is used."""
        predict = wrapped(self.denoiser, using)
        output = partial(self.denoiser.step_output, walk, self.condition, predict, generator=noise)

        def moved(call: int, x: Tensor) -> Tensor:
            assert walk.draws is not None
            level, draws = walk.level(call, self.denoiser.process), walk.draws(call, "moves")
            level.draws = walk.draws(call, "predictions of moves")  # not the numbers of the step that follows
            before = x_t = level.x_t(x)
            for one in using:
                x_t = one.move(x_t, level, self.condition, predict, self.denoiser, draws)
            return x if x_t is before else level.state(x_t)

        move = moved if any(one.moves for one in using) else None
        return walk.run(state, output, move=move, generator=noise, watch=self.watch)

    def numbers(self, number: int, call: int, phase: str) -> Draws:
        """Random numbers of one further walk."""
        return self.draws(call, f"{phase} of walk {number + 1}")


def walk_of(
    denoiser: DenoisingNetwork,
    scheduler: Any,
    num_steps: int,
    using: Sequence[Intervention],
    device: torch.device | None = None,
    start: int | None = None,
) -> Walk:
    """The scheduler on its grid, or at the levels that something has chosen; see `Walk`."""
    times = times_of(using)
    levels = denoiser.process.model_time(torch.tensor(times, dtype=torch.float64)) if times else None
    return Walk(scheduler, num_steps, device, start, levels)


def start_state(denoiser: DenoisingNetwork, walk: Walk, latents: Tensor, draws: Draws) -> Tensor:
    """The state that a walk begins from by the start density, made of standard normal latents [B, c, h, w]."""
    u = draws.uniform((len(latents),)).to(latents.device) + HALF_STEP
    return walk.level(0, denoiser.process).state(denoiser.start(latents, u))


def check_using(using: Sequence[Intervention], denoiser: DenoisingNetwork, scheduler: Any) -> None:
    """Raises ValueError for what cannot be added to this denoiser when this diffusers scheduler samples it."""
    for one in using:
        one.check(denoiser)
    check_moves(using, scheduler)
    if denoiser.process.kernel.gaussian:
        return
    for one in using:
        if one.moves or one.place == "gradient":
            does = "moves the state by" if one.moves else "adds to the score, which a denoiser gives of"
            raise ValueError(f"{one.label} {does} Gaussian noise, and this process has another")


def generator_of(draws: Draws) -> Noise:
    """What a scheduler draws from, one for each row if each row has a seed."""
    if isinstance(draws, SeparateDraws):
        return [torch.Generator().manual_seed(one.one_integer(2**62)) for one in draws.each]
    return torch.Generator().manual_seed(derived_seed(draws.one_integer(2**62), draws.first))


def chosen(conditioning: Conditioning, sampling: Sampling, device: torch.device) -> Tensor | list[str] | None:
    """n classes, captions or sources, whichever the network takes; with guidance, never the class for "none"."""
    n, labels = sampling.n, sampling.labels
    if labels is not None and (conditioning.text is not None or conditioning.takes_source):
        raise ValueError(f"`labels={labels}`: {conditioning.name} takes no classes; leave it out")
    if sampling.sources is not None and not conditioning.takes_source:
        raise ValueError(f"`sources`: {conditioning.name} takes no source images; leave it out")
    if conditioning.text is not None:
        return conditioning.text.in_turn(sampling.prompts, n)
    if sampling.prompts:
        raise ValueError(f"`prompt`: {conditioning.name} takes no captions; leave it out")
    if conditioning.takes_source:
        if sampling.sources is None:
            raise ValueError(f"`sources`: {conditioning.name} is conditioned on source images: sample it from its run")
        return repeated(sampling.sources, n, device)
    if conditioning.label is not None:
        labelled = labels or list(range(conditioning.classes_of_data)) or None
        known = conditioning.null_class if sampling.needs_none else conditioning.num_classes
        total = conditioning.classes_of_data or known
        return in_turn(labelled, total, n, device)
    check_guidance(conditioning, sampling)
    if conditioning.own_source is not None and labels is None:
        noise = [part for _, part, _ in drawn(n, (conditioning.own_source.noise_dim,), n, source_seed(sampling.seed))]
        return conditioning.own_source(torch.cat(noise).to(device))
    classes = next((one.num_classes for one in sampling.using if one.num_classes is not None), None)
    if classes is not None:  # of a guide; the network is not given them
        return in_turn(labels, classes, n, device)
    if labels is not None:
        raise ValueError(f"`labels={labels}`: {conditioning.name} takes no classes; leave it out")
    return None


def check_guidance(conditioning: Conditioning, sampling: Sampling) -> None:
    """Raises ValueError for guidance of a network that is conditioned on nothing that could be left out."""
    asking = [one.label for one in sampling.interventions if one.needs_none]
    free = conditioning.label is None and not conditioning.takes_source
    if sampling.needs_none and free and not conditioning.knows_none:
        words = " ".join(asking)
        words = f"guidance={sampling.guidance}" if sampling.guidance != 1 else words
        raise ValueError(f"`{words}`: {conditioning.name} takes neither classes nor captions")


def shown(
    conditioning: Conditioning, data: ImageData, n: int, seed: int, device: torch.device
) -> Tensor | list[str] | None:
    """n conditions for the grids of a run: class after class, or captions or sources of the data."""
    if conditioning.text is not None:
        captions = data.captions(min(n, len(data)), seed) or [""]
        return [captions[i % len(captions)] for i in range(n)]
    if conditioning.own_source is not None:
        draws = Draws(seed, phase="sources", device=device)
        return conditioning.own_source(draws.normal((n, conditioning.own_source.noise_dim)))
    if conditioning.takes_source:
        sources = data.source_images(min(n, len(data)), seed)
        assert sources is not None
        return repeated(sources, n, device)
    return None if conditioning.label is None else (torch.arange(n) % int(data.num_classes or 1)).to(device)


def source_seed(seed: int | Sequence[int]) -> int | list[int]:
    """Of the noise of own sources, which is not that of the images."""
    return derived_seed(seed, "own source") if isinstance(seed, int) else [derived_seed(s, "own source") for s in seed]
