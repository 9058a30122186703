"""Gaussian noising processes x_t = alpha(t) x_0 + sigma(t) eps: VP (DDPM), EDM and the rectified flow.

Each process is written as log alpha(t) and log sigma(t), in float64; alpha, sigma, log-SNR, noising and the posterior
all follow from these two.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from sparring.process.noise import Coupling, Kernel
from sparring.process.process import Process, Times, as_time, per_image, positive, wide
from sparring.process.schedulers import Kind, edm_scheduler, flow_scheduler, read_scheduler, vp_scheduler
from sparring.process.times import LogNormal, Uniform


class VP(Process):
    """The variance-preserving process of DDPM: alpha^2 + sigma^2 = 1, N noise levels made of betas.

    Level n + 1 of N (t = (n + 1) / N) is diffusers' timestep n, with exactly diffusers' `alphas_cumprod[n]`; t = 0 is
    clean. Between levels log alpha^2 is linear in t. With zero terminal SNR, the last alpha^2 is 2^-24 instead of 0, as
    in diffusers' Euler and DPM-Solver, so that no formula divides by zero. Note that "cosine" ends at alpha = 5e-5:
    an "eps" network's x_0 is all error there; prefer "v" or "x0" with it.

    Args:
        schedule: betas of DDPM ("linear"), of improved DDPM ("cosine": diffusers' squaredcos_cap_v2), or of latent
            diffusion ("scaled_linear": linear in sqrt(beta)).
        num_timesteps: number of noise levels N.
        beta_start: first beta of "linear" and "scaled_linear".
        beta_end: last beta of "linear" and "scaled_linear".
        betas: all betas, in place of a schedule; N is their number.
        zero_terminal_snr: shift and rescale the schedule so that the last level is pure noise; needs "v" or "x0".
        last_time: share of the levels that is kept, from the clean end; 1 is all. A shorter process needs a density to
            start sampling from (`denoiser.start`), since its last level is not pure noise.
        kernel: law of the noise; Gaussian when None.
        coupling: which noise goes to which image of a batch in training; independent noise when None.

    Raises:
        ValueError: An unknown schedule, or betas, a number of levels or a last time out of range.
    """

    def __init__(
        self,
        *,
        schedule: Literal["linear", "cosine", "scaled_linear"] = "linear",
        num_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        betas: list[float] | None = None,
        zero_terminal_snr: bool = False,
        last_time: float = 1.0,
        kernel: Kernel | None = None,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__(kernel, coupling)
        names = {"linear": "linear", "cosine": "squaredcos_cap_v2", "scaled_linear": "scaled_linear"}
        if schedule not in names:
            raise ValueError(f"schedule={schedule!r} is unknown; VP has {', '.join(names)} (or give `betas`)")
        if betas is not None and not (betas and all(0 < beta <= 1 for beta in betas)):
            raise ValueError("betas must be a list of numbers above 0 and at most 1")
        if betas is None and schedule != "cosine" and not 0 < beta_start <= beta_end <= 1:
            raise ValueError(
                f"`beta_start={beta_start}`, `beta_end={beta_end}`: they must be above 0, at most 1 and not fall"
            )
        if betas is None and num_timesteps < 1:
            raise ValueError(f"num_timesteps={num_timesteps} must be at least 1")
        self.num_timesteps = len(betas) if betas is not None else num_timesteps
        self.spacing = 1 / self.num_timesteps
        self.zero_terminal_snr = zero_terminal_snr
        self._betas = {
            "num_train_timesteps": self.num_timesteps,
            "beta_schedule": names[schedule],
            "beta_start": beta_start,
            "beta_end": beta_end,
            "trained_betas": betas,
            "rescale_betas_zero_snr": zero_terminal_snr,
        }
        diffusers_scheduler: Any = DDPMScheduler(**self._betas)
        if not 0 < last_time <= 1 or (last_time < 1 and zero_terminal_snr):
            raise ValueError(f"`last_time={last_time}` must lie in (0, 1], and be 1 with zero terminal SNR")
        self.last_time = last_time
        if last_time < 1:
            self.num_timesteps = max(1, round(last_time * self.num_timesteps))
            kept = diffusers_scheduler.betas[: self.num_timesteps].tolist()
            self._betas |= {"num_train_timesteps": self.num_timesteps, "trained_betas": kept}
            diffusers_scheduler = DDPMScheduler(**self._betas)
            self.spacing = 1 / self.num_timesteps
        alpha_bar = diffusers_scheduler.alphas_cumprod.double()
        if zero_terminal_snr:
            alpha_bar[-1] = 2.0**-24
        if not alpha_bar[-1] > 0:
            raise ValueError("these betas leave nothing of the image at the last level; use zero_terminal_snr=True")
        log_alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), alpha_bar.log()])  # [N + 1], from t = 0
        self._tables = {log_alpha_bar.device: log_alpha_bar}

    def log_alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        level, table = self._level(t), self._table(t)
        low = level.floor().clamp(max=self.num_timesteps - 1).long()
        log_alpha_bar = torch.lerp(table[low], table[low + 1], level - low)
        return 0.5 * log_alpha_bar, 0.5 * torch.log(-torch.expm1(log_alpha_bar))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        table = self._table(log_snr)
        log_alpha_bar = torch.nn.functional.logsigmoid(wide(log_snr)).contiguous()
        low = (torch.searchsorted(-table, -log_alpha_bar) - 1).clamp(0, self.num_timesteps - 1)
        fraction = (log_alpha_bar - table[low]) / (table[low + 1] - table[low])
        return as_time(((low + fraction) / self.num_timesteps).clamp(0, 1), log_snr)

    def snap(self, t: Tensor) -> Tensor:
        """The nearest of the levels 1/N, 2/N, ..., 1."""
        return as_time(self._level(t).round().clamp(min=1) / self.num_timesteps, t)

    def time_from_uniform(self, u: Tensor) -> Tensor:
        level = (wide(u) * self.num_timesteps).floor().clamp(0, self.num_timesteps - 1) + 1
        return as_time(level / self.num_timesteps, u)

    def model_time(self, t: Tensor) -> Tensor:
        """diffusers' timestep N t - 1: 0 to N - 1 on the levels (exact integers there)."""
        return as_time(self._level(t) - 1, t)

    def t_from_model_time(self, model_time: Tensor) -> Tensor:
        return as_time((wide(model_time) + 1) / self.num_timesteps, model_time)

    def scheduler(self, name: str, prediction: Kind) -> Any:
        return vp_scheduler(name, prediction, self._betas)

    def default_times(self) -> Times:
        """All N levels equally likely, as in DDPM."""
        return Uniform()

    def _level(self, t: Tensor) -> Tensor:
        """N t in [0, N], float64, with the rounding of t = n / N to t's dtype taken back."""
        level = (wide(t) * self.num_timesteps).clamp(0, self.num_timesteps)
        nearest = level.round()
        slack = 2 * self.num_timesteps * torch.finfo(torch.promote_types(t.dtype, torch.float32)).eps
        return torch.where((level - nearest).abs() <= slack, nearest, level)

    def _table(self, like: Tensor) -> Tensor:
        if like.device not in self._tables:
            self._tables[like.device] = self._tables[torch.device("cpu")].to(like.device, wide(like).dtype)
        return self._tables[like.device]


class EDM(Process):
    """The process of EDM: x_t = x_0 + sigma(t) eps, sigma from sigma_min at t = 0 to sigma_max at t = 1.

    sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho, so that equal steps of t are the
    sampler's grid. The network sees c_in x_t with c_in = (sigma^2 + sigma_data^2)^(-1/2), and ln(sigma) / 4.
    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models".

    Args:
        sigma_min: smallest noise level, at t = 0 (a sampler's last step goes from here to the clean image).
        sigma_max: largest noise level, at t = 1.
        sigma_data: standard deviation of the data, all pixels together.
        rho: bends the time axis; 7 puts more steps at low noise.
        kernel: law of the noise; Gaussian when None.
        coupling: which noise goes to which image of a batch in training; independent noise when None.
    """

    scales_input = True

    def __init__(
        self,
        *,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        rho: float = 7.0,
        kernel: Kernel | None = None,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__(kernel, coupling)
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: 0 < sigma_min < sigma_max is needed")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.sigma_data, self.rho = positive("sigma_data", sigma_data), positive("rho", rho)
        self._low, self._high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def log_alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        time = wide(t)
        return torch.zeros_like(time), self.rho * torch.log(self._low + time * (self._high - self._low))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return as_time(self._t_from_log_sigma(-0.5 * wide(log_snr)), log_snr)

    def snap(self, t: Tensor) -> Tensor:
        """t within [0, 1]: every noise level is a trained one."""
        return as_time(t.clamp(0, 1), t)

    def model_time(self, t: Tensor) -> Tensor:
        """c_noise = ln(sigma) / 4."""
        return as_time(self.log_alpha_sigma(t)[1] / 4, t)

    def t_from_model_time(self, model_time: Tensor) -> Tensor:
        return as_time(self._t_from_log_sigma(4 * wide(model_time)), model_time)

    def model_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        c_in = (self.sigma(t).square() + self.sigma_data**2).rsqrt()
        return per_image(c_in, x_t) * x_t

    def scheduler(self, name: str, prediction: Kind) -> Any:
        sigmas = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        return edm_scheduler(name, prediction, {**sigmas, "sigma_data": self.sigma_data, "rho": self.rho})

    def default_times(self) -> Times:
        """ln(sigma) normal with mean -1.2 and standard deviation 1.2, as in EDM (Karras et al. 2022, Table 1)."""
        return LogNormal()

    def _t_from_log_sigma(self, log_sigma: Tensor) -> Tensor:
        return ((torch.exp(log_sigma / self.rho) - self._low) / (self._high - self._low)).clamp(0, 1)


class RectifiedFlow(Process):
    """The linear path x_t = (1 - t) x_0 + t eps of rectified flow and flow matching. The network's time is 1000 t.

    Args:
        shift: moves sampling (and `LogitNormal` training times) towards noise, t -> shift t / (1 + (shift - 1) t), for
            large images; 1 leaves both alone. The process itself does not depend on it.
        kernel: law of the noise; Gaussian when None.
        coupling: which noise goes to which image of a batch in training; independent noise when None.
    """

    margin = 1e-3  # training times stay this far from both ends, where log-SNR is infinite

    def __init__(self, *, shift: float = 1.0, kernel: Kernel | None = None, coupling: Coupling | None = None) -> None:
        super().__init__(kernel, coupling)
        self.shift = positive("shift", shift)

    def log_alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        time = wide(t)
        return torch.log1p(-time), torch.log(time)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return as_time(torch.sigmoid(-0.5 * wide(log_snr)), log_snr)

    def snap(self, t: Tensor) -> Tensor:
        """t within [0.001, 0.999] (default (ours))."""
        return as_time(t.clamp(self.margin, 1 - self.margin), t)

    def model_time(self, t: Tensor) -> Tensor:
        return as_time(1000 * wide(t), t)

    def t_from_model_time(self, model_time: Tensor) -> Tensor:
        return as_time(wide(model_time) / 1000, model_time)

    def scheduler(self, name: str, prediction: Kind) -> Any:
        return flow_scheduler(name, prediction, self.shift)

    def default_times(self) -> Times:
        """Uniform in t, as in rectified flow (Liu et al. 2022, arXiv 2209.03003)."""
        return Uniform()


class FlowBySize(RectifiedFlow):
    """A rectified flow whose shift follows the size of the images (and of FLUX.2 the steps): `use_dynamic_shifting`.

    The schedulers that it makes look the shift up when they are put on their grid, so that they may be made before the
    size is known. Copies share the size. `shift` is that of 20 steps (ours), which matters to FLUX.2 only.

    Args:
        config: of the FlowMatchEulerDiscreteScheduler that the pipeline came with.
        mu: log of the shift (its `time_shift_type` exponential, else the shift itself) for so many places of an image
            and sampler steps.
        places: of the images.
    """

    STEPS = 20

    def __init__(self, config: dict[str, Any], mu: Callable[[int, int], float], places: int):
        super().__init__()
        self.config = config
        self.mu = mu
        self.resize(places)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FlowBySize":
        return self

    def resize(self, places: int) -> None:
        """From now on the images have so many places."""
        self.places = places
        self.shift = self.shift_of(self.STEPS)

    def shift_of(self, num_steps: int) -> float:
        """The shift of a sampler of so many steps."""
        mu = self.mu(self.places, num_steps)
        return mu if self.config.get("time_shift_type") == "linear" else math.exp(mu)

    def scheduler(self, name: str, prediction: Kind) -> Any:
        return flow_scheduler(name, prediction, self.shift, self)


def from_scheduler(scheduler: Any) -> tuple[Process, Kind]:
    """The process and the prediction type a diffusers scheduler was made for, read from its config.

    Takes every scheduler with betas (DDPM, DDIM, PNDM, Euler, Heun, DPM-Solver, UniPC, LCM, ...), the EDM ones, and the
    flow-matching ones. What only concerns sampling (spacing, clipping, dynamic shifting) is not kept.

    Raises:
        ValueError: a scheduler of another kind.
    """
    family, kwargs, prediction = read_scheduler(scheduler)
    processes: dict[str, type[Process]] = {"vp": VP, "edm": EDM, "flow": RectifiedFlow}
    return processes[family](**kwargs), prediction
