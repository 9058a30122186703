"""Hidden groups and a delta: planted losses, the gradient of the group loss, no-ops at zero, the loss by hand."""

import pytest
import torch
from diffusers import UNet2DModel
from test_guides import At

from sparring.data import Batch, Draws, StoredImages
from sparring.generators import Denoiser
from sparring.methods.guides.inv_diff_delta import InvDiffDelta, start_at_zero
from sparring.networks import MLP
from sparring.objectives.groups import group_means, groups_by_loss, row_factors
from sparring.process import VP
from sparring.samplers.guidance.inv_diff import InvDiff


def denoiser(seed=0, prediction="v", classes=None, dropout=0.0) -> Denoiser:
    torch.manual_seed(seed)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), add_attention=False,
        num_class_embeds=classes,
    )  # fmt: skip
    made = Denoiser(net.double(), VP(), prediction, condition_dropout=dropout)
    made.check_shape((1, 8, 8))
    return made


X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def method(**settings):
    made = InvDiffDelta(denoiser(1), denoiser(0), **settings)
    made.factors.data = torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5, 1.0], dtype=torch.float64)
    return made


# -- groups ------------------------------------------------------------------------------------------------------------


def test_planted_losses_are_told_apart():
    losses = torch.tensor([1.0, 3.0, 3.0, 1.0] * 20) + 0.05 * torch.randn(
        80, generator=torch.Generator().manual_seed(0)
    )
    weights = groups_by_loss(losses, 2)
    torch.testing.assert_close(weights.sum(1), torch.ones(80, dtype=torch.float64))
    found = weights.argmax(1)
    high = group_means(losses.double(), weights).argmax()
    assert torch.equal(found == high, losses > 2)
    low, top = group_means(losses.double(), weights).sort().values.tolist()
    assert (low, top) == (pytest.approx(1.0, abs=0.05), pytest.approx(3.0, abs=0.05))


def test_a_group_is_no_outlier():
    losses = torch.ones(100)
    losses[0] = 50.0
    losses[50:] = 2.0
    free, held = (groups_by_loss(losses, 2, smallest=share).mean(0).min() for share in (0.0, 0.45))
    assert free < 0.3
    assert held > 0.38


def test_factors_have_the_gradient_of_mean_and_variance_of_the_groups():
    random = torch.Generator().manual_seed(3)
    losses = torch.rand(20, generator=random, dtype=torch.float64).requires_grad_()
    weights = torch.rand(20, 3, generator=random, dtype=torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    means = (weights * losses[:, None]).sum(0) / weights.sum(0)
    (expected,) = torch.autograd.grad(means.mean() + 0.7 * means.var(correction=0), losses)
    torch.testing.assert_close(row_factors(losses.detach(), weights, 0.7) / 20, expected)


def test_equal_groups_and_a_single_one_leave_the_plain_loss():
    losses = torch.rand(20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for groups in (1, 4):
        weights = torch.full((20, groups), 1 / groups, dtype=torch.float64)
        torch.testing.assert_close(row_factors(losses, weights, 5.0), torch.ones(20, dtype=torch.float64))


# -- delta -------------------------------------------------------------------------------------------------------------


def test_delta_starts_at_zero_and_learns():
    made = method(times=At(0.4))
    delta = made.generator
    t = torch.full((6,), 0.4, dtype=torch.float64)
    assert torch.equal(delta(X, t).output, torch.zeros_like(X))
    batch = Batch(X, draws=Draws(3), index=torch.arange(6))
    rollout = made.rollout(batch)
    assert torch.equal(rollout.both, rollout.base)
    made.generator_loss(batch, rollout)["invariant"].backward()
    assert delta.net.conv_out.weight.grad.abs().max() > 1e-4
    assert all(p.grad is None for p in made.denoiser.parameters())


def test_the_loss_weighs_each_image_by_its_factor():
    made = method(times=At(0.4))
    torch.nn.init.normal_(made.generator.net.conv_out.weight, std=0.3)
    index = torch.tensor([5, 4, 3, 2, 1, 0])
    batch = Batch(X, draws=Draws(3, phase="x"), index=index)
    loss = made.generator_loss(batch, made.rollout(batch))["invariant"]
    eps = Draws(3, phase="x").normal((6, 1, 8, 8)).double()
    t = torch.full((6,), 0.4, dtype=torch.float64)
    x_t = VP().add_noise(X, eps, t)
    output = made.denoiser(x_t, t).output + made.generator(x_t, t).output
    alpha, sigma = VP().alpha(t)[0], VP().sigma(t)[0]
    errors = (output - (alpha * eps - sigma * X)).square().flatten(1).mean(1)
    torch.testing.assert_close(loss, (made.factors[index] * errors).mean())


def test_rows_are_told_none_together_with_the_base_as_guidance_asks_them():
    """A delta that never saw "none" would add to the unconditional half of guidance what no training gave it."""
    made = InvDiffDelta(denoiser(1, classes=4, dropout=0.5), denoiser(0, classes=4), times=At(0.4))
    torch.nn.init.normal_(made.generator.net.conv_out.weight, std=0.3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    made.size_for(StoredImages(X.float(), labels))
    rollout = made.rollout(Batch(X, labels, Draws(3, phase="x"), index=torch.arange(6)))
    draws = Draws(3, phase="x")
    t, eps = torch.full((6,), 0.4, dtype=torch.float64), draws.normal((6, 1, 8, 8)).double()
    dropped = draws.uniform((6,)) < 0.5
    assert 0 < dropped.sum() < 6
    given = torch.where(dropped, torch.full_like(labels, 3), labels)
    x_t, target = VP().add_noise(X, eps, t), made.generator.target(X, eps, t)
    base, delta = made.denoiser(x_t, t, given).output, made.generator(x_t, t, given).output
    torch.testing.assert_close(rollout.base, (base - target).square().flatten(1).mean(1))
    torch.testing.assert_close(rollout.both, (base + delta - target).square().flatten(1).mean(1))


def test_a_delta_that_guidance_could_not_ask_is_refused():
    data = StoredImages(X.float(), torch.tensor([0, 1, 2, 0, 1, 2]))
    base = denoiser(0, classes=4)
    for delta, beside, said in [
        (denoiser(1, classes=4), base, "`denoiser.condition_dropout` must be above 0"),
        (denoiser(1, classes=3), base, 'class 3 says "none" to `denoiser`: build delta'),
        (denoiser(1, classes=5, dropout=0.1), base, 'class 3 says "none" to `denoiser`: build delta'),
        (denoiser(1, classes=4, dropout=0.1), denoiser(0), "`denoiser` takes no classes, and delta does"),
    ]:
        with pytest.raises(ValueError, match=said):
            InvDiffDelta(delta, beside).size_for(data)
    InvDiffDelta(denoiser(1, classes=4, dropout=0.1), base).size_for(data)
    InvDiffDelta(denoiser(1), base).size_for(data)  # one delta for all classes
    InvDiffDelta(denoiser(1, classes=3), denoiser(0, classes=3)).size_for(data)  # no class says "none" to either


def test_images_of_a_larger_loss_get_a_larger_factor_and_random_groups_hardly_any():
    images = torch.cat([X.repeat(10, 1, 1, 1) * 0.1, X.repeat(10, 1, 1, 1) * 3]).float()
    data = StoredImages(images)
    factors = []
    for grouping in ("losses", "random"):
        made = InvDiffDelta(denoiser(1).float(), denoiser(0).float(), groups=2, noises=4, grouping=grouping)
        made.size_for(data)
        made.prepare(data)
        factors.append(made.factors)
        assert made.factors.mean().item() == pytest.approx(1.0, abs=1e-5)
    assert factors[0][60:].mean() > 1.5 * factors[0][:60].mean()
    assert (factors[1][60:].mean() - factors[1][:60].mean()).abs() < 0.3


def test_groups_that_are_known_are_the_labels():
    """Nine images of a small loss and one of a large: means of groups count alike, so the one counts nine times."""
    images, labels = torch.cat([X.repeat(3, 1, 1, 1)[:9] * 0.1, X[:1] * 3]).float(), torch.tensor([0] * 9 + [1])
    made = InvDiffDelta(denoiser(1).float(), denoiser(0).float(), grouping="labels", variance_weight=0.0, noises=4)
    data = StoredImages(images, labels, num_classes=2)
    made.size_for(data)
    made.prepare(data)
    torch.testing.assert_close(made.factors, torch.tensor([5 / 9] * 9 + [5.0]))
    with pytest.raises(ValueError, match="has no labels"):
        made.size_for(StoredImages(images))


def test_a_delta_of_zero_and_a_weight_of_zero_are_the_plain_sampler_bit_for_bit():
    base, delta = denoiser(0), denoiser(1)
    plain = base.sample(3, 4, scheduler="ddim")
    assert (base.sample(3, 4, scheduler="ddim", using=[InvDiff(delta)]) - plain).abs().max() > 1e-3
    assert torch.equal(base.sample(3, 4, scheduler="ddim", using=[InvDiff(delta, weight=0.0)]), plain)
    start_at_zero(delta.net)
    assert torch.equal(base.sample(3, 4, scheduler="ddim", using=[InvDiff(delta)]), plain)


def test_outputs_are_added():
    from sparring.generators.level import Level
    from sparring.generators.predictor import wrapped

    base, delta, level = denoiser(0), denoiser(1), Level.at(VP(), torch.tensor(0.4))
    both = wrapped(base, [InvDiff(delta, weight=0.5)])(X, level, None)
    expected = base.predict(X, level).output + 0.5 * delta.predict(X, level).output
    torch.testing.assert_close(both.output, expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`denoiser` predicts eps, and delta v"):
        InvDiffDelta(denoiser(1), denoiser(0, "eps"))
    with pytest.raises(ValueError, match="`groups=0` and `noises=16` must be at least 1"):
        InvDiffDelta(denoiser(1), denoiser(0), groups=0)
    made = method()
    rollout = made.rollout(Batch(X))
    with pytest.raises(ValueError, match="needs the rows of the data set"):
        made.generator_loss(Batch(X), rollout)
    with pytest.raises(ValueError, match="`delta` is of eps, and the model predicts v"):
        denoiser(0).sample(1, 2, using=[InvDiff(denoiser(1, "eps"))])
    with pytest.raises(ValueError, match="`delta`: it differs in images"):
        denoiser(0).sample(1, 2, using=[InvDiff(points())])


def points():
    made = Denoiser(MLP(), VP(), "v")
    made.check_shape((2, 1, 1))
    return made
