"""Images noised to a level and walked back from there, which keeps their layout (SDEdit, arXiv 2108.01073)."""

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.generators import Condition, Denoiser
from sparring.process import per_image


def edited(
    denoiser: Denoiser, images: Tensor, condition: Condition, strength: float, num_steps: int, draws: Draws
) -> Tensor:
    """What a denoiser makes of images [B, C, H, W], in evenly spaced steps of DDIM without noise.

    Args:
        denoiser: it is called as it is; gradient passes if it is enabled.
        images: what is edited.
        condition: of the rows.
        strength: the level, in (0, 1]; 1 is pure noise.
        num_steps: network calls.
        draws: of the noise, one for each row.
    """
    process = denoiser.process
    levels = torch.linspace(strength, 0, num_steps + 1, device=images.device, dtype=images.dtype)
    noise = draws.normal(tuple(images.shape)).to(images)
    x = process.add_noise(images, noise, levels[0].expand(len(images)))
    for t, after in zip(levels, levels[1:], strict=False):
        now = t.expand(len(x))
        x_0 = denoiser(x, now, condition).x0
        eps = (x - per_image(process.alpha(now), x) * x_0) / per_image(process.sigma(now), x)
        x = process.add_noise(x_0, eps, after.expand(len(x))) if after > 0 else x_0
    return x
