"""Priors: laws of latents that are made of normal numbers, and a folder that keeps them."""

import json

import pytest
import torch

from sparring.data import Batch, Draws
from sparring.generators import LatentGenerator, load_generator
from sparring.generators.prior import Uniform
from sparring.networks import Perceptron


def with_prior(prior):
    torch.manual_seed(0)
    return LatentGenerator(Perceptron(in_features=prior.latent_dim, out_shape=[2, 1, 1]), prior.latent_dim, prior=prior)


def test_uniform_latents_are_uniform():
    z = Uniform(2)(torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)))
    assert z.abs().max() <= 1
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(z.square().mean(0), torch.full((2,), 1 / 3), rtol=0, atol=0.01)
    torch.testing.assert_close((z < 0.5).float().mean(0), torch.full((2,), 0.75), rtol=0, atol=0.01)


def test_samples_grids_and_training_draw_from_the_prior():
    generator = with_prior(Uniform(3))
    noise = torch.randn((5, 3), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = generator.net(torch.erf(noise / 2**0.5)).clamp(-1, 1)
    torch.testing.assert_close(generator.sample(5, seed=4), expected)
    batch = Batch(torch.zeros(6, 2, 1, 1), draws=Draws(1))
    torch.testing.assert_close(generator.latents(batch), torch.erf(Draws(1).normal((6, 3)) / 2**0.5))
    assert generator.grid(None, 4, 0, scheduler="", steps=1).shape == (4, 2, 1, 1)


def test_a_folder_keeps_the_prior(tmp_path):
    generator = with_prior(Uniform(3))
    assert generator.save(tmp_path)
    described = json.loads((tmp_path / "generator.json").read_text())["prior"]
    assert described == {"class_path": "sparring.generators.prior.Uniform", "init_args": {"latent_dim": 3}}
    torch.testing.assert_close(load_generator(tmp_path).sample(5), generator.sample(5))
    (tmp_path / "prior.safetensors").unlink()
    with pytest.raises(ValueError, match="prior.safetensors"):
        load_generator(tmp_path)


def test_a_prior_of_other_latents_is_refused():
    with pytest.raises(ValueError, match="`latent_dim=3`: the Uniform prior makes 2"):
        LatentGenerator(Perceptron(in_features=3, out_shape=[2, 1, 1]), 3, prior=Uniform(2))
    with pytest.raises(ValueError, match="`latent_dim=0`: a latent has at least 1 number"):
        Uniform(0)
