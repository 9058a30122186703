"""Edits of the state between steps: reflection, Langevin steps on a composed score, and where they are refused."""

import pytest
import torch
from cases import CASES, pair, sampled, white

from sparring.data import Draws
from sparring.generators import Denoiser
from sparring.generators.level import Level
from sparring.generators.predictor import ClassifierFree, Intervention, wrapped
from sparring.process import EDM, VP, Kernel, RectifiedFlow, StudentT
from sparring.samplers.guidance.recycle import Recycle
from sparring.samplers.guidance.unite import Unite
from sparring.samplers.guidance.weak_to_strong import WeakToStrong

LABELS = torch.zeros(6, dtype=torch.int64)


def moved(intervention, denoiser, t=0.6, s=0.5):
    """(before, after) of six numbers at time t, before a step to s."""
    x_t, level = white(6), Level.at(denoiser.process, torch.tensor(t))
    level.after = Level.at(denoiser.process, torch.tensor(s))
    with torch.no_grad():
        return x_t, intervention.move(x_t, level, LABELS, denoiser.predict, denoiser, None)


# -- W2SD --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (VP(), "eps"), (EDM(), "edm"), (RectifiedFlow(), "flow")])
def test_the_reflection_of_two_gaussians_is_its_closed_form(process, kind):
    """Down with N(0, 1) and up with N(0, 1/2), both asked at x_t, written out as DDIM and its inverse."""
    strong, weak = (pair(process, kind, mean=0.0, variance=variance) for variance in (1.0, 0.5))
    x_t, found = moved(WeakToStrong(weak), strong)
    alpha, sigma, alpha_s, sigma_s = (
        float(f(torch.tensor(t, dtype=torch.float64))) for t in (0.6, 0.5) for f in (process.alpha, process.sigma)
    )
    x_0 = [alpha * v / (alpha**2 * v + sigma**2) * x_t for v in (1.0, 0.5)]
    eps = [(x_t - alpha * one) / sigma for one in x_0]
    down = alpha_s * x_0[0] + sigma_s * eps[0]
    up = alpha / alpha_s * down + (sigma - alpha * sigma_s / alpha_s) * eps[1]
    torch.testing.assert_close(found, up, rtol=1e-6, atol=1e-8)
    _, half = moved(WeakToStrong(weak, weight=0.5), strong)
    torch.testing.assert_close(half, (x_t + found) / 2)
    _, swapped = moved(WeakToStrong(strong), weak)
    torch.testing.assert_close(swapped - x_t, x_t - found)


def test_equal_models_do_nothing_in_the_exact_form_and_something_in_that_of_the_code():
    strong = pair()
    x_t, same = moved(WeakToStrong(pair()), strong)
    torch.testing.assert_close(same, x_t, rtol=0, atol=1e-12)
    _, other = moved(WeakToStrong(pair(), form="code"), strong)
    assert 1e-4 < (other - x_t).abs().max() < 0.1
    plain = sampled(pair(), "ddim", 8)
    torch.testing.assert_close(sampled(pair(), "ddim", 8, using=[WeakToStrong(pair())]), plain, rtol=0, atol=1e-6)


def test_the_last_step_is_left_alone_and_without_another_model_guidance_is_reflected():
    denoiser = pair()
    level = Level.at(VP(), torch.tensor(0.3))
    assert WeakToStrong().move(white(6), level, LABELS, denoiser.predict, denoiser, None) is not None
    assert torch.equal(WeakToStrong().move(white(6), level, LABELS, denoiser.predict, denoiser, None), white(6))
    reflected = sampled(pair(), "ddim", 8, guidance=3.0, using=[WeakToStrong()])
    guided = sampled(pair(), "ddim", 8, guidance=3.0)
    assert (reflected - guided).abs().max() > 1e-3
    calls = pair()
    sampled(calls, "ddim", 4, guidance=3.0, using=[WeakToStrong()])
    assert calls.net.rows_of_calls == [16, 8, 16] * 3 + [16]


@pytest.mark.parametrize("scheduler", ["dpm", "unipc"])
@pytest.mark.parametrize("system", [WeakToStrong(), Recycle()])
def test_multistep_schedulers_are_refused(scheduler, system):
    with pytest.raises(ValueError, match=r"edits the state, and .* keeps outputs of the steps before: take"):
        sampled(pair(), scheduler, 4, using=[system])


def test_both_calls_of_a_heun_step_see_one_move():
    denoiser = pair()
    sampled(denoiser, "heun", 3, using=[Recycle(steps=2, interval=None)])
    assert denoiser.net.rows_of_calls == [8, 8, 8, 8] * 2 + [8, 8, 8]


# -- composition -------------------------------------------------------------------------------------------------------


def product():
    """The sampled model N(1, 1/2), another N(-1/2, 1/2), both with prior N(0, 1): their product is N(1/3, 1/3)."""
    return pair(variance=0.5), Unite(pair(mean=-0.5, variance=0.5), other_class=0)


def test_two_models_that_are_united_have_the_mean_and_variance_of_the_sum_of_scores_and_not_of_the_product():
    denoiser, united = product()
    flow = sampled(denoiser, "heun", 60, n=400, using=[united])
    assert flow.mean().item() == pytest.approx(0.404, abs=0.01)
    assert flow.var(correction=0).item() == pytest.approx(0.25, abs=0.01)  # 1/2 1/2 over 1
    noise = torch.Generator().manual_seed(0)
    ancestral = sampled(denoiser, "ddpm", 400, n=20000, using=[united], generator=noise)
    assert ancestral.mean().item() == pytest.approx(0.376, abs=0.012)
    assert ancestral.var().item() == pytest.approx(0.288, abs=0.01)


def test_langevin_steps_bring_the_sum_of_scores_to_the_product():
    """ULA with h = 0.05, ten steps at each of 100 levels: (0.330, 0.361), of which 0.028 is its own bias."""
    denoiser, united = product()
    system = Recycle(steps=10, step=0.05, relative=False, interval=None)
    x = sampled(denoiser, "ddim", 100, n=20000, using=[united, system])
    assert x.mean().item() == pytest.approx(0.330, abs=0.02)
    assert x.var().item() == pytest.approx(0.361, abs=0.012)
    plain = sampled(denoiser, "ddim", 100, n=20000, using=[united])
    assert plain.mean().item() == pytest.approx(0.404, abs=0.01)
    adjusted = Recycle(steps=10, step=0.05, relative=False, adjusted=True, interval=None)
    x = sampled(denoiser, "ddim", 100, n=5000, using=[united, adjusted])
    assert x.mean().item() == pytest.approx(0.335, abs=0.02)
    assert x.var().item() == pytest.approx(0.329, abs=0.02)


@pytest.mark.parametrize("step", [0.1, 1.0])
def test_adjusted_steps_leave_the_density_as_it_is_at_any_size(step):
    """Unadjusted ones of a standard normal end at a variance of 1 / (1 - h/2): 1.05 and 2."""
    denoiser = pair(kind="eps", mean=0.0, variance=1.0)
    level, x_t = Level.at(VP(), torch.tensor(0.5)), white(20000)
    labels, settings = torch.zeros(len(x_t), dtype=torch.long), dict(step=step, relative=False, interval=None)
    ends = {}
    for adjusted in (False, True):
        move = Recycle(steps=20, adjusted=adjusted, **settings).move
        ends[adjusted] = move(x_t, level, labels, denoiser.predict, denoiser, Draws(0)).var().item()
    assert ends[False] == pytest.approx(1 / (1 - step / 2), abs=0.06)
    assert ends[True] == pytest.approx(1.0, abs=0.04)


def test_one_model_united_with_none_is_classifier_free_guidance():
    """On eps: the v of N(0, 1) is zero, which would hide the prior."""
    x_t, level = white(6), Level.at(VP(), torch.tensor(0.4))
    denoiser = pair(kind="eps")
    with torch.no_grad():
        one, other = (
            wrapped(denoiser, [system])(x_t, level, LABELS).x0
            for system in (Unite(pair(), own_weight=3.0, weight=0.0, reliability=1.0), ClassifierFree(3.0))
        )
    torch.testing.assert_close(one, other)


def test_conditions_on_separate_pixels_are_combined_exactly():
    """Each model knows one pixel; the prior of the other is the same in all of them."""

    class OnPixel(type(pair().net)):
        def __init__(self, pixel, **settings):
            super().__init__(VP(), "v", **settings)
            self.pixel = pixel

        def forward(self, x, time, labels):
            told, none = super().forward(x, time, labels), super().forward(x, time, torch.ones_like(labels))
            mask = torch.zeros_like(x)
            mask[..., self.pixel] = 1
            return mask * told + (1 - mask) * none

    models = [Denoiser(OnPixel(0), VP(), "v"), Denoiser(OnPixel(1, mean=-0.5, variance=0.5), VP(), "v")]
    for model in models:
        model.check_shape((1, 1, 2))
    x = sampled(models[0], "heun", 60, n=400, d=2, using=[Unite(models[1], other_class=0)]).flatten(1)
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -0.5]).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(x.var(0), torch.tensor([0.25, 0.5]).double(), rtol=0, atol=0.02)


def test_classes_of_the_other_model_are_checked():
    with pytest.raises(ValueError, match="`other_class=1`: the other model has no such class beside the one for none"):
        sampled(pair(), "ddim", 2, using=[Unite(pair(), other_class=1)])
    with pytest.raises(ValueError, match=r"`reliability=2.0` must lie in \[0, 1\]"):
        Unite(pair(), reliability=2.0)
    with pytest.raises(ValueError, match="`steps=-1`, `step=0.1`"):
        Recycle(steps=-1)


def test_what_moves_draw_follows_the_seeds_of_the_images():
    denoiser = pair(mean=0.0, variance=0.05)
    settings = dict(scheduler="ddim", labels=[0], using=[Recycle(steps=2)])
    several = denoiser.sample(5, 4, seed=[7, 3, 9, 3, 1], batch_size=2, **settings)
    torch.testing.assert_close(several[2:3], denoiser.sample(1, 4, seed=9, **settings), rtol=0, atol=1e-12)
    assert torch.equal(several[1], several[3])
    whole, parts = (denoiser.sample(40, 4, seed=5, batch_size=size, **settings) for size in (40, 16))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    assert not torch.equal(denoiser.sample(40, 4, seed=6, **settings), whole)


def test_what_predicts_in_a_move_draws_other_numbers_than_in_the_step_that_follows():
    class Drawing(Intervention):
        """Notes the first random number of each prediction."""

        def __init__(self):
            self.seen = []

        def wrap(self, inner, denoiser):
            def drawing(x_t, level, condition):
                self.seen.append(float(level.draws.normal((len(x_t),))[0]))
                return inner(x_t, level, condition)

            return drawing

    drawing = Drawing()
    sampled(pair(), "ddim", 3, using=[Recycle(steps=1, interval=None), drawing])
    assert len(drawing.seen) == len(set(drawing.seen)) == 6


def test_noise_of_another_law_is_refused_where_a_system_needs_the_score():
    heavy = pair(EDM(kernel=StudentT(dimension=4)), "edm")
    with pytest.raises(ValueError, match="recycle moves the state by Gaussian noise, and this process has another"):
        sampled(heavy, "euler", 2, using=[Recycle()])
    guided = CASES["classifier"].make(heavy.process, "edm")
    with pytest.raises(ValueError, match="classifier adds to the score, which a denoiser gives of Gaussian noise"):
        sampled(heavy, "euler", 2, using=[guided])


def test_a_further_walk_starts_from_the_noise_of_the_process():
    """With noise of a constant 3 the first state is x_0 + 3 sigma."""

    class Constant(Kernel):
        gaussian = False

        def of_normal(self, z, draws):
            return torch.full_like(z, 3.0)

    class Again(Intervention):
        def finish(self, x_0, again, denoiser):
            return again(torch.full_like(x_0, 0.5), 1.0, [])

    states = []
    sampled(pair(EDM(kernel=Constant()), "edm"), "euler", 2, using=[Again()], watch=states.append)
    torch.testing.assert_close(states[3], torch.full_like(states[3], 0.5 + 3 * 80.0))
