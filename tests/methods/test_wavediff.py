"""WaveDiff: it works on bands, its term by hand, and what it refuses."""

import pytest
import torch
from diffusers import UNet2DModel
from torch.nn.functional import softplus

from sparring.data import Batch, Digits, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import WaveDiff
from sparring.networks import MLP, ConvDiscriminator, StepPerceptron
from sparring.process import VP

NET = dict(
    sample_size=4,
    layers_per_block=1,
    block_out_channels=(8, 8),
    norm_num_groups=4,
    down_block_types=("DownBlock2D",) * 2,
    up_block_types=("UpBlock2D",) * 2,
    add_attention=False,
)


def wavediff(channels=4, **settings):
    torch.manual_seed(0)
    net = UNet2DModel(in_channels=channels, out_channels=channels, **NET)
    net_d = ConvDiscriminator(4, 4, widths=[8], time=True, neighbour=True)
    generator = Denoiser(net, VP(schedule="cosine"), "v", latent_dim=3)
    return WaveDiff(generator, PlainDiscriminator(net=net_d, given=["t", "x_t"]), **settings).double()


def batch(method, phase="rollout"):
    return method.generator.embed(Batch(Digits().images(6).double(), draws=Draws(0, phase=phase)))


def test_its_losses_are_of_bands():
    method = wavediff(reconstruction_weight=0.5)
    given = batch(method)
    assert given.x_0.shape == (6, 4, 4, 4)
    rollout = method.rollout(given)
    step = rollout.step
    assert step.x_s_fake.shape == (6, 4, 4, 4)
    losses = method.generator_loss(batch(method, "generator"), rollout)
    logits = method.discriminator.net(step.x_s_fake, t=step.t, x_t=step.x_t)
    torch.testing.assert_close(losses["adversarial"], softplus(-logits).mean())
    squares = given.images.view(6, 4, 2, 4, 2)
    torch.testing.assert_close(given.x_0[:, 0], squares.mean((2, 4)))
    torch.testing.assert_close(losses["reconstruction"], 0.5 * (step.prediction.x0 - given.x_0).abs().mean())
    assert list(wavediff(reconstruction_weight=0.0).generator_loss(given, rollout)) == ["adversarial"]


def test_what_takes_no_bands_is_refused():
    with pytest.raises(ValueError, match="UNet2DModel does not take wavelet bands"):
        wavediff(channels=1)
    points = Denoiser(MLP(width=8), VP(), "v", latent_dim=3)
    with pytest.raises(ValueError, match="MLP does not take wavelet bands"):
        WaveDiff(points, PlainDiscriminator(net=StepPerceptron(), given=["t", "x_t"]))
    with pytest.raises(ValueError, match=r"`reconstruction_weight=-1\.0` must be 0 or more"):
        wavediff(reconstruction_weight=-1.0)
