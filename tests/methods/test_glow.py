"""Glow: it inverts, its volume is the Jacobian's, actnorm standardises, densities sum to 1, bits by hand."""

import math

import pytest
import torch

from sparring.data import Batch, Draws, StoredImages
from sparring.generators import LatentGenerator, Tempered
from sparring.methods.likelihood.glow import Glow, bits, gaussian_bits, histogram_bits
from sparring.networks import GlowNet, Perceptron


def flow(**settings):
    """A flow whose every parameter is away from its start, in float64."""
    torch.manual_seed(0)
    net = GlowNet(**({"size": 4, "steps": 2, "width": 8} | settings)).double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def glow(net, dim, **settings):
    return Glow(LatentGenerator(net, dim), **settings)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "settings",
    [{"channels": 1}, {"channels": 3}, {"channels": 2, "size": 1, "levels": 1}, {"size": 6, "levels": 2}],
    ids=str,
)
def test_it_is_inverted_and_its_volume_is_that_of_the_jacobian(settings):
    net = flow(**settings)
    x = random(3, *net.shape)
    z, volume = net.encode(x)
    torch.testing.assert_close(net(z), x)
    torch.testing.assert_close(net.encode(net(random(3, z.shape[1], seed=1)))[0], random(3, z.shape[1], seed=1))
    for row in range(3):
        jacobian = torch.func.jacrev(lambda image: net.encode(image[None])[0][0])(x[row]).reshape(z.shape[1], -1)
        torch.testing.assert_close(volume[row], torch.linalg.slogdet(jacobian)[1])


def test_far_from_all_images_the_way_back_is_finite():
    """Where the scale of a coupling, sigmoid(h + 2), is 0 in floating point, and that of a split is infinite."""
    net = flow(steps=4).float()
    for level in net.flow:
        for step in level:
            step.net[-1].layer.bias.data.fill_(-300.0)
    for split in net.splits:
        split.layer.bias.data.fill_(300.0)
    images = net(random(64, 16).float())
    assert images.isfinite().all()
    assert images.abs().max() > 100


def test_actnorm_standardises_the_first_images_at_every_step():
    torch.manual_seed(0)
    net = GlowNet(size=8, steps=2, width=8)
    images = 0.3 * random(64, 1, 8, 8).float() + 0.4
    glow(net, 64, values=None).prepare(StoredImages(images))
    seen = []
    for level in net.flow:
        for step in level:
            encode = step.encode
            step.encode = lambda x, step=step, encode=encode: (
                seen.append((x + step.shift[:, None, None]) * step.scale),
                encode(x),
            )[1]
    net.encode(images)
    assert len(seen) == 4
    for x in seen:
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(x.shape[1]), atol=1e-4, rtol=0)


def test_the_density_of_a_flow_in_the_plane_sums_to_one():
    net = flow(channels=2, size=1, levels=1, steps=4)
    side = torch.linspace(-12, 12, 301, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)[:, :, None, None]
    with torch.no_grad():
        density = torch.exp2(-2 * bits(*net.encode(points)))
    assert density.sum().item() * (side[1] - side[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


def test_its_loss_by_hand():
    """Of a flow that halves what it is given: z = x / 2 in each of two numbers."""
    net = flow(channels=2, size=1, levels=1, steps=1)
    for parameter in net.parameters():
        parameter.data.zero_()
    (step,) = net.flow[0]
    step.mixing.data = torch.eye(2, dtype=torch.float64)
    step.log_scale.data.fill_(math.log(0.5) / 3)
    step.net[-1].layer.bias.data[1] = 40.0  # the coupling's scale is 1
    method, x = glow(net, 2, values=None), random(5, 2, 1, 1)
    loss = method.generator_loss(Batch(x), method.rollout(Batch(x, draws=Draws(0))))["bits"]
    normal = torch.distributions.Normal(0.0, 2.0)
    torch.testing.assert_close(loss, -normal.log_prob(x).mean() / math.log(2))
    assert method.generator.images_seen == 5


def test_noise_fills_the_step_between_two_values():
    method = glow(flow(size=4), 16, values=17)
    x = method.dequantised(torch.zeros(2000, 1, 4, 4), Draws(0))
    assert x.min().item() == pytest.approx(-1 / 16, abs=1e-4)
    assert x.max().item() == pytest.approx(1 / 16, abs=1e-4)
    assert x.std().item() == pytest.approx(1 / 8 / 12**0.5, rel=0.01)


def test_the_laws_beside_it_have_known_bits():
    x = random(20000, 3, 1, 1) * torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    entropy = 0.5 * math.log2(2 * math.pi * math.e)  # the logarithms of the deviations sum to 0
    assert gaussian_bits(x, x) == pytest.approx(entropy, abs=0.01)
    values = torch.tensor([-1.0, -1.0, 0.0, 1.0]).repeat(5000).view(-1, 1, 1, 1)
    assert histogram_bits(values, values, step=1.0) == pytest.approx(1.5, abs=1e-3)


def test_its_measures_know_what_a_pixel_costs():
    """Independent pixels of 17 equally likely values take log2(17) bits by their histogram."""
    drawn = torch.randint(17, (4000, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    data = StoredImages((drawn / 8 - 1).float())
    torch.manual_seed(0)
    method = glow(GlowNet(size=4, levels=1, steps=1, width=4), 16, values=17)
    method.prepare(data)
    with torch.no_grad():
        found = method.measures(method.generator, data, Draws(0))
    assert found["histogram_bits"] == pytest.approx(math.log2(17), abs=0.02)
    uniform_as_normal = 0.5 * math.log2(2 * math.pi * math.e * 17**2 / 12)  # in steps between two values
    assert found["gaussian_bits"] == pytest.approx(uniform_as_normal, abs=0.05)
    assert found["bits"] > math.log2(17)


def test_a_tempered_latent_is_smaller():
    assert torch.equal(Tempered(4, 0.5)(torch.ones(2, 4)), torch.full((2, 4), 0.5))
    assert torch.equal(
        LatentGenerator(flow().float(), 16, prior=Tempered(16, 0.0)).of_noise(torch.ones(1, 16)), torch.zeros(1, 16)
    )


def test_what_it_refuses():
    with pytest.raises(ValueError, match="Glow inverts its network, and Perceptron has none"):
        glow(Perceptron(in_features=2, out_shape=[2, 1, 1]), 2)
    with pytest.raises(ValueError, match="`values=1`"):
        glow(flow(), 16, values=1)
    with pytest.raises(ValueError, match="level 1 has one channel only"):
        GlowNet(size=5)
    with pytest.raises(ValueError, match="GlowNet cannot take latents of 9 numbers"):
        LatentGenerator(flow().float(), 9)
    with pytest.raises(ValueError, match="`temperature=-1`"):
        Tempered(4, -1)
