"""A generator of one call or a few: what it starts from, and that its samples are those of the sampler."""

import pytest
import torch
from rollout_parts import Tiny

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.generators.start import MixtureStart
from sparring.networks import MLP
from sparring.process import EDM, VP, RectifiedFlow
from sparring.rollout import from_noise, student_levels, student_sampler

CASES = {
    "v": (VP(schedule="cosine"), "v"),
    "x0": (VP(), "x0"),
    "flow": (RectifiedFlow(), "flow"),
    "edm": (EDM(), "edm"),
}


def batch(images=None, rows=6):
    images = torch.zeros(rows, 1, 4, 4, dtype=torch.float64) if images is None else images
    return Batch(images, draws=Draws(0))


@pytest.mark.parametrize("case", CASES)
def test_one_call_is_a_step_of_the_sampler_from_the_same_noise(case):
    """sigma(1) z in training and the scheduler's z differ by less than 1e-4 of z."""
    process, kind = CASES[case]
    denoiser = Denoiser(Tiny(), process, kind)
    name, levels = student_sampler(1), student_levels(denoiser, 1)
    made = from_noise(denoiser, batch(), levels)
    latents = (made.x_t / process.sigma(made.t).view(-1, 1, 1, 1)).detach()
    assert latents.std().item() == pytest.approx(1, abs=0.2)
    sampled = denoiser.generate(process.scheduler(name, kind), 1, latents=latents)
    torch.testing.assert_close(made.x0, sampled.double(), rtol=1e-3, atol=1e-3)
    assert made.x0.requires_grad


def test_at_the_noisiest_level_nothing_is_left_of_the_images_and_at_others_they_are():
    process = VP()  # alpha is 0.006 at its noisiest level
    denoiser = Denoiser(Tiny(), process, "v")
    levels = student_levels(denoiser, 2)
    images = torch.full((400, 1, 4, 4), 1e6, dtype=torch.float64)
    made = from_noise(denoiser, batch(images), levels)
    noisiest = made.t == levels.max()
    assert 150 < noisiest.sum() < 250
    assert made.x_t[noisiest].abs().max() < 6
    kept = process.alpha(levels.min()).item()
    torch.testing.assert_close(made.x_t[~noisiest] / 1e6, torch.full_like(made.x_t[~noisiest], kept), rtol=1e-4, atol=0)


@pytest.mark.parametrize("made", [(VP(schedule="cosine"), "v"), (RectifiedFlow(shift=3.0), "flow")], ids=["vp", "flow"])
def test_the_levels_are_those_at_which_the_sampler_calls_the_network(made):
    process, kind = made
    denoiser = Denoiser(Tiny(), process, kind)
    for steps in (1, 2, 4):
        name, levels = student_sampler(steps), student_levels(denoiser, steps)
        denoiser.net.calls.clear()
        denoiser.generate(process.scheduler(name, kind), steps, latents=torch.zeros(2, 1, 4, 4, dtype=torch.float64))
        times = torch.stack([call[1][0] for call in denoiser.net.calls])
        torch.testing.assert_close(process.t_from_model_time(times), levels.flip(0).to(times), rtol=0, atol=1e-6)


def test_several_calls_of_edm_are_refused():
    with pytest.raises(ValueError, match="scheduler='lcm' does not exist for EDM"):
        student_levels(Denoiser(Tiny(), EDM(), "edm"), 2)


def test_a_denoiser_that_starts_from_another_density_is_refused():
    early = Denoiser(MLP(width=8), VP(last_time=0.3), "v", start=MixtureStart(2))
    with pytest.raises(ValueError, match="denoiser.start=MixtureStart`: this method starts from pure noise"):
        student_levels(early, 1)
