"""The density behind rare samples: a flow of features that sums to one, the region of reals, scaling, and its loss."""

import math

import pytest
import torch
from torch import nn

from sparring.backbones import Backbone, FeatureFlow, Pixels
from sparring.data import Batch, Draws, StoredImages
from sparring.generators import Guide
from sparring.methods.guides.rare_density import RareDensity
from sparring.networks import HalfUNet
from sparring.process import RectifiedFlow


class Flat(Backbone):
    """Pixels as features."""

    name = "flat"

    def __init__(self, dim=2):
        super().__init__()
        self.dim = dim

    def features(self, images):
        return images.flatten(1)


def net(dim=2, moved=True, **settings):
    torch.manual_seed(0)
    made = FeatureFlow(base=Flat(dim), **{"levels": 1, "steps": 2, "width": 8, "num_reals": 8} | settings).double()
    if moved:
        for parameter in made.flow.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def method(made, **settings):
    return RareDensity(Guide(made, RectifiedFlow()), **settings)


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.float64).view(len(numbers), 1, 1, -1)


def test_the_density_of_two_features_sums_to_one():
    made, side = net(), torch.linspace(-12, 12, 481, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    with torch.no_grad():
        total = made.log_density(x).exp().sum() * (side[1] - side[0]) ** 2
    assert float(total) == pytest.approx(1, abs=2e-3)


def test_a_flow_that_does_nothing_is_the_normal_law():
    made = net(moved=False)
    for step in made.flow.flow[0]:
        nn.init.eye_(step.mixing)
        nn.init.constant_(step.net[-1].layer.bias[1:], 40.0)  # sigmoid(h + 2) = 1
    x = torch.tensor([[0.0, 0.0], [3.0, -4.0]], dtype=torch.float64)
    expected = torch.tensor([0.0, -12.5], dtype=torch.float64) - math.log(2 * math.pi)
    torch.testing.assert_close(made.log_density(x), expected)


def test_before_the_first_step_features_are_scaled_and_the_region_is_known():
    """Four points on a line, and a second feature that never changes."""
    made = net()
    data = StoredImages(rows([0.0, 5.0], [1.0, 5.0], [3.0, 5.0], [8.0, 5.0]).float(), name="line")
    made.float()
    trained = method(made)
    trained.prepare(data)
    assert trained.jumped
    expected = torch.tensor([[-1.0, 0.0], [-0.75, 0.0], [-0.25, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(made.codes[made.radii >= 0].sort(0).values, expected)
    torch.testing.assert_close(made.radii[made.radii >= 0].sort().values, torch.tensor([1.25, 1.75, 2.0, 2.0]))
    codes = torch.tensor([-3.1, -3.0, 0.0, 3.0, 3.1])
    assert made.is_real(torch.stack([codes, torch.zeros(5)], 1)).tolist() == [False, True, True, True, False]
    x = expected[:, 0]
    torch.testing.assert_close(made.spread, ((x[:, None] - x).square().sum() / 12).sqrt())


def test_the_loss_is_minus_the_log_density_of_noised_features_for_each_of_them():
    made = net(dim=3, steps=3)
    batch = Batch(torch.randn(5, 1, 1, 3, dtype=torch.float64), draws=Draws(3, phase="x"))
    trained = method(made, noise=0.5)
    loss = trained.generator_loss(batch, trained.rollout(batch))["nats"]
    codes = made.scaled(batch.images) + 0.5 * Draws(3, phase="x").normal((5, 3)).double()
    torch.testing.assert_close(loss, -made.log_density(codes).mean() / 3)
    loss.backward()
    assert all(p.grad is not None for p in made.flow.parameters())
    assert made(batch.images, torch.ones(5)).shape == (5, 1)


def test_measures_beside_the_normal_law_of_the_features():
    """Two features of one normal law: scaled to [-1, 1], their entropy follows from their covariance."""
    images = torch.randn(400, 1, 1, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[1.0, 0.9], [0, 0.3]]
    )
    made = net(num_reals=500).float()
    trained = method(made, noise=0.0)
    trained.prepare(StoredImages(images))
    with torch.no_grad():
        found = trained.measures(trained.generator, StoredImages(images), Draws(0))
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * torch.cov(made.codes[:400].T))
    assert found["gaussian_nats"] == pytest.approx(float(entropy) / 2, abs=2e-3)
    assert found["nats"] > found["gaussian_nats"]  # no covariance is learned yet
    assert found["in_region"] == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`generator.net` is a HalfUNet, and this trains a FeatureFlow"):
        RareDensity(Guide(HalfUNet(), RectifiedFlow()))
    with pytest.raises(ValueError, match="a backbone of 2 features or more"):
        FeatureFlow(base=Pixels())
    with pytest.raises(ValueError, match="`noise=-1.0` must be 0 or more"):
        method(net(), noise=-1.0)
    with pytest.raises(ValueError, match="4 rows|3 rows"):
        method(net().float()).prepare(StoredImages(rows([0.0, 1.0], [1.0, 2.0], [2.0, 0.0]).float()))
