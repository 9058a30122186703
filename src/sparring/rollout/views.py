"""A picture seen from the side: what an object in the plane looks like on a line, from any angle."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def line_integrals(density: Tensor, angles: Tensor) -> Tensor:
    """[B, C, n] integrals of densities [B, C, n, n] along the lines through the square of unit side, at angles [B].

    At angle 0 they run down the columns; at a quarter turn, along the rows. In between the square is turned by bilinear
    interpolation, and there is nothing outside of it.
    """
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros_like(angles)
    turn = torch.stack([torch.stack([cos, -sin, none], 1), torch.stack([sin, cos, none], 1)], 1).to(density)
    grid = affine_grid(turn, list(density.shape), align_corners=False)
    return grid_sample(density, grid, padding_mode="zeros", align_corners=False).mean(2)


def views(images: Tensor, angles: Tensor, density: float) -> Tensor:
    """[B, C n, 1, 1] in [-1, 1]: how opaque objects are along each line, `2 (1 - exp(-integral)) - 1`.

    Args:
        images: [B, C, n, n] in [-1, 1]; -1 is empty, 1 has the full density.
        angles: [B].
        density: of full matter, per side of the square.
    """
    matter = density * (images + 1).clamp(min=0) / 2
    opacity = 1 - torch.exp(-line_integrals(matter, angles))
    return (2 * opacity - 1).flatten(1)[:, :, None, None]


def angle_of(poses: Tensor, num_poses: int) -> Tensor:
    """Angles [B] of poses [B] out of as many, evenly over half a turn: the other half shows the same from behind."""
    return poses.double() * (math.pi / num_poses)
