"""Guidance that mixes several outputs: closed forms on Gaussians, and what each formula says."""

import pytest
import torch
from cases import pair, sampled, white
from diffusers.guiders import (
    AdaptiveProjectedGuidance as APGOfDiffusers,
)
from diffusers.guiders import ClassifierFreeGuidance, PerturbedAttentionGuidance, SkipLayerGuidance
from gaussian_pair import GaussianPair

from sparring.data import Draws
from sparring.generators.level import Level
from sparring.generators.predictor import ClassifierFree, wrapped
from sparring.process import EDM, VP, RectifiedFlow
from sparring.samplers.diffusers_guider import DiffusersGuider
from sparring.samplers.guidance.autoguidance import Autoguidance
from sparring.samplers.guidance.perturbed import Perturbed
from sparring.samplers.guidance.projected import AdaptiveProjectedGuidance
from sparring.samplers.guidance.rescaled import RescaledGuidance
from sparring.samplers.speed.nested import Nested

LABELS = torch.zeros(6, dtype=torch.int64)


def predicted(intervention, t=0.4, d=4, denoiser=None):
    """(plain, none, changed) predictions for 6 rows of d numbers."""
    denoiser = denoiser or pair()
    x_t, level = white(6, d), Level.at(denoiser.process, torch.tensor(t))
    with torch.no_grad():
        plain, none = denoiser.predict(x_t, level, LABELS), denoiser.predict(x_t, level, LABELS + 1)
        return plain, none, wrapped(denoiser, [intervention])(x_t, level, LABELS)


# -- autoguidance ------------------------------------------------------------------------------------------------------


def test_autoguidance_of_two_gaussians_is_that_of_classifier_free_guidance():
    """With N(0, 1) as the weak model and N(1, 1/4) as the strong one, the flow has the closed form of the pair."""
    strong = pair()
    weak = pair(mean=0.0, variance=1.0)
    x = sampled(strong, "heun", 60, n=400, using=[Autoguidance(weak, weight=2.0)])
    mean, variance = GaussianPair.ODE
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.var(correction=0).item() == pytest.approx(variance, abs=0.006)
    torch.testing.assert_close(x, sampled(strong, "heun", 60, n=400, using=[ClassifierFree(2.0)]), rtol=0, atol=1e-9)


def test_autoguidance_takes_weak_models_of_another_output():
    found = [predicted(Autoguidance(pair(kind=kind, variance=0.5)))[2].x0 for kind in ("v", "eps", "x0")]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_autoguidance_within_its_interval_only():
    weak = pair(variance=0.5)
    plain, _, inside = predicted(Autoguidance(weak, interval=(0.1, 50.0)))
    _, _, outside = predicted(Autoguidance(weak, interval=(50.0, 90.0)))
    assert torch.equal(outside.output, plain.output)
    assert not torch.equal(inside.output, plain.output)


def test_weak_models_that_cannot_be_mixed_are_refused():
    strong, small = pair(), pair()
    with pytest.raises(ValueError, match="`weak`: it differs in a noising process from the model that is sampled"):
        sampled(strong, "ddim", 2, using=[Autoguidance(pair(RectifiedFlow(), "flow"))])
    with pytest.raises(ValueError, match=r"`weak`: it differs in the scale of its input \(sigma_data\)"):
        sampled(pair(EDM(), "edm"), "euler", 2, using=[Autoguidance(pair(EDM(sigma_data=1.0), "edm"))])
    small.check_shape((1, 1, 3))
    with pytest.raises(ValueError, match="`weak`: it differs in images"):
        sampled(strong, "ddim", 2, using=[Autoguidance(small)])


def test_a_perturbed_output_has_noise_of_its_size():
    plain, noisy = pair(), pair()
    levels = Level.at(plain.process, torch.tensor(0.5))
    levels.draws = Draws(3)
    x_t = 5 * white(4000, 3)
    told = torch.zeros(4000, dtype=torch.int64)
    before = plain.predict(x_t, levels, told).output
    added = Perturbed(delta=0.5).wrap(noisy.predict, noisy)(x_t, levels, told).output - before
    size = added.square().flatten(1).mean(1) / before.square().flatten(1).mean(1)
    assert size.mean().item() == pytest.approx(0.25, rel=0.05)
    assert added.mean().abs() < 0.1
    with pytest.raises(ValueError, match="`delta=-1` must be 0 or more"):
        Perturbed(delta=-1)


# -- rescaled and projected guidance -----------------------------------------------------------------------------------


def test_rescaled_guidance_has_the_spread_of_the_output_with_the_condition():
    plain, none, full = predicted(RescaledGuidance(weight=4.0, rescale=1.0))
    torch.testing.assert_close(full.output.flatten(1).std(1), plain.output.flatten(1).std(1))
    guided = none.output + 4 * (plain.output - none.output)
    ratio = full.output / guided
    torch.testing.assert_close(ratio, ratio[:, :, :, :1].expand_as(ratio))  # one factor an image
    _, _, half = predicted(RescaledGuidance(weight=4.0, rescale=0.5))
    torch.testing.assert_close(half.output, (full.output + guided) / 2)
    _, _, off = predicted(RescaledGuidance(weight=4.0, rescale=0.0))
    assert torch.equal(off.output, guided)


def test_projected_guidance_drops_what_lies_along_the_estimate():
    plain, none, full = predicted(AdaptiveProjectedGuidance(weight=3.0, eta=0.0, momentum=0.0))
    difference, moved = (plain.x0 - none.x0).flatten(1), (full.x0 - plain.x0).flatten(1)
    torch.testing.assert_close((moved * plain.x0.flatten(1)).sum(1), torch.zeros(6).double(), rtol=0, atol=1e-9)
    rest = 2 * difference - moved
    cosine = torch.cosine_similarity(rest, plain.x0.flatten(1))
    torch.testing.assert_close(cosine.abs(), torch.ones(6).double())


def test_projected_guidance_with_all_of_it_is_classifier_free():
    _, _, ours = predicted(AdaptiveProjectedGuidance(weight=3.0, eta=1.0, momentum=0.0))
    _, _, expected = predicted(ClassifierFree(3.0))
    torch.testing.assert_close(ours.x0, expected.x0)


def test_projected_guidance_is_that_of_diffusers_on_clean_estimates():
    """With momentum and a bound, over three calls; theirs starts from `none`, or from `told` with one weight less."""
    denoiser = pair(kind="x0")
    ours = wrapped(denoiser, [AdaptiveProjectedGuidance(weight=3.0, eta=0.3, momentum=-0.4, bound=0.5)])
    theirs = APGOfDiffusers(2.0, -0.4, 0.5, eta=0.3, use_original_formulation=True)
    theirs = wrapped(denoiser, [DiffusersGuider(theirs)])
    x_t = white(6, 4)
    for call, t in enumerate((0.6, 0.4, 0.2)):
        level = Level.at(VP(), torch.tensor(t))
        level.call, level.calls = call, 3
        with torch.no_grad():
            torch.testing.assert_close(ours(x_t, level, LABELS).x0, theirs(x_t, level, LABELS).x0)


def test_several_calls_at_one_level_have_the_momentum_of_the_level_before():
    guidance = AdaptiveProjectedGuidance(weight=3.0, momentum=-0.4)
    once, twice = (wrapped(pair(), [guidance]) for _ in range(2))
    x_t = white(6, 4)
    for t in (0.6, 0.4, 0.2):
        level = Level.at(VP(), torch.tensor(t))
        with torch.no_grad():
            twice(x_t + 1, level, LABELS)  # a look elsewhere
            torch.testing.assert_close(once(x_t, level, LABELS).x0, twice(x_t, level, LABELS).x0)


# -- guiders of diffusers ----------------------------------------------------------------------------------------------


def test_a_guider_of_diffusers_gives_the_samples_of_our_own():
    ours = sampled(pair(), "ddim", 8, guidance=3.0)
    theirs = DiffusersGuider(ClassifierFreeGuidance(3.0))
    assert theirs.label == "ClassifierFreeGuidance"
    torch.testing.assert_close(sampled(pair(), "ddim", 8, using=[theirs]), ours, rtol=0, atol=1e-9)
    plain = sampled(pair(), "ddim", 8)
    assert torch.equal(sampled(pair(), "ddim", 8, using=[DiffusersGuider(ClassifierFreeGuidance(1.0))]), plain)
    denoiser = pair()
    sampled(denoiser, "ddim", 8, using=[DiffusersGuider(ClassifierFreeGuidance(3.0, start=0.25, stop=0.75))])
    assert denoiser.net.rows_of_calls == [8, 8, 16, 16, 16, 16, 8, 8]


def test_guiders_that_change_the_network_are_refused():
    for guider in (
        PerturbedAttentionGuidance(3.0, perturbed_guidance_layers=[0]),
        SkipLayerGuidance(3.0, skip_layer_guidance_layers=[0]),
    ):
        with pytest.raises(ValueError, match=f"`guider`: a {type(guider).__name__} needs more than"):
            DiffusersGuider(guider)


def test_two_guidances_by_the_condition_are_refused():
    with pytest.raises(ValueError, match="guidance=2, projected all guide by the condition"):
        pair().sample(1, 1, guidance=2.0, using=[AdaptiveProjectedGuidance()])


def test_guidance_and_nested_chains_go_around_a_perturbed_output():
    for using in ([ClassifierFree(2.0), Perturbed(delta=0.1)], [Perturbed(delta=0.1), Nested(steps=4)]):
        whole = sampled(pair(), "ddim", 3, n=5, using=using)
        assert whole.isfinite().all()
        torch.testing.assert_close(sampled(pair(), "ddim", 3, n=5, using=using, batch_size=2), whole)
