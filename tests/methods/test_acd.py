"""ACD: its losses by hand, who is told of the source, the delay, and what is refused."""

import pytest
import torch
from torch.nn.functional import softplus

from sparring.data import Batch, Draws, Edited
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import ACD, Consistency
from sparring.networks import ConvDiscriminator, SourceUNet
from sparring.process import VP


def denoiser():
    torch.manual_seed(0)
    return Denoiser(SourceUNet(8, block_out_channels=[8, 8], norm_num_groups=4), VP(schedule="cosine"), "v")


def acd(neighbour=True, **settings):
    torch.manual_seed(1)
    net = ConvDiscriminator(1, 8, [8, 8], neighbour=neighbour)
    method = ACD(denoiser(), PlainDiscriminator(net=net, given=["x_t"] if neighbour else []), **settings)
    method.step, method.steps = 50, 100
    return method


def batch(method, phase="rollout", n=6):
    data = Edited("digits", "speckle", undo=True)
    given = Batch(data.images(n), draws=Draws(0, phase=phase), source=data.source_images(n))
    return method.generator.embed(given)


@pytest.mark.parametrize("pairs", ["own", "shuffled", "none"])
def test_its_losses_by_hand_with_the_source_that_it_is_told(pairs):
    method = acd(pairs != "none", pairs=pairs, adversarial_weight=0.3)
    given = batch(method)
    rollout = method.rollout(given)
    source = {"own": given.source, "shuffled": given.source.roll(1, 0), "none": None}[pairs]
    real, fake = (method.discriminator.net(x, x_t=source) for x in (given.images, rollout.image))
    losses = method.discriminator_loss(given, rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    plain = Consistency(denoiser())
    plain.step, plain.steps = 50, 100
    losses = method.generator_loss(given, rollout)
    torch.testing.assert_close(losses["consistency"], plain.generator_loss(given, rollout)["consistency"])
    torch.testing.assert_close(losses["adversarial"], 0.3 * softplus(-fake).mean())


def test_without_its_weight_it_is_consistency_distillation():
    method, plain = acd(adversarial_weight=0), Consistency(denoiser())
    plain.step, plain.steps = 50, 100
    assert method.discriminator is None
    losses = method.generator_loss(batch(method), method.rollout(batch(method)))
    expected = plain.generator_loss(batch(plain), plain.rollout(batch(plain)))
    assert list(losses) == ["consistency"]
    assert torch.equal(losses["consistency"], expected["consistency"])


def test_the_discriminator_has_no_say_in_the_first_tenth():
    method = acd()
    for step, acts in ((0, False), (9, False), (10, True), (99, True)):
        method.step = step
        losses = method.generator_loss(batch(method), method.rollout(batch(method)))
        assert (losses["adversarial"] > 0) == acts


def test_what_cannot_be_is_one_line():
    from diffusers import UNet2DModel

    plain = PlainDiscriminator(net=ConvDiscriminator(1, 8, [8, 8]))
    blocks = dict(down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], add_attention=False)
    net = UNet2DModel(8, 1, 1, block_out_channels=[8], norm_num_groups=4, layers_per_block=1, **blocks)
    with pytest.raises(ValueError, match="`pairs=own`: UNet2DModel takes no source: start from a run on"):
        ACD(Denoiser(net, VP(schedule="cosine"), "v"), plain)
    with pytest.raises(ValueError, match="`adversarial_weight=-1` must be 0 or more"):
        acd(adversarial_weight=-1)
