"""Improved-GAN: each technique by hand, some labels, and what goes together."""

from types import SimpleNamespace

import pytest
import torch
from gan_parts import batch, discriminator, generator, latents, points
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from sparring.data import Batch, Draws, GaussianMixture
from sparring.discriminators import PlainDiscriminator
from sparring.methods.gan.improved import ImprovedGAN
from sparring.networks.frozen import MovingCopy


def test_smoothing_is_of_reals_only():
    method = ImprovedGAN(generator(), discriminator(), smoothing=0.1)
    rollout, net = method.rollout(batch()), method.discriminator.net
    r, f = net(points()), net(method.generator(latents()))
    expected = (0.9 * softplus(-r) + 0.1 * softplus(r)).mean() + softplus(f).mean()
    torch.testing.assert_close(method.discriminator_loss(batch("discriminator"), rollout)["adversarial"], expected)
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, softplus(-f).mean())


@pytest.mark.parametrize("group", [None, 2])
def test_feature_matching(group):
    method = ImprovedGAN(generator(), discriminator(last="read_out"), feature_matching=True, group=group)
    net = method.discriminator.net
    h, g = net.features(points()), net.features(method.generator(latents()))
    pairs = zip(h.split(group or 6), g.split(group or 6), strict=True)
    expected = torch.stack([(a.mean(0) - b.mean(0)).square().sum() for a, b in pairs]).mean()
    loss = method.generator_loss(batch("generator"), method.rollout(batch()))["adversarial"]
    torch.testing.assert_close(loss, expected)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_history_is_the_mean_of_all_that_a_player_was():
    """0 in the first step; later weight |theta - mean|^2, the present theta being in the mean."""
    method = ImprovedGAN(generator(), discriminator(), history_weight=3.0)
    assert isinstance(method.past, MovingCopy)
    players = {"generator": method.generator, "discriminator": method.discriminator}
    was = {name: [flat(player)] for name, player in players.items()}
    random = torch.Generator().manual_seed(0)
    for method.step in range(4):
        rollout = method.rollout(batch())
        losses = {
            "discriminator": method.discriminator_loss(batch("discriminator"), rollout)["history"],
            "generator": method.generator_loss(batch("generator"), rollout)["history"],
        }
        for name, player in players.items():
            expected = 3 * (flat(player) - torch.stack(was[name]).mean(0)).square().sum()
            torch.testing.assert_close(losses[name], expected)
            assert (losses[name] == 0) == (method.step == 0)
            for p in player.parameters():
                p.data += 0.1 * torch.randn(p.shape, generator=random, dtype=torch.float64)
            was[name].append(flat(player))
        method.after_step()


def test_a_few_labels():
    """Rows with a label by the seed, the same in every step; real is what has any class."""
    method = ImprovedGAN(generator(), discriminator(3, last="read_out"), smoothing=0, labelled=0.5, label_seed=1)
    rollout, net = method.rollout(batch()), method.discriminator.net
    given, y = rollout.given.labels, batch().labels
    known = given >= 0
    assert 0 < known.sum() < 6
    assert torch.equal(torch.where(known, given, -1 - given), y)
    assert torch.equal(method.rollout(batch(step=7)).given.labels, given)
    l_real, l_fake = net(points()), net(method.generator(latents()))
    expected = cross_entropy(l_real[known], y[known], reduction="sum") / 3
    expected = expected + softplus(-l_real.logsumexp(1)).mean() + softplus(l_fake.logsumexp(1)).mean()
    torch.testing.assert_close(method.discriminator_loss(batch("discriminator"), rollout)["adversarial"], expected)
    right = (l_real.argmax(1) == y)[~known].double().mean()
    assert method.statistics["hidden_class_accuracy"].item() == pytest.approx(right.item())


def test_the_share_of_rows_with_a_label():
    method = ImprovedGAN(generator(), discriminator(3), smoothing=0, labelled=0.1)
    many = Batch(points(1).expand(5000, 2, 1, 1), torch.zeros(5000, dtype=torch.long), Draws(0))
    many.index = torch.arange(5000)
    share = (method.some_labels(many) >= 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=0.013)  # three standard deviations


def test_what_does_not_go_together():
    for settings in ({}, {"smoothing": 0, "classes": 3}):
        made = generator(num_classes=settings.pop("classes", None))
        with pytest.raises(ValueError, match="`labelled=0.5` goes with `smoothing=0` and a generator that takes no"):
            ImprovedGAN(made, discriminator(3), labelled=0.5, **settings)
    with pytest.raises(ValueError, match="`history_weight=-1`"):
        ImprovedGAN(generator(), discriminator(), history_weight=-1)
    method = ImprovedGAN(generator(), discriminator(3), smoothing=0, labelled=0.5)
    with pytest.raises(ValueError, match="`labelled=0.5`: the data has no labels, or does not say which row is which"):
        method.rollout(Batch(points(), batch().labels, Draws(0)))


@pytest.mark.parametrize("matching", [False, True])
def test_logits_of_other_classes_than_the_datas_are_refused(matching):
    settings = dict(smoothing=0, labelled=0.5, feature_matching=matching)
    for outputs in (3, 4):
        method = ImprovedGAN(generator(), discriminator(outputs, last="read_out"), **settings)
        method.size_for(SimpleNamespace(num_classes=3))
        rollout = method.rollout(batch())
        if outputs == 3:
            assert method.discriminator_loss(batch("discriminator"), rollout)["adversarial"].isfinite()
        else:
            with pytest.raises(ValueError, match=r"takes logits \[B, 3\] and labels, and got logits \(6, 4\)"):
                method.discriminator_loss(batch("discriminator"), rollout)


class Nearest(nn.Module):
    """Logits of the classes by the distance from their means."""

    def __init__(self, centres):
        super().__init__()
        self.centres = nn.Parameter(centres)

    def forward(self, x):
        return -torch.cdist(x.flatten(1), self.centres)


def test_the_accuracy_of_its_classes_is_measured():
    data = GaussianMixture(num_samples=200)
    centres = torch.stack([data.images(200)[data.labels(200) == k].mean(0).flatten() for k in range(8)])
    for logits, expected in ((centres, 1.0), (centres.roll(1, 0), 0.0)):
        method = ImprovedGAN(generator(), PlainDiscriminator(net=Nearest(logits)), smoothing=0, labelled=0.5)
        assert method.measures(method.generator, data, Draws(0))["accuracy"] == pytest.approx(expected, abs=0.02)
    assert ImprovedGAN(generator(), discriminator()).measures(generator(), data, Draws(0)) == {}
