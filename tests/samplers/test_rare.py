"""Latents moved to rare images: losses by hand, the way of a Gaussian density, what is kept, and what is refused."""

import pytest
import torch
from cases import pair, sampled
from torch import nn

from sparring.backbones import Backbone, FeatureFlow
from sparring.generators import Guide, LatentGenerator
from sparring.networks import HalfUNet
from sparring.process import VP, RectifiedFlow
from sparring.samplers import Sampler
from sparring.samplers.latents.rare import Rare


class Linear(nn.Module):
    """Two numbers of a latent as an image, scaled; also of a class, which shifts it."""

    def __init__(self, latent_dim=2):
        super().__init__()
        self.scale = nn.Parameter(torch.full((), 0.2))

    def forward(self, z, labels=None):
        shift = 0 if labels is None else 0.1 * labels.view(-1, 1, 1, 1)
        return self.scale * z[:, :2].view(-1, 1, 1, 2) + shift


class Flat(Backbone):
    name, dim = "flat", 2

    def features(self, images):
        return images.flatten(1)


def density(region=10.0):
    """The standard normal law of two pixels, and a region that is a ball about 0."""
    net = FeatureFlow(base=Flat(), levels=1, steps=1, width=8, num_reals=4)
    (step,) = net.flow.flow[0]
    nn.init.eye_(step.mixing)
    nn.init.zeros_(step.net[-1].layer.weight)
    step.net[-1].layer.bias.data = torch.tensor([0.0, 40.0])  # shift 0, scale 1
    net.low.data, net.high.data = -torch.ones(2), torch.ones(2)
    net.radii[0] = region
    guide = Guide(net, RectifiedFlow())
    guide.check_shape((1, 1, 2))
    return guide


def generator(classes=None):
    return LatentGenerator(Linear(), latent_dim=2, num_classes=classes)


NOTHING = dict(steps=0, deviation=0.0, starts=1)


def test_no_step_and_no_deviation_is_the_plain_sampler_bit_for_bit():
    made = generator()
    assert torch.equal(made.sample(12, seed=3, using=[Rare(density(), **NOTHING)]), made.sample(12, seed=3))
    still = Rare(density(), **NOTHING | {"steps": 3, "rate": 0.0})
    assert torch.equal(made.sample(12, seed=3, using=[still]), made.sample(12, seed=3))


def test_losses_by_hand():
    """Two starts of one reference and one of another; the density is normal."""
    guide = density()
    guide.net.spread.data = torch.tensor(2.0)
    rare = Rare(guide, weight=0.5, diversity=3.0, near=30.0, radius=0.5)
    h = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 0.0]])
    about = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    log_p = -0.5 * torch.tensor([9.0, 16.0, 1.0]) - torch.tensor(2 * torch.pi).log()
    expected = 0.5 * log_p / 2 + 30 * torch.tensor([1.0, 1.5, 0.0]).square() - 3 * torch.tensor([25.0, 25.0, 0.0]) / 4
    torch.testing.assert_close(rare.losses(h, about, torch.tensor([0, 0, 1])), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_linear_generator_and_a_normal_density_move_straight_from_the_mean(sign):
    made = generator()
    settings = dict(weight=sign, diversity=0.0, near=0.0, radius=100.0, starts=1, deviation=0.0)
    plain, moved = made.sample(20, seed=1), made.sample(20, seed=1, using=[Rare(density(), steps=5, **settings)])
    away = ((moved - plain) * plain.sign())[plain.abs() > 0.02]  # the others may pass the mean
    # each of the first steps of Adam is as long as the rate
    torch.testing.assert_close(away, torch.full_like(away, sign * 0.2 * 5 * 0.01), rtol=0.1, atol=0)


def test_diversity_parts_the_starts_and_leaves_their_mean():
    made = generator()
    settings = dict(weight=0.0, near=0.0, radius=100.0, starts=4, deviation=0.1)
    start = made.sample(8, seed=1, using=[Rare(density(), **settings, steps=0)]).view(2, 4, 2)
    moved = made.sample(8, seed=1, using=[Rare(density(), **settings, steps=30)]).view(2, 4, 2)
    assert (torch.cdist(moved, moved).sum((1, 2)) > 3 * torch.cdist(start, start).sum((1, 2))).all()
    rare, h = Rare(density(), **settings), start.view(8, 2).requires_grad_()
    rare.losses(h, h.detach(), torch.arange(8) // 4).sum().backward()
    torch.testing.assert_close(h.grad.view(2, 4, 2).sum(1), torch.zeros(2, 2), atol=1e-5, rtol=0)
    assert h.grad.abs().min() > 0


def test_what_is_kept_is_real_and_near():
    """The plain image lies within; what leaves the region of reals or the radius is not kept."""
    made = generator()
    plain = made.sample(20, seed=1).flatten(1)
    settings = dict(weight=1.0, diversity=0.0, near=0.0, starts=1, deviation=0.0, steps=100)
    free = made.sample(20, seed=1, using=[Rare(density(), radius=9.0, **settings)]).flatten(1)
    near = made.sample(20, seed=1, using=[Rare(density(), radius=0.1, **settings)]).flatten(1)
    assert ((free - plain).norm(dim=1) > 0.12).all()
    assert ((near - plain).norm(dim=1) <= 0.1).all()
    assert ((near - plain).norm(dim=1) > 0.08).all()
    real = made.sample(20, seed=1, using=[Rare(density(region=0.3), radius=9.0, **settings)]).flatten(1)
    inside = plain.norm(dim=1) < 0.3
    assert 0 < int(inside.sum()) < 20
    assert (real[inside].norm(dim=1) <= 0.3).all()
    assert torch.equal(real[~inside], plain[~inside])


def test_images_do_not_depend_on_the_batches_and_all_calls_are_counted():
    made, settings = generator(), dict(starts=3, steps=4)
    whole = made.sample(8, seed=5, using=[Rare(density(), **settings)])
    for size in (2, 4):
        torch.testing.assert_close(made.sample(8, seed=5, batch_size=size, using=[Rare(density(), **settings)]), whole)
    found = Sampler(made, device="cpu")(8, 1, seed=5, using=[Rare(density(), **settings)])
    assert torch.equal(found.images, whole)
    # reference, 5 points and the image through the generator, the first 6 of them through the density; 4 ways back
    assert found.calls == (1 + 5 + 1) + (1 + 5) + 4 * 4
    assert not torch.equal(whole, made.sample(8, seed=6, using=[Rare(density(), **settings)]))


def test_one_class_is_compared_with_itself():
    made = generator(classes=2)
    moved = made.sample(4, labels=[1], using=[Rare(density(), **NOTHING)])
    assert torch.equal(moved, made.sample(4, labels=[1]))
    with pytest.raises(ValueError, match="rare compares images of one kind: give one class with --labels"):
        made.sample(4, using=[Rare(density())])


def test_what_does_not_fit_is_refused():
    wide = LatentGenerator(nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2))), latent_dim=2)
    other = Guide(HalfUNet(widths=(8,), groups=4), VP())
    with pytest.raises(ValueError, match="holds no density: train one with `fit rare_density`"):
        Rare(other)
    with pytest.raises(ValueError, match="`starts=0` must be at least 1"):
        Rare(density(), starts=0)
    with pytest.raises(ValueError, match=r"`density` is of images of shape \(1, 1, 2\), and the model makes"):
        wide.sample(2, using=[Rare(density())])
    with pytest.raises(ValueError, match="is the only one that acts on latents, and takes one seed"):
        generator().sample(2, seed=[1, 2], using=[Rare(density())])
    with pytest.raises(ValueError, match="and this is a denoiser"):
        sampled(pair(), "ddim", 2, using=[Rare(density())])
