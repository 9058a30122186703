"""A case of every sampling system: how it is made, at strength zero and at some strength, for a pair of Gaussians."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gaussian_pair import GaussianPair
from torch import nn

from sparring.generators import Denoiser, Guide
from sparring.generators.predictor import Intervention
from sparring.process import VP, Kind, Process


@dataclass
class Case:
    """What the contracts need to know of a system.

    Attributes:
        make: the system for a process and a kind, with settings.
        zero: settings under which it does nothing.
        some: settings under which it does something.
        any_kind: whether it does the same for networks of every output.
    """

    make: Callable[..., Intervention]
    zero: dict[str, Any]
    some: dict[str, Any]
    any_kind: bool = True


def pair(process: Process = VP(), kind: Kind = "v", **settings: Any) -> Denoiser:  # noqa: B008
    denoiser = Denoiser(GaussianPair(process, kind, **settings), process, kind)
    denoiser.check_shape((1, 1, 2))
    denoiser.net.rows_of_calls.clear()
    return denoiser


def autoguidance(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.autoguidance import Autoguidance

    return Autoguidance(pair(process, kind, variance=0.5), **settings)


def projected(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.projected import AdaptiveProjectedGuidance

    return AdaptiveProjectedGuidance(**settings)


def rescaled(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.rescaled import RescaledGuidance

    return RescaledGuidance(**settings)


def guide(net: Any, process: Process) -> Guide:
    made = Guide(net, process)
    made.check_shape((1, 1, 2))
    return made


def classifier(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.classifier import ClassifierGuidance

    return ClassifierGuidance(guide(Bent(process, 2), process), **settings)


def minority(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.minority import MinorityGuidance

    return MinorityGuidance(guide(Bent(process, 3), process), **settings)


def cheap(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.cheap import CheapGuidance

    return CheapGuidance(guide(Bent(process, 2), process), **settings)


def inv_diff(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.inv_diff import InvDiff

    return InvDiff(pair(process, kind, variance=0.5), **settings)


def scene_genie(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.scene_genie import SceneGenie

    return SceneGenie(guide(Bent(process, 2), process), **settings)


def discriminator(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.discriminator import DiscriminatorGuidance

    return DiscriminatorGuidance(guide(Bent(process, 1), process), **settings)


class Bent(nn.Module):
    """A smooth function of noisy images and the noise level, in float64."""

    def __init__(self, process: Process, outputs: int) -> None:
        super().__init__()
        self.process, self.outputs = process, outputs
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        alpha = self.process.alpha(self.process.t_from_model_time(time.double()))
        bent = alpha * torch.tanh(x.flatten(1) + 0.3).sum(1)
        return torch.stack([number * bent for number in range(1, 1 + self.outputs)], dim=1)


def weak_to_strong(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.weak_to_strong import WeakToStrong

    return WeakToStrong(pair(process, kind, variance=0.5), **settings)


def unite(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.unite import Unite

    return Unite(pair(process, kind, mean=-0.5, variance=0.5), **settings)


def recycle(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.recycle import Recycle

    return Recycle(**settings)


def nested(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.speed.nested import Nested

    return Nested(**settings)


def perturbed(process: Process, kind: Kind, **settings: Any) -> Intervention:
    from sparring.samplers.guidance.perturbed import Perturbed

    return Perturbed(**settings)


OF_LATENTS = {"hubness", "rare"}
"""Systems that choose or move latents of a generator of one call, tested in test_latents.py and test_rare.py."""

OF_NETWORKS = {"auto_diffusion", "early_exit", "lacon", "plugged", "stages", "todo"}
"""Systems that change how a network of some kind is called, tested with such networks in files of their own."""

OF_SIZES = {"diffuse_high", "moved"}
"""Systems whose images are of another size or place than those of the network, tested in files of their own."""

CASES = {
    "autoguidance": Case(autoguidance, {"weight": 1.0}, {"weight": 2.0}),
    "cheap": Case(cheap, {"weight": 0.0}, {"weight": 2.0, "stride": 2}),
    "classifier": Case(classifier, {"weight": 0.0}, {"weight": 2.0}),
    "discriminator": Case(discriminator, {"weight": 0.0}, {"weight": 1.0}),
    "inv_diff": Case(inv_diff, {"weight": 0.0}, {"weight": 0.3}, any_kind=False),
    "minority": Case(minority, {"weight": 0.0}, {"weight": 3.5}),
    "nested": Case(nested, {"steps": 1}, {"steps": 4}),
    "perturbed": Case(perturbed, {"delta": 0.0}, {"delta": 0.3}, any_kind=False),
    "projected": Case(projected, {"weight": 1.0}, {"weight": 3.0, "bound": 0.7, "eta": 0.5}),
    "rescaled": Case(rescaled, {"weight": 1.0}, {"weight": 3.0}, any_kind=False),
    "recycle": Case(recycle, {"steps": 0}, {"steps": 2}),
    "scene_genie": Case(scene_genie, {"weight": 0.0}, {"weight": 3.0, "boxes": [(0.0, 0.0, 0.5, 1.0)], "classes": 1}),
    "unite": Case(unite, {"weight": 0.0}, {"weight": 1.0, "other_class": 0}),
    "weak_to_strong": Case(weak_to_strong, {"weight": 0.0}, {"weight": 1.0}),
}


def white(n: int, d: int = 1) -> torch.Tensor:
    """Latents [n, 1, 1, d] whose mean is 0 and whose covariance is the identity."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(0)
    return (x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T).view(n, 1, 1, d)


def sampled(denoiser: Denoiser, scheduler: str, steps: int, n: int = 8, d: int = 1, **settings: Any) -> torch.Tensor:
    """Samples of class 0 from white latents."""
    labels = torch.zeros(n, dtype=torch.int64)
    sampler = denoiser.process.scheduler(scheduler, denoiser.prediction)
    return denoiser.generate(sampler, steps, latents=white(n, d), condition=labels, **{"batch_size": n} | settings)
