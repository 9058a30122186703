"""SWYCC: its losses by hand, what reaches the encoder, the law of its codes, and its measures."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Digits, Draws
from sparring.generators import Coder, Denoiser, Drafts, load_generator
from sparring.methods.denoising.swycc import SWYCC
from sparring.networks import SourceUNet
from sparring.process import VP
from sparring.rollout import denoising_error
from sparring.training.ema import EMA


class Shows(nn.Module):
    """Predicts the source."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, time, source):
        return self.scale * source


def swycc(net=None, prediction="v", **settings):
    torch.manual_seed(0)
    net = net or SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4)
    denoiser = Denoiser(net, VP(), prediction, own_source=Coder(width=8))
    denoiser.check(Digits())
    return SWYCC(denoiser, **settings)


def batch(seed=0):
    return Batch(Digits().images(6), draws=Draws(seed))


def test_its_losses_by_hand():
    method = swycc(draft=3.0)
    rollout = method.rollout(batch())
    coder, images = method.generator.own_source, batch().images
    noise = Draws(0).normal((6, 1, 4, 4))
    draft = coder.decoder(coder.encoder(images) + 0.05 * noise)
    torch.testing.assert_close(rollout.draft, draft)
    noised = rollout.step.noised
    told = method.generator(noised.x_t, noised.t, draft)
    torch.testing.assert_close(rollout.step.prediction.output, told.output)
    losses = method.generator_loss(batch(), rollout)
    torch.testing.assert_close(losses["draft"], 3 * (draft - images).square().mean())
    torch.testing.assert_close(losses["diffusion"], denoising_error(method.generator, rollout.step, None).mean())


@pytest.mark.parametrize("frozen", [False, True])
def test_the_denoising_loss_reaches_the_encoder_unless_it_is_frozen(frozen):
    method = swycc(frozen=frozen)
    losses = method.generator_loss(batch(), method.rollout(batch()))
    weight = method.generator.own_source.encoder[0].weight
    (gradient,) = torch.autograd.grad(losses["diffusion"], weight, retain_graph=True, allow_unused=True)
    assert (gradient is None) == frozen
    assert torch.autograd.grad(losses["draft"], weight)[0].abs().sum() > 0


def test_codes_of_samples_have_the_law_of_those_of_images():
    method = swycc()
    coder, images = method.generator.own_source, Digits().images(400)
    method.size_for(Digits())
    method.step, method.steps = 0, 2
    method.after_step()
    assert torch.equal(coder.mean, torch.zeros(16))  # every 20 steps, and behind the last
    method.step = 1
    method.after_step()
    coder.fit_law(images)
    codes = coder.encoder(images).flatten(1)
    torch.testing.assert_close(coder.mean, codes.mean(0))
    expected = torch.cov(codes.T) + 0.05**2 * torch.eye(16)
    torch.testing.assert_close(coder.root @ coder.root.T, expected)
    coder.decoder = nn.Identity()
    coder.root.copy_(0.02 * torch.ones(16, 16).tril())  # far from symmetric
    drawn = coder(Draws(0).normal((50000, 16))).flatten(1)
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=2e-3, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), coder.root @ coder.root.T, atol=3e-4, rtol=0)


def test_the_average_has_the_last_law_of_codes_and_not_the_first_in_it():
    generator = swycc().generator
    average = EMA(generator, decay=0.9, copied=generator.copied())
    coder, averaged = generator.own_source, average.module.own_source
    coder.fit_law(Digits().images(100))
    coder.encoder[0].weight.data += 1
    average.update()
    assert torch.equal(averaged.root, coder.root)
    assert torch.equal(averaged.mean, coder.mean)
    assert not torch.equal(averaged.root, torch.eye(16))
    torch.testing.assert_close(averaged.encoder[0].weight, coder.encoder[0].weight - 0.9)


def test_a_decoder_that_shows_the_draft_has_its_psnr_and_no_spread():
    method = swycc(Shows(), "x0")
    with torch.no_grad():
        found = method.measures(method.generator, Digits(), Draws(0))
    assert found["spread"] == 0
    assert found["psnr"] == pytest.approx(found["draft_psnr"], abs=1e-4)
    with torch.no_grad():
        assert swycc().measures(swycc().generator, Digits(), Draws(0))["spread"] > 0.01


def test_its_folder_draws_the_same(tmp_path):
    method = swycc()
    method.generator.own_source.fit_law(Digits().images(100))
    assert method.generator.save(tmp_path / "folder")
    assert torch.equal(load_generator(tmp_path / "folder").sample(3, 2), method.generator.sample(3, 2))


def test_what_it_refuses():
    net = SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4)
    with pytest.raises(ValueError, match="SWYCC needs sparring.generators.Coder"):
        SWYCC(Denoiser(net, VP(), "v", own_source=Drafts(width=8)))
    with pytest.raises(ValueError, match="`draft=-1`"):
        swycc(draft=-1)
    with pytest.raises(ValueError, match="be halved so often"):
        Coder(image_shape=(1, 6, 6), halvings=2)
    with pytest.raises(ValueError, match=r"`own_source.image_shape=\[1, 8, 8\]`: the images have \[1, 16, 16\]"):
        Coder().size_for(10, (1, 16, 16))
