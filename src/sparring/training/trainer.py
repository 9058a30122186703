"""The alternating trainer: one rollout serves both players, every run is exact to resume and safe to kill."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sparring.data import Batch, BatchStream, Draws, ImageData, derived_seed
from sparring.denoiser import Denoiser
from sparring.methods import Method
from sparring.pipeline import save_pipeline
from sparring.rollout import generate
from sparring.training.ema import EMA
from sparring.training.folder import RunFolder
from sparring.training.optimizer import AdamW, Player
from sparring.training.progress import Progress

Micro = tuple[Tensor, Tensor | None, slice]


class Trainer:
    """Trains a method on a data set and keeps everything in a run folder.

    All randomness of a run is a function of (seed, step, row of the global batch): the same seed gives the same weights
    however the global batch is cut into processes and micro-batches, and a resumed run repeats nothing.

    Args:
        method: what to train.
        data: images to train on.
        out: run folder; it must be new, or hold the run that is resumed.
        steps: updates of the generator.
        batch_size: images per update, over all processes and micro-batches.
        accumulation: micro-batches per update and process; more need less memory and give the same result.
        seed: of the order of the data and of all noise.
        generator_optimizer: optimiser of the generator.
        discriminator_optimizer: optimiser of the discriminator.
        discriminator_updates: discriminator updates per step; those before the last draw rollouts of their own.
        ema_decay: decay per update of the average that is sampled and shipped.
        ema_halflife_images: half-life of that average in images, instead of `ema_decay`.
        ema_warmup: let the average forget its start faster; for training from scratch.
        precision: "bf16" runs the networks under autocast; losses and the process stay in float32.
        checkpoint_every: steps between checkpoints; 0: only at the end.
        keep_checkpoints: how many of the newest checkpoints stay.
        sample_every: steps between sample grids; 0: only at the end.
        num_samples: images in a grid, always from the same latents.
        log_every: steps between lines of the log.
        max_skipped: the run stops after this many steps in a row whose loss or gradient is not finite.
        data_workers: processes that read images; 0 reads in this one.
        tracker: also log to a tracker of accelerate ("tensorboard", "wandb", "trackio" …); None: metrics.jsonl alone.
        config: written to config.yaml beside these settings (the resolved recipe).
    """

    def __init__(
        self,
        method: Method,
        data: ImageData,
        *,
        out: str | Path,
        steps: int,
        batch_size: int = 128,
        accumulation: int = 1,
        seed: int = 0,
        generator_optimizer: AdamW = AdamW(),
        discriminator_optimizer: AdamW = AdamW(betas=(0.5, 0.999)),
        discriminator_updates: int = 1,
        ema_decay: float = 0.999,
        ema_halflife_images: float | None = None,
        ema_warmup: bool = False,
        precision: Literal["fp32", "bf16"] = "fp32",
        checkpoint_every: int = 0,
        keep_checkpoints: int = 2,
        sample_every: int = 0,
        num_samples: int = 64,
        log_every: int = 20,
        max_skipped: int = 10,
        data_workers: int = 0,
        tracker: str | None = "tensorboard",
        config: dict[str, Any] | None = None,
    ):
        positive = dict(steps=steps, accumulation=accumulation, discriminator_updates=discriminator_updates)
        positive |= dict(keep_checkpoints=keep_checkpoints, num_samples=num_samples, log_every=log_every)
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"`{name}={value}` must be at least 1")
        from accelerate import Accelerator

        self.accelerator = Accelerator(
            mixed_precision="bf16" if precision == "bf16" else "no", log_with=tracker, project_dir=str(out)
        )
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.device = self.accelerator.device
        self.data = data
        self.steps = steps
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.seed = seed
        self.discriminator_updates = discriminator_updates
        self.checkpoint_every = checkpoint_every
        self.keep_checkpoints = keep_checkpoints
        self.sample_every = sample_every
        self.num_samples = num_samples
        self.log_every = log_every
        self.max_skipped = max_skipped
        self.data_workers = data_workers
        self.folder = RunFolder(out)
        self.config = config or {"method": {"class_path": f"{type(method).__module__}.{type(method).__qualname__}"}}
        self.config.setdefault("trainer", dict(steps=steps, batch_size=batch_size, seed=seed))

        BatchStream(len(data), batch_size, seed, world=self.world, accumulation=accumulation)  # checks the sizes
        method.check(batch_size // (self.world * accumulation))
        method.generator.check(data.image_shape)
        if method.generator.conditional and data.num_classes is None:
            raise ValueError(f"the network is class-conditional and `{data.name}` has no labels: give labelled images")
        self.method = method.to(self.device)
        self.frozen_names = frozen_names(method)
        self.generator = Player("generator", method.generator, generator_optimizer, steps)
        self.discriminator = (
            Player("discriminator", method.discriminator, discriminator_optimizer, steps)
            if method.discriminator is not None
            else None
        )
        ema_settings = dict(decay=ema_decay, halflife_images=ema_halflife_images, warmup=ema_warmup)
        self.ema = EMA(method.generator, batch_size=batch_size, **ema_settings)  # type: ignore[arg-type]
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0
        self.images_seen = 0
        self.stop_signal: int | None = None

    # -- a run ---------------------------------------------------------------------------------------------------------

    def fit(self, resume: bool = False, resume_step: int | None = None) -> Path:
        """Trains to the last step and returns the run folder.

        Args:
            resume: go on with the run in `out` from its newest checkpoint.
            resume_step: go on from this checkpoint instead; later ones are dropped.

        Raises:
            ValueError: the folder holds another run; nothing to resume; damaged checkpoint; too many skipped steps.
        """
        if resume or resume_step is not None:
            self.resume(resume_step)
        else:
            self.start()
        self.accelerator.init_trackers("tensorboard")
        with self.interruptible(), Progress(self.steps, self.step, self.accelerator.is_main_process) as progress:
            self.loop(progress)
        self.accelerator.end_training()
        return self.folder.path

    def start(self) -> None:
        if self.accelerator.is_main_process:
            self.folder.create(self.config)
        self.accelerator.wait_for_everyone()
        self.method.prepare(self.data)
        self.images_seen = 0
        for denoiser in self.method.denoisers():
            denoiser.images_seen = 0
        if self.accelerator.is_main_process:
            self.folder.save_frozen(self.frozen_state())
            save_pipeline(self.ema.module, self.folder.pipeline, self.method.sampler)
        self.save_grid()

    def resume(self, step: int | None) -> None:
        self.folder.read_config()
        loaded = self.folder.load_checkpoint(step)
        if loaded is None and not self.folder.frozen.is_file():
            self.method.prepare(self.data)
        self.load_frozen()
        if loaded is not None:
            self.load_state(*loaded)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.folder.forget_after(self.step)

    def loop(self, progress: Progress) -> None:
        windows = self.windows()
        meter = Meter()
        while self.step < self.steps and self.stop_signal is None:
            started = time.perf_counter()
            statistics = self.train_step(next(windows))
            elapsed = time.perf_counter() - started
            self.seconds += elapsed
            meter.add(statistics)
            self.step += 1
            if self.step % self.log_every == 0 or self.step == self.steps:
                line = meter.line() | {"skipped": self.skipped, "seconds_per_step": self.seconds / self.step}
                self.write_log(line)
                progress.show(line)
            progress.advance(self.batch_size / elapsed)
            if due(self.step, self.sample_every) or self.step == self.steps:
                self.save_grid()
            if due(self.step, self.checkpoint_every) or self.step == self.steps:
                self.save()
        if self.stop_signal is not None and self.step < self.steps:
            self.save()
            raise Interrupted(self.stop_signal, self.step)

    def windows(self) -> Iterator[list[Micro]]:
        """The micro-batches of each step, from the current one on, with their rows of the global batch."""
        stream = BatchStream(
            len(self.data),
            self.batch_size,
            self.seed,
            self.step,
            rank=self.rank,
            world=self.world,
            accumulation=self.accumulation,
        )
        loader: Any = DataLoader(
            self.data,
            batch_size=None,
            sampler=stream,  # type: ignore[arg-type]
            num_workers=self.data_workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.data_workers > 0,
        )
        batches = iter(loader)
        while True:
            yield [(*next(batches), stream.rows(micro)) for micro in range(self.accumulation)]

    # -- a step --------------------------------------------------------------------------------------------------------

    def train_step(self, window: list[Micro]) -> dict[str, Tensor]:
        """One update of both players; of neither if a loss or a gradient is not finite."""
        self.method.train()
        self.method.step = self.step
        self.method.statistics = {}
        statistics: dict[str, Tensor] = {}
        before = Snapshot(self.discriminator) if self.discriminator else None
        fake = None
        if self.discriminator:
            for update in range(self.discriminator_updates):
                last = update == self.discriminator_updates - 1
                fake, finite = self.discriminator_step(window, update, last, statistics)
                if not finite:
                    before.restore()  # type: ignore[union-attr]
                    return self.skip(statistics)
        if not self.generator_step(window, fake, statistics):
            if before is not None:
                before.restore()
            return self.skip(statistics)
        self.ema.update()
        self.skipped_in_a_row = 0
        statistics |= {f"statistics/{name}": value for name, value in self.method.statistics.items()}
        return statistics

    skipped_in_a_row = 0

    def skip(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Counts a step in which nothing was updated, and stops the run after too many of them in a row."""
        for player in self.players():
            player.drop_gradients()
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.max_skipped:
            culprits = [name for name, value in statistics.items() if not torch.isfinite(value)]
            raise ValueError(
                f"{self.skipped_in_a_row} steps in a row up to step {self.step} had a loss or gradient that is not "
                f"finite ({', '.join(culprits) or 'gradient'}); the last checkpoint is whole: lower the learning rate "
                "or look for NaN in the images"
            )
        return {}

    def discriminator_step(
        self, window: list[Micro], update: int, last: bool, statistics: dict[str, Tensor]
    ) -> tuple[Any, bool]:
        """One update of the discriminator; returns the fake whose graph the generator goes on with, where it can."""
        assert self.discriminator is not None
        keep_graph = last and len(window) == 1
        fake = None
        total = torch.zeros((), device=self.device)
        for micro in window:
            with torch.set_grad_enabled(keep_graph):
                fake = self.rollout(micro, update if not last else -1)
            batch = self.batch(micro, f"discriminator {update}")
            with self.accelerator.autocast():
                losses = self.method.discriminator_loss(batch, fake)
            total += self.backward(self.discriminator, losses, len(window), statistics)
        if not self.sync_and_clip(self.discriminator, total, statistics):
            return None, False
        self.discriminator.update(self.step)
        after_update = getattr(self.method.discriminator, "after_update", None)
        if after_update is not None:
            after_update()
        return (fake if keep_graph else None), True

    def generator_step(self, window: list[Micro], fake: Any, statistics: dict[str, Tensor]) -> bool:
        """One update of the generator, with the fake of the discriminator's update or with the same one made again."""
        total = torch.zeros((), device=self.device)
        with frozen(self.discriminator):
            for micro in window:
                shared = fake if fake is not None else self.rollout(micro, -1)
                batch = self.batch(micro, "generator")
                with self.accelerator.autocast():
                    losses = self.method.generator_loss(batch, shared)
                total += self.backward(self.generator, losses, len(window), statistics)
        if not self.sync_and_clip(self.generator, total, statistics):
            return False
        self.generator.update(self.step)
        return True

    def rollout(self, micro: Micro, update: int) -> Any:
        """The fake of a micro-batch; update -1 is the one that both players share."""
        torch.manual_seed(derived_seed(self.seed, self.step, f"dropout {update}", micro[2].start))
        with self.accelerator.autocast():
            return self.method.rollout(self.batch(micro, f"rollout {update}"))

    def batch(self, micro: Micro, phase: str) -> Batch:
        """A micro-batch on the device, with the random numbers of one phase of this step."""
        images, labels, rows = micro
        draws = Draws(self.seed, step=self.step, phase=phase, rows=rows, total=self.batch_size, device=self.device)
        labels = None if labels is None else labels.to(self.device, non_blocking=True)
        return Batch(images.to(self.device, non_blocking=True), labels, draws)

    def backward(self, player: Player, losses: Any, num_micro: int, statistics: dict[str, Tensor]) -> Tensor:
        """Adds the gradient of the losses to the player's parameters and to nobody else's; returns their sum."""
        now = {name: value for name, value in losses.items() if not callable(value)}
        later = {name: value for name, value in losses.items() if callable(value)}
        losses.clear()
        total = torch.zeros((), device=self.device)
        for group in [now, *({name: value} for name, value in later.items())]:
            if not group:
                continue
            with self.accelerator.autocast():
                values = {name: (value() if callable(value) else value).float() for name, value in group.items()}
            group.clear()
            loss = torch.stack(list(values.values())).sum() / num_micro
            loss.backward(inputs=player.parameters)
            total += loss.detach()
            for name, value in values.items():
                key = f"{player.role}/{name}"
                statistics[key] = statistics.get(key, 0) + value.detach() / num_micro  # type: ignore[assignment]
            del loss, values
        return total

    def sync_and_clip(self, player: Player, total: Tensor, statistics: dict[str, Tensor]) -> bool:
        """Averages the gradients over the processes, clips them, and says whether loss and gradient are finite."""
        if self.world > 1:
            for parameter in player.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch._utils._flatten_dense_tensors([p.grad for p in player.parameters])
            dist.all_reduce(flat)
            flat /= self.world
            parts = torch._utils._unflatten_dense_tensors(flat, [p.grad for p in player.parameters])
            for parameter, part in zip(player.parameters, parts, strict=True):
                parameter.grad.copy_(part)  # type: ignore[union-attr]
            dist.all_reduce(total)
        norm = player.clip()
        statistics[f"gradient_norm/{player.role}"] = norm
        return bool(torch.isfinite(norm + total))

    def players(self) -> list[Player]:
        return [self.generator] + ([self.discriminator] if self.discriminator else [])

    # -- what is written -----------------------------------------------------------------------------------------------

    def write_log(self, line: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.folder.log({"step": self.step} | line)
            self.accelerator.log(line, step=self.step)

    def save_grid(self) -> None:
        """Samples of the average, from the same latents every time, as a picture."""
        if not self.accelerator.is_main_process:
            return
        draws = Draws(self.seed, phase="samples")
        n = self.num_samples
        latents = draws.normal((n, *self.data.image_shape)).to(self.device)
        labels = None
        if self.ema.module.conditional:
            labels = (torch.arange(n) % int(self.data.num_classes or 1)).to(self.device)
        scheduler = self.ema.module.process.scheduler(self.method.sampler, self.ema.module.prediction)
        noise = torch.Generator(self.device).manual_seed(self.seed)
        images = generate(
            self.ema.module, scheduler, self.method.sample_steps, latents=latents, labels=labels, generator=noise
        )
        self.folder.save_grid(self.step, images)

    def save(self) -> None:
        """Writes a checkpoint and the pipeline of the average."""
        tensors, state = self.state()
        if self.accelerator.is_main_process:
            self.folder.save_checkpoint(self.step, tensors, state, self.keep_checkpoints)
            save_pipeline(self.ema.module, self.folder.pipeline, self.method.sampler)
        self.accelerator.wait_for_everyone()

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that a resumed run needs, by role. Random numbers need none: they are a function of the step."""
        changing = {k: v for k, v in self.method.state_dict().items() if k not in self.frozen_names}
        tensors = {
            "generator": under("generator.net.", changing),
            "ema": {k: v for k, v in self.ema.module.net.state_dict().items() if f"generator.net.{k}" in changing},
            "discriminator": under("discriminator.", changing),
            "method": {k: v for k, v in changing.items() if not k.startswith(("generator.", "discriminator."))},
        }
        tensors |= {f"optimizer_{player.role}": player.state() for player in self.players()}
        state = dict(step=self.step, skipped=self.skipped, seconds=self.seconds, images_seen=self.images_so_far())
        state |= dict(network_calls=self.images_so_far() / self.batch_size, ema_updates=self.ema.updates)
        state |= dict(batch_size=self.batch_size, seed=self.seed, world=self.world, accumulation=self.accumulation)
        return tensors, state

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        for name in ("seed", "batch_size"):
            if state[name] != getattr(self, name):
                raise ValueError(f"`{name}={getattr(self, name)}`: the run was started with {state[name]}")
        loaded = {f"generator.net.{k}": v for k, v in tensors["generator"].items()}
        loaded |= {f"discriminator.{k}": v for k, v in tensors.get("discriminator", {}).items()}
        loaded |= tensors.get("method", {})
        load_some(self.method, loaded)
        load_some(self.ema.module.net, tensors["ema"])
        for player in self.players():
            player.load_state(tensors[f"optimizer_{player.role}"])
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        self.images_seen, self.ema.updates = state["images_seen"], state["ema_updates"]
        for denoiser in self.method.denoisers():
            denoiser.images_seen = 0

    def images_so_far(self) -> int:
        """Images passed through any denoiser of the method while training, over all processes."""
        return self.images_seen + self.world * sum(d.images_seen for d in self.method.denoisers())

    def frozen_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.method.state_dict().items() if k in self.frozen_names}

    def load_frozen(self) -> None:
        tensors = self.folder.load_frozen()
        for name, tensor in tensors.items():  # generated data sets are empty until then
            owner, _, leaf = name.rpartition(".")
            getattr(self.method.get_submodule(owner), leaf).data = tensor.to(self.device)

    # -- signals -------------------------------------------------------------------------------------------------------

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the current step, with a checkpoint."""

        def stop(number: int, _: Any) -> None:
            self.stop_signal = number

        try:
            old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class Interrupted(Exception):
    """The run was asked to stop by a signal and has written its checkpoint."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; go on with --resume")
        self.exit_code = 128 + number


class Snapshot:
    """A player's parameters, buffers and moments before an update, to undo it."""

    def __init__(self, player: Player):
        self.player = player
        self.tensors = [t for t in player.module.state_dict().values()]
        self.tensors = [*player.parameters, *player.module.buffers()]
        self.moments = player.state()
        self.copies = [t.detach().clone() for t in self.tensors]
        self.moment_copies = {name: t.clone() for name, t in self.moments.items()}

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, copy in zip(self.tensors, self.copies, strict=True):
            tensor.copy_(copy)
        self.player.optimizer.state.clear()
        self.player.load_state(self.moment_copies)


class Meter:
    """Means of the statistics since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, statistics: dict[str, Tensor]) -> None:
        for name, value in statistics.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()  # type: ignore[assignment]
            self.counts[name] = self.counts.get(name, 0) + 1

    def line(self) -> dict[str, float]:
        means = {name: float(total / self.counts[name]) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


@contextmanager
def frozen(player: Player | None) -> Iterator[None]:
    """Takes the gradient from a player's parameters while its opponent is updated."""
    parameters = player.parameters if player else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def frozen_names(method: nn.Module) -> set[str]:
    """Names in the state dict of what never changes: parameters without gradient, and buffers of modules that hold
    nothing else."""
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    names = {name for name, p in method.named_parameters() if id(p) not in trained}
    for prefix, module in method.named_modules():
        parameters = list(module.parameters())
        if parameters and not any(id(p) in trained for p in parameters) and not module.training:
            names |= {f"{prefix}.{name}" for name, _ in module.named_buffers()}
    return names & set(method.state_dict())


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_some(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads tensors that are part of a module's state; unknown names and other shapes are errors."""
    try:
        unknown = module.load_state_dict(tensors, strict=False).unexpected_keys
    except RuntimeError as error:
        raise ValueError(f"checkpoint of another network ({str(error).splitlines()[-1].strip()})") from None
    if unknown:
        raise ValueError(f"checkpoint of another network: it holds {unknown[0]!r}")


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def ema_denoiser(trainer: Trainer) -> Denoiser:
    """The average that a trainer ships."""
    return trainer.ema.module
