"""Networks that are the slope of an energy: fields of scores that belong to a density, as composition by MCMC wants."""

from typing import Any

import torch
from diffusers import ModelMixin, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from sparring.networks.mlp import MLP
from sparring.networks.precision import at_least_float32


class Energy(ModelMixin):
    """What a network f gives in place of its output: dE/dx, with E(x, t) = |f(x, t) - x|^2.

    Trained to predict the noise, -E / sigma_t is the log-density of noisy images up to a constant of the level. A pass
    costs a forward and a backward one, a training step second derivatives, which attention kernels often lack.
    Source: Du et al., arXiv 2302.11552.
    """

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """The slope [B, C, H, W] at images or points of that shape; with a graph if gradient is recorded."""
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            x = sample if sample.requires_grad else sample.detach().requires_grad_()
            total = self.energy(x, timestep, class_labels).sum()
            (slope,) = torch.autograd.grad(total, x, create_graph=recorded)
        return UNet2DOutput(sample=slope) if return_dict else (slope,)

    def energy(self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None) -> Tensor:
        """E [B], at least float32."""
        output = super().forward(sample, timestep, class_labels, return_dict=False)[0]  # type: ignore[misc]
        return (at_least_float32(output) - sample).square().flatten(1).sum(1)


class EnergyUNet(Energy, UNet2DModel):
    """A UNet2DModel as f, of images; its arguments are those of diffusers' class. Without attention: see `Energy`."""


class EnergyMLP(Energy, MLP):
    """An `MLP` as f, of points."""
