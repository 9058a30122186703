"""DMD2: its gradient for Gaussians by hand, what each player sees and in which order, what is left at weight 0."""

import pytest
import torch
from method_parts import batch_of, denoiser
from score_parts import points, student, train
from torch import nn

from sparring.data import Batch, Draws
from sparring.discriminators import MiddleHead
from sparring.generators import Denoiser
from sparring.methods.distillation.dmd2 import DMD2
from sparring.networks import MLP
from sparring.objectives.scores import distribution_matching
from sparring.process import EDM, VP, RectifiedFlow

PLAIN = dict(adversarial_weight=0.0)


def mlp(**settings):
    torch.manual_seed(0)
    return Denoiser(MLP(width=16, depth=1), settings.pop("process", VP()), settings.pop("kind", "v")).double()


def dmd2(**settings):
    return DMD2(mlp(), **settings).double()


def plane(n=6, phase="rollout"):
    real = torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(real, draws=Draws(0, phase=phase))


@pytest.mark.parametrize("shift", [0.8, -0.8])
def test_the_slope_for_shifted_gaussians_is_that_of_the_sheet(shift):
    """Data N(0, 1), fakes N(m, 1), x + sigma eps: fake - real = m sigma^2 / (1 + sigma^2), .5026 at m .8, sigma 1.3."""
    x = shift + torch.randn(1000, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    x_t = x.detach() + 1.3 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    real, fake = x_t / (1 + 1.3**2), shift + (x_t - shift) / (1 + 1.3**2)
    assert (fake - real).mean().item() == pytest.approx(shift / 0.8 * 0.5026, abs=1e-4)
    (slope,) = torch.autograd.grad(distribution_matching(x, real, fake), x)
    torch.testing.assert_close(slope, (fake - real) / (x - real).abs() / 1000)
    assert (slope * shift > 0).all()  # descent brings the shift down
    zero = distribution_matching(x, real, real)
    assert zero == 0
    assert torch.autograd.grad(zero, x)[0].abs().max() == 0


def test_the_slope_is_divided_by_the_distance_of_each_image_and_a_mean_over_numbers():
    """Of two images of two numbers: g / (4 mean |x - real|), each with its own distance."""
    x = torch.tensor([[1.0, 3.0], [10.0, 30.0]], dtype=torch.float64, requires_grad=True)
    real = torch.zeros(2, 2, dtype=torch.float64)
    fake = torch.tensor([[1.0, 0.0], [1.0, -2.0]], dtype=torch.float64)
    (slope,) = torch.autograd.grad(distribution_matching(x, real, fake), x)
    torch.testing.assert_close(slope, torch.tensor([[1 / 8, 0.0], [1 / 80, -2 / 80]], dtype=torch.float64))


@pytest.mark.parametrize(("shift", "sign"), [(0.5, 1), (-0.5, -1), (0.0, 0)])
def test_the_student_goes_to_the_data_and_rests_there(shift, sign):
    method = student(DMD2, line=(1.0, shift), **PLAIN)
    rollout = method.rollout(points(4000))
    loss = method.generator_loss(points(4000, "generator"), rollout)["scores"]
    slope = torch.autograd.grad(loss, method.generator.net.b)[0].item()
    assert slope == 0 if sign == 0 else slope * sign > 0.1


def test_the_student_widens_where_the_data_is_wider():
    method = student(DMD2, line=(0.5, 0.0), **PLAIN)
    loss = method.generator_loss(points(4000, "generator"), method.rollout(points(4000)))["scores"]
    assert torch.autograd.grad(loss, method.generator.net.a)[0] < -0.05


def test_training_finds_the_gaussian_of_the_data():
    """From N(0, 1), with a fake score that learns from the start's: N(0.5, 0.6^2), within 0.06."""
    method = student(DMD2, data=(0.5, 0.6), fakes=(0.0, 1.0), **PLAIN)
    slope, shift = train(method, 150, (0.03, 0.01), updates=3)
    assert (abs(slope), shift) == pytest.approx((0.6, 0.5), abs=0.06)


def test_without_a_discriminator_plain_distribution_matching_is_left():
    method = student(DMD2, **PLAIN)
    batch = points(8)
    rollout = method.rollout(batch)
    assert method.discriminator.head is None
    assert set(method.discriminator_loss(batch, rollout)) == {"fake_score"}
    assert set(method.generator_loss(batch, rollout)) == {"scores"}
    gan = dmd2(score_weight=0.0)
    batch = plane()
    assert set(gan.generator_loss(batch, gan.rollout(batch))) == {"adversarial"}


def test_the_fake_score_learns_the_fakes_with_the_ordinary_loss():
    """|target - output|^2 at the noised fakes, whose best value here is that of N(b, a^2)."""
    method = student(DMD2, line=(0.5, 1.0), **PLAIN)
    rollout = method.rollout(points(4000))
    batch = lambda: points(4000, "discriminator")  # noqa: E731
    best = method.discriminator_loss(batch(), rollout)["fake_score"]
    slopes = torch.autograd.grad(best, list(method.discriminator.parameters()))
    assert max(abs(slope.item()) for slope in slopes) < 0.1
    method.discriminator.denoiser.net.mean.data += 0.3
    assert method.discriminator_loss(batch(), rollout)["fake_score"] > best


def test_losses_of_both_players_are_weighted_terms_of_the_head():
    method = dmd2(adversarial_weight=0.25, class_weight=0.5)
    batch = plane()
    rollout, head = method.rollout(batch), method.discriminator.head
    real, fake = (head.logits(x, rollout.views.given) for x in (rollout.views.real, rollout.views.fake))
    softplus = nn.functional.softplus
    mine = method.generator_loss(plane(phase="generator"), rollout)
    torch.testing.assert_close(mine["adversarial"], 0.25 * softplus(-fake).mean())
    theirs = method.discriminator_loss(plane(phase="discriminator"), rollout)
    torch.testing.assert_close(theirs["adversarial"], 0.5 * (softplus(-real).mean() + softplus(fake).mean()))


def test_reals_and_fakes_have_levels_and_noises_of_their_own():
    method = dmd2()
    views = method.rollout(plane(400)).views
    assert (views.real[1] == views.fake[1]).float().mean() < 0.1
    assert torch.corrcoef(torch.stack([views.real[1], views.fake[1]]))[0, 1].abs() < 0.15


def test_what_the_opponent_learns_at_covers_all_levels_at_which_scores_are_compared():
    """Also of EDM, whose own times are above a noise of 20 in one image of 5000."""
    method = DMD2(mlp(process=EDM(), kind="edm")).double()
    process, head = method.generator.process, method.discriminator.head
    for times in (method.times, method.score_times, head.times):
        sigma = process.sigma(times(process, Draws(0), 2000))
        assert (sigma > 20).double().mean().item() == pytest.approx(0.22, abs=0.04)


@pytest.mark.parametrize("features", ["fake score", "teacher"])
def test_the_head_sits_on_the_named_network_and_trains_only_the_fake_score(features):
    method = dmd2(features=features, class_weight=1.0)
    batch = plane()
    loss = method.discriminator_loss(batch, method.rollout(batch))["adversarial"]
    slopes = torch.autograd.grad(loss, list(method.fake_score.parameters()), allow_unused=True)
    assert (slopes[0] is not None) == (features == "fake score")
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_guidance_is_of_the_teacher_only():
    from method_parts import ClassNet

    method = DMD2(denoiser(ClassNet()), guidance=2.0, **PLAIN)
    batch = batch_of(labels=True)
    noised = method.noised(batch, batch.x_0, method.score_times)
    real, fake = method.estimates(batch, noised)
    told, none = (method.teacher(noised.x_t, noised.t, c) for c in (batch.labels, torch.full_like(batch.labels, 9)))
    torch.testing.assert_close(real, 2 * told.x0 - none.x0)
    torch.testing.assert_close(fake, method.fake_score(noised.x_t, noised.t, batch.labels).x0)


def test_it_is_sampled_as_it_was_trained():
    one, four = DMD2(mlp()), DMD2(mlp(), num_steps=4)
    assert (one.sampler, one.sample_steps, one.levels.tolist()) == ("ddim", 1, [1.0])
    assert (four.sampler, four.sample_steps) == ("lcm", 4)
    assert four.levels.tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert DMD2.generator_first
    for process, kind in ((EDM(), "edm"), (RectifiedFlow(), "flow")):
        method = DMD2(mlp(process=process, kind=kind))
        assert method.rollout(plane()).x_0.isfinite().all()


def test_what_it_refuses():
    for settings, message in [
        (dict(score_weight=-1.0), "score_weight=-1"),
        (dict(score_weight=0.0, adversarial_weight=0.0), "nothing would be learned"),
        (dict(features="pixels"), "features=pixels"),
        (dict(guidance=2.0), "guidance=2.0.*neither captions"),
        (dict(num_steps=0), "num_steps=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            DMD2(mlp(), **settings)
    with pytest.raises(ValueError, match="lcm.*EDM"):
        DMD2(mlp(process=EDM(), kind="edm"), num_steps=2)
    with pytest.raises(ValueError, match="Net has neither a middle"):
        DMD2(denoiser())
    with pytest.raises(ValueError, match="latent z"):
        MiddleHead(Denoiser(MLP(width=16), VP(), "v", latent_dim=2))
