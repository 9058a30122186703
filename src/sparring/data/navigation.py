"""Point navigation in the plane: an agent walks around a wall to a goal, and an expert shows how."""

import torch
from torch import Tensor

from sparring.data.base import StoredImages
from sparring.data.draws import derived_seed

GOAL = (0.7, -0.5)
GAP = (0.05, 0.6)
"""Where the expert passes the wall, which stands at x = 0 from below up to `TOP`."""
TOP = 0.3
STRIDE = 0.15
"""Length of the longest step."""
REACHED = 0.15
HORIZON = 32
"""Steps of an episode."""


class Navigation(StoredImages):
    """Pairs of an expert: the image is the action (2, 1, 1), its source the position (2, 1, 1) at which it was taken.

    The agent starts left of a wall and walks around it to a goal, where it stays. An action of length 1 is the longest
    step. The expert's are disturbed by noise.

    Args:
        num_episodes: of 32 steps each.
        noise: standard deviation of the noise on each number of an action.
        seed: of starts and noise.

    Raises:
        ValueError: no episode, or negative noise.
    """

    def __init__(self, *, num_episodes: int = 100, noise: float = 0.1, seed: int = 0) -> None:
        if num_episodes < 1 or noise < 0:
            raise ValueError(f"`num_episodes={num_episodes}` must be at least 1, and `noise={noise}` 0 or more")
        self.num_episodes, self.noise, self.seed = num_episodes, noise, seed
        random = torch.Generator().manual_seed(derived_seed("navigation", seed))
        position, positions, actions = starts(torch.rand(num_episodes, 2, generator=random)), [], []
        for _ in range(HORIZON):
            action = executed(expert(position) + noise * torch.randn(num_episodes, 2, generator=random))
            positions.append(position)
            actions.append(action)
            position = step(position, action)
        images, sources = (torch.stack(rows, 1).view(-1, 2, 1, 1) for rows in (actions, positions))
        super().__init__(images, None, name="navigation", sources=sources)

    def holdout(self) -> "Navigation":
        """As many episodes of another seed."""
        other = Navigation(num_episodes=self.num_episodes, noise=self.noise, seed=derived_seed("holdout", self.seed))
        other.name = f"{self.name}:holdout"
        return other


def starts(uniform: Tensor) -> Tensor:
    """[n, 2] positions left of the wall, of uniform numbers in [0, 1) of that shape: x in [-0.9, -0.3), y in +-0.8."""
    return torch.stack([0.6 * uniform[:, 0] - 0.9, 1.6 * uniform[:, 1] - 0.8], dim=1)


def executed(action: Tensor) -> Tensor:
    """[n, 2] actions, shortened to a length of at most 1."""
    return action / action.norm(dim=1, keepdim=True).clamp(min=1)


def pairs(position: Tensor, action: Tensor) -> Tensor:
    """Images [B, 4, 1, 1] of positions and actions [B, 2], the latter as they are carried out."""
    return torch.cat([position, executed(action)], dim=1)[:, :, None, None]


def step(position: Tensor, action: Tensor) -> Tensor:
    """[n, 2] where actions [n, 2] lead; who would cross the wall, or leave [-1, 1], stays (at its edge)."""
    there = (position + STRIDE * executed(action)).clamp(-1, 1)
    (x, y), (x_2, y_2) = position.unbind(1), there.unbind(1)
    crosses = (x < 0) != (x_2 < 0)
    height = y + (y_2 - y) * x / (x - x_2).where(crosses, torch.ones_like(x))
    return torch.where((crosses & (height < TOP))[:, None], position, there)


def expert(position: Tensor) -> Tensor:
    """[n, 2] actions: straight to the gap from the left of the wall, and then to the goal, without passing it."""
    aim = torch.where(position[:, :1] < 0, position.new_tensor(GAP), position.new_tensor(GOAL))
    return executed((aim - position) / STRIDE)


def reached(position: Tensor) -> Tensor:
    """[n] whether positions [n, 2] are at the goal."""
    return (position - position.new_tensor(GOAL)).norm(dim=1) < REACHED
