"""DRAIL: diffusion-reward adversarial imitation learning (Lai et al., arXiv 2405.16194).

Status: no gain; 0.93 of the walks arrive, of a plain discriminator with R1 0.91 (docs/results/gans.md).

An agent imitates an expert of whom only pairs of state and action are known. A denoiser of two classes is the
discriminator of pairs, its logit is the reward, and the policy learns by PPO:

    logit(s, a) = L(s, a, fake) - L(s, a, real),  L the denoising error of the pair;   D = sigmoid(logit)
    L_D = -E_expert log D - E_agent log(1 - D),      reward = log D - log(1 - D) = logit
    L_G = -E min(w A, clip(w, 1 - c, 1 + c) A) + value_weight (V - R)^2 - entropy_weight H,    w = pi(a|s) / pi_old(a|s)

Fake: the pairs that the policy makes on its own walk, of which one of each episode is shown to the discriminator. Rows
of the batch are episodes, and the data's rows are the expert's pairs. From general knowledge of the paper: the
classifier, the reward, PPO. Ours: the walk in the plane (`Navigation`), networks, sizes, rates, advantages as they are
(normalised, rows would depend on each other). Any other discriminator makes it plain adversarial imitation (GAIL).
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.data.navigation import HORIZON, pairs, reached, starts, step
from sparring.discriminators import Discriminator, Given, Views, check_single
from sparring.generators import Generator, LatentGenerator
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.networks import Perceptron
from sparring.networks.gaussian_policy import GaussianPolicy, log_likelihood
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.objectives.policy import clipped_policy_loss, generalised_advantages


@dataclass
class Episodes:
    """Walks of the policy, without a graph.

    Attributes:
        states: [B, T, 2] positions.
        actions: [B, T, 2], as the policy drew them.
        log_likelihood: [B, T] of the actions.
        advantages: [B, T].
        returns: [B, T] what the value should be.
        views: what the discriminator sees of one pair of each row's walk and of the expert's pair.
    """

    states: Tensor
    actions: Tensor
    log_likelihood: Tensor
    advantages: Tensor
    returns: Tensor
    views: Views


class DRAIL(Method):
    """Imitation of a walker in the plane.

    Args:
        generator: the policy, a `LatentGenerator` of a `GaussianPolicy`.
        discriminator: of pairs [B, 4, 1, 1]: position, then action.
        horizon: steps of an episode.
        discount: of a reward per step.
        trace: lambda of the advantages (GAE): 0 trusts the value of the next step, 1 the rewards that followed.
        epochs: updates of the policy on one rollout.
        clip: c.
        value_weight: of the squared error of the value.
        entropy_weight: of the policy's entropy.
        objective: of the discriminator; non-saturating (binary cross-entropy) when None.
        penalty: one penalty or several on the discriminator.
    """

    generator: LatentGenerator
    discriminator: Discriminator
    sample_steps = 1

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        horizon: int = HORIZON,
        discount: float = 0.95,
        trace: float = 0.95,
        epochs: int = 4,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.001,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if not isinstance(generator.net, GaussianPolicy):
            raise ValueError(f"DRAIL trains a GaussianPolicy, and the generator is a {type(generator.net).__name__}")
        if horizon < 1 or epochs < 1 or clip <= 0:
            raise ValueError(f"`horizon={horizon}`, `epochs={epochs}` must be at least 1, and `clip={clip}` above 0")
        if not 0 <= discount <= 1 or not 0 <= trace <= 1:
            raise ValueError(f"`discount={discount}`, `trace={trace}` must lie in [0, 1]")
        check_not_negative(value_weight=value_weight, entropy_weight=entropy_weight)
        check_single(discriminator)
        super().__init__(generator, discriminator)
        self.value = Perceptron(in_features=2, out_shape=[1], width=64, depth=2)
        self.updates_per_rollout = epochs
        self.horizon, self.discount, self.trace, self.clip = horizon, discount, trace, clip
        self.value_weight, self.entropy_weight = value_weight, entropy_weight
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    @property
    def policy(self) -> GaussianPolicy:
        """The network of the generator."""
        return cast(GaussianPolicy, self.generator.net)

    def parts(self) -> list[nn.Module]:
        return [self.value]

    @torch.no_grad()
    def rollout(self, batch: Batch) -> Episodes:
        given, rows, like = Given(), len(batch), batch.images
        position = starts(batch.draws.uniform((rows, 2)).to(like))
        states, actions, rewards = [], [], []
        for _ in range(self.horizon):
            z = batch.draws.normal((rows, 2)).to(like)
            action = self.generator(z, source=position[:, :, None, None]).flatten(1)
            seen = self.discriminator.features(pairs(position, action), given, batch.draws)
            rewards.append(self.discriminator.logits(seen, given).view(rows, -1).mean(1))
            states.append(position)
            actions.append(action)
            position = step(position, action)
        walked, taken = torch.stack(states, 1), torch.stack(actions, 1)
        values = self.value(torch.cat([walked, position[:, None]], 1).flatten(0, 1)).view(rows, -1)
        advantages = generalised_advantages(torch.stack(rewards, 1), values, self.discount, self.trace)
        row, shown = torch.arange(rows), batch.draws.integers(self.horizon, (rows,)).cpu()
        assert batch.source is not None
        real = pairs(batch.source.flatten(1), batch.images.flatten(1))
        fake = pairs(walked[row, shown], taken[row, shown])
        views = self.discriminator.views(real, fake, given, batch.draws)
        likelihood = self.log_likelihood(walked, taken)
        return Episodes(walked, taken, likelihood, advantages, advantages + values[:, :-1], views)

    def log_likelihood(self, states: Tensor, actions: Tensor) -> Tensor:
        """[B, T] of actions [B, T, 2] at states [B, T, 2]."""
        flat = states.flatten(0, 1)
        mean = self.generator(torch.zeros_like(flat), source=flat[:, :, None, None]).flatten(1)
        return log_likelihood(actions.flatten(0, 1), mean, self.policy.spread).view(states.shape[:2])

    def discriminator_loss(self, batch: Batch, rollout: Episodes) -> Losses:
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: Episodes) -> Losses:
        ratio = (self.log_likelihood(rollout.states, rollout.actions) - rollout.log_likelihood).exp()
        values = self.value(rollout.states.flatten(0, 1)).view(ratio.shape)
        return {
            "policy": clipped_policy_loss(ratio, rollout.advantages, self.clip),
            "value": self.value_weight * (values - rollout.returns).square().mean(),
            "entropy": -self.entropy_weight * self.policy.spread.sum(),
        }

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """The share of 256 episodes of the mean actions that end at the goal."""
        position = starts(draws.uniform((256, 2)))
        for _ in range(self.horizon):
            action = generator(torch.zeros_like(position), source=position[:, :, None, None])
            position = step(position, action.flatten(1))
        return {"reached": float(reached(position).double().mean())}
