"""Minibatch discrimination: by hand, its ends, groups, and the last layer that it joins."""

import pytest
import torch
from torch import nn

from sparring.data import Draws
from sparring.discriminators import Given, PlainDiscriminator
from sparring.networks import Perceptron
from sparring.networks.minibatch import MinibatchDiscrimination


def rows(n=6, d=3, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_its_double_loop():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(3, kernels=4, numbers=2, group=3).double()
    h = rows()
    m = (h @ layer.project.weight.T).view(6, 4, 2)
    for i in range(6):
        companions = [j for j in range(6) if j // 3 == i // 3 and j != i]
        expected = sum((-(m[i] - m[j]).abs().sum(1)).exp() for j in companions)
        torch.testing.assert_close(layer(h)[i], expected)


def test_equal_rows_and_rows_far_apart():
    layer = MinibatchDiscrimination(3, group=6).double()
    torch.testing.assert_close(layer(rows(1).expand(6, 3)), torch.full((6, 100), 5.0, dtype=torch.float64))
    assert layer(1e4 * rows()).max() < 1e-6


def discriminator(**settings):
    torch.manual_seed(0)
    made = PlainDiscriminator(net=Perceptron(width=8, depth=2), last="read_out", **settings).double()
    if made.minibatch is not None:
        nn.init.normal_(made.read_minibatch.weight)
    return made


def test_it_joins_the_last_layer_of_a_discriminator():
    """One linear layer on h and o together; without gradient to begin with, as V starts at 0."""
    made, points = discriminator(minibatch=3), rows(6, 2)[..., None, None]
    h = made.net.features(points)
    joined = torch.cat([h, made.minibatch(h)], dim=1)
    weight = torch.cat([made.net.read_out.weight, made.read_minibatch.weight], dim=1)
    (scores,) = made.scores([[points]], Given())
    torch.testing.assert_close(scores.logits, joined @ weight.T + made.net.read_out.bias)
    torch.testing.assert_close(scores.hidden, h)
    assert torch.equal(made(points, Given(), Draws(0)), scores.logits)
    fresh = PlainDiscriminator(net=made.net, last="read_out", minibatch=3).double()
    assert torch.equal(fresh(points, Given(), Draws(0)), made.net(points))


def test_any_cut_into_whole_groups_gives_the_same():
    made, points = discriminator(minibatch=2), rows(6, 2)[..., None, None]
    parts = [made(points[span], Given(), Draws(0)) for span in (slice(0, 4), slice(4, 6))]
    torch.testing.assert_close(torch.cat(parts), made(points, Given(), Draws(0)))
    made.check(16)
    with pytest.raises(ValueError, match="`group=2` must divide the 5 rows"):
        made.check(5)


def test_what_is_refused():
    net = Perceptron(width=8, depth=2)
    with pytest.raises(ValueError, match="`last=lost`: the layers of Perceptron are hidden, hidden.0"):
        PlainDiscriminator(net=net, last="lost")
    with pytest.raises(ValueError, match="`minibatch=4` joins the last layer: name it, a linear one, with `last`"):
        PlainDiscriminator(net=net, minibatch=4)
    with pytest.raises(ValueError, match="`group=1` needs two rows"):
        MinibatchDiscrimination(3, group=1)
