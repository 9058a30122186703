"""The border to diffusers: schedulers built from a process's numbers, and these numbers read back from schedulers.

Nothing here knows a `Process`; `gaussian.py` calls it with plain numbers. Sampling with any of these schedulers is

    set_timesteps(scheduler, num_steps)
    x = initial_sample(scheduler, noise)
    for time in scheduler.timesteps:
        output = denoiser.network(scheduler_input(scheduler, x, time), time, labels)
        x = scheduler.step(output, time, x).prev_sample

What diffusers does along this path, and what `set_timesteps` below makes of it:

- FlowMatchEulerDiscreteScheduler.set_timesteps(m) spaces its times from 1 to 0.001, so the last of the m network calls
  sits at t = 0.001 and does nothing, and FlowMatchLCMScheduler's likewise. Repaired: 1, ..., 1/m, as diffusers' own
  flow pipelines ask for by hand.
- FlowMatchHeunDiscreteScheduler does the same and takes no other times. Left: its last call is close to wasted.
- DPMSolverMultistepScheduler and UniPCMultistepScheduler truncate a flow's times to integers. Repaired. UniPC walks the
  times of Euler (with 1 - 1e-6 in place of 1), DPM-Solver++ 0.999 of them.
- UniPCMultistepScheduler cannot precondition as EDM does, so that EDM has none. diffusers has no Heun for EDM: ours.
- "trailing" spacing makes m + 1 steps of 62 of the m up to 1000 (61, 103, 121, ...), the last at timestep -1. Refused.
- DDIMScheduler steps to n - N // m, which is its own next time only if m divides N, or with "leading" spacing, which
  other pipelines have. Elsewhere the noise left in the sample and the time told to the network drift apart by up to
  N % m of N levels. Refused from 5 % on, which does not touch m <= 50; "euler" is the same solver without the drift.
- PNDMScheduler (Stable Diffusion 1.5 ships with it) asks twice at its first time, m + 1 calls in all. Left.
- LCMScheduler returns its input at timestep 0 (a consistency model's boundary), so a path ending there does not end
  clean. Refused; it happens only with about as many steps as levels.
- Euler and Heun for VP walk in x_t / alpha, hence their `init_noise_sigma` and `scale_model_input`.
- Heun's second call sees the far end of a step, where a network's error in x_0 counts sigma / (2 sigma_next) times:
  hundreds of times at the huge first sigma (2e4) of the "cosine" schedule. Refused from sigma 1000 on.
"""

import math
from typing import Any, Literal, Protocol

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler, EDMEulerSchedulerOutput
from diffusers.schedulers.scheduling_scm import SCMScheduler, SCMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

Kind = Literal["eps", "x0", "v", "flow", "edm"]

DIFFUSERS_NAMES: dict[str, str] = {"eps": "epsilon", "x0": "sample", "v": "v_prediction", "flow": "flow_prediction"}

NAMES = {
    "ddim": ("DDIMScheduler",),
    "dpm": ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"),
    "unipc": ("UniPCMultistepScheduler",),
    "euler": ("EulerDiscreteScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"),
    "heun": ("HeunDiscreteScheduler", "EDMHeunScheduler", "FlowMatchHeunDiscreteScheduler"),
    "churn": ("EDMChurnScheduler",),
    "ddpm": ("DDPMScheduler",),
    "lcm": ("LCMScheduler", "FlowMatchLCMScheduler"),
    "scm": ("SCMScheduler", "FlowSCMScheduler"),
    "pndm": ("PNDMScheduler",),
}
"""What a scheduler is called here, by diffusers' classes; any other goes by its class."""

FLOW = ("euler", "ddim", "heun", "dpm", "unipc", "lcm")
"""Those that there are for a rectified flow."""

ON_OWN_TIMES = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler")
"""Those of a flow that take sigmas."""

NOISY = ("ddpm", "ddpm_large", "lcm", "churn")
"""Those that add Gaussian noise on their way."""


def scheduler_name(scheduler: Any) -> str:
    """What a diffusers scheduler is called here: "ddim", "dpm" …, or its class."""
    kind = type(scheduler).__name__
    return next((name for name, kinds in NAMES.items() if kind in kinds), kind)


def vp_scheduler(name: str, prediction: str, betas: dict[str, Any]) -> Any:
    """A sampler for a variance-preserving process.

    Args:
        name: "ddim", "euler", "heun" (2m - 1 network calls for m steps), "dpm" (DPM-Solver++ 2M), "unipc" (UniPC of
            order 2), "ddpm" (ancestral steps of the smallest variance, beta~), "ddpm_large" (of the largest, beta, from
            the last level to the first) or "lcm".
        prediction: "eps", "x0" or "v".
        betas: `num_train_timesteps`, `beta_schedule`, `beta_start`, `beta_end`, `trained_betas`,
            `rescale_betas_zero_snr`, as diffusers names them.
    """
    _known(name, ("ddim", "euler", "heun", "dpm", "unipc", "ddpm", "ddpm_large", "lcm"), "VP")
    _predicts(name, prediction, ("eps", "x0", "v"), "VP")
    if betas["rescale_betas_zero_snr"] and prediction == "eps":
        raise ValueError("prediction='eps' cannot start from zero terminal SNR (x_0 is lost there); train 'v' or 'x0'")
    if betas["rescale_betas_zero_snr"] and name == "heun":
        raise ValueError("scheduler 'heun' has no zero-terminal-SNR schedule in diffusers; use 'unipc' or 'dpm'")
    config = {**betas, "prediction_type": DIFFUSERS_NAMES[prediction], "timestep_spacing": "trailing"}
    if name == "ddim":
        return DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=True)
    if name == "euler":
        return EulerDiscreteScheduler(**config)
    if name == "heun":
        del config["rescale_betas_zero_snr"]
        return HeunDiscreteScheduler(**config)
    if name == "dpm":
        return DPMSolverMultistepScheduler(
            **config, algorithm_type="dpmsolver++", solver_order=2, lower_order_final=True, final_sigmas_type="zero"
        )
    if name == "unipc":
        return UniPCMultistepScheduler(**config, solver_order=2, lower_order_final=True, final_sigmas_type="zero")
    if name == "ddpm":
        return DDPMScheduler(**config, clip_sample=False, variance_type="fixed_small")
    if name == "ddpm_large":  # no noise is added at the first level, where the steps must end: linspace
        config["timestep_spacing"] = "linspace"
        return DDPMScheduler(**config, clip_sample=False, variance_type="fixed_large")
    # All N levels as LCM's "original" ones: the times of m steps are then the trailing ones, for any m up to N.
    return LCMScheduler(**config, original_inference_steps=betas["num_train_timesteps"], clip_sample=False)


def edm_scheduler(name: str, prediction: str, sigmas: dict[str, float]) -> Any:
    """A sampler for the EDM process. diffusers preconditions inside the scheduler, so it takes the raw "edm" output.

    Args:
        name: "euler" (= "ddim": deterministic DDIM is Euler in sigma), "heun" (2m - 1 network calls for m steps),
            "churn" (that with added noise), or "dpm" (DPM-Solver++ 2M).
        prediction: "edm".
        sigmas: `sigma_min`, `sigma_max`, `sigma_data`, `rho`.
    """
    _known(name, ("euler", "ddim", "heun", "churn", "dpm"), "EDM")
    _predicts(name, prediction, ("edm",), "EDM")
    if name in ("heun", "churn"):
        return EDMHeunScheduler(**sigmas) if name == "heun" else EDMChurnScheduler(**sigmas)
    if name == "dpm":
        return EDMDPMSolverMultistepScheduler(**sigmas, solver_order=2, final_sigmas_type="zero")
    return EDMEulerScheduler(**sigmas)


class Shift(Protocol):
    """A shift that is looked up when a scheduler is put on its grid, and the configuration of Euler's scheduler."""

    config: dict[str, Any]

    def shift_of(self, num_steps: int) -> float: ...


def flow_scheduler(name: str, prediction: str, shift: float, by_size: Shift | None = None) -> Any:
    """A sampler for the rectified flow.

    Args:
        name: "euler" (= "ddim"), "heun" (2m - 1 network calls for m steps), "dpm" (DPM-Solver++ 2M), "unipc" (UniPC of
            order 2), or "lcm" (predict, noise to the next level, predict).
        prediction: "flow"; "dpm" and "unipc" also take "x0", "dpm" also "eps".
        shift: t becomes shift t / (1 + (shift - 1) t) on the sampling grid.
        by_size: looks it up anew for each grid, which "heun" cannot.
    """
    names = tuple(one for one in FLOW if by_size is None or one != "heun")
    _known(name, names, "RectifiedFlow" if by_size is None else "a flow whose shift follows the size")
    kinds = {"dpm": ("flow", "x0", "eps"), "unipc": ("flow", "x0")}
    _predicts(name, prediction, kinds.get(name, ("flow",)), "RectifiedFlow")
    scheduler: Any
    if name in kinds:
        multistep = DPMSolverMultistepScheduler if name == "dpm" else UniPCMultistepScheduler
        scheduler = multistep(
            use_flow_sigmas=True, flow_shift=shift, prediction_type=DIFFUSERS_NAMES[prediction], solver_order=2
        )
    elif name == "heun":
        scheduler = FlowMatchHeunDiscreteScheduler(shift=shift)
    else:
        kind = FlowMatchLCMScheduler if name == "lcm" else FlowMatchEulerDiscreteScheduler
        scheduler = kind(shift=shift) if by_size is None else kind.from_config(by_size.config)
    scheduler.by_size = by_size
    return scheduler


class EDMHeunScheduler(EDMEulerScheduler):
    """Heun's method for EDM, without added noise: m steps are 2m - 1 network calls, the last step is Euler's.

    Source: Karras et al. 2022, Algorithm 1. In its calls it is like diffusers' HeunDiscreteScheduler.
    """

    order = 2

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
        super().set_timesteps(num_inference_steps, device)
        first, rest = self.timesteps[:1], self.timesteps[1:]
        self.timesteps = torch.cat([first, rest.repeat_interleave(2)])
        self.sigmas = torch.cat([self.sigmas[:1], self.sigmas[1:-1].repeat_interleave(2), self.sigmas[-1:]])
        self._half: tuple[Tensor, Tensor, Tensor] | None = None  # sample, slope and length of a step that is half done

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next call begins a step."""
        return self._half is None

    def step(  # type: ignore[override]
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> EDMEulerSchedulerOutput | tuple[Tensor, Tensor]:
        """The sample after this call, at least float32, and the clean image that the network predicted."""
        if self.step_index is None:
            self._init_step_index(timestep)
        index: Any = self.step_index
        sigma, wide = self.sigmas[index], sample.to(torch.promote_types(sample.dtype, torch.float32))
        x_0 = self.precondition_outputs(wide, model_output, sigma)
        slope = (wide - x_0) / sigma
        if self._half is None:
            length = self.sigmas[index + 1] - sigma
            after = wide + length * slope
            if index + 1 < len(self.timesteps):
                self._half = (wide, slope, length)
        else:
            start, first_slope, length = self._half
            after, self._half = self.raised(start + length * (first_slope + slope) / 2, index, generator), None
        self._step_index = index + 1
        return EDMEulerSchedulerOutput(after, x_0) if return_dict else (after, x_0)

    def raised(self, sample: Tensor, index: int, generator: Any) -> Tensor:
        """The sample at the level of the next step, after the step that ended with call `index`: as it is."""
        return sample


class EDMChurnScheduler(EDMHeunScheduler):
    """EDM's stochastic sampler: before each step but the first, noise raises sigma to (1 + gamma) sigma.

    With m steps, gamma = min(CHURN / m, sqrt(2) - 1) for a sigma in [LOWEST, HIGHEST], else 0, and the noise that is
    added has NOISE times the deviation that this takes. Source: Karras et al. 2022, Algorithm 2, with its values for
    ImageNet-64; for CIFAR-10 it adds none.
    """

    CHURN, LOWEST, HIGHEST, NOISE = 40.0, 0.05, 50.0, 1.003

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
        super().set_timesteps(num_inference_steps, device)
        gamma = min(self.CHURN / num_inference_steps, math.sqrt(2) - 1)
        first = torch.arange(len(self.timesteps), device=self.sigmas.device) % 2 == 0  # calls that begin a step
        sigmas = self.sigmas[:-1]
        churned = first & (sigmas >= self.LOWEST) & (sigmas <= self.HIGHEST)
        churned[0] = False
        sigmas = torch.where(churned, (1 + gamma) * sigmas, sigmas)
        self.sigmas = torch.cat([sigmas, self.sigmas[-1:]])
        self.timesteps = self.precondition_noise(sigmas).to(self.timesteps)

    def raised(self, sample: Tensor, index: int, generator: Any) -> Tensor:
        """The sample with the noise of the next step."""
        missing = (self.sigmas[index + 1].square() - self.sigmas[index].square()).clamp(min=0).sqrt()
        noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        return sample + self.NOISE * missing * noise


class FlowSCMScheduler(SCMScheduler):
    """diffusers' sampler of SANA-Sprint, in the coordinates of a rectified flow, in which the network works.

    TrigFlow's cos(t) x_0 + sin(t) eps is the flow's (1 - s) x_0 + s eps at s = sin(t) / (sin(t) + cos(t)), up to a
    factor. Every call predicts the clean image, which is noised anew to the next level.

    Source: Chen et al. 2025, "SANA-Sprint" (arXiv 2503.09641), as diffusers has it: angles in equal steps from pi/2;
    in two steps, 1.3 in the middle.
    """

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
        super().set_timesteps(num_inference_steps, intermediate_timesteps=1.3 if num_inference_steps == 2 else None)
        angles = self.timesteps
        self.sigmas = (angles.sin() / (angles.sin() + angles.cos())).clamp(max=1.0).to(device)
        self.timesteps = 1000 * self.sigmas[:-1]

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Images at the level of a time."""
        sigma = (timestep / 1000).to(sample).view(-1, 1, 1, 1)
        return (1 - sigma) * sample + sigma * noise

    def step(  # type: ignore[override]
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> SCMSchedulerOutput | tuple[Tensor, Tensor]:
        """The sample at the next level, at least float32, and the clean image that the network predicted."""
        if self._step_index is None:
            self._init_step_index(timestep)
        index: Any = self._step_index
        wide = sample.to(torch.promote_types(sample.dtype, torch.float32))
        x_0 = after = wide - self.sigmas[index] * model_output
        if index + 1 < len(self.timesteps):
            noise = randn_tensor(x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype)
            after = self.scale_noise(x_0, self.timesteps[index + 1], noise)
        self._step_index = index + 1
        return SCMSchedulerOutput(after, x_0) if return_dict else (after, x_0)


def walked(scheduler: Any) -> Any:
    """A pipeline's own scheduler as the loop walks it."""
    return FlowSCMScheduler.from_config(scheduler.config) if type(scheduler) is SCMScheduler else scheduler


def set_timesteps(scheduler: Any, num_steps: int, device: torch.device | str | None = None) -> None:
    """Put a scheduler on its grid of `num_steps` steps, the last of which ends at the clean image.

    Afterwards `len(scheduler.timesteps)` is the number of network calls: `num_steps`, `2 num_steps - 1` with Heun, or
    what PNDM makes of it.
    The same as `scheduler.set_timesteps(num_steps)` but for what the top of this file says.

    Raises:
        ValueError: diffusers cannot make that many steps, or cannot make them right.
    """
    name: str = type(scheduler).__name__
    levels: int = scheduler.config["num_train_timesteps"]
    is_flow = name.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))
    is_vp = hasattr(scheduler, "betas") and not is_flow
    if num_steps < 1 or (is_vp and num_steps > levels):
        raise ValueError(f"num_steps={num_steps} must be at least 1, and at most {levels} for a process with levels")
    drifts = name == "DDIMScheduler" and scheduler.config["timestep_spacing"] != "leading"
    if drifts and levels % num_steps > 0.05 * levels:
        raise ValueError(
            f"num_steps={num_steps}: DDIMScheduler loses {levels % num_steps} of {levels} noise levels on the way; "
            "use scheduler 'euler' (the same solver), or a number of steps that divides the levels"
        )
    first = getattr(scheduler, "init_noise_sigma", 1.0)
    if name == "HeunDiscreteScheduler" and first > 1000:
        raise ValueError(
            f"HeunDiscreteScheduler makes noise of a schedule that starts at sigma {first:.0f} (the cosine one); use "
            "scheduler 'unipc' or 'dpm'"
        )
    if num_steps == 1 and scheduler.config.get("shift_terminal"):
        raise ValueError(f"num_steps=1: the times of {name} cannot end at its `shift_terminal` in one step; use more")
    mu = shifted(scheduler, num_steps)
    if name in ON_OWN_TIMES or (name == "UniPCMultistepScheduler" and is_flow):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps), device=device, **mu)
    else:
        scheduler.set_timesteps(num_steps, device=device)
    if scheduler.config.get("use_flow_sigmas"):
        scheduler.timesteps = scheduler.sigmas[:-1].to(scheduler.timesteps.device) * 1000.0
    expected = 2 * num_steps - 1 if scheduler.order == 2 else num_steps
    if len(scheduler.timesteps) != expected and name != "PNDMScheduler":
        raise ValueError(
            f"num_steps={num_steps}: {name} makes {len(scheduler.timesteps)} network calls of it, not {expected}; "
            f"use {num_steps - 1} or {num_steps + 1} steps"
        )
    if name == "LCMScheduler" and scheduler.timesteps[-1] == 0:
        raise ValueError(f"num_steps={num_steps}: LCMScheduler does nothing at timestep 0, its last; use fewer steps")


def set_model_times(scheduler: Any, times: Tensor, device: torch.device | str | None = None) -> None:
    """Put a scheduler on chosen levels, the last step of which ends at the clean image; after `set_timesteps`.

    Noise is then of the scale that it has at the first of them (`initial_sample`).

    Args:
        scheduler: "euler", "dpm", "ddpm" or "lcm" for VP, "euler" or "lcm" for a flow.
        times: [steps] the network's times, falling; for VP the nearest whole ones are taken.
        device: of the scheduler's numbers.

    Raises:
        ValueError: another scheduler, or two times that are the same level.
    """
    name = type(scheduler).__name__
    if name in ON_OWN_TIMES:
        scheduler.timesteps = times.to(device, torch.float32)
        scheduler.sigmas = torch.cat([scheduler.timesteps / 1000, torch.zeros(1, device=device)])
        scheduler.init_noise_sigma = float(times[0]) / 1000  # a flow that begins later has less noise there
        return
    if name not in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler", "LCMScheduler"):
        raise ValueError(f"{name} takes no levels of its own: take scheduler euler, or dpm or ddpm of a VP process")
    if scheduler.config.get("use_flow_sigmas"):
        raise ValueError(f"{name} takes no levels of its own for a flow: take scheduler euler")
    whole = times.round().long().tolist()
    if len(set(whole)) < len(whole):
        raise ValueError(f"two of the chosen levels are the same of {scheduler.config['num_train_timesteps']}: {whole}")
    scheduler.set_timesteps(timesteps=whole, device=device)


def shifted(scheduler: Any, num_steps: int) -> dict[str, float]:
    """Puts a shift that follows the images' size into the scheduler that reads it; what `set_timesteps` wants beside.

    Raises:
        ValueError: the scheduler wants one, and nobody says which.
    """
    by_size: Shift | None = vars(scheduler).get("by_size")
    if not scheduler.config.get("use_dynamic_shifting"):
        if by_size is not None:
            scheduler.register_to_config(flow_shift=by_size.shift_of(num_steps))
        return {}
    if by_size is None:
        raise ValueError(
            f"{type(scheduler).__name__} has use_dynamic_shifting=true and its pipeline does not say how the shift "
            "follows the size: write false and a `shift` into scheduler/scheduler_config.json"
        )
    shift = by_size.shift_of(num_steps)
    return {"mu": shift if scheduler.config["time_shift_type"] == "linear" else math.log(shift)}


def initial_sample(scheduler: Any, noise: Tensor) -> Tensor:
    """Standard normal `noise` at the scale the scheduler starts from; call after `set_timesteps`."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)


def scheduler_input(scheduler: Any, sample: Tensor, time: Tensor) -> Tensor:
    """What the network is shown of the scheduler's `sample`; flow-matching schedulers have no `scale_model_input`."""
    return scheduler.scale_model_input(sample, time) if hasattr(scheduler, "scale_model_input") else sample


def takes_variance(scheduler: Any) -> bool:
    """Whether a scheduler's `step` wants the variance that a network learned beside its output, in as many channels."""
    return type(scheduler).__name__.startswith("DDPM") and scheduler.config["variance_type"].startswith("learned")


def read_scheduler(scheduler: Any) -> tuple[Literal["vp", "edm", "flow"], dict[str, Any], Kind]:
    """What a diffusers scheduler says of its process: the family, its numbers, and what the network predicts."""
    config, name = scheduler.config, type(scheduler).__name__
    if name.startswith("EDM"):
        if config["prediction_type"] != "epsilon":
            raise ValueError(f"{name} with prediction_type={config['prediction_type']!r} is unknown here; 'epsilon' is")
        return "edm", {key: config[key] for key in ("sigma_min", "sigma_max", "sigma_data", "rho")}, "edm"
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        if config.get("num_train_timesteps", 1000) != 1000 or config.get("invert_sigmas"):
            raise ValueError(f"{name} must count its time 0..1000 from clean to noise to be read as a rectified flow")
        kind = _kind(name, config.get("prediction_type", "flow_prediction"))
        return "flow", {"shift": config.get("shift", config.get("flow_shift", 1.0))}, kind
    if isinstance(scheduler, SCMScheduler):
        return "flow", {"shift": 1.0}, "flow"
    if config.get("beta_schedule") is None or not hasattr(scheduler, "betas"):
        raise ValueError(f"{name} is not a scheduler with betas, an EDM or a flow-matching one; its process is unknown")
    zero_snr = bool(config.get("rescale_betas_zero_snr", False))
    kwargs: dict[str, Any] = {"num_timesteps": config["num_train_timesteps"], "zero_terminal_snr": zero_snr}
    schedule = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}.get(
        config["beta_schedule"]
    )
    if config.get("trained_betas") is not None:
        kwargs["betas"] = [float(beta) for beta in config["trained_betas"]]
    elif schedule is None:  # a schedule that only this scheduler knows: keep its betas (already rescaled, if they were)
        kwargs["betas"] = scheduler.betas.tolist()
        kwargs["zero_terminal_snr"] = False
    else:
        kwargs |= {"schedule": schedule, "beta_start": config["beta_start"], "beta_end": config["beta_end"]}
    return "vp", kwargs, _kind(name, config["prediction_type"])


def _kind(name: str, prediction_type: str) -> Any:
    for kind, diffusers_name in DIFFUSERS_NAMES.items():
        if diffusers_name == prediction_type:
            return kind
    raise ValueError(f"{name}: prediction_type={prediction_type!r} is unknown; known: {[*DIFFUSERS_NAMES.values()]}")


def _known(name: str, names: tuple[str, ...], process: str) -> None:
    if name not in names:
        raise ValueError(f"scheduler={name!r} does not exist for {process}; it has {', '.join(names)}")


def _predicts(name: str, prediction: str, kinds: tuple[str, ...], process: str) -> None:
    if prediction not in kinds:
        raise ValueError(
            f"prediction={prediction!r} cannot be sampled with {name!r} on {process}; it takes {', '.join(kinds)}"
        )
