"""MT-Diffusion: labels as patterns, its losses by hand, reading samples and images, and the plain denoiser in it."""

import math

import pytest
import torch
from torch import nn

from sparring.data import Batch, Digits, Draws, StoredImages
from sparring.generators import Denoiser, JointDenoiser, load_generator
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.denoising.mt_diffusion import MTDiffusion
from sparring.networks import MLP, JointUNet
from sparring.process import VP, MinSNR, StudentT


def method(amount=0.2, **settings):
    torch.manual_seed(0)
    net = JointUNet(sample_size=8, amount=amount, block_out_channels=[8, 8], norm_num_groups=4)
    denoiser = JointDenoiser(net, VP())
    denoiser.check(Digits())
    return MTDiffusion(denoiser, **settings)


def batch(generator, seed=0):
    images, labels = Digits()[list(range(6))]
    return generator.embed(Batch(images, labels, draws=Draws(seed)))


def test_a_label_is_a_pattern_in_the_image():
    generator = method().generator
    images, labels = Digits()[list(range(6))]
    added = batch(generator).x_0 - images
    torch.testing.assert_close(added.abs(), torch.full_like(added, 0.2))
    torch.testing.assert_close(added, 0.2 * generator.net.patterns[labels])
    flat = generator.net.patterns.flatten(1) / 8
    assert (flat @ flat.T - torch.eye(10)).abs().max() < 0.5  # no two are alike


def test_its_losses_by_hand():
    made = method(label=0.5, weighting=MinSNR())
    given = batch(made.generator)
    rollout = made.rollout(given)
    losses = made.generator_loss(given, rollout)
    noised, process = rollout.step.noised, made.generator.process
    alpha, sigma = process.alpha(noised.t), process.sigma(noised.t)
    x_t = alpha.view(-1, 1, 1, 1) * given.x_0 + sigma.view(-1, 1, 1, 1) * noised.eps
    image, logits = made.generator.net.parts(x_t, process.model_time(noised.t))
    weight = (alpha / sigma).square().clamp(max=5)
    torch.testing.assert_close(losses["diffusion"], (weight * (image - given.images).square().mean((1, 2, 3))).mean())
    log_p = logits.log_softmax(1)[torch.arange(6), given.labels]
    torch.testing.assert_close(losses["label"], -0.5 * log_p.mean())


def test_without_patterns_and_labels_it_is_the_plain_denoiser():
    made = method(amount=0.0, label=0.0)
    plain = Diffusion(Denoiser(made.generator.net.net, VP(), "x0"), times=made.times)
    given = batch(made.generator)
    loss = made.generator_loss(given, made.rollout(given))
    images, labels = Digits()[list(range(6))]
    other = Batch(images, labels, draws=Draws(0))
    assert torch.equal(loss["diffusion"], plain.generator_loss(other, plain.rollout(other))["diffusion"])
    assert loss["label"] == 0


def test_a_head_that_knows_nothing_has_the_entropy_of_the_classes():
    made = method(label=1.0)
    for parameter in made.generator.net.read_label.parameters():
        nn.init.zeros_(parameter)
    given = batch(made.generator)
    assert made.generator_loss(given, made.rollout(given))["label"].item() == pytest.approx(math.log(10))


def knowing(generator, sure=20):
    """Labels are read by the pattern that correlates most, and images are what is left without it."""

    def parts(x, time):
        logits = sure * torch.einsum("bchw,kchw->bk", x, generator.net.patterns) / 64
        return x - 0.2 * generator.net.patterns[logits.argmax(1)], logits

    generator.net.parts = parts


def test_a_label_that_is_not_sure_has_its_expected_pattern_taken_off():
    """With nothing learned of labels the sampler puts the mean pattern into its images."""
    generator = method().generator
    generator.net.parts = lambda x, time: (x, torch.zeros(len(x), 10))
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    put_in = generator.net(images, 0.0)
    torch.testing.assert_close(put_in - images, 0.2 * generator.net.patterns.mean(0).expand(5, -1, -1, -1))
    torch.testing.assert_close(generator.decode(put_in), images)


def test_the_pattern_is_read_and_taken_off_a_finished_sample():
    generator = method().generator
    knowing(generator, 2e4)
    images = 0.1 * torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 10
    z_0 = generator.with_labels(images, labels)
    assert torch.equal(generator.labels_of(z_0), labels)
    torch.testing.assert_close(generator.decode(z_0), images)
    image, logits = generator.net.parts(z_0, 0.0)
    torch.testing.assert_close(generator.net.expected(image, logits), z_0)
    knowing(generator)
    seen = generator.classified(generator.with_labels(images, labels), torch.zeros_like(images))
    assert (seen == labels).float().mean() > 0.9


def test_agreement_and_accuracy_of_labels_that_are_always_right():
    """Images that are nothing but their class: samples of it carry it, and so does the probe."""
    made = method()
    labels = torch.arange(200) % 10
    tone = made.generator.net.patterns.roll(1, 0)[labels] * 0.9
    data = StoredImages(tone, labels)
    generator = made.generator
    generator.labels_of = lambda z_0: labels[: len(z_0)]
    generator.generate = lambda *_, latents, **__: generator.with_labels(tone[: len(latents)], labels[: len(latents)])
    generator.classified = lambda images, eps: labels[: len(images)] if torch.equal(images, data.images(200)) else None
    data.images = lambda n=None, seed=0: tone if n is None else tone[:n]
    data.labels = lambda n=None, seed=0: labels if n is None else labels[:n]
    found = made.measures(generator, data, Draws(0))
    assert found == {"agreement": 1.0, "probe": 1.0, "accuracy": 1.0}


def test_its_folder_draws_the_same(tmp_path):
    generator = method().generator
    assert generator.save(tmp_path / "folder")
    opened = load_generator(tmp_path / "folder")
    assert isinstance(opened, JointDenoiser)
    assert torch.equal(opened.sample(3, 2), generator.sample(3, 2))


def test_a_folder_with_heavy_tailed_noise_begins_from_it(tmp_path):
    net = method().generator.net
    generator = JointDenoiser(net, VP(kernel=StudentT(dimension=3)))
    generator.check(Digits())
    assert generator.save(tmp_path / "folder")
    opened = load_generator(tmp_path / "folder")
    assert opened.process.kernel.dimension == 3
    assert torch.equal(opened.sample(3, 2), generator.sample(3, 2))
    assert not torch.equal(opened.sample(3, 2), JointDenoiser(net, VP()).sample(3, 2))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="read by a JointUNet, and this is a MLP"):
        JointDenoiser(MLP(), VP())
    generator = method().generator
    with pytest.raises(ValueError, match="`net.num_labels=10`: .* has 3 classes"):
        generator.check(Digits(classes=[0, 1, 2]))
    with pytest.raises(ValueError, match="has no classes"):
        generator.check(StoredImages(torch.zeros(4, 1, 8, 8)))
    with pytest.raises(ValueError, match="`amount=-1`"):
        JointUNet(sample_size=8, amount=-1)
    with pytest.raises(ValueError, match="`label=-1`"):
        method(label=-1)
