"""The figure of a rollout in docs/methods/adt.md shows what is trained."""

import torch
from docs_figures import load
from rollout_parts import Tiny, batch_of

from sparring.generators import Denoiser
from sparring.process import VP
from sparring.rollout import simulate


def test_the_figure_of_adt_shows_the_rollout_that_is_trained():
    denoiser = Denoiser(Tiny(), VP(), "v")
    states = load("adt").walk(denoiser, batch_of(), 4, 1)
    image = simulate(denoiser, batch_of(), VP().scheduler("ddim", "v"), num_steps=4, start=1)
    assert len(states) == 4
    assert torch.equal(states[-1], image)
