"""Guidance by gradients: closed forms on Gaussians, the formula itself, costs, and guides that do not fit."""

import pytest
import torch
from cases import Bent, guide, pair, sampled, white
from gaussian_pair import GaussianPair, Ratio

from sparring.generators import Denoiser
from sparring.generators.level import Level
from sparring.generators.predictor import ClassifierFree, wrapped
from sparring.process import EDM, VP, RectifiedFlow
from sparring.samplers import Sampler
from sparring.samplers.gradients import gradient_of, towards
from sparring.samplers.guidance.cheap import CheapGuidance
from sparring.samplers.guidance.classifier import ClassifierGuidance
from sparring.samplers.guidance.discriminator import DiscriminatorGuidance
from sparring.samplers.guidance.minority import MinorityGuidance

GAUSSIANS = [(VP(), "eps"), (VP(), "v"), (VP(), "x0"), (EDM(), "edm"), (RectifiedFlow(), "flow")]
SYSTEMS = [(ClassifierGuidance, 2), (DiscriminatorGuidance, 1)]


def exact(process, system, outputs, **settings):
    """A guide of N(0, 1) to N(1, 1/4) on numbers, as images of one pixel."""
    net = Ratio(process, outputs)
    made = guide(net, process)
    made.check_shape((1, 1, 1))
    return system(made, **{"interval": None} | settings)


def standard(process=VP(), kind="v"):  # noqa: B008
    denoiser = Denoiser(GaussianPair(process, kind, mean=0.0, variance=1.0), process, kind)
    denoiser.check_shape((1, 1, 1))
    return denoiser


@pytest.mark.parametrize(("process", "kind"), GAUSSIANS)
@pytest.mark.parametrize(("system", "outputs"), SYSTEMS)
def test_the_exact_guide_at_weight_one_gives_the_class_and_at_two_the_flow_of_the_pair(process, kind, system, outputs):
    for weight, mean, variance in ((1.0, 1.0, 0.25), (2.0, *GaussianPair.ODE)):
        guided = exact(process, system, outputs, weight=weight)
        x = sampled(standard(process, kind), "heun", 60, n=400, using=[guided])
        assert x.mean().item() == pytest.approx(mean, abs=0.02)
        assert x.var(correction=0).item() == pytest.approx(variance, abs=0.01)


def test_ancestral_sampling_adds_the_gradient_to_the_mean():
    """20 000 numbers; 500 steps have a bias of 0.004 in the variance."""
    noise = torch.Generator().manual_seed(0)
    guided = exact(VP(), ClassifierGuidance, 2, weight=2.0)
    x = sampled(standard(), "ddpm", 500, n=20000, generator=noise, using=[guided])
    mean, variance = GaussianPair.DDPM
    assert x.mean().item() == pytest.approx(mean, abs=0.012)
    assert x.var().item() == pytest.approx(variance, abs=0.008)


@pytest.mark.parametrize(("process", "kind"), GAUSSIANS)
def test_the_noise_is_predicted_lower_by_sigma_times_the_gradient(process, kind):
    denoiser, x_t = standard(process, kind), white(5)
    level = Level.at(process, torch.tensor(0.4))
    with torch.no_grad():
        plain = denoiser.predict(x_t, level, torch.zeros(5, dtype=torch.int64))
    gradient = torch.randn(5, 1, 1, 1, dtype=torch.float64)
    moved = towards(plain, level, gradient, 0.7)
    assert moved.kind == plain.kind == kind
    torch.testing.assert_close(moved.eps, plain.eps - 0.7 * level.sigma * gradient)
    torch.testing.assert_close(moved.x0, plain.x0 + 0.7 * level.sigma**2 / level.alpha * gradient)


def test_the_gradient_is_of_each_row_by_itself_and_leaves_no_trace():
    x_t = white(4, 3)
    with torch.no_grad():
        gradient = gradient_of(lambda x: x.flatten(1).square().sum(1) / 2, x_t)
    assert torch.equal(gradient, x_t)
    assert not gradient.requires_grad
    assert not x_t.requires_grad


def test_a_negative_weight_moves_the_other_way_and_other_levels_stay():
    labels, denoiser, level = torch.zeros(6, dtype=torch.int64), standard(), Level.at(VP(), torch.tensor(0.3))
    with torch.no_grad():
        plain, up, down, outside = (
            wrapped(denoiser, [exact(VP(), ClassifierGuidance, 2, **settings)])(white(6), level, labels)
            for settings in ({"weight": 0.0}, {"weight": 1.0}, {"weight": -1.0}, {"interval": (100.0, 200.0)})
        )
    torch.testing.assert_close(up.x0 - plain.x0, plain.x0 - down.x0)
    assert not torch.equal(up.x0, plain.x0)
    assert torch.equal(outside.output, plain.output)


def test_passes_through_the_guide_are_counted_and_backwards_twice():
    sampler = Sampler(standard(), device="cpu")
    guided = exact(VP(), DiscriminatorGuidance, 1)
    before = guided.cost
    samples = sampler(6, 4, labels=[0], using=[guided])
    assert samples.calls == 4 + 4 + 8
    assert guided.cost - before == 6 * 12


def test_classes_of_the_guide_for_a_denoiser_without_classes(tmp_path):
    class Bare(GaussianPair):
        num_classes = None

        def forward(self, x, time):
            return super().forward(x, time, torch.ones(len(x)))

    denoiser = Denoiser(Bare(VP(), "v"), VP(), "v")
    denoiser.check_shape((1, 1, 1))
    guided = exact(VP(), ClassifierGuidance, 2, weight=1.0)
    images = denoiser.sample(200, 40, scheduler="heun", labels=[0], using=[guided])
    assert 0.6 < images.mean().item() < 0.9  # of N(1, 1/4), clamped at 1: 0.8
    in_turn = denoiser.sample(4, 5, using=[guided])
    assert torch.equal(in_turn[0], denoiser.sample(4, 5, labels=[0, 1], using=[guided])[0])
    with pytest.raises(ValueError, match="`label=2`: the network has the classes 0 to 1"):
        denoiser.sample(1, 5, labels=[2], using=[guided])
    with pytest.raises(ValueError, match="takes no classes; leave it out"):
        denoiser.sample(1, 5, labels=[0])


def test_guides_that_do_not_fit_are_refused(tmp_path):
    other = exact(VP(schedule="cosine"), ClassifierGuidance, 2)
    with pytest.raises(ValueError, match="`classifier` was trained on another noising process"):
        sampled(standard(), "ddim", 2, using=[other])
    with pytest.raises(
        ValueError, match=r"`classifier` is for images of shape \(1, 1, 1\), and the model makes \(1, 1, 2\)"
    ):
        sampled(pair(), "ddim", 2, using=[exact(VP(), ClassifierGuidance, 2)])
    with pytest.raises(ValueError, match="`discriminator`: it gives 2 numbers an image, and a logit is one"):
        sampled(standard(), "ddim", 2, using=[exact(VP(), DiscriminatorGuidance, 2)])


# -- minority guidance -------------------------------------------------------------------------------------------------


def test_the_rarest_bin_is_the_last_and_a_bin_can_be_named():
    rare, last, common = (
        MinorityGuidance(guide(Bent(VP(), 3), VP()), **settings) for settings in ({}, {"target": 2}, {"target": 0})
    )
    level, x_t = Level.at(VP(), torch.tensor(0.3)), white(6, 2)
    with torch.no_grad():
        found = [one.log_weight(x_t, level, None) for one in (rare, last, common)]
    assert torch.equal(found[0], found[1])
    logits = Bent(VP(), 3)(x_t, VP().model_time(level.times(6)))
    torch.testing.assert_close(found[0], logits.log_softmax(1)[:, 2])
    torch.testing.assert_close(found[2], logits.log_softmax(1)[:, 0])
    with pytest.raises(ValueError, match="`target=3`: the classifier has the bins 0 to 2"):
        sampled(pair(), "ddim", 2, using=[MinorityGuidance(guide(Bent(VP(), 3), VP()), target=3)])


# -- cheaper guidance --------------------------------------------------------------------------------------------------


def cheap(**settings):
    return CheapGuidance(guide(Bent(VP(), 2), VP()), **{"variance": 1.0, "weight": 3.0} | settings)


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_with_the_factor_of_a_gaussian_the_fixed_output_gives_the_gradient_through_the_denoiser(kind):
    denoiser = Denoiser(GaussianPair(VP(), kind, mean=0.0, variance=1.0), VP(), kind)
    denoiser.check_shape((1, 1, 2))
    labels = torch.arange(6) % 2
    for t in (0.1, 0.4, 0.8):
        level = Level.at(VP(), torch.tensor(t))
        with torch.no_grad():
            fixed, through = (
                wrapped(denoiser, [cheap(graph=graph, interval=None)])(white(6, 2), level, labels).x0
                for graph in ("fix", "J")
            )
            plain = denoiser.predict(white(6, 2), level, labels).x0
        torch.testing.assert_close(fixed, through, rtol=1e-9, atol=1e-10)
        assert (fixed - plain).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_the_gradient_through_a_guided_denoiser_passes_through_both_of_its_passes(kind):
    """d x_0hat / d x_t = J_none + w (J_told - J_none), J = alpha v / (alpha^2 v + sigma^2) with v = 1 and 1/4."""
    denoiser, weight, labels = pair(kind=kind), 3.0, torch.zeros(6, dtype=torch.int64)
    x_t, level = white(6, 2), Level.at(VP(), torch.tensor(0.4))
    guided, system = wrapped(denoiser, [ClassifierFree(weight)]), cheap(graph="J")
    told, none = (level.alpha * v / (level.alpha**2 * v + level.sigma**2) for v in (0.25, 1.0))
    with torch.no_grad():
        plain = guided(x_t, level, labels)
        found = system.gradient(plain, x_t, level, labels, guided)
        before, passes = system.backward_rows, sum(denoiser.net.rows_of_calls)
        system.wrap(guided, denoiser)(x_t, level, labels)
        forward = sum(denoiser.net.rows_of_calls) - passes  # two models, plain and again for the gradient
        assert (system.backward_rows - before, forward) == (6 + 2 * 6, 2 * 2 * 6)  # the guide, and back through both
        by_x_0 = gradient_of(lambda x: system.log_probability(x, labels), plain.x0)
    torch.testing.assert_close(found, (none + weight * (told - none)) * by_x_0)


def test_a_gradient_is_taken_at_every_mth_call_and_costs_what_it_costs():
    for settings, guides, backward in (({}, 8, 8), ({"stride": 3}, 3, 3), ({"graph": "J"}, 8, 16)):
        denoiser = Denoiser(GaussianPair(VP(), "v"), VP(), "v")
        denoiser.check_shape((1, 1, 2))
        denoiser.net.rows_of_calls.clear()
        system = cheap(interval=None, **settings)
        before = system.guide.images_seen
        sampled(denoiser, "ddim", 8, d=2, using=[system])
        assert system.guide.images_seen - before == 8 * guides
        assert system.backward_rows == 8 * backward
        assert len(denoiser.net.rows_of_calls) == (16 if settings == {"graph": "J"} else 8)


def test_cheap_settings_that_cannot_be_are_refused():
    for settings in ({"stride": 0}, {"variance": 0.0}, {"graph": "j"}):
        with pytest.raises(ValueError, match="must be J or fix, `stride=.*` at least 1, `variance=.*` above 0"):
            cheap(**settings)
