"""The field of a discriminator: its logits at the right places, what it takes, and the colours of the picture."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Draws, GaussianMixture
from sparring.discriminators import Given, PlainDiscriminator, fields_of
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.networks import Perceptron
from sparring.runs.field import GENERATED, HIGH, LOW, MIDDLE, REAL, Field, field_picture, plane
from sparring.training import Trainer


class Plane(nn.Module):
    """x + 10 y + t + 100 (x of x_t): says where it is asked and what it takes."""

    def __init__(self):
        super().__init__()
        self.calls = nn.Parameter(torch.zeros(()))

    def forward(self, x, t=None, x_t=None):
        if self.training:
            self.calls.data += 1
        beside = 0 if t is None else t + 100 * x_t[:, 0, 0, 0]
        return x[:, 0, 0, 0] + 10 * x[:, 1, 0, 0] + beside


def points(*places):
    return torch.tensor(places)[:, :, None, None]


def test_logits_lie_where_they_are_asked_and_nothing_changes():
    discriminator = PlainDiscriminator(net=Plane(), given=["t", "x_t"]).train()
    givens = {
        "t = 0.5": Given(t=torch.tensor([0.5]), x_t=points((0.3, 0.1))),
        "t = 1": Given(t=torch.ones(1), x_t=points((0.0, 0.0))),
    }
    first, second = fields_of(discriminator, givens, points((0.0, 0.2)), points((0.1, 0.0), (0.2, 0.0)))
    side = len(first.logits)
    half = 1.25 / side  # the middle of the last cell lies so far inside the edge
    assert first.logits[0, -1].item() == pytest.approx(11 * (1.25 - half) + 30.5, abs=1e-4)  # above, right
    assert first.logits[-1, 0].item() == pytest.approx(-11 * (1.25 - half) + 30.5, abs=1e-4)
    assert first.logits[0, 0].item() == pytest.approx(9 * (1.25 - half) + 30.5, abs=1e-4)
    torch.testing.assert_close(first.real, torch.tensor([30.6, 30.7]))
    torch.testing.assert_close(second.fake, torch.tensor([3.0]))
    assert (first.caption, second.caption) == ("t = 0.5", "t = 1")
    torch.testing.assert_close(first.x_t, torch.tensor([0.3, 0.1]))
    assert discriminator.training
    assert discriminator.net.calls == 0


def test_colours_of_a_field():
    """Logits are x: white midway between the means of real (0.6) and fake (-0.2), full 0.4 from there, at 0.6, -0.2."""
    cells = plane(50).view(50, 50, 2)
    field = Field("", cells[..., 0], real=torch.tensor([0.6, 0.6]), fake=torch.tensor([-0.2, -0.2]))
    picture = field_picture([field, field], torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 0.5]]), side=500)
    assert picture.size == (1006, 500)

    def at(x, y, number=0):
        return picture.getpixel((506 * number + round((x / 1.25 + 1) * 250), round((1 - y / 1.25) * 250)))

    assert at(0.9, -0.5) == HIGH
    assert at(-0.5, -0.5, 1) == LOW
    assert all(abs(a - b) <= 12 for a, b in zip(at(0.2, -0.5), MIDDLE, strict=True))
    quarter = [(a + b) / 2 for a, b in zip(MIDDLE, HIGH, strict=True)]
    assert all(abs(a - b) <= 12 for a, b in zip(at(0.4, -0.5), quarter, strict=True))
    assert (at(0.0, 0.5), at(0.5, 0.5, 1)) == (GENERATED, REAL)


def test_several_fields_make_nearly_a_square():
    field = Field("t", torch.zeros(4, 4), torch.ones(2), torch.zeros(2))
    sizes = [field_picture([field] * n, torch.zeros(1, 2), torch.ones(1, 2), side=100).size for n in (1, 3, 4)]
    assert sizes == [(100, 100), (206, 206), (206, 206)]


def test_a_noisy_point_stands_for_the_points():
    field = Field("t", torch.zeros(4, 4), torch.ones(2), torch.zeros(2), x_t=torch.tensor([0.5, -0.5]))
    picture = field_picture([field], torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 0.5]]), side=500)
    assert picture.getpixel((350, 350)) == GENERATED
    assert picture.getpixel((250, 150)) not in (GENERATED, REAL)


def test_logits_that_are_not_finite_make_a_picture():
    field = Field("", torch.full((4, 4), torch.inf), torch.full((2,), torch.nan), torch.zeros(2))
    assert field_picture([field], torch.zeros(1, 2), torch.ones(1, 2)).getpixel((5, 400)) == MIDDLE


def gan(classes=None):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Perceptron(in_features=2, out_shape=[2, 1, 1], width=8, depth=1)

        def forward(self, z, labels=None):
            return self.inner(z)

    generator = LatentGenerator(Net(), latent_dim=2, num_classes=classes)
    net = Perceptron(in_features=2, width=8, depth=1, num_classes=classes)
    return GAN(generator, PlainDiscriminator(net=net, given=[] if classes is None else ["labels"]))


def test_a_class_conditional_gan_draws_a_field_for_three_classes():
    batch = Batch(torch.randn(6, 2, 1, 1), torch.tensor([3, 1, 1, 4, 5, 3]), Draws(0))
    fields = gan(classes=6).fields(batch, torch.randn(2, 2, 1, 1))
    assert [field.caption for field in fields] == ["class 1", "class 3", "class 4"]
    assert [field.caption for field in gan().fields(batch, torch.randn(2, 2, 1, 1))] == [""]


def test_a_run_draws_the_field_beside_its_samples_and_is_the_same_run(tmp_path):
    def train(out, every):
        torch.manual_seed(0)
        data = GaussianMixture(num_samples=100)
        settings = dict(steps=4, sample_every=every, batch_size=16, num_samples=20, tracker=None)
        run = Trainer(gan(), data, out=out, **settings)
        run.fit()
        return run

    drawn, bare = train(tmp_path / "drawn", 2), train(tmp_path / "bare", 0)
    assert sorted(file.name for file in (tmp_path / "drawn/samples").glob("field-*")) == [
        "field-000000.png",
        "field-000002.png",
        "field-000004.png",
    ]
    for one, other in zip(drawn.method.parameters(), bare.method.parameters(), strict=True):
        assert torch.equal(one, other)
