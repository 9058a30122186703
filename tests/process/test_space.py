"""Latents: the encoder's Gaussian in the autoencoder's scale, and a decoder whose gradient costs no memory."""

from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKL
from tiny_pipelines import VAE

from sparring.process import Latents
from sparring.process import space as space_module
from sparring.process.space import space_of


def latents(**config) -> Latents:
    torch.manual_seed(0)
    return Latents(AutoencoderKL(latent_channels=4, **VAE, **config).double())


def images_of(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def test_latents_are_a_sample_of_the_encoders_gaussian_in_the_scale_of_the_configuration():
    space, images = latents(scaling_factor=0.5, shift_factor=0.25), images_of(3)
    noise = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    distribution = space.vae.encode(images).latent_dist
    expected = 0.5 * (distribution.mean + distribution.std * noise - 0.25)
    torch.testing.assert_close(space.encode(images, noise), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.decode(expected), space.vae.decode(expected / 0.5 + 0.25).sample)


def test_latents_of_one_mean_and_deviation_per_channel():
    """As some SDXL autoencoders have them: (z - mean) * scaling / std, undone before the decoder."""
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    space, images = latents(scaling_factor=0.5, latents_mean=mean, latents_std=std), images_of(2)
    z = space.vae.encode(images).latent_dist.mean
    per_channel = [torch.tensor(value, dtype=torch.float64).reshape(1, 4, 1, 1) for value in (mean, std)]
    expected = (z - per_channel[0]) * 0.5 / per_channel[1]
    encoded = space.encode(images, torch.zeros_like(z))
    torch.testing.assert_close(encoded, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.decode(encoded), space.vae.decode(z).sample)


def test_images_pass_in_parts_and_the_parts_make_no_difference(monkeypatch):
    space, images = latents(), images_of(5)
    noise = torch.randn(5, 4, 8, 8, dtype=torch.float64)
    whole = space.encode(images, noise)
    sizes = []
    space.vae.decoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    decoded = space.decode(whole)
    monkeypatch.setattr(space_module, "PIXELS_AT_ONCE", 2 * 16 * 16)
    torch.testing.assert_close(space.encode(images, noise), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.decode(whole), decoded, rtol=0, atol=1e-12)
    assert sizes == [5, 2, 2, 1]


def test_the_decoders_gradient_is_exact_and_its_activations_are_not_kept():
    space, direction = latents(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    kept: dict[str, int] = {}

    def gradient(name, decode):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: sizes.append(saved.numel()) or saved, lambda s: s):
            image = decode(x)
        kept[name] = sum(sizes)
        return torch.autograd.grad((image * direction).sum(), x)[0]

    space.vae.disable_gradient_checkpointing()
    plain = gradient("plain", lambda x: space.vae.decode(x / space.vae.config.scaling_factor).sample)
    space.vae.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient("ours", space.decode), plain)
    assert kept["ours"] < kept["plain"] / 50
    assert not space.decode(x.detach()).requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in space.vae.parameters())


def test_half_precision_of_a_caller_does_not_reach_the_autoencoder():
    space, images = latents(), images_of(2)
    noise = torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    exact = space.encode(images, noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(space.encode(images, noise), exact)
        image = space.decode(exact)
    assert torch.equal(image, space.decode(exact))


def test_copies_share_the_autoencoder():
    space = latents()
    assert deepcopy({"a": space})["a"].vae is space.vae


def test_images_and_autoencoders_that_do_not_fit_are_refused():
    space = latents()
    assert space.shape((3, 16, 20)) == (4, 8, 10)
    with pytest.raises(ValueError, match="takes images of 3 channels and the data has 1"):
        space.shape((1, 16, 16))
    with pytest.raises(ValueError, match="15x16 pixels do not fit the autoencoder; sides must be multiples of 2"):
        space.shape((3, 16, 15))
    assert space.shape((3, 16, 20), patch=2) == (4, 8, 10)
    with pytest.raises(ValueError, match="18x16 .* the autoencoder and the network's 2x2 patches; .* multiples of 4"):
        space.shape((3, 16, 18), patch=2)
    with pytest.raises(ValueError, match="is a Identity, which is unknown here; known: .*AutoencoderKL"):
        space_of(torch.nn.Identity())
