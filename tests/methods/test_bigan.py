"""BiGAN: pairs of a scale and its inverse, its losses by hand, what it measures, and what it refuses."""

import math

import pytest
import torch
from torch import nn

from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import Given, PairDiscriminator, PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.bigan import BiGAN
from sparring.networks import ConvDiscriminator, Perceptron
from sparring.objectives import MMD, R1, FeatureMatching, Wasserstein


class Scale(nn.Module):
    """x = a z, or z = x / a."""

    def __init__(self, factor, shape):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.shape = shape

    def forward(self, x):
        return (self.factor * x).view(len(x), *self.shape)


class Agreement(nn.Module):
    """c x z: the best logit of a pair when the two joint laws are on the lines z = x and z = -x."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x, joined):
        return self.slope * (x.flatten(1) * joined).sum(1)


def scaled(inverse, slope):
    generator = LatentGenerator(Scale(2.0, (1, 1, 1)), latent_dim=1)
    return BiGAN(generator, PairDiscriminator(net=Agreement(slope)), encoder=Scale(inverse, (1,)))


def reals(n=4000):
    return 2 * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))


def loss_of(inverse, slope):
    method = scaled(inverse, slope)
    rollout = method.rollout(Batch(reals(), draws=Draws(0)))
    return method.discriminator_loss(Batch(reals(), draws=Draws(0)), rollout)["adversarial"].item()


def test_only_a_discriminator_of_pairs_sees_an_encoder_that_is_no_inverse():
    """Reals a z, G(z) = a z: with E(x) = x / a the joint laws are equal, with E(x) = -x / a only the marginals are."""
    undecided = 2 * math.log(2)
    assert loss_of(0.5, 0.0) == pytest.approx(undecided)  # blind: D = 0
    assert loss_of(-0.5, 0.0) == pytest.approx(undecided)
    for slope in (-0.5, 0.5):
        assert loss_of(0.5, slope) > undecided + 0.05  # equal joints: nothing is better than 0
    assert loss_of(-0.5, -1.0) < undecided - 0.5  # fakes have z = x / 2, reals z = -x / 2


def bigan(**settings):
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(in_features=3, out_shape=[2, 1, 1], width=8, depth=2), latent_dim=3)
    discriminator = PairDiscriminator(net=Perceptron(joined=3, width=8, depth=2))
    return BiGAN(generator, discriminator, encoder=Perceptron(out_shape=[3], width=8, depth=2), **settings)


def batch(phase="rollout"):
    return Batch(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)), draws=Draws(0, phase=phase))


def test_its_losses_by_hand():
    method = bigan()
    rollout = method.rollout(batch())
    z = Draws(0, phase="rollout").normal((6, 3))
    net = method.discriminator.net
    real = net(batch().images, joined=method.encoder(batch().images))
    fake = net(method.generator.net(z), joined=z)
    loss = method.discriminator_loss(batch("discriminator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, -real.sigmoid().log().mean() - (-fake).sigmoid().log().mean())
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, -(-real).sigmoid().log().mean() - fake.sigmoid().log().mean())
    loss.backward()
    slopes = torch.cat([p.grad.flatten() for p in method.encoder.parameters()])
    assert slopes.abs().max() > 0  # through the real pair
    other = bigan(objective=Wasserstein())
    loss = other.generator_loss(batch("generator"), other.rollout(batch()))["adversarial"]
    torch.testing.assert_close(loss, real.mean() - fake.mean())


def test_shuffled_pairs_are_those_of_other_rows():
    method = bigan(shuffled=True)
    rollout, plain = method.rollout(batch()), bigan().rollout(batch())
    for mine, own in ((rollout.real, plain.real), (rollout.fake, plain.fake)):
        assert torch.equal(mine[0], own[0])
        assert torch.equal(mine[1], own[1][[5, 0, 1, 2, 3, 4]])


def test_a_penalty_is_on_the_image_and_on_the_code():
    method = bigan(penalty=R1(weight=2.0))
    losses = method.discriminator_loss(batch("discriminator"), method.rollout(batch()))
    x, code = batch().images.requires_grad_(), method.encoder(batch().images).detach().requires_grad_()
    slopes = torch.autograd.grad(method.discriminator.net(x, joined=code).sum(), (x, code))
    torch.testing.assert_close(losses["r1"], sum(s.flatten(1).square().sum(1).mean() for s in slopes))


def test_the_measures_of_an_exact_inverse_and_of_a_wrong_one():
    data = StoredImages(reals(300))
    for inverse, error in ((0.5, 0.0), (-0.5, 1.0)):  # x - a E(x) = 2 x, on average twice |x|
        method = scaled(inverse, 0.0)
        with torch.no_grad():
            found = method.measures(method.generator, data, Draws(0))
        assert found["inversion_error"] == pytest.approx(error * 2 * reals(300).abs().mean().item(), abs=1e-6)
        z = Draws(0).normal((300, 1)).abs().mean().item()
        assert found["code_error"] == pytest.approx(error * 2 * z, abs=1e-6)
        assert found["nearest_fake_error"] < 0.2
        assert "probe" not in found  # nothing is known of classes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder": Perceptron(out_shape=[4])}, r"`encoder`: Perceptron must give \(3,\) numbers for an image, not"),
        ({"encoder": ConvDiscriminator(size=8)}, r"`encoder`: ConvDiscriminator cannot take images \(2, 1, 1\)"),
    ],
)
def test_what_cannot_work_is_refused(settings, words):
    method = bigan()
    with pytest.raises(ValueError, match=words):
        BiGAN(method.generator, method.discriminator, **settings)


def test_a_network_without_a_code_is_refused():
    method = bigan()
    with pytest.raises(ValueError, match="`joined=3` of the Perceptron and a vector: give both or none"):
        PlainDiscriminator(net=method.discriminator.net).logits([batch().images], Given())


def test_a_convolutional_discriminator_of_pairs_sees_the_code():
    torch.manual_seed(0)
    net = ConvDiscriminator(size=8, widths=(8, 8), groups=4, joined=5, out_shape=[2, 3]).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)  # away from the start, at which the blocks are the identity
    x, code = torch.randn(3, 1, 8, 8).double(), torch.randn(3, 5).double()
    made = net(x, joined=code)
    assert made.shape == (3, 2, 3)
    changed = code.clone()
    changed[1, 2] += 1
    moved = (net(x, joined=changed) - made).flatten(1).abs().amax(1)
    assert moved[1] > 1e-3
    assert moved[[0, 2]].max() < 1e-12
    with pytest.raises(ValueError, match="is conditioned on `joined`, and none was given"):
        net(x)
    with pytest.raises(ValueError, match="no class is projected on outputs"):
        ConvDiscriminator(num_classes=3, out_shape=[2])


@pytest.mark.parametrize("objective", [MMD(), FeatureMatching(Wasserstein())])
def test_an_objective_with_one_side_only_is_refused(objective):
    method = bigan()
    with pytest.raises(ValueError, match="BiGAN's players swap real and fake pairs"):
        BiGAN(method.generator, method.discriminator, objective=objective, encoder=method.encoder)
