"""Settings of a denoiser that contradict each other."""

import warnings
from typing import Any, get_args

import torch
from torch import nn

from sparring.generators.conditioning import Conditioning
from sparring.generators.families import Family
from sparring.generators.start import MixtureStart, Start
from sparring.networks.edm2 import MPUNet
from sparring.process import EDM, VP, Kind, Process

FAINT = 1e-3  # an alpha that an eps network must not have to divide by; DDPM's linear schedule ends at 6e-3


def check_prediction(prediction: Kind, process: Process) -> None:
    """Raises ValueError if a network of this process cannot predict this, and warns if samplers suffer from it."""
    if prediction not in get_args(Kind):
        raise ValueError(f"prediction={prediction!r} is unknown; it is one of {', '.join(get_args(Kind))}")
    if prediction == "edm" and not isinstance(process, EDM):
        raise ValueError(f"prediction='edm' needs the EDM process, not {type(process).__name__}")
    if prediction != "eps" or not isinstance(process, VP):
        return
    if process.zero_terminal_snr:
        raise ValueError("prediction='eps' says nothing of x_0 at zero terminal SNR; use 'v' or 'x0'")
    last = float(process.alpha(torch.ones(1)))
    if last < FAINT:
        warnings.warn(
            f"`prediction=eps` on a schedule that ends at alpha {last:.0e}: samplers divide by it in their first "
            "step; train v or x0, or take the linear schedule",
            stacklevel=3,
        )


def check_time(net: nn.Module, process: Process) -> None:
    """Raises ValueError for a network that cannot read the times that this process tells it."""
    if isinstance(net, MPUNet) and not isinstance(process, EDM):
        raise ValueError(
            f"`denoiser.net=MPUNet` reads ln(sigma) / 4 and {type(process).__name__} tells it other times: train it "
            "with `edm2`, or --denoiser.process EDM --denoiser.prediction edm"
        )


def check_start(start: Start | None, process: Process, told: Conditioning) -> None:
    """Raises ValueError for a start density of a conditioned network, and warns where one is missing."""
    if start is not None and told.text is not None:
        raise ValueError("`start`, `kernel`: a text-to-image pipeline begins from Gaussian noise; leave them out")
    if isinstance(start, MixtureStart) and (told.label is not None or told.by_source):
        raise ValueError(
            f"`denoiser.start={type(start).__name__}`: a density of all images knows nothing of the class or source "
            f"that {told.name} is conditioned on; take a network without one"
        )
    if start is None and isinstance(process, VP) and process.last_time < 1:
        warnings.warn(
            f"`last_time={process.last_time}` without `denoiser.start`: samples begin from pure noise, which the "
            "last level is not; give --denoiser.start MixtureStart",
            stacklevel=3,
        )


def check_slots(latent_dim: int, second_time: bool, process: Process, text: Family | None) -> None:
    """Raises ValueError if a network of this process, or of captions, takes no latent z or no second time."""
    if latent_dim and text is not None:
        raise ValueError(f"`latent_dim={latent_dim}`: a text-to-image network takes no latent z; leave it out")
    if second_time and (text is not None or isinstance(process, EDM)):
        kind = "text-to-image networks" if text is not None else "the EDM process"
        raise ValueError(f"`second_time=True` is not there for {kind}; leave it out")


def check_size(net: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raises ValueError if the network's configuration says another shape (C, H, W)."""
    config: Any = getattr(net, "config", {})
    size, channels = config.get("sample_size"), config.get("in_channels")
    made_for = (channels, size, size) if isinstance(size, int) else (channels, *size) if size else shape
    if tuple(made_for) != tuple(shape):
        own = f"--denoiser.net.sample_size {shape[-1]}"
        ways = "`size` or `pad`", f"--data.size {made_for[-1]}", "`sample_size`", own
        if made_for[0] != shape[0]:
            both = "`in_channels` and `out_channels`"
            ways = "`channels`", f"--data.channels {made_for[0]}", both, f"--denoiser.net.in_channels {shape[0]}"
        raise ValueError(
            f"the network is made for images of shape {tuple(made_for)} and the data has {tuple(shape)}: set {ways[0]} "
            f"of the data ({ways[1]}) or, of a network from scratch, its {ways[2]} ({ways[3]})"
        )
