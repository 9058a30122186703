"""DP-SIMS: pixels' losses by hand, what the decoder sees, label maps from digits, its measures, and what it refuses."""

import pytest
import torch

from sparring.backbones import SmallConvNet
from sparring.data import Batch, DigitLayouts, Digits, Draws, StoredImages
from sparring.discriminators import Given, PixelDiscriminator
from sparring.generators import LatentGenerator, load_generator
from sparring.methods.gan.dp_sims import DPSIMS, bright, iou
from sparring.networks import LayoutGenerator, Perceptron


def pixels(**settings):
    torch.manual_seed(0)
    backbone = SmallConvNet(in_channels=1, widths=(4, 8), pretrain="none")
    return PixelDiscriminator(backbone=backbone, width=8, **settings)


def dp_sims(**settings):
    torch.manual_seed(0)
    net = LayoutGenerator(latent_dim=3, width=8, depth=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # away from the start, at which the blocks are the identity
    return DPSIMS(LatentGenerator(net, 3), pixels(), **settings)


def batch(phase="rollout", n=4):
    images, labels = DigitLayouts()[list(range(n))]
    return Batch(images, labels, Draws(0, phase=phase), source=DigitLayouts().sources(list(range(n))))


def test_its_losses_by_hand():
    method = dp_sims(diversity=0.5)
    method.prepare(DigitLayouts())
    rollout = method.rollout(batch())
    given, net = batch(), method.generator.net
    classes = (given.source[:, 0] > 0).long()
    share = (DigitLayouts().source_images(1000) > 0).float().mean()
    weights = torch.stack([0.5 / (1 - share), 0.5 / share])
    torch.testing.assert_close(method.weights, weights)
    draws = Draws(0, phase="rollout")
    z, other = draws.normal((4, 3)), draws.normal((4, 3))
    fake, second = net(z, source=given.source), net(other, source=given.source)
    real, made = (method.discriminator(x, Given(labels=classes), draws).log_softmax(1) for x in (given.images, fake))
    own = [-(weights[classes] * x.gather(1, classes[:, None])[:, 0]).mean() for x in (real, made)]
    loss = method.discriminator_loss(batch("discriminator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, own[0] - made[:, 2].mean())
    losses = method.generator_loss(batch("generator"), rollout)
    torch.testing.assert_close(losses["adversarial"], own[1])
    apart = (fake - second).abs().mean((1, 2, 3)) / (z - other).abs().mean(1)
    torch.testing.assert_close(losses["diversity"], 0.5 * (-apart).exp().mean())
    losses["adversarial"].backward()
    assert all(p.grad is None for p in method.discriminator.backbone.parameters())
    assert net.last.weight.grad.abs().max() > 0


def test_the_maps_have_mean_0_and_deviation_1_on_real_images():
    discriminator, data = pixels(), DigitLayouts()
    discriminator.prepare(data)
    features = discriminator.features(data.images(1000), Given(), Draws(0))
    for one in features:
        torch.testing.assert_close(one.mean((0, 2, 3)), torch.zeros(one.shape[1]), rtol=0, atol=1e-4)
        torch.testing.assert_close(one.std((0, 2, 3)), torch.ones(one.shape[1]), rtol=0, atol=1e-4)


def test_a_pooled_discriminator_makes_one_decision_for_an_image():
    images = batch().images
    given = Given(labels=torch.zeros(4, 8, 8, dtype=torch.long))
    logits = pixels()(images, given, Draws(0))
    assert logits.shape == (4, 3, 8, 8)
    assert logits.std((2, 3)).min() > 0
    pooled = pixels(pooled=True)(images, given, Draws(0))
    torch.testing.assert_close(pooled, logits.mean((2, 3), keepdim=True).expand(4, 3, 8, 8))


def test_layouts_are_those_of_the_digits_and_grey_levels_are_random():
    data, digits = DigitLayouts(), Digits()
    images, maps, share = data.images(), data.source_images(), (digits.images() + 1) / 2
    assert torch.equal(maps > 0, share >= 0.5)
    assert torch.equal(maps.abs(), torch.ones_like(maps))
    assert torch.equal(data.labels(), digits.labels())
    low, high = images.amin((1, 2, 3)), images.amax((1, 2, 3))
    assert low.min() >= -1
    assert low.max() < -0.2
    assert high.max() < 1.001
    assert low.std() > 0.2
    assert len(data.holdout()) == 500
    assert torch.equal(DigitLayouts().images(), images)
    assert iou(bright(images), (maps[:, 0] > 0).long()) > 0.8


def test_intersection_over_union_by_hand():
    true = torch.tensor([[[1, 1], [0, 0]]])
    assert iou(torch.tensor([[[1, 0], [1, 0]]]), true) == pytest.approx(1 / 3)
    assert iou(true, true) == 1


def test_a_perfect_generator_has_iou_1_and_one_without_noise_no_spread():
    method = dp_sims()
    for parameter in method.generator.net.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.dirac_(method.generator.net.read_in.weight)
    torch.nn.init.ones_(method.generator.net.last.weight)
    with torch.no_grad():
        found = method.measures(method.generator, DigitLayouts(), Draws(0))
        assert found["iou"] == 1
        assert found["spread"] == 0
        assert dp_sims().measures(dp_sims().generator, DigitLayouts(), Draws(0))["spread"] > 0.01


def test_samples_are_of_given_label_maps_and_a_folder_keeps_that(tmp_path):
    generator, sources = dp_sims().generator, DigitLayouts().source_images(3)
    images = generator.sample(5, sources=sources)
    noise = torch.randn((5, 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = generator.net(noise, source=sources[[0, 1, 2, 0, 1]]).clamp(-1, 1)
    torch.testing.assert_close(images, expected)
    assert generator.save(tmp_path)
    torch.testing.assert_close(load_generator(tmp_path).sample(5, sources=sources), images)
    assert generator.grid(DigitLayouts(), 4, 0, scheduler="", steps=1).shape == (4, 1, 8, 8)
    with pytest.raises(ValueError, match="`sources`: LayoutGenerator is conditioned on source images"):
        generator.sample(2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dp_sims(diversity=-1.0), "`diversity=-1.0`"),
        (
            lambda: DPSIMS(LatentGenerator(Perceptron(out_shape=[2, 1, 1]), 2), pixels()),
            "`net`: Perceptron takes no label maps",
        ),
        (lambda: pixels(augment="translation"), "`augment=translation` would move pixels"),
        (lambda: dp_sims().generator.check(Digits()), "`digits` has no sources"),
        (
            lambda: dp_sims().generator.check(
                StoredImages(torch.zeros(2, 1, 8, 8), name="pairs", sources=torch.zeros(2, 3, 8, 8))
            ),
            r"`pairs` has sources of shape \(3, 8, 8\)",
        ),
        (lambda: dp_sims().rollout(Batch(torch.zeros(2, 1, 8, 8))), "DP-SIMS needs a label map with each image"),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
