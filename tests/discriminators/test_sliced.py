"""SAN's last layer: same values as the plain layer, gradients that are not mixed, what it refuses."""

import pytest
import torch
from torch import nn

from sparring.backbones import SmallConvNet
from sparring.data import Draws
from sparring.discriminators import Given, PlainDiscriminator, SiameseDiscriminator, SlicedDiscriminator
from sparring.networks import Perceptron
from sparring.objectives import Hinge, NonSaturating, Relativistic, Scores, Sliced


class Conv(nn.Module):
    """Ends in a 1x1 convolution to a map of two logits."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(self.first(x).tanh())


def plain(kind="linear"):
    torch.manual_seed(0)
    net = {
        "linear": lambda: Perceptron(in_features=16, width=6, depth=2),
        "three": lambda: Perceptron(in_features=16, width=6, depth=2, out_shape=[3]),
        "map": Conv,
    }[kind]()
    return PlainDiscriminator(net=net.double())


def images(seed=0):
    return torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def last_of(discriminator):
    return discriminator.get_submodule("net.last" if isinstance(discriminator.net, Conv) else "net.read_out")


@pytest.mark.parametrize("kind", ["linear", "three", "map"])
def test_it_has_the_logits_of_the_plain_layer_and_directions_of_the_same_value(kind):
    discriminator = plain(kind)
    expected = discriminator(images(), Given(), Draws(0))
    (scores,) = SlicedDiscriminator(discriminator).scores([[images()]], Given())
    torch.testing.assert_close(scores.logits, expected)
    bias = last_of(discriminator).bias
    bias = bias.view(-1, 1, 1) if kind == "map" else bias
    torch.testing.assert_close(scores.direction, expected - bias)
    assert torch.equal(discriminator(images(), Given(), Draws(0)), expected)  # no hook is left behind
    torch.testing.assert_close(SlicedDiscriminator(discriminator)(images(), Given(), Draws(0)), expected)


@pytest.mark.parametrize("kind", ["linear", "three", "map"])
def test_gradients_are_not_mixed(kind):
    """The logits train all but the direction: along w, not across it. The direction trains across w, and no h."""
    discriminator = plain(kind)
    layer = last_of(discriminator)
    (scores,) = SlicedDiscriminator(discriminator).scores([[images()]], Given())
    wanted = torch.randn(scores.logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trunk = [p for name, p in discriminator.named_parameters() if layer.weight is not p and layer.bias is not p]

    (scores.logits * wanted).sum().backward(retain_graph=True)
    w, g = layer.weight.detach().flatten(1), layer.weight.grad.flatten(1)
    along = (g * w).sum(1, keepdim=True) * w / w.square().sum(1, keepdim=True)
    torch.testing.assert_close(g, along)
    assert (along.norm(dim=1) > 1e-3).all()  # |w| learns
    assert all(p.grad.abs().sum() > 0 for p in [*trunk, layer.bias])
    discriminator.zero_grad()

    (scores.direction * wanted).sum().backward()
    g = layer.weight.grad.flatten(1)
    torch.testing.assert_close((g * w).sum(1), torch.zeros(len(w), dtype=torch.float64), rtol=0, atol=1e-12)
    assert (g.norm(dim=1) > 1e-3).all()
    assert all(p.grad is None for p in [*trunk, layer.bias])


def test_the_direction_ends_at_the_largest_gap():
    """With h fixed, omega of the Wasserstein gap is the direction from the mean of the fakes to that of the reals."""
    real, fake = images(0).flatten(1), images(1).flatten(1) - 0.5
    discriminator = SlicedDiscriminator(PlainDiscriminator(net=nn.Linear(16, 1).double()))
    objective = Sliced(Hinge())
    layer = discriminator.discriminator.net
    optimizer = torch.optim.SGD([layer.weight], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        objective.discriminator(*discriminator.scores([[real], [fake]], Given())).backward()
        optimizer.step()
    best = real.mean(0) - fake.mean(0)
    cosine = torch.cosine_similarity(layer.weight.detach()[0], best, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-4)


def test_the_objective_adds_the_gap_of_the_directions_for_the_discriminator_only():
    r, f = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.0])
    real, fake = Scores(r, direction=3 * r), Scores(f, direction=5 * f)
    base = NonSaturating()
    expected = base.discriminator(real, fake) + 0.5 * (5 * f.mean() - 3 * r.mean())
    torch.testing.assert_close(Sliced(base, direction_weight=0.5).discriminator(real, fake), expected)
    assert Sliced(base).generator(fake) == base.generator(fake)
    assert Sliced(Relativistic()).needs_real
    assert not Sliced(base).needs_real
    with pytest.raises(ValueError, match="use it with a `SlicedDiscriminator`"):
        Sliced(base).discriminator(Scores(r), fake)
    with pytest.raises(ValueError, match="`direction_weight=-1`"):
        Sliced(base, direction_weight=-1)


def test_what_is_refused():
    with pytest.raises(ValueError, match="SiameseDiscriminator compares images with others"):
        SlicedDiscriminator(SiameseDiscriminator(backbone=SmallConvNet(in_channels=1, widths=(4, 8), pretrain="none")))
    with pytest.raises(
        ValueError, match=r"`last=net.lost`: the linear layers of PlainDiscriminator are net.hidden.0, "
    ):
        SlicedDiscriminator(plain(), last="net.lost")
    hidden = SlicedDiscriminator(plain(), last="net.hidden.2")
    with pytest.raises(ValueError, match="`last=net.hidden.2` does not give the logits of PlainDiscriminator"):
        hidden.logits([images()], Given())
