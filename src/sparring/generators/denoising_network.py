"""A network that sees through noise: a torch module, its noising process, and what its output means."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from diffusers.models.embeddings import LabelEmbedding
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from sparring.generators.condition import Condition
from sparring.generators.conditioning import Conditioning
from sparring.generators.families import Family
from sparring.generators.level import Level, Predictor
from sparring.generators.loop import Walk
from sparring.generators.own_source import OwnSource
from sparring.generators.prediction import Prediction, determinant, mix
from sparring.generators.settings import check_prediction, check_slots, check_start, check_time
from sparring.generators.start import Start, StudentTStart
from sparring.networks.edm2 import MPConv
from sparring.networks.latent_slot import LatentSlot, TimeSlot
from sparring.networks.precision import at_least_float32
from sparring.networks.time_blind import blind_to_time, keep_blind
from sparring.process import (
    Kind,
    Latents,
    Process,
    StudentT,
    per_image,
    scheduler_name,
    set_timesteps,
    takes_variance,
)
from sparring.process.schedulers import NOISY


class DenoisingNetwork(nn.Module):
    """A network, its process and its prediction type: what samplers walk with. `Denoiser` says what its arguments are.

    Attributes:
        own_scheduler: the diffusers scheduler that came with it in a pipeline folder, by which it is sampled by
            default; None: DDIM.
        conditioning: how the network takes its condition.
        learned_variance: whether "ddpm" takes the variance of its steps from the network.
        images_seen: rows that passed through the network; the cost of training is counted in them.
        ancestors: fingerprints of the weights that it was trained from, newest first, as far as known; see `lineage`.
    """

    ancestors: Sequence[str] = ()

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        prediction: Kind,
        space: Latents | None = None,
        text: Family | None = None,
        condition_dropout: float | None = None,
        latent_dim: int = 0,
        second_time: bool = False,
        time_blind: bool = False,
        start: Start | None = None,
        own_source: OwnSource | None = None,
    ) -> None:
        super().__init__()
        self.images_seen = 0
        check_prediction(prediction, process)
        check_time(net, process)
        if time_blind:
            blind_to_time(net)
        keep_blind(net)
        if start is None and isinstance(process.kernel, StudentT):
            start = StudentTStart(process.kernel.dimension, float(process.sigma(torch.ones(()))))
        self.conditioning = Conditioning(net, text, own_source)
        check_start(start, process, self.conditioning)
        check_slots(latent_dim, second_time, process, text)
        self.net = net
        self._normalised = [part for part in net.modules() if isinstance(part, MPConv)]
        self.start: Any = start
        self.process = process
        self.prediction: Kind = prediction
        self.space = space
        self.text = text
        own_dropout = [module for module in net.modules() if isinstance(module, LabelEmbedding)]
        if condition_dropout is None:
            condition_dropout = max((module.dropout_prob for module in own_dropout), default=0.0)
        self.condition_dropout = condition_dropout
        self.slot = LatentSlot.on(net, latent_dim) if latent_dim else None
        self.time_slot = TimeSlot.on(net) if second_time else None
        self.own_scheduler: Any = None
        self._image_shape: tuple[int, int, int] | None = None
        self.learned_variance = False
        self.own_source: Any = own_source
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"`condition_dropout={condition_dropout}` must lie in [0, 1)")
        for module in own_dropout:
            module.dropout_prob = 0.0
        self._check_dropout()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images: what `check_shape` was given, or by the configurations of network and autoencoder.

        Raises:
            ValueError: the network's configuration does not say.
        """
        if self._image_shape is not None:
            return self._image_shape
        config: Any = getattr(self.net, "config", {})
        size = config.get("sample_size")
        if size is None and self.text is not None and self.space is not None:
            return self.space.image_channels, self.text.pixels, self.text.pixels
        if size is None:
            raise ValueError(
                f"the configuration of this {type(self.net).__name__} has no `sample_size`: write it there"
            )
        height, width = (size, size) if isinstance(size, int) else size
        channels = config["in_channels"] if self.space is None else self.space.image_channels
        return channels, height * self.factor, width * self.factor

    @property
    def captioned(self) -> bool:
        """Whether the network takes captions."""
        return self.text is not None

    @property
    def takes_labels(self) -> bool:
        """Whether the network takes class labels."""
        return self.conditioning.label is not None

    @property
    def takes_source(self) -> bool:
        """Whether it is given another image beside the noisy one."""
        return self.conditioning.takes_source

    @property
    def num_classes(self) -> int | None:
        """How many classes the network was built for, if it says so."""
        return self.conditioning.num_classes

    @property
    def factor(self) -> int:
        """Pixels of an image per place of what is diffused, along one side."""
        return 1 if self.space is None else self.space.factor

    @property
    def null_class(self) -> int:
        """The class that means "none"; see `null_class_of`."""
        return self.conditioning.null_class

    @property
    def takes_guidance(self) -> bool:
        """Whether it takes captions, or a class or an own source says "none"."""
        return self.conditioning.knows_none

    @property
    def classes_of_data(self) -> int:
        """How many classes it was trained on, as far as is known; 0: unknown, or none."""
        return self.conditioning.classes_of_data

    def condition(self, given: Tensor | list[str] | None, x_0: Tensor) -> Condition:
        """What the network takes for class labels [B], B captions or sources of what is diffused, `x_0` [B, c, h, w].

        Raises:
            ValueError: a text-to-image network without captions, or captions for another.
        """
        size = self.factor * x_0.shape[-2], self.factor * x_0.shape[-1]
        return self.conditioning.of(given, size, x_0.device)

    def decode(self, x_0: Tensor) -> Tensor:
        """Images [B, C, H, W] of what is diffused [B, c, h, w]; gradient passes. In pixel space `x_0` itself."""
        return x_0 if self.space is None else self.space.decode(x_0)

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(c, h, w) of what is diffused for images (C, H, W).

        Raises:
            ValueError: the autoencoder, or the network of a text-to-image pipeline, does not take such images.
        """
        if self.space is None:
            return image_shape
        return self.space.shape(image_shape, 1 if self.text is None else self.text.patch)

    def _check_dropout(self) -> None:
        if self.condition_dropout > 0 and not self.takes_guidance:
            self.null_class  # noqa: B018  (raises, and says why)

    def unconditional(self, condition: Condition) -> Condition:
        """The condition that says "none", in as many rows: the null class, the empty prompt, or an own source's."""
        return self.conditioning.none(condition)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition = None,
        z: Tensor | None = None,
        length: Tensor | None = None,
        *,
        variance: bool = False,
    ) -> Prediction:
        """The prediction for noisy x_t [B, C, H, W] at times t [B], with its class labels [B] or embedded captions,
        latents z [B, latent_dim], and lengths [B] of the steps that start at t. With `variance`, the variance that a
        network learned is in it, too.
        """
        x_in, time = self.process.model_input(x_t, t), self.process.model_time(t)
        output = at_least_float32(self.network(x_in, time, condition, z, length, variance=variance))
        return self._read(output, x_t, t)

    def _read(self, output: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """The prediction of an output [B, C or 2C, H, W]; of 2C channels, the second half is the variance."""
        channels, wide = x_t.shape[1], at_least_float32(x_t)
        variance = output[:, channels:] if output.shape[1] > channels else None
        output = output if variance is None else output[:, :channels]
        return Prediction(output, wide, t, self.prediction, self.process, variance)

    def network(
        self,
        x_in: Tensor,
        model_time: Tensor | float,
        condition: Condition = None,
        z: Tensor | None = None,
        length: Tensor | None = None,
        *,
        variance: bool = False,
    ) -> Tensor:
        """The raw output [B, C, H, W] for images and times already in the network's own terms.

        What a diffusers sampling loop calls: `x_in = scheduler.scale_model_input(x, time)`, `model_time = time` (one
        number or [B]), and the output goes to `scheduler.step`. Images are cast to the network's precision, times stay
        in float32. `images_seen` grows by B. With `variance`, a variance that the network learned is kept: 2C channels.
        A network with a second time that gets no `length` of the step makes one of length 0, an ordinary prediction.
        """
        if (z is None) != (self.slot is None):
            has = (
                "is conditioned on a latent z, and none was given" if z is None else "takes no latent z (`latent_dim`)"
            )
            raise ValueError(f"{type(self.net).__name__} {has}")
        if length is not None and self.time_slot is None:
            raise ValueError(f"{type(self.net).__name__} takes no second time: give `denoiser.second_time` true")
        self.images_seen += len(x_in)
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), x_in.dtype)
        time_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        time = torch.as_tensor(model_time, dtype=time_dtype, device=x_in.device).expand(len(x_in))
        with ExitStack() as stack:
            if self.slot is not None and z is not None:
                stack.enter_context(self.slot.given(z))
            if self.time_slot is not None:
                t = self.process.t_from_model_time(time)
                both = torch.stack([t, torch.zeros_like(t) if length is None else length.to(t)], dim=1)
                stack.enter_context(self.time_slot.given(both))
            output = self.conditioning.output(x_in.to(dtype), time, condition)
        if not isinstance(output, Tensor):
            output = output.sample if hasattr(output, "sample") else output[0]
        learned = output.shape[1] == 2 * x_in.shape[1]
        return output[:, : x_in.shape[1]] if learned and not variance else output

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network's output should be, [B, C, H, W], for clean images x_0, noise eps and times t [B]."""
        a, b = mix(self.prediction, self.process, t)
        return per_image(a, x_0) * x_0 + per_image(b, eps) * eps

    def x0_slope(self, t: Tensor) -> Tensor:
        """|d x_0 / d output| [B]: |x_0 - x_0_pred|^2 = x0_slope^2 |target - output|^2.

        eps: sigma / alpha; x0: 1; v: sigma / (alpha^2 + sigma^2); flow: sigma / (alpha + sigma); edm: c_out.
        """
        if self.prediction == "x0":
            return torch.ones_like(self.process.sigma(t))
        return self.process.sigma(t) / determinant(self.prediction, self.process, t).abs()

    def predict(self, x_t: Tensor, level: Level, condition: Condition = None) -> Prediction:
        """The prediction for x_t [B, C, H, W] at one level of a sampler: the plain `Predictor`."""
        z = None if self.slot is None or level.z is None else level.z.repeat(len(x_t) // len(level.z), 1)
        length = None if self.time_slot is None else level.length.to(x_t).expand(len(x_t))
        x_in = level.network_input(x_t)
        output = at_least_float32(self.network(x_in, level.model_time, condition, z, length, variance=True))
        return self._read(output, x_t, level.times(len(x_t)))

    def step_output(
        self, walk: Walk, condition: Condition, predict: Predictor, call: int, x: Tensor, generator: Any = None
    ) -> Tensor:
        """What the scheduler of a walk takes for its state `x` [B, c, h, w], at least float32; no gradient passes to x.

        If the scheduler takes a variance that the network learned, it follows in as many channels. A latent z is new
        for every call, from the generator.
        """
        level = walk.level(call, self.process)
        if self.slot is not None:
            shape = (len(x), self.slot.config["latent_dim"])
            level.z = randn_tensor(shape, generator=generator, device=x.device, dtype=x.dtype)
        prediction = predict(level.x_t(x.detach()), level, condition)
        output = prediction.to(self.prediction)
        if not takes_variance(walk.scheduler):
            return output
        assert prediction.variance is not None
        return torch.cat([output, prediction.variance], dim=1)

    def stepper(self, scheduler: str | None = None) -> Any:
        """The diffusers scheduler of that name for this network; its own, or DDIM, when None.

        Raises:
            ValueError: one that adds Gaussian noise on its way, of a process whose noise has another law.
        """
        if scheduler in NOISY and not self.process.kernel.gaussian:
            raise ValueError(f"`scheduler={scheduler}` adds Gaussian noise, and this process has another: take ddim")
        if scheduler is None and self.own_scheduler is not None:
            return self.own_scheduler
        return self._scheduler(scheduler or "ddim")

    def _scheduler(self, name: str) -> Any:
        made = self.process.scheduler(name, self.prediction)
        if name == "ddpm" and self.learned_variance:
            # evenly spaced from the last time to the first, as in the paper's code: from there no noise is added,
            # which a learned variance would not see to at a later time
            made.register_to_config(variance_type="learned_range", timestep_spacing="linspace")
            made.variance_type = "learned_range"
        return made

    def plan(self, steps: int, scheduler: str | None = None) -> tuple[str, int]:
        stepper = self.stepper(scheduler)
        if steps == 1 and scheduler_name(stepper) == "ddpm" and stepper.config["timestep_spacing"] == "linspace":
            raise ValueError(
                "`steps=1`: ancestral steps that end at the first level are 2 or more; take scheduler ddim"
            )
        set_timesteps(stepper, steps)
        return scheduler or scheduler_name(stepper), len(stepper.timesteps)
