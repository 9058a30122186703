"""DifAugGAN: one call as the sampler makes it, its losses by hand, calibration in closed form, and what it refuses."""

import pytest
import torch
from method_parts import siamese
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws, LowResolution
from sparring.discriminators import Diffused, PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import DifAugGAN
from sparring.metrics.calibration import calibration_error
from sparring.networks import SourceUNet
from sparring.process import EDM, VP, StudentT


class Sum(nn.Module):
    """The sum of the pixels, times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return self.weight * x.flatten(1).sum(1)


def denoiser(process=None, prediction="v"):
    torch.manual_seed(0)
    net = SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4)
    return Denoiser(net, process or VP(schedule="cosine"), prediction)


def method(generator=None, discriminator=None, **settings):
    return DifAugGAN(generator or denoiser(), discriminator or PlainDiscriminator(net=Sum()), **settings)


def batch_of(made, n=6, phase="rollout"):
    data = LowResolution("digits")
    rows = list(range(n))
    images, labels = data[rows]
    return made.generator.embed(Batch(images, labels, Draws(0, phase=phase), source=data.sources(rows)))


def test_training_makes_what_one_step_of_the_sampler_makes():
    made = method()
    batch = batch_of(made)
    noise = Draws(0, phase="rollout").normal((6, 1, 8, 8))
    stepper = made.generator.stepper("ddim")
    sampled = made.generator.generate(stepper, 1, latents=noise, condition=batch.source)
    made.generator.eval()
    torch.testing.assert_close(made.rollout(batch).images, sampled, rtol=1e-3, atol=1e-4)


def test_its_losses_by_hand():
    made = method(reconstruction_weight=2.0, adversarial_weight=0.1)
    batch = batch_of(made)
    rollout = made.rollout(batch)
    real, fake = (0.3 * x.flatten(1).sum(1) for x in (batch.images, rollout.images))
    losses = made.discriminator_loss(batch, rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    losses["adversarial"].backward()
    assert all(parameter.grad is None for parameter in made.generator.parameters())
    losses = made.generator_loss(batch, rollout)
    torch.testing.assert_close(losses["reconstruction"], 2.0 * (rollout.images - batch.images).abs().mean())
    torch.testing.assert_close(losses["adversarial"], 0.1 * softplus(-fake).mean())


def test_without_its_weight_there_is_no_discriminator():
    made = method(adversarial_weight=0)
    batch = batch_of(made)
    assert made.discriminator is None
    assert list(made.generator_loss(batch, made.rollout(batch))) == ["reconstruction"]
    assert made.measures(made.generator, LowResolution("digits"), Draws(0)) == {}


def test_gradient_passes_the_noise_to_the_generator():
    made = method(discriminator=Diffused(discriminator=PlainDiscriminator(net=Sum()), noise_std=0.5, strength=0.192))
    assert made.discriminator.chain == 200
    batch = batch_of(made)
    rollout = made.rollout(batch)
    rollout.images.retain_grad()
    made.generator_loss(batch, rollout)["adversarial"].backward()
    scale = made.discriminator.abar[(rollout.views.given.t * 1000).round().long()].sqrt()
    logits = made.discriminator.logits(rollout.views.fake, rollout.views.given)
    expected = -0.05 * torch.sigmoid(-logits) * 0.3 * scale / 6
    torch.testing.assert_close(rollout.images.grad[:, 0, 0, 0], expected, rtol=1e-4, atol=1e-7)
    assert rollout.views.given.t.unique().numel() > 1


def test_the_best_logits_are_calibrated_and_a_constant_is_as_wrong_as_it_is_sure():
    """Reals N(0, 1), fakes N(m, 1): the best logit is m^2 / 2 - m x. Twice as sure is worse; a constant c misses by
    |sigmoid(c) - 1/2|."""
    random = torch.Generator().manual_seed(0)
    m = 1.5
    real = torch.randn(200_000, generator=random, dtype=torch.float64)
    fake = m + torch.randn(200_000, generator=random, dtype=torch.float64)
    best = [m**2 / 2 - m * x for x in (real, fake)]
    assert calibration_error(*best) < 0.004
    assert calibration_error(*(2 * logits for logits in best)) > 0.05
    constant = torch.full((10,), 2.0)
    assert calibration_error(constant, constant) == pytest.approx(float(torch.tensor(2.0).sigmoid()) - 0.5, abs=1e-6)
    sure = torch.full((5,), 50.0)
    assert calibration_error(sure, -sure) == pytest.approx(0, abs=1e-9)
    assert calibration_error(-sure, sure) == pytest.approx(1, abs=1e-9)
    with pytest.raises(ValueError, match=r"expected \[n\] twice"):
        calibration_error(real, fake[:5])


def test_the_calibration_on_held_out_images_is_measured():
    made = method()
    found = made.measures(made.generator.eval(), LowResolution("digits"), Draws(0, phase="measures"))
    assert 0 <= found["calibration_error"] <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(reconstruction_weight=0, adversarial_weight=0), "one of them must be above 0"),
        (dict(adversarial_weight=-1), "`adversarial_weight=-1` must be 0 or more"),
        (dict(discriminator=siamese()), "compares fakes with the images they were made from: use one of single"),
        (
            dict(generator=denoiser(VP(kernel=StudentT()))),
            "`denoiser.start=StudentTStart`: this method starts from pure",
        ),
        (dict(generator=denoiser(EDM(), "edm")), "DifAugGAN needs a denoiser of a VP process that works on pixels"),
    ],
)
def test_what_cannot_be_is_one_line(settings, message):
    with pytest.raises(ValueError, match=message):
        method(**settings)


def test_a_network_without_a_source_is_refused():
    class Plain(nn.Module):
        def forward(self, x, time):
            return x

    with pytest.raises(ValueError, match="Plain takes no source image: use --on digits-x2 or fashion16-x2"):
        method(Denoiser(Plain(), VP(), "v"))
