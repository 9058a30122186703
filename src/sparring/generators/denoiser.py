"""A denoiser: what is trained, sampled and saved as a network that sees through noise."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.generators.condition import Condition, select_rows
from sparring.generators.denoising_network import DenoisingNetwork
from sparring.generators.drawing import check_guidance, chosen, draw, draw_grid, generate, walk_of
from sparring.generators.generator import Generator
from sparring.generators.merging import lora_weights, merged_network
from sparring.generators.own import kernel_settings, write_own
from sparring.generators.pipeline import scheduler_settings, write_pipeline
from sparring.generators.prediction import Prediction
from sparring.generators.predictor import check_moves
from sparring.generators.sampling import Sampling
from sparring.generators.settings import check_size
from sparring.generators.trial import trial
from sparring.networks.modes import checkpointed
from sparring.process import FlowBySize

IMAGES_TO_FIT = 20000  # a start density, at most (our choice)


class Denoiser(DenoisingNetwork, Generator):
    """A network, its process and its prediction type: called as `denoiser(x_t, t, condition)` it gives a `Prediction`.

    The network is any of: diffusers' UNet2DModel or DiTTransformer2DModel; an MLP, for points; a module called as
    `net(x, time)`; or one with an argument for labels too (class_labels, labels, label or y); or, with `text`, the
    network of a text-to-image pipeline; or one with an argument `source`, for the image that it is conditioned on. It
    returns a tensor, a tuple, or something with `.sample`; of 2C channels (a learned variance) the first C are kept.
    Labels given to a network without classes are not passed on: training without conditions on labelled data is normal.

    Args:
        net: the network.
        process: how its images were noised.
        prediction: what it predicts; "edm" belongs to the EDM process and only to it.
        space: the latents in which it works; None: pixels.
        text: the family of its text-to-image pipeline, which makes of captions what it takes; None: it takes none.
        condition_dropout: share of labels or captions that are replaced by "none" in denoising training, in [0, 1);
            what guidance needs. A UNet2DModel says "none" by its last class. None: what the network has set for itself
            (diffusers' DiT: 0.1), which then happens only in denoising, and not when a sampler is simulated.
        latent_dim: numbers in a latent z, normal and new for each call, that the network is conditioned on through a
            `LatentSlot`; 0: none.
        second_time: it takes the length of a step, from t to an earlier time, through a `TimeSlot`: what makes it a
            map between any two times. A sampler tells it the time of its next call.
        time_blind: the network is not conditioned on the noise level; it has to see it.
        start: density that a sampler begins from; None: the noise of the process.
        own_source: what a network that takes a source is conditioned on if no data has it: drawn before a sampler
            starts. None: sources come with the images.
    """

    def embed(self, batch: Batch) -> Batch:
        """The batch with `x_0` and `condition` as the network takes them; itself for pixels and labels.

        A network that takes a source is conditioned on the batch's, or on the denoiser's own of its images. Latents are
        a sample of the encoder's Gaussian, by noise from `batch.draws`.
        """
        if self.own_source is not None:
            batch = replace(batch, source=self.own_source.of_batch(batch, self.training))
        if self.space is None and self.text is None:
            return replace(batch, condition=batch.source) if self.conditioning.by_source else batch
        x_0 = batch.images
        if self.space is not None:
            channels, height, width = batch.images.shape[1:]
            noise = batch.draws.normal((len(batch), *self.latent_shape((channels, height, width))))
            x_0 = self.space.encode(batch.images, noise.to(batch.images))
        given = batch.source if self.conditioning.by_source else batch.labels if self.text is None else batch.texts
        return replace(batch, x_0=x_0, condition=self.condition(given, x_0))

    def condition_with_dropout(self, batch: Batch) -> Condition:
        """The batch's condition, in training mode with a random `condition_dropout` of its rows turned to "none"."""
        if self.condition_dropout == 0 or not self.training:
            return batch.condition
        drop = batch.draws.uniform((len(batch),)) < self.condition_dropout
        return select_rows(drop, self.unconditional(batch.condition), batch.condition)

    def z(self, batch: Batch) -> Tensor | None:
        """Standard normal latents [B, latent_dim] for the rows of a batch, from its draws; None without a slot."""
        if self.slot is None:
            return None
        return batch.draws.normal((len(batch), self.slot.config["latent_dim"])).to(batch.x_0)

    def check_condition(self, data: ImageData) -> None:
        """Raises ValueError if the network needs classes or captions that the data does not have, or the reverse."""
        self.conditioning.check(data)
        self._check_dropout()

    def check(self, data: ImageData) -> None:
        """Raises ValueError if the network cannot be trained on these images, labels or captions."""
        self.check_condition(data)
        if self.own_source is not None:
            self.own_source.size_for(len(data), data.image_shape)
        self.check_shape(data.image_shape)

    def check_batch(self, seen: int, total: int) -> None:
        self.process.coupling.check(seen, total)

    @torch.no_grad()
    def prepare(self, data: ImageData, seed: int = 0) -> None:
        if self.own_source is not None:
            self.fit_source(data.images(min(len(data), IMAGES_TO_FIT)).to(self.device), seed)
        if self.start is None:
            return
        n = min(len(data), IMAGES_TO_FIT)
        draws = Draws(seed, phase="start", device=self.device)
        shape = (n, *self.latent_shape(data.image_shape))
        x_0 = data.images(n).to(self.device)
        x_0 = x_0 if self.space is None else self.space.encode(x_0, draws.normal(shape))
        eps, last = self.process.kernel(draws, shape).to(x_0), torch.ones(n, device=x_0.device)
        self.start.fit(self.process.add_noise(x_0, eps, last), seed)

    def fit_source(self, images: Tensor, seed: int) -> None:
        """Called before the first step, if it has an own source, with training images [N, C, H, W]."""
        self.own_source.fit(images, seed)

    def check_shape(self, image_shape: tuple[int, int, int]) -> None:
        """One image of shape (C, H, W) through the network, without gradients; such images are sampled from now on.

        A text-to-image network may be tuned at another size than its configuration says. A network whose configuration
        has no `sample_size` gets that of the data: a pipeline of it could not sample without.

        Raises:
            ValueError: the network fails, is made for another size, gives another shape or numbers that are not finite.
        """
        shape, config = self.latent_shape(image_shape), getattr(self.net, "config", {})
        if self.start is not None:
            self.start.size_for(shape)
        if self.text is None:
            check_size(self.net, shape)
        if "sample_size" in config and config["sample_size"] is None:
            height, width = shape[1:]
            self.net.register_to_config(sample_size=height if height == width else (height, width))  # type: ignore[operator]
        device, name = next((p.device for p in self.net.parameters()), torch.device("cpu")), type(self.net).__name__
        x_t, t = torch.zeros(1, *shape, device=device), torch.full((1,), 0.1, device=device)
        condition = self.conditioning.blank(image_shape[1:], shape, device)
        with trial(self, self.net, image_shape):
            z = None if self.slot is None else x_t.new_zeros(1, self.slot.config["latent_dim"])
            output = self.network(self.process.model_input(x_t, t), self.process.model_time(t), condition, z)
        if output.shape != x_t.shape:
            raise ValueError(f"{name} turns images of shape {tuple(image_shape)} into {tuple(output.shape[1:])}")
        if not output.isfinite().all():
            raise ValueError(
                f"{name} gives numbers that are not finite; {type(self.process).__name__} tells it times like "
                f"{self.process.model_time(t).item():.3g}, which its time embedding may not take"
            )
        self._image_shape = image_shape
        self.see_size(image_shape)

    def see_size(self, image_shape: tuple[int, int, int]) -> None:
        """Tells a process whose shift follows the size of the images (C, H, W)."""
        if self.text is not None and isinstance(self.process, FlowBySize):
            self.process.resize(self.text.places(self.latent_shape(image_shape)))

    # -- training ------------------------------------------------------------------------------------------------------

    def output_error(self, prediction: Prediction, x_0: Tensor, eps: Tensor) -> Tensor:
        """[B] squared error of a prediction in the network's own output space, mean over dimensions."""
        return (prediction.output - self.target(x_0, eps, prediction.t)).square().flatten(1).mean(1)

    def error(self, batch: Batch) -> Tensor:
        """[B] squared error of the network's output at the process's own times, with noise from `batch.draws`.

        It says how well the network denoises, which for a few-step student is not what its samples look like.
        """
        t = self.process.default_times()(self.process, batch.draws, len(batch))
        eps = self.process.kernel(batch.draws, tuple(batch.x_0.shape)).to(batch.x_0)
        x_t, condition = self.process.add_noise(batch.x_0, eps, t), self.condition_with_dropout(batch)
        prediction = self(x_t, t, condition, self.z(batch))
        return self.output_error(prediction, batch.x_0, eps)

    def after_update(self) -> None:
        """Normalises the weights that were updated of a network that wants it (EDM2)."""
        for part in self._normalised:
            if part.weight.requires_grad:
                part.normalise()

    def copied(self) -> set[str]:
        return set() if self.own_source is None else {f"own_source.{name}" for name in self.own_source.copied}

    def networks(self) -> list[nn.Module]:
        return [self.net]

    def enable_gradient_checkpointing(self) -> None:
        if self.slot is not None or self.time_slot is not None:
            what = "a latent z" if self.slot is not None else "a second time"
            raise ValueError(f"`gradient_checkpointing`: a network with {what} has none; leave it out")
        try:
            self.net.enable_gradient_checkpointing(checkpointed)  # type: ignore[operator]
        except (AttributeError, ValueError):
            name = type(self.net).__name__
            raise ValueError(f"`gradient_checkpointing`: {name} has none; leave it out") from None

    def network_to_shard(self) -> nn.Module:
        extra = {"a latent z": self.slot, "a second time": self.time_slot, "an own source": self.own_source}
        for what, part in extra.items():
            if part is not None:
                raise ValueError(f"`sharding`: a network with {what} cannot be spread over processes; leave it out")
        return self.net

    # -- samples -------------------------------------------------------------------------------------------------------

    def check_sampling(self, sampling: Sampling) -> None:
        super().check_sampling(sampling)
        scheduler = self.stepper(sampling.scheduler)
        if self.time_slot is not None and getattr(scheduler, "order", 1) > 1:
            raise ValueError(
                f"`scheduler={sampling.scheduler}`: it corrects a step that this network makes as a whole: take euler"
            )
        check_moves(sampling.using, scheduler)
        walk_of(self, scheduler, sampling.steps, sampling.using)
        check_guidance(self.conditioning, sampling)

    def classes_drawn(self, sampling: Sampling) -> list[int] | None:
        if self.text is not None or self.conditioning.by_source:
            return None
        classes = chosen(self.conditioning, sampling, torch.device("cpu"))
        return classes.tolist() if isinstance(classes, Tensor) else None

    def draw(self, sampling: Sampling) -> Iterator[Tensor]:
        return draw(self, sampling)

    def grid(self, data: ImageData, n: int, seed: int, *, scheduler: str, steps: int) -> Tensor:
        return draw_grid(self, data, n, seed, scheduler, steps)

    def generate(self, scheduler: Any, num_steps: int, *, latents: Tensor, **settings: Any) -> Tensor:
        """Samples from given noise with a given diffusers scheduler: `drawing.generate` has the settings."""
        return generate(self, scheduler, num_steps, latents=latents, **settings)

    def save(self, folder: Path, sampler: str = "ddim") -> bool:
        """Writes a folder that `DiffusionPipeline.from_pretrained` opens, with adapters multiplied into the weights.

        A network of another kind is written as its class, arguments and weights, if those make it again.
        """
        scheduler, net = self._scheduler(sampler), merged_network(self.net)
        parts = (self.space, self.text, self.slot, self.time_slot, self.start)
        if write_pipeline(folder, net, scheduler, *parts):
            return True
        settings = kernel_settings(self.process)
        fitted = self.start is not None and not settings
        if self.space is not None or self.text is not None or fitted:
            return False
        settings |= {"image_shape": self._image_shape, "condition_dropout": self.condition_dropout}
        return write_own(folder, net, prior=self.own_source, scheduler=scheduler_settings(scheduler), **settings)

    def adapters(self) -> dict[str, Tensor]:
        return lora_weights(self.net)
