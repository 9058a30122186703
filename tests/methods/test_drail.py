"""DRAIL: the walk, the classifier's logit, and what is measured."""

import pytest
import torch
from method_parts import siamese
from torch import nn

from sparring.data import Batch, Draws, GaussianMixture, Navigation
from sparring.data.navigation import executed, expert, reached, starts, step
from sparring.discriminators import DiffusionClassifier, Discriminator, Given
from sparring.generators import LatentGenerator
from sparring.methods.tuning.drail import DRAIL
from sparring.networks import GaussianPolicy, Perceptron
from sparring.networks.gaussian_policy import log_likelihood
from sparring.objectives import r1_penalty
from sparring.process import VP


def test_the_expert_walks_around_the_wall_to_the_goal_from_everywhere():
    line = torch.linspace(0, 0.999, 20)
    position = starts(torch.cartesian_prod(line, line))
    assert (position[:, 0] < -0.29).all()
    seen = []
    for _ in range(32):
        position = step(position, expert(position))
        seen.append(position)
    assert reached(position).all()
    assert not reached(seen[5]).any()


def test_the_wall_stops_who_would_cross_it_below_the_gap():
    right = torch.tensor([[1.0, 0.0]] * 3)
    position = torch.tensor([[-0.05, -0.5], [-0.05, 0.5], [0.5, -0.5]])
    torch.testing.assert_close(step(position, right)[:, 0], torch.tensor([-0.05, 0.10, 0.65]))
    torch.testing.assert_close(step(position, 9 * right), step(position, right))  # no step is longer
    assert step(torch.tensor([[0.99, 0.99]]), torch.tensor([[1.0, 0.0]]))[0, 0] == 1
    assert executed(torch.tensor([[3.0, 4.0]])).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_the_data_are_the_experts_pairs():
    data = Navigation(num_episodes=3, noise=0.0)
    images, _ = data[list(range(96))]
    torch.testing.assert_close(images.flatten(1), expert(data.sources(list(range(96))).flatten(1)))
    assert data.source_shape == data.image_shape == (2, 1, 1)
    assert not torch.equal(data.holdout().images(), data.images())
    for settings in (dict(num_episodes=0), dict(noise=-1.0)):
        with pytest.raises(ValueError, match=list(settings)[0]):
            Navigation(**settings)


class PerClass(nn.Module):
    """Predicts one number for fakes and another for reals."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))

    def forward(self, x, time, labels):
        return self.value[labels][:, None, None, None].expand_as(x)


def test_the_logit_is_the_error_as_a_fake_minus_that_as_a_real():
    classifier = DiffusionClassifier(net=PerClass(), draws=3, scale=2.0)
    x = torch.zeros(5, 4, 1, 1, dtype=torch.float64)
    features = classifier.features(x, Given(), Draws(0))
    eps = features[1]
    assert eps.shape == (5, 3, 4, 1, 1)
    expected = 2 * ((eps - 0.5).square() - (eps + 1.0).square()).flatten(1).mean(1)
    torch.testing.assert_close(classifier.logits(features, Given()), expected)


def test_an_image_is_noised_at_the_drawn_levels():
    class Seen(PerClass):
        def forward(self, x, time, labels):
            self.x, self.time = x, time
            return super().forward(x, time, labels)

    classifier = DiffusionClassifier(net=Seen(), draws=2)
    x = torch.rand(3, 4, 1, 1, dtype=torch.float64)
    features = classifier.features(x, Given(), Draws(0))
    classifier.logits(features, Given())
    t = features[2].flatten()
    noised = VP().add_noise(x.repeat_interleave(2, 0), features[1].flatten(0, 1), t)
    torch.testing.assert_close(classifier.net.x, noised)
    torch.testing.assert_close(classifier.net.time, VP().model_time(t))
    for settings in (dict(draws=0), dict(scale=0.0)):
        with pytest.raises(ValueError, match=list(settings)[0]):
            DiffusionClassifier(net=PerClass(), **settings)


def test_the_likelihood_is_that_of_a_normal_law():
    action, mean, log_std = torch.randn(7, 2), torch.randn(7, 2), torch.tensor([0.3, -1.0])
    law = torch.distributions.Normal(mean, log_std.exp())
    torch.testing.assert_close(log_likelihood(action, mean, log_std), law.log_prob(action).sum(1))


class East(Discriminator):
    """Likes actions that go to the right."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def features(self, x, given, draws):
        return [x]

    def logits(self, features, given):
        return self.scale * features[0][:, 2, 0, 0]


def method(discriminator=None, **settings):
    torch.manual_seed(0)
    return DRAIL(LatentGenerator(GaussianPolicy(), 2), discriminator or East(), **{"horizon": 4} | settings)


def batch(phase="rollout", step=0):
    data = Navigation(num_episodes=2)
    rows = list(range(8))
    return Batch(data[rows][0], None, Draws(0, step=step, phase=phase), source=data.sources(rows))


def test_an_episode_is_the_policys_own_walk_and_its_reward_the_logit():
    chosen = method(discount=1.0, trace=1.0)
    nn.init.zeros_(list(chosen.value.parameters())[-2])
    nn.init.zeros_(list(chosen.value.parameters())[-1])
    made = chosen.rollout(batch())
    for t in range(3):
        torch.testing.assert_close(made.states[:, t + 1], step(made.states[:, t], made.actions[:, t]))
    rewards = executed(made.actions.flatten(0, 1)).view(8, 4, 2)[:, :, 0]
    torch.testing.assert_close(made.advantages, rewards.flip(1).cumsum(1).flip(1))
    torch.testing.assert_close(made.returns, made.advantages)
    torch.testing.assert_close(made.views.real[0][:, :2], batch().source)
    torch.testing.assert_close(made.views.real[0][:, 2:], batch().images)
    shown = made.views.fake[0][:, :2].flatten(1)
    assert ((made.states - shown[:, None]).abs().sum(2) < 1e-6).any(1).all()
    assert not made.actions.requires_grad


def test_the_policy_turns_to_where_the_reward_is():
    """Only the reward of its discriminator drives it: after some steps it walks to the right, or to the left."""
    for sign in (1.0, -1.0):
        chosen = method(epochs=2)
        chosen.discriminator.scale.data *= sign
        players = [*chosen.generator.parameters(), *chosen.value.parameters()]
        optimizer = torch.optim.Adam(players, lr=1e-2)
        for number in range(20):
            made = chosen.rollout(batch(step=number))
            for _ in range(chosen.updates_per_rollout):
                optimizer.zero_grad()
                sum(chosen.generator_loss(batch("generator"), made).values()).backward()
                optimizer.step()
        mean = chosen.policy.mean(starts(torch.rand(100, 2)))[:, 0].mean().item()
        assert sign * mean > 0.2


def test_the_share_that_reaches_the_goal_is_measured():
    class Expert(nn.Module):
        def forward(self, position):
            return expert(position)

    chosen = method(horizon=32)
    assert chosen.measures(chosen.generator, Navigation(num_episodes=1), Draws(0))["reached"] < 0.1
    chosen.policy.mean = Expert()
    assert chosen.measures(chosen.generator, Navigation(num_episodes=1), Draws(0)) == {"reached": 1.0}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="DRAIL trains a GaussianPolicy, and the generator is a Perceptron"):
        DRAIL(LatentGenerator(Perceptron(in_features=2, out_shape=[2, 1, 1]), 2), East())
    for settings in (dict(horizon=0), dict(epochs=0), dict(clip=0.0), dict(discount=2.0), dict(entropy_weight=-1.0)):
        with pytest.raises(ValueError, match=list(settings)[0]):
            method(**settings)
    with pytest.raises(ValueError, match="SiameseDiscriminator compares fakes"):
        method(siamese())
    with pytest.raises(ValueError, match="`latent_dim=3` must be 2"):
        GaussianPolicy(latent_dim=3)
    with pytest.raises(ValueError, match="no sources"):
        method().generator.check(GaussianMixture(num_samples=10))


def test_a_penalty_on_the_classifier_is_on_the_slope_along_the_image():
    """The net says `label (x_t + time)`: by the image alone the logit has the slope that finite differences show."""

    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x, time, labels):
            return self.scale * labels.view(-1, 1, 1, 1) * (x + time.view(-1, 1, 1, 1) / 1000)

    classifier = DiffusionClassifier(net=Bent(), draws=3)
    assert not classifier.takes_labels
    x = torch.randn(2, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = [feature.requires_grad_() for feature in classifier.features(x, Given(), Draws(0))]
    low, high = (classifier.logits([x.detach() + step, *features[1:]], Given()) for step in (-1e-5, 1e-5))
    slopes = (high - low).detach() / 2e-5
    penalty = r1_penalty(classifier.logits(features, Given()), features)
    assert penalty.item() == pytest.approx(slopes.square().mean().item(), rel=1e-6)
