"""SADM: one noise level for a batch, and latents."""

import pytest
import torch
from method_parts import (
    LatentNet,
    batch_of,
    denoiser,
    evaluated,
    images_of,
    latent_space,
    opponent_frozen,
    structure,
    total,
    touched,
)
from torch import nn

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import StructureDiscriminator
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.tuning.sadm import SADM
from sparring.process import VP, Uncertainty


def sadm(**settings):
    return SADM(denoiser(), structure(), **settings)


def test_off_is_plain_diffusion_bit_for_bit():
    found = []
    for method in (sadm(mode="off"), sadm(mode="off", shared_t=True), Diffusion(denoiser())):
        losses = evaluated(method.generator_loss(batch_of(phase="generator"), method.rollout(batch_of())))
        total(losses).backward()
        found.append([losses["diffusion"], *(p.grad for p in method.generator.parameters())])
        assert list(losses) == ["diffusion"]
        assert method.sampler == "ddim"
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


def test_one_noise_level_for_all_images_of_a_batch():
    method = sadm(shared_t=True)
    whole = method.rollout(batch_of())
    (level,) = whole.step.noised.t.unique().tolist()
    torch.testing.assert_close(whole.views.given.weight, whole.views.given.weight[:1].expand(6))
    for rows in (slice(0, 2), slice(2, 6)):  # micro-batches and processes have the same one
        part = Batch(images_of()[rows], draws=Draws(0, phase="rollout", rows=rows, total=6))
        assert method.rollout(part).step.noised.t.unique().tolist() == [level]
    others = {
        method.rollout(batch_of(draws=Draws(0, step=s, phase="rollout"))).step.noised.t[0].item() for s in range(9)
    }
    assert len(others) > 5
    assert len(sadm().rollout(batch_of()).step.noised.t.unique()) > 1


# -- latents -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space():
    return latent_space()


def latent_sadm(space, channels, **settings):
    encoder = SmallConvNet(in_channels=channels, widths=(4, 8), pretrain="self-supervised", epochs=1)
    discriminator = StructureDiscriminator(encoder=encoder.double())
    return SADM(Denoiser(LatentNet(), VP(), "v", space), discriminator, structure_weight=1.0, **settings)


def latent_batch(method):
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    return method.generator.embed(Batch(images, draws=Draws(0, phase="rollout")))


def test_what_is_compared_of_latents(space):
    """Both sides decoded, or the data's own pixels beside decoded predictions, or the latents themselves."""
    decoded, pixels = latent_sadm(space, 1), latent_sadm(space, 1, discriminator_input="pixels")
    latents = latent_sadm(space, 3, discriminator_input="latents")
    batch = latent_batch(decoded)
    rollouts = [method.rollout(latent_batch(method)) for method in (decoded, pixels, latents)]
    torch.testing.assert_close(rollouts[0].views.real[0], space.decode(batch.x_0))
    assert not rollouts[0].views.real[0].requires_grad
    assert torch.equal(rollouts[1].views.real[0], batch.images)
    assert torch.equal(rollouts[2].views.real[0], batch.x_0)
    for rollout in rollouts[:2]:
        torch.testing.assert_close(rollout.views.fake[0], space.decode(rollouts[2].views.fake[0]))
    for method, rollout in zip((decoded, pixels, latents), rollouts, strict=True):
        with opponent_frozen(method):
            method.generator_loss(batch, rollout)["structure"].backward()
        assert touched(method.generator) == {"net.layer.weight", "net.layer.bias"}


class Oracle(nn.Module):
    """Predicts the clean latents that it was given, plus a parameter that is 0."""

    def __init__(self, x_0):
        super().__init__()
        self.x_0, self.shift = x_0, nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x, time):
        return self.x_0 + self.shift


@pytest.mark.parametrize(("discriminator_input", "zero"), [("decoded", True), ("latents", True), ("pixels", False)])
def test_a_perfect_denoiser_of_latents_has_no_structure_loss(space, discriminator_input, zero):
    """Its decoded predictions are the decoded real latents; what the autoencoder loses is none of its fault."""
    method = latent_sadm(space, 3 if discriminator_input == "latents" else 1, discriminator_input=discriminator_input)
    batch = latent_batch(method)
    method.generator = Denoiser(Oracle(batch.x_0), VP(), "x0", space)
    with opponent_frozen(method):
        loss = method.generator_loss(batch, method.rollout(batch))["structure"]
    (gradient,) = torch.autograd.grad(loss, method.generator.net.shift)
    assert (loss.item() == 0, gradient.item() == 0) == (zero, zero)


def test_an_encoder_of_latents_learns_from_latents(space):
    method = latent_sadm(space, 3, discriminator_input="latents")
    seen = []
    method.discriminator.encoder.prepare = lambda images, labels, seed: seen.append(images)
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    method.prepare(StoredImages(images))
    assert torch.equal(seen[0], space.encode(images, torch.zeros(5, 3, 4, 4)))


def test_pixels_have_no_latents():
    with pytest.raises(ValueError, match="`discriminator_input=latents`: this denoiser works on pixels"):
        sadm(discriminator_input="latents")


def test_a_weighting_that_learns_from_errors_is_not_for_the_structure():
    with pytest.raises(ValueError, match="`structure_weighting=Uncertainty`: it learns from denoising errors"):
        SADM(denoiser(), structure(), structure_weighting=Uncertainty())
