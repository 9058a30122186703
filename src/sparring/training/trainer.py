"""The alternating trainer: one rollout serves both players, every run is exact to resume and safe to kill."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch

from sparring.data import BatchStream, ImageData
from sparring.generators import DenoisingNetwork
from sparring.generators.lineage import fingerprint
from sparring.methods.method import Method
from sparring.networks.frozen import moving_tensors
from sparring.runs import RunFolder
from sparring.runs.choice import check_choice
from sparring.runs.classes import describe, make
from sparring.training import processes
from sparring.training.batches import Micro, micro_batches, worker_error
from sparring.training.ema import EMA
from sparring.training.interrupt import STOPPING, Interrupted, stop_signals
from sparring.training.networks import device_name, prepare_networks
from sparring.training.optimizer import AdamW, Player
from sparring.training.players import freeze as freeze_parts
from sparring.training.players import trained_by
from sparring.training.power_ema import PowerAverages
from sparring.training.progress import Progress
from sparring.training.publisher import EmaPublisher
from sparring.training.repeatable import repeatable
from sparring.training.sharding import gather, is_cut, shard
from sparring.training.state import (
    changing_tensors,
    check_frozen,
    checksums,
    collect_frozen,
    collect_state,
    load_frozen,
    load_state,
    strip_prefix,
)
from sparring.training.step import Precision, Step
from sparring.training.watch import Balance, Means, Watch


class Trainer:
    """Trains a method on a data set and keeps everything in a run folder.

    All randomness of a run is a function of (seed, step, row of the global batch): the same seed gives the same weights
    however the global batch is cut into processes and micro-batches, and a resumed run repeats nothing. (Not so if a
    loss relates the images of a micro-batch: SADM without `structure_batch`, ADT with `reference="unpaired"`.)

    Args:
        method: what to train.
        data: images to train on.
        out: run folder; it must be new, or hold the run that is resumed.
        steps: updates of the generator.
        batch_size: images per update, over all processes and micro-batches.
        accumulation: micro-batches per update and process; more need less memory and give the same result (see above).
        seed: of the order of the data and of all noise.
        generator_optimizer: optimiser of the generator.
        discriminator_optimizer: optimiser of the discriminator.
        discriminator_updates: discriminator updates per step; all but one draw rollouts of their own.
        discriminator_fresh_images: these also see real images of their own; a step then reads so many batches. Needs
            more than one update.
        discriminator_warmup_steps: the first steps of the run, in which only the discriminator learns; the generator,
            its parts and its average rest. They count as steps, and the generator's schedule begins after them.
        freeze: parts of the method that are not trained, by name, such as ["generator.net.time_embedding"].
        ema_decay: decay per update of the average that is sampled and shipped.
        ema_halflife_images: half-life of that average in images, instead of `ema_decay`.
        ema_warmup: let the average forget its start faster; for training from scratch. "cosine": its half-life rises
            from 0 along half a cosine until the last step.
        ema_snapshots: how often over the run two further averages are written, of which `sparring ema` makes one of any
            width afterwards; 0: never.
        precision: "bf16" or "fp16" run the networks under autocast; losses and the process stay in float32, and each
            player has a loss scale of its own in fp16.
        checkpoint_every: steps between checkpoints; 0: only at the end.
        keep_checkpoints: how many of the newest checkpoints stay.
        sample_every: steps between sample grids; 0: only at the end.
        num_samples: images in a grid, always from the same latents.
        log_every: steps between lines of the log.
        max_skipped: the run stops after this many steps in a row whose loss or gradient is not finite.
        data_workers: processes that read images; 0 reads in this one.
        tracker: also log numbers, settings and sample grids to a tracker of accelerate ("tensorboard", "wandb",
            "trackio" …), see `Tracking`; "none": only metrics.jsonl.
        config: written to config.yaml beside these settings (the resolved recipe).
        keep_best: also keep the checkpoint whose average has the lowest error (of denoising) on 256 held-out images (of
            the training set if it knows no holdout), measured at every checkpoint.
        discriminator_accuracy: let the discriminator rest in steps in which it is right more often than this.
        gradient_checkpointing: compute the generator's activations twice instead of keeping them; less memory.
        compile: run the generators through `torch.compile`; faster after a minute.
        deterministic: on a GPU, run kernels that give the same result every time, so that the same seed gives the same
            weights and a resumed run those of the whole one. PyTorch warns of those that have no such form.
        sharding: "fsdp2" spreads the generator, its moments and its average over the processes.
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
        generator_optimizer: AdamW = AdamW(),  # noqa: B008
        discriminator_optimizer: AdamW = AdamW(betas=(0.5, 0.999)),  # noqa: B008
        discriminator_updates: int = 1,
        discriminator_fresh_images: bool = False,
        discriminator_warmup_steps: int = 0,
        freeze: Sequence[str] = (),
        ema_decay: float = 0.999,
        ema_halflife_images: float | None = None,
        ema_warmup: bool | Literal["cosine"] = False,
        ema_snapshots: int = 0,
        precision: Precision = "fp32",
        checkpoint_every: int = 0,
        keep_checkpoints: int = 2,
        sample_every: int = 0,
        num_samples: int = 64,
        log_every: int = 20,
        max_skipped: int = 10,
        data_workers: int = 0,
        tracker: str | None = "tensorboard",
        config: dict[str, Any] | None = None,
        keep_best: bool = False,
        discriminator_accuracy: float | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        deterministic: bool = True,
        sharding: Literal["none", "fsdp2"] = "none",
    ):
        if not isinstance(data, ImageData):
            raise ValueError(
                f"`data` is a {type(data).__name__} and no data set of sparring: wrap a data set of torch as "
                "sparring.data.TorchData(dataset, num_classes=...)"
            )
        check_choice("fp32", "bf16", "fp16", precision=precision)
        check_choice("none", "fsdp2", sharding=sharding)
        positive = dict(steps=steps, accumulation=accumulation, discriminator_updates=discriminator_updates)
        positive |= dict(keep_checkpoints=keep_checkpoints, num_samples=num_samples, log_every=log_every)
        positive |= dict(max_skipped=max_skipped)
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"`{name}={value}` must be at least 1")
        for name, value in dict(checkpoint_every=checkpoint_every, sample_every=sample_every).items():
            if value < 0:
                raise ValueError(f"`{name}={value}` must be 0 (only at the end) or more")
        if data_workers < 0:
            raise ValueError(f"`data_workers={data_workers}` must be 0 or more")
        from sparring.training.tracking import Tracking, accelerator_with

        self.accelerator = accelerator_with(tracker, Path(out))
        processes.destroy_group_at_exit()
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.device = self.accelerator.device
        self.main = self.accelerator.is_main_process
        self.data = data
        self.steps = steps
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.seed = seed
        self.checkpoint_every = checkpoint_every
        self.keep_checkpoints = keep_checkpoints
        self.keep_best = keep_best
        self.sample_every = sample_every
        self.log_every = log_every
        self.max_skipped = max_skipped
        self.data_workers = data_workers
        self.deterministic = deterministic
        self.folder = RunFolder(out)
        self.tracking = Tracking(self.accelerator, self.folder.path)
        self.config = config or {"method": {"class_path": f"{type(method).__module__}.{type(method).__qualname__}"}}
        self.config.setdefault("trainer", dict(steps=steps, batch_size=batch_size, seed=seed))

        BatchStream(data.order(), batch_size, seed, world=self.world, accumulation=accumulation)  # checks the sizes
        seen = batch_size // (self.world * accumulation)
        method.generator.check_batch(seen, batch_size)
        method.check(seen)
        if discriminator_accuracy is not None and method.discriminator is None:
            raise ValueError(
                f"`discriminator_accuracy={discriminator_accuracy}`: {type(method).__name__} has no discriminator"
            )
        if not 0 <= discriminator_warmup_steps < steps:
            raise ValueError(
                f"`discriminator_warmup_steps={discriminator_warmup_steps}` must be 0 or more and below "
                f"`steps={steps}`; a recipe whose discriminator learns first gives it, and 0 leaves it out"
            )
        if (discriminator_warmup_steps or discriminator_fresh_images) and method.discriminator is None:
            name = "discriminator_warmup_steps" if discriminator_warmup_steps else "discriminator_fresh_images"
            raise ValueError(f"`{name}`: {type(method).__name__} has no discriminator; leave it out")
        if discriminator_fresh_images and discriminator_updates == 1:
            raise ValueError(
                "`discriminator_fresh_images=true` with `discriminator_updates=1`: the one update of a step has the "
                "generator's images; leave it out, or give more updates"
            )
        if method.updates_per_rollout < 1:
            raise ValueError(f"`updates_per_rollout={method.updates_per_rollout}` must be at least 1")
        method.size_for(data)
        check_classes(method, data)
        freeze_parts(method, freeze)
        self.method = method.to(self.device).train()
        method.steps = steps
        method.generator.check(data)
        learning = steps - discriminator_warmup_steps
        ema_settings = dict(decay=ema_decay, halflife_images=ema_halflife_images, warmup=ema_warmup, steps=learning)
        processes.copy_from_first([*method.parameters(), *method.buffers()])
        copied = method.generator.copied()
        self.ema = EMA(method.generator, batch_size=batch_size, copied=copied, **ema_settings)  # type: ignore[arg-type]
        self.powers = PowerAverages(method.generator, ema_snapshots, steps, self.folder.path / "ema", copied)
        if ema_snapshots and method.jumps:
            raise ValueError(
                f"`ema_snapshots={ema_snapshots}`: {type(method).__name__} may go back to an earlier model, and "
                "averages over the whole run would hold what it left; leave it out"
            )
        if ema_snapshots and sharding != "none":
            raise ValueError(f"`ema_snapshots={ema_snapshots}`: not with `sharding={sharding}`; leave it out")
        if ema_snapshots and discriminator_warmup_steps:
            raise ValueError(
                f"`ema_snapshots={ema_snapshots}`: their profile counts updates from step 0, and with "
                f"`discriminator_warmup_steps={discriminator_warmup_steps}` there are none at first; leave one out"
            )
        self.publisher = EmaPublisher(self.ema.module, method, data, self.folder, seed, num_samples, self.main)
        if keep_best:
            self.publisher.errors(1)  # is there such a number?
        if sharding == "fsdp2":
            self.publisher.will_be_sharded()
            networks = (method.generator.network_to_shard(), self.ema.module.network_to_shard())
            shard(*networks, self.device, precision)
            self.ema.follow(method.generator)
        if sharding == "fsdp2" and moving_tensors(method):
            kind = type(method).__name__
            raise ValueError(f"`sharding=fsdp2`: {kind} keeps a moving copy, which cannot follow shares")
        scaled = precision == "fp16"
        trained = trained_by(method)
        warmup = discriminator_warmup_steps
        optimizers = [settings.without(freeze) for settings in (generator_optimizer, discriminator_optimizer)]
        self.generator = Player("generator", trained["generator"], optimizers[0], steps, scaled, warmup)
        self.players = [self.generator]
        if method.discriminator is not None:
            self.players.append(Player("discriminator", trained["discriminator"], optimizers[1], steps, scaled))
        self.balance = None if discriminator_accuracy is None else Balance(discriminator_accuracy)
        self.alternate = Step(
            method,
            *self.players,
            batch_size=batch_size,
            seed=seed,
            precision=precision,
            discriminator_updates=discriminator_updates,
            fresh_images=discriminator_fresh_images,
            warmup_steps=discriminator_warmup_steps,
            balance=self.balance,
        )
        prepare_networks(method, gradient_checkpointing=gradient_checkpointing, compile=compile)
        self.means = Means()
        self.watch = Watch()
        self.step = 0
        self.saved = -1
        self.new = False
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.images_before = 0
        self.frozen_digest = ""
        self.frozen_checksums: dict[str, int] = {}
        self.stop_signal: int | None = None
        self.progress = Progress(steps, 0, visible=False)

    # -- a run ---------------------------------------------------------------------------------------------------------

    def fit(self, resume: bool = False, resume_step: int | None = None) -> Path:
        """Trains to the last step and returns the run folder.

        Args:
            resume: go on with the run in `out` from its newest checkpoint.
            resume_step: go on from this checkpoint instead; later ones are dropped.

        Raises:
            ValueError: the folder holds another run; nothing to resume; damaged checkpoint; too many skipped steps;
                something could not be written.
            Interrupted: a signal asked to stop; the checkpoint is written.
        """
        try:
            with repeatable(self.deterministic and self.device.type == "cuda"):
                if resume or resume_step is not None:
                    self.resume(resume_step)
                else:
                    self.start()
                with stop_signals(self.stop), Progress(self.steps, self.step, self.main) as self.progress:
                    self.loop()
        except (ValueError, RuntimeError) as error:
            if self.new and self.step == 0 and isinstance(error, ValueError):
                self.folder.discard()
            told = worker_error(error)
            if told is None:
                raise
            raise ValueError(told) from error.with_traceback(None)  # which would keep the workers
        finally:
            self.tracking.finish()
            self.folder.unlock()
        return self.folder.path

    def start(self) -> None:
        """Makes the folder and everything that is made once; config.yaml comes last and makes it a run."""
        if self.main:
            self.folder.create()
            self.new = True
        self.accelerator.wait_for_everyone()
        if self.main and "data" not in self.config and (made_of := description_of(self.data)) is not None:
            self.config["data"] = made_of
        self.tracking.start(self.config)
        self.prepare()
        if self.main:
            self.folder.save_frozen(collect_frozen(self.method))
            self.frozen_digest = self.folder.frozen_digest()
        self.frozen_checksums = checksums(self.method)
        self.publisher.ship()
        self.draw()
        if self.main:
            hardware: dict[str, Any] = dict(processes=self.world, device=device_name(self.device))
            hardware |= dict(sample_steps=self.method.sample_steps)
            if self.data.class_names is not None:
                hardware["class_names"] = list(self.data.class_names)
            if self.method.generator.ancestors:
                hardware["ancestors"] = list(self.method.generator.ancestors)
            if self.method.beside is not None:
                hardware["beside"] = fingerprint(self.method.beside)
            hardware |= dict(classes=self.data.num_classes, image_shape=list(self.data.image_shape))
            self.folder.write_config(self.config, **hardware, data=self.data.fingerprint())

    def prepare(self) -> None:
        """Makes what is made of the data before the first step."""
        self.method.generator.prepare(self.data, self.seed)
        self.method.prepare(self.data, self.seed)
        everything = [*self.method.parameters(), *self.method.buffers(), *self.ema.module.state_dict().values()]
        processes.copy_from_first(everything)
        self.count_images_from(0)

    def resume(self, step: int | None) -> None:
        """Puts the newest checkpoint back, or that of a step, or the start if there is none yet."""
        config = self.folder.read_config()
        if "data" in (before := config.get("made_with") or {}):
            self.data.check_fingerprint(before["data"])
        if self.main:
            self.folder.lock()
        loaded = self.folder.load_checkpoint(step)
        if loaded is None:  # nothing else has kept what was made before the first step
            self.prepare()
        load_frozen(self.method, self.folder.load_frozen())
        self.frozen_digest = self.folder.frozen_digest()
        if loaded is not None:
            if loaded[1].get("frozen", self.frozen_digest) != self.frozen_digest:
                raise ValueError(f"{self.folder.frozen} is not what was written when the run started: it cannot go on")
            load_state(self, *loaded)
            self.saved = self.step
        if self.step > self.steps:
            raise ValueError(
                f"`trainer.steps={self.steps}`: the run is at step {self.step}; give more, or an earlier checkpoint "
                "with --resume_step"
            )
        processes.check_agreement(changing_tensors(self.method))
        self.frozen_checksums = checksums(self.method)
        if self.main:
            self.folder.forget_after(self.step)
            self.powers.forget_after(self.step)
            before |= {"sample_steps": self.method.sample_steps}
            changed = config | self.config | {"made_with": before}
            shipped, goes_on = self.ema.module, loaded is not None and self.step < self.steps
            if goes_on and isinstance(shipped, DenoisingNetwork) and not is_cut(shipped):
                known = dict.fromkeys([fingerprint(shipped), *before.get("ancestors", [])])
                changed["made_with"] = before | {"ancestors": list(known)}
            self.folder.replace_config(changed)
        self.tracking.start(config | self.config)
        self.publisher.ship()
        self.accelerator.wait_for_everyone()

    def loop(self) -> None:
        self.method.train()
        with closing(self.micro_batches()) as windows:
            while self.step < self.steps and not self.alternate.stop_agreed:
                started = time.perf_counter()
                self.train_step(next(windows))
                elapsed = time.perf_counter() - started
                self.seconds += elapsed
                self.step += 1
                if self.main and self.powers.due(self.step):
                    self.powers.write(self.step, set(strip_prefix("generator.", changing_tensors(self.method))))
                if self.step % self.log_every == 0 or self.step == self.steps:
                    self.log()
                self.progress.advance(self.batch_size / elapsed)
                if due(self.step, self.sample_every) or self.step == self.steps:
                    self.draw()
                    if measures := self.publisher.measures():
                        self.write({f"measures/{name}": value for name, value in measures.items()})
                if due(self.step, self.checkpoint_every) or self.step == self.steps:
                    self.save()
        if self.step < self.steps:
            self.save()
            raise Interrupted(self.stop_signal or STOPPING[-1], self.step)

    def train_step(self, window: list[Micro]) -> None:
        """Updates both players and the average, or counts the step as skipped."""
        taken, noted = self.alternate(window, self.step)
        if not taken:
            self.skip([name for name, value in noted if not torch.isfinite(torch.as_tensor(value)).all()])
            return
        if self.alternate.generator_learns:
            self.ema.update(0.0 if self.method.jumped else None)
            self.method.jumped = False
            self.powers.update()
        self.means.add(noted)
        self.skipped_in_a_row = 0

    def micro_batches(self) -> Generator[list[Micro], None, None]:
        """The micro-batches of each step, from the current one on, with their rows of the global batch."""
        sizes = dict(rank=self.rank, world=self.world, accumulation=self.accumulation)
        batches = self.alternate.batches
        stream = BatchStream(self.data.order(), self.batch_size, self.seed, self.step * batches, **sizes)
        return micro_batches(self.data, stream, self.device, self.data_workers, batches)

    def stop(self, number: int) -> None:
        """Ends the run after the current step, with a checkpoint; for signal handlers."""
        self.stop_signal = number
        self.alternate.stop_asked = True

    def skip(self, culprits: list[str]) -> None:
        """Counts a step in which nothing was updated, and ends the run after too many of them in a row."""
        self.skipped += 1
        scales = [player.scaler.get_scale() for player in self.players if player.scaler is not None]
        if scales and min(scales) >= 1:  # fp16: the loss scale was too high, and has just been halved
            return
        self.skipped_in_a_row += 1
        what = ", ".join(dict.fromkeys(culprits)) or "the loss"
        if self.skipped_in_a_row == 1:
            self.warn(self.step + 1, f"step {self.step + 1} was left out: {what} was not finite")
        if self.skipped_in_a_row >= self.max_skipped:
            raise ValueError(
                f"{self.skipped_in_a_row} steps in a row up to step {self.step + 1} had a loss or gradient that is not "
                f"finite ({what}); the last checkpoint is whole: lower the learning rate or look for NaN in the images"
            )

    # -- what is written -----------------------------------------------------------------------------------------------

    def log(self) -> None:
        """One line of means to metrics.jsonl, the tracker and the screen; a warning if a player wins or dies."""
        line = self.means.line() | {"skipped": self.skipped, "seconds_per_step": self.seconds / self.step}
        warning = self.watch(line)
        self.write(line)
        self.progress.show(line)
        if warning:
            self.warn(self.step, warning)

    def write(self, line: dict[str, float]) -> None:
        if self.main:
            self.folder.log({"step": self.step} | line)
            self.tracking.log(line, self.step)

    def draw(self) -> None:
        """Writes a picture of samples, also for the tracker."""
        self.publisher.draw(self.step)
        if self.main:
            self.tracking.picture(self.folder.grid(self.step), self.step)

    def warn(self, step: int, text: str) -> None:
        """Says something once, on the screen and in the log."""
        if self.main:
            self.folder.log({"step": step, "warning": text})
            self.progress.say(f"warning: {text}")

    def save(self) -> None:
        """Writes a checkpoint, and the average as a pipeline."""
        if self.saved == self.step:
            return
        check_frozen(self.method, self.frozen_checksums)
        groups, state = collect_state(self)
        processes.check_agreement({f"{group}/{k}": v for group, tensors in groups.items() for k, v in tensors.items()})
        if self.keep_best:
            state["score"] = self.publisher.error()
            self.write({"validation/diffusion": state["score"]})
        groups = gather(groups, keep=self.main)
        if self.main:
            state["frozen"] = self.frozen_digest
            self.folder.save_checkpoint(self.step, groups, state, self.keep_checkpoints, self.keep_best)
        self.publisher.ship()
        self.accelerator.wait_for_everyone()
        self.saved = self.step

    # -- what a step costs ---------------------------------------------------------------------------------------------

    def images_so_far(self) -> int:
        """Images passed through any generator of the method while training, over all processes."""
        return self.images_before + self.world * sum(generator.images_seen for generator in self.method.generators())

    def count_images_from(self, number: int) -> None:
        """Counts on from a number; nothing of what was seen until now counts."""
        self.images_before = number
        for generator in self.method.generators():
            generator.images_seen = 0


def check_classes(method: Method, data: ImageData) -> None:
    """Raises ValueError for a discriminator of fewer classes than the images have."""
    known = None if method.discriminator is None else getattr(method.discriminator, "num_classes", None)
    if isinstance(known, int) and data.num_classes is not None and known < data.num_classes:
        kind = type(method.discriminator).__name__
        raise ValueError(f"`num_classes={known}` of {kind}: the images have {data.num_classes} classes")


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def description_of(data: ImageData) -> dict[str, Any] | None:
    """Class and arguments of a data set that a program made, if they make the same one again."""
    description = describe(data)
    if description is None:
        return None
    try:
        twin = make(description, kind=type(data))
    except (ValueError, OSError):
        return None
    same = twin.name == data.name and twin.image_shape == data.image_shape
    return description if same and twin.fingerprint() == data.fingerprint() else None
