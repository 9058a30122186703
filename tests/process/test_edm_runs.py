"""EDM from training to images: its own noise levels, and Heun's method among its samplers."""

import json

import pytest
import torch

from sparring.data import GaussianMixture
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.metrics.toys import good_share, modes_covered
from sparring.networks import MLP
from sparring.process import EDM
from sparring.samplers import Sampler
from sparring.training import AdamW, Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    return Trainer(
        Diffusion(Denoiser(MLP(), EDM(sigma_data=0.7), "edm")),
        GaussianMixture(),
        out=tmp_path_factory.mktemp("edm") / "run",
        steps=400,
        batch_size=256,
        generator_optimizer=AdamW(lr=2e-3, decay="cosine"),
        ema_decay=0.98,
        tracker=None,
    ).fit()


@pytest.mark.parametrize(("scheduler", "steps", "calls"), [("heun", 10, 19), ("dpm", 20, 20), ("ddim", 20, 20)])
def test_edm_learns_the_ring_and_every_sampler_of_it_finds_it(run, scheduler, steps, calls):
    data = GaussianMixture()
    found = Sampler(run, device="cpu")(500, steps, scheduler=scheduler)
    assert (found.scheduler, found.nfe) == (scheduler, calls)
    assert modes_covered(found.images, data.centres, 3 * data.std) == 8
    assert good_share(found.images, data.centres, 3 * data.std) > 0.7


def test_what_is_measured_while_it_trains_falls(run):
    losses = [line["generator/diffusion"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
    assert losses[-1] < losses[0]
