"""FAIL: both updates by hand, what the discriminator learns from, the anchor."""

import pytest
import torch
from method_parts import batch_of, denoiser, evaluated, images_of, projected, siamese
from torch import nn

from sparring.data import Batch, Draws
from sparring.discriminators import Discriminator
from sparring.methods.tuning.fail import FAIL
from sparring.process import VP, StudentT


class Brightness(Discriminator):
    """The mean of the pixels, times a number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def features(self, x, given, draws):
        return [x]

    def logits(self, features, given):
        return self.scale * features[0].flatten(1).mean(1)


class Constant(nn.Module):
    """Predicts one number everywhere; remembers its times."""

    def __init__(self):
        super().__init__()
        self.value, self.times = nn.Parameter(torch.zeros((), dtype=torch.float64)), []

    def forward(self, x, time):
        self.times.append(time)
        return x * 0 + self.value


def method(**settings):
    return FAIL(denoiser(Constant(), kind="x0"), Brightness(), **{"num_steps": 5, "anchor_weight": 0.0} | settings)


def ones(phase="rollout"):
    return Batch(torch.ones(6, 1, 4, 4, dtype=torch.float64), None, Draws(0, phase=phase))


@pytest.mark.parametrize("draws", [1, 3])
def test_the_policy_fits_what_the_discriminator_likes(draws):
    """Own samples 0, the expert's image 1: of (0, 0, 0, d) the expert has the z-score 1.5.

    The error of an own sample has no slope, that of the image 2 (0 - 1): a quarter of 1.5 times that.
    """
    chosen = method(update="policy", draws=draws)
    loss = evaluated(chosen.generator_loss(ones("generator"), chosen.rollout(ones())))["policy"]
    (slope,) = torch.autograd.grad(loss, chosen.generator.net.value)
    assert slope.item() == pytest.approx(-0.75, rel=1e-3)
    chosen.discriminator.scale.data *= -1  # now it likes what the model makes
    loss = evaluated(chosen.generator_loss(ones("generator"), chosen.rollout(ones())))["policy"]
    (slope,) = torch.autograd.grad(loss, chosen.generator.net.value)
    assert slope.item() == pytest.approx(0.75, rel=1e-3)


def test_equal_rewards_teach_nothing():
    chosen = method(update="policy")
    chosen.discriminator.scale.data *= 0
    rollout = chosen.rollout(batch_of())
    assert (rollout.advantages == 0).all()
    loss = evaluated(chosen.generator_loss(batch_of(phase="generator"), rollout))["policy"]
    assert torch.autograd.grad(loss, chosen.generator.net.value)[0] == 0


def test_the_pathwise_update_follows_the_discriminator_through_one_step():
    """D(x_0') is the mean, so L_G = mean sp(-D) has the slope -1/2 E dx_0'/dvalue at 0.

    Of an x0 network dx_0' = (1 - sigma_s alpha_t / (alpha_s sigma_t)) dx0.
    """
    chosen = method(draws=1)
    rollout = chosen.rollout(batch_of())
    assert all((image == 0).all() for image in rollout.images)
    loss = evaluated(chosen.generator_loss(batch_of(phase="generator"), rollout))["pathwise"]
    (slope,) = torch.autograd.grad(loss, chosen.generator.net.value)
    process, index = chosen.generator.process, Draws(0, phase="generator").integers(4, (6,))
    t, s = chosen.levels[index].double(), chosen.levels[index + 1].double()
    moves = 1 - process.sigma(s) * process.alpha(t) / (process.alpha(s) * process.sigma(t))
    assert slope.item() == pytest.approx(-0.5 * moves.mean().item(), rel=1e-4)


def test_levels_are_the_samplers_but_the_last_and_the_noise_is_that_of_the_sample():
    chosen = method(draws=8)
    rollout = chosen.rollout(batch_of())
    called = {time[0].item() for time in chosen.generator.net.times}
    assert len(called) == 5
    chosen.generator.net.times.clear()
    seen = []
    chosen.generator.net.register_forward_pre_hook(lambda _, given: seen.append(given))
    evaluated(chosen.generator_loss(batch_of(phase="generator"), rollout))
    assert len(seen) == 8
    met = {round(time, 3) for given in seen for time in given[1].tolist()}
    assert met == {round(time, 3) for time in called - {min(called)}}
    for x, time in seen:
        t = chosen.generator.process.t_from_model_time(time)
        noised = chosen.generator.process.add_noise(rollout.images[0], rollout.eps[0], t)
        torch.testing.assert_close(x, noised, rtol=1e-6, atol=1e-9)


def test_the_discriminator_learns_from_the_samples_themselves_after_the_generator():
    for update in ("pathwise", "policy"):
        chosen = method(update=update)
        assert chosen.generator_first
        rollout = chosen.rollout(batch_of())
        assert len(rollout.images) == (3 if update == "policy" else 1)
        assert torch.equal(rollout.views.fake[0], rollout.images[0])
        assert torch.equal(rollout.views.real[0], images_of())
        losses = evaluated(chosen.discriminator_loss(batch_of(phase="discriminator"), rollout))
        (slope,) = torch.autograd.grad(losses["adversarial"], chosen.discriminator.scale)
        reals = images_of().flatten(1).mean(1)  # fakes are 0 and give no slope
        assert slope.item() == pytest.approx(-(torch.sigmoid(-reals) * reals).mean().item(), rel=1e-9)


def test_the_anchor_is_the_squared_change_of_the_output():
    chosen = method(anchor_weight=2.0)
    losses = evaluated(chosen.generator_loss(batch_of(phase="generator"), chosen.rollout(batch_of())))
    assert losses["anchor"] == 0
    chosen.generator.net.value.data += 0.3
    losses = evaluated(chosen.generator_loss(batch_of(phase="generator"), chosen.rollout(batch_of())))
    assert losses["anchor"].item() == pytest.approx(2 * 0.09, rel=1e-9)
    assert method(update="policy", anchor_weight=None).anchor_weight == 0.05
    assert method(anchor_weight=None).start is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(update="ppo"), "`update=ppo` must be pathwise or policy"),
        (dict(num_steps=1), "`num_steps=1` must be at least 2"),
        (dict(draws=0), "`draws=0` must be at least 1"),
        (dict(scheduler="lcm"), "`scheduler=lcm` adds noise"),
        (dict(anchor_weight=-1.0), "`anchor_weight=-1.0`"),
        (dict(discriminator=siamese()), "SiameseDiscriminator compares fakes with the images"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FAIL(denoiser(), **dict(discriminator=projected()) | settings)


def test_samples_that_begin_from_a_density_are_refused():
    heavy = denoiser(Constant(), process=VP(kernel=StudentT()), kind="x0")
    with pytest.raises(ValueError, match="`denoiser.start=StudentTStart`: this method starts from pure noise"):
        FAIL(heavy, Brightness())
