"""SADM: one noise level for a batch, latents, and the start of the encoder."""

import pytest
import torch
from method_parts import batch_of, denoiser, evaluated, images_of, opponent_frozen, structure, total, touched
from torch import nn

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import StructureDiscriminator
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.tuning.sadm import SADM
from sparring.process import VP, Latents


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
    torch.testing.assert_close(whole.weight, whole.weight[:1].expand(6))
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
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    sizes = dict(in_channels=1, out_channels=1, latent_channels=3, block_out_channels=(8, 8), norm_num_groups=4)
    return Latents(AutoencoderKL(**blocks, **sizes, sample_size=8).double())


class LatentNet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1).double()

    def forward(self, x, time):
        return self.layer(x) + time[:, None, None, None] / 1000


def latent_sadm(space, channels, **settings):
    encoder = SmallConvNet(in_channels=channels, widths=(4, 8), pretrain="self-supervised", epochs=1)
    judge = StructureDiscriminator(encoder=encoder.double())
    return SADM(Denoiser(LatentNet(), VP(), "v", space), judge, structure_weight=1.0, **settings)


def latent_batch(method):
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    return method.generator.embed(Batch(images, draws=Draws(0, phase="rollout")))


def test_latents_are_judged_as_images_or_as_they_are(space):
    images, latents = latent_sadm(space, 1), latent_sadm(space, 3, judged="latents")
    batch = latent_batch(images)
    decoded, plain = images.rollout(batch), latents.rollout(latent_batch(latents))
    assert torch.equal(decoded.real, batch.images)
    assert torch.equal(plain.real, batch.x_0)
    torch.testing.assert_close(decoded.fake, space.decode(plain.fake))
    for method, made in ((images, decoded), (latents, plain)):
        with opponent_frozen(method):
            method.generator_loss(batch, made)["structure"].backward()
        assert touched(method.generator) == {"net.layer.weight", "net.layer.bias"}


def test_an_encoder_of_latents_learns_from_latents(space):
    method = latent_sadm(space, 3, judged="latents")
    seen = []
    method.structure.prepare = lambda images, labels: seen.append(images)
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    method.prepare(StoredImages(images))
    assert torch.equal(seen[0], space.encode(images, torch.zeros(5, 3, 4, 4)))


def test_pixels_have_no_latents():
    with pytest.raises(ValueError, match="`judged=latents`: this denoiser works on pixels"):
        sadm(judged="latents")


def test_the_start_of_the_encoder_is_looked_through_now_and_then():
    method = sadm()
    method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    assert torch.equal(method.statistics["structure_start"], method.statistics["structure"])
    for p in method.structure.encoder.parameters():
        p.data += 0.1
    method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    assert not torch.equal(method.statistics["structure_start"], method.statistics["structure"])
    method.statistics, method.step = {}, 1
    method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    assert "structure_start" not in method.statistics
