"""Noised and augmented inputs whose strength follows the discriminator: laws, controller, and what is handed on."""

import copy

import pytest
import torch
from torch import nn

from sparring.backbones import SmallConvNet
from sparring.data import Draws
from sparring.discriminators import (
    Augmented,
    Diffused,
    Given,
    PixelDiscriminator,
    PlainDiscriminator,
    SiameseDiscriminator,
    SlicedDiscriminator,
    discriminator_losses,
)
from sparring.discriminators.adaptive import Strength
from sparring.networks import ConvDiscriminator, Perceptron
from sparring.objectives import (
    MMD,
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    Scores,
    Sliced,
    Transport,
    Wasserstein,
)


def plain():
    torch.manual_seed(0)
    return PlainDiscriminator(net=Perceptron(in_features=16, width=8, depth=2))


def images(n=6):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def diffused(strength=1.0, **settings):
    return Diffused(discriminator=plain(), strength=strength, **settings)


def test_the_chain_is_that_of_the_paper():
    abar = diffused().abar
    assert abar.shape == (1001,)
    assert abar[0] == 1
    assert abar[1].item() == pytest.approx(1 - 1e-4)
    assert abar[2].item() == pytest.approx((1 - 1e-4) * (1 - 1e-4 - (2e-2 - 1e-4) / 999))
    assert abar[1000].item() == pytest.approx(4.0e-5, rel=0.02)


@pytest.mark.parametrize(("strength", "last"), [(0.0, 10), (0.5, 505), (1.0, 1000)])
@pytest.mark.parametrize("times", ["priority", "uniform"])
def test_half_of_the_rows_are_clean_and_the_others_follow_their_law(times, strength, last):
    """P(t) = 2 (t - 1) / (T (T - 1)) has the mean (2 T + 2) / 3 and P(T) = 2 / T; equal ones (T + 1) / 2 and 1 / T."""
    discriminator = diffused(strength, times=times)
    assert discriminator.chain.item() == last
    t = discriminator.draw_times(Draws(0), 200_000)
    noised = t[t > 0].float()
    assert len(noised) / len(t) == pytest.approx(0.5, abs=0.005)
    assert noised.min() == (2 if times == "priority" else 1) or last > 100
    assert noised.max() <= last
    mean = (2 * last + 2) / 3 if times == "priority" else (last + 1) / 2
    assert noised.mean().item() == pytest.approx(mean, rel=0.01)
    if last == 10:
        at_end = (noised == last).float().mean().item()
        assert at_end == pytest.approx(0.2 if times == "priority" else 0.1, rel=0.05)


def test_noised_images_have_the_mean_and_the_spread_of_their_step():
    discriminator, n = diffused(noise_std=0.3), 40_000
    x = torch.full((n, 1, 1, 1), 0.7)
    for step in (0, 400, 1000):
        made = discriminator.harder(x, Given(t=torch.full((n,), step / 1000)), Draws(0))
        abar = discriminator.abar[step].item()
        assert made.mean().item() == pytest.approx(0.7 * abar**0.5, abs=0.01)
        assert made.std().item() == pytest.approx(0.3 * (1 - abar) ** 0.5, rel=0.02, abs=1e-6)
    x = images(2).requires_grad_()
    discriminator.harder(x, Given(t=torch.tensor([0.0, 0.4])), Draws(0)).sum().backward()
    expected = torch.tensor([1.0, discriminator.abar[400].sqrt()]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    torch.testing.assert_close(x.grad, expected)


def test_the_same_set_twice_cannot_be_told_apart():
    """Real and fake images from one set, with the steps of their rows: what is seen has one law, whatever the logit."""
    discriminator, n = diffused(noise_std=0.5), 20_000
    x = images(1).expand(n, 1, 4, 4)
    views = discriminator.views(x, x, Given(), Draws(3))
    real, fake = (discriminator.logits(features, views.given) for features in (views.real, views.fake))
    assert (real - fake).abs().max() > 0.01  # other noise
    assert (real.mean() - fake.mean()).abs() < 4 * real.std() * (2 / n) ** 0.5
    assert real.std().item() == pytest.approx(fake.std().item(), rel=0.05)


def test_both_see_one_step_and_the_discriminator_is_conditioned_on_it():
    torch.manual_seed(0)
    net = ConvDiscriminator(size=4, widths=(8,), time=True)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    discriminator = Diffused(discriminator=PlainDiscriminator(net=net, given=["t"]), strength=1.0)
    views = discriminator.views(images(), images(), Given(), Draws(0))
    clean = views.given.t == 0
    assert 0 < clean.sum() < 6
    assert (views.given.t <= 1).all()
    for features in (views.real, views.fake):
        assert torch.equal((features[0] == images()).flatten(1).all(1), clean)
    torch.testing.assert_close(discriminator.logits(views.fake, views.given), net(views.fake[0], t=views.given.t))
    assert discriminator(images(), Given(), Draws(0)).shape == (6,)
    assert torch.equal(discriminator.field(images(), Given())[""], net(images(), t=torch.zeros(6)))


def updated(strength, logits, times, rows=64):
    owner = plain()
    for step in range(times):
        strength.observe(logits.expand(rows), step)
        strength.adapt(owner)
    return strength.value.item()


def test_the_strength_travels_in_its_images_and_turns_around_at_the_target():
    """Of 6400 images it takes 100 updates of 64; it moves at every fourth."""
    sure, fooled = torch.tensor(3.0), torch.tensor(-0.1)
    strength = Strength(0.0, 0.6, 6400)
    assert updated(strength, sure, 3) == 0
    assert updated(strength, sure, 1) == pytest.approx(4 * 64 / 6400)
    assert updated(strength, sure, 46) == pytest.approx(0.48)
    assert updated(strength, sure, 200) == 1
    assert updated(strength, fooled, 4) == pytest.approx(1 - 0.04 + 0.04 * 0.5, abs=0.05)
    assert updated(strength, fooled, 400) == 0


@pytest.mark.parametrize(("share", "sign"), [(0.9, 1), (0.7, -1)])
def test_r_is_the_mean_of_the_signs(share, sign):
    """0.9 positive logits make r = 0.8, 0.7 make 0.4; their size does not count, nor does the number of heads."""
    logits = torch.full((20, 5), 0.01)
    logits[int(share * 20) :] = -100.0
    strength = Strength(0.5, 0.6, 2000, every=2)
    for step in range(2):
        for part in logits.split(4):  # micro-batches
            strength.observe(part, step)
        strength.adapt(plain())
    assert strength.value.item() == pytest.approx(0.5 + sign * 0.02)


def test_what_a_step_that_was_not_taken_has_seen_is_forgotten():
    strength = Strength(0.5, 0.6, 100, every=1)
    strength.observe(torch.full((10,), -1.0), 0)
    strength.observe(torch.full((10,), 1.0), 1)
    strength.adapt(plain())
    assert strength.value.item() == pytest.approx(0.6)


def test_the_strength_goes_on_where_it_was():
    first = Strength(0.2, 0.6, 640)
    updated(first, torch.tensor(1.0), 6)
    second = Strength(0.0, 0.6, 640)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert updated(first, torch.tensor(1.0), 6) == updated(second, torch.tensor(1.0), 6)
    assert first.value > 0.2


def test_augmentations_happen_with_their_probability():
    x = torch.full((4000, 1, 8, 8), 0.5)
    for probability in (0.0, 0.3, 1.0):
        discriminator = Augmented(discriminator=plain(), policy="cutout", strength=probability)
        changed = (discriminator.harder(x, Given(), Draws(0)) != x).flatten(1).any(1).float().mean().item()
        assert changed == pytest.approx(probability, abs=0.03)
    both = Augmented(discriminator=plain(), policy="color,cutout", strength=0.5)
    made = both.harder(x, Given(), Draws(0)).flatten(1)
    dark, coloured = (made == 0).any(1), (made.max(1).values != 0.5)
    table = torch.stack([(dark == a) & (coloured == b) for a in (False, True) for b in (False, True)]).float().mean(1)
    torch.testing.assert_close(table, torch.full((4,), 0.25), atol=0.03, rtol=0)  # each by itself


def test_the_other_discriminator_keeps_what_it_needs(backbone):
    inner = SiameseDiscriminator(backbone=backbone, augment="").double()
    discriminator = Diffused(discriminator=inner, strength=1.0)
    assert discriminator.needs_reference == "any"
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    views = discriminator.views(x, x, Given(), Draws(0), reference=x)
    real, fake = discriminator.scores([views.real, views.fake], views.given)
    assert isinstance(real, Scores)
    assert real.logits.shape == fake.logits.shape == (4,)
    found = discriminator.statistics(real, fake, views.given, 0)
    assert found["chain"].item() == 1000
    assert found["strength"].item() == 1


def losses_with(discriminator, objective):
    views = discriminator.views(images(), images(), Given(cost=torch.zeros(6)), Draws(0))
    return discriminator_losses(discriminator, views, objective, [], step=0, draws=Draws(0))[0]


@pytest.mark.parametrize(
    "objective", [LeastSquares(), Wasserstein(), Relativistic(), Transport(), MMD(), Sliced(Wasserstein())]
)
def test_signs_are_looked_at_only_if_logits_have_a_zero(objective):
    """A common shift of these logits changes no loss (or their zero lies elsewhere), but all of the signs."""
    inner = SlicedDiscriminator(plain()) if isinstance(objective, Sliced) else plain()
    moving, fixed = (Diffused(discriminator=inner, strength=1.0, adapt_images=n) for n in (1000, None))
    with pytest.raises(ValueError, match="adapts its strength to the signs of logits, which say nothing with"):
        losses_with(moving, objective)
    assert losses_with(fixed, objective)["adversarial"].isfinite()
    fixed.after_update()
    assert fixed.strength.value == 1
    for known in (NonSaturating(), Hinge()):
        assert losses_with(moving, known)["adversarial"].isfinite()
    with pytest.raises(ValueError, match="Diffused adapts"):
        SlicedDiscriminator(diffused()).check_objective(objective)


def told(name):
    return PlainDiscriminator(net=plain().net, given=[name])


def of_pixels():
    return PixelDiscriminator(backbone=SmallConvNet(in_channels=1, pretrain="none"))


def test_two_noise_levels_for_one_network_are_refused():
    x, given = torch.zeros(3, 1, 4, 4), Given(t=torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="`Diffused` tells its discriminator t of its own noise"):
        Diffused(discriminator=told("t")).views(x, x, given, Draws(0))
    Diffused(discriminator=plain()).views(x, x, given, Draws(0))  # does not look at t


def test_a_sliced_discriminator_moves_the_strength_of_the_one_within():
    inner = Augmented(discriminator=plain(), policy="cutout", adapt_images=100)
    sliced = SlicedDiscriminator(inner)
    real = Scores(torch.ones(8), [])
    for step in range(inner.strength.every):
        statistics = sliced.statistics(real, real, Given(), step)
        inner.after_update()
    assert "strength" in statistics
    assert inner.strength.value > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Diffused(discriminator=plain(), times="late"), "`times=late` must be priority or uniform"),
        (lambda: diffused(2.0), r"`strength=2.0`.* the strength lies in \[0, 1\]"),
        (lambda: diffused(noise_std=0.0), "`noise_std=0.0` must be above 0"),
        (lambda: diffused(adapt_images=0), "`adapt_images=0`"),
        (lambda: Augmented(discriminator=plain(), policy=""), "augments nothing"),
        (lambda: Augmented(discriminator=told("x_t")), "not their noisier neighbours `x_t`"),
        (lambda: Augmented(discriminator=of_pixels()), "move pixels away from their classes"),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
