"""Noising: what a process is (`process`), how images become noise (`gaussian`), which times are trained (`times`), how
much (`weighting`), and in which space it happens (`space`)."""

from sparring.process.gaussian import EDM, VP, RectifiedFlow, from_scheduler
from sparring.process.process import Process, Times, per_image
from sparring.process.schedulers import (
    Kind,
    initial_sample,
    scheduler_input,
    scheduler_name,
    set_timesteps,
    takes_variance,
)
from sparring.process.space import Bands, Latents
from sparring.process.times import LogitNormal, LogNormal, Uniform
from sparring.process.weighting import (
    P2,
    SNR,
    Constant,
    Debiased,
    EDMWeighting,
    MinSNR,
    Sigmoid,
    SNRPlusOne,
    SoftMinSNR,
    TruncatedSNR,
    Weighting,
)

__all__ = [
    "Bands",
    "EDM",
    "P2",
    "SNR",
    "VP",
    "Constant",
    "Debiased",
    "EDMWeighting",
    "Kind",
    "Latents",
    "LogNormal",
    "LogitNormal",
    "MinSNR",
    "Process",
    "RectifiedFlow",
    "SNRPlusOne",
    "Sigmoid",
    "SoftMinSNR",
    "TruncatedSNR",
    "Times",
    "Uniform",
    "Weighting",
    "from_scheduler",
    "initial_sample",
    "per_image",
    "scheduler_input",
    "scheduler_name",
    "set_timesteps",
    "takes_variance",
]
