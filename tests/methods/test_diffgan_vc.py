"""DiffGAN-VC: its losses by hand, who is told of the speaker, what its measures say of known converters, refusals."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Digits, Draws, Voices
from sparring.data.voices import spoken_by
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import DiffGANVC
from sparring.networks import ConvDiscriminator, SourceUNet
from sparring.process import VP


def discriminator():
    torch.manual_seed(1)
    conditions = dict(time=True, neighbour=True, num_classes=4)
    return PlainDiscriminator(net=ConvDiscriminator(1, 16, [8, 8, 8], **conditions), given=["labels", "t", "x_t"])


def method(net=None, prediction="v", **settings):
    torch.manual_seed(0)
    net = net or SourceUNet(16, source_channels=5, block_out_channels=[8, 8], norm_num_groups=4)
    return DiffGANVC(Denoiser(net, VP(schedule="cosine"), prediction), discriminator(), **settings)


def batch(made, n=6):
    data = Voices(num_samples=n)
    images, labels = data[list(range(n))]
    return made.generator.embed(Batch(images, labels, Draws(0, phase="rollout"), source=data.sources(list(range(n)))))


def test_its_losses_by_hand_and_the_discriminator_is_told_the_speaker():
    made = method(reconstruction_weight=3.0, content_weight=2.0, adversarial_weight=0.5)
    given = batch(made)
    rollout = made.rollout(given)
    step, net = rollout.step, made.discriminator.net
    beside = dict(labels=given.labels, t=step.t, x_t=step.x_t)
    real, fake = net(step.x_s_real, **beside), net(step.x_s_fake, **beside)
    torch.testing.assert_close(
        made.discriminator_loss(given, rollout)["adversarial"], softplus(-real).mean() + softplus(fake).mean()
    )
    losses = made.generator_loss(given, rollout)
    error = step.prediction.x0 - given.images
    torch.testing.assert_close(losses["reconstruction"], 3.0 * error.abs().mean())
    torch.testing.assert_close(losses["content"], 2.0 * (error - error.mean(3, keepdim=True)).abs().mean())
    torch.testing.assert_close(losses["adversarial"], 0.5 * softplus(-fake).mean())


def test_another_envelope_costs_reconstruction_and_no_content():
    made = method()
    given = batch(made)
    rollout = made.rollout(given)
    envelope = torch.linspace(-0.5, 0.5, 16).view(1, 1, 16, 1)
    rollout.step.prediction.__dict__["x0"] = given.images + envelope  # as cached_property keeps it
    losses = made.generator_loss(given, rollout)
    torch.testing.assert_close(losses["content"], torch.tensor(0.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(losses["reconstruction"], 10 * envelope.abs().mean())


def test_a_network_that_does_not_read_the_speaker_says_the_same_for_all():
    made = method()
    given = batch(made)
    x_t, t = torch.randn(6, 1, 16, 16), torch.full((6,), 0.5)
    other = spoken_by(given.source, (given.labels + 1) % 4)
    assert not torch.equal(made.generator(x_t, t, given.source).x0, made.generator(x_t, t, other).x0)
    nn.init.zeros_(made.generator.net.net.conv_in.weight[:, 2:])
    assert torch.equal(made.generator(x_t, t, given.source).x0, made.generator(x_t, t, other).x0)


class Converts(nn.Module):
    """Gives back the whole voice of its source, with the envelope of the speaker asked for if `swaps`."""

    config = {"sample_size": 16, "in_channels": 1, "source_channels": 5}

    def __init__(self, swaps):
        super().__init__()
        self.swaps, self.scale = swaps, nn.Parameter(torch.ones(()))

    def forward(self, x, time, source):
        voice, data = source[:, :1], Voices(num_samples=1)
        if self.swaps:
            pitch = torch.full((len(x), 16), 4.0)
            one, other = data.speech(voice)[0], source[:, 1:].mean((2, 3)).argmax(1)
            own, wanted = (data.spectra(pitch, s[:, None]).transpose(1, 2)[:, None] for s in (one, other))
            voice = voice - own + wanted
        return self.scale * voice


@pytest.mark.parametrize("swaps", [False, True])
def test_a_copy_keeps_the_pitch_and_the_speaker_and_a_perfect_conversion_only_the_pitch(swaps):
    made, data = method(Converts(swaps), "x0", num_steps=2), Voices(num_samples=50, content="whole")
    found = made.measures(made.generator.eval(), data, Draws(0, phase="measures"))
    assert found["speaker_accuracy"] == float(swaps)
    assert found["own_pitch_error"] < 0.01
    assert found["pitch_error"] < 0.06
    assert made.measures(made.generator, Digits(), Draws(0)) == {}


def test_without_its_weight_there_is_no_discriminator():
    made = method(adversarial_weight=0, num_steps=5)
    given = batch(made)
    assert made.discriminator is None
    assert list(made.generator_loss(given, made.rollout(given))) == ["reconstruction", "content"]
    assert made.sample_steps == 5


def test_what_cannot_be_is_one_line():
    with pytest.raises(ValueError, match="one of them must be above 0"):
        method(adversarial_weight=0, reconstruction_weight=0)
    with pytest.raises(ValueError, match="`content_weight=-1` must be 0 or more"):
        method(content_weight=-1)

    class Plain(nn.Module):
        def forward(self, x, time):
            return x

    with pytest.raises(ValueError, match="Plain takes no source, which holds content and speaker: use --on voices"):
        method(Plain())
