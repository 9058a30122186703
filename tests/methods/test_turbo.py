"""pix2pix-turbo and CycleGAN-turbo: the start, one call, losses by hand, both ways, folders, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Draws, Edited
from sparring.discriminators import Given, PlainDiscriminator, ProjectedDiscriminator
from sparring.generators import Denoiser, LatentGenerator, load_generator
from sparring.methods import CycleGANTurbo, Pix2PixTurbo
from sparring.methods.translation.pix2pix_turbo import begin, translate
from sparring.networks import ConvDiscriminator, Perceptron, TurboUNet
from sparring.objectives import feature_distance
from sparring.process import VP, RectifiedFlow


def turbo(seed=0, widths=(8, 8)):
    torch.manual_seed(seed)
    return LatentGenerator(TurboUNet(8, block_out_channels=list(widths), norm_num_groups=4), 1)


def start(prediction="v", seed=1, process=None):
    torch.manual_seed(seed)
    return Denoiser(turbo(seed).net.net, process or VP(schedule="cosine"), prediction)


def discriminator():
    torch.manual_seed(2)
    backbone = SmallConvNet(in_channels=1, widths=(4, 8), pretrain="none")
    return ProjectedDiscriminator(backbone=backbone, width=4, augment="")


def batch(phase="rollout", n=5):
    data = Edited("digits", "edges")
    return Batch(data.images(n), draws=Draws(0, phase=phase), source=data.source_images(n))


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_it_starts_as_what_the_diffusion_model_predicts_of_the_source_at_the_last_time(prediction):
    """alpha is nearly 0 there, and the skip of 1e-5 is seen by less than 1e-3."""
    made, denoiser, source = turbo(), start(prediction), batch().source
    expected = denoiser(source, torch.ones(5)).x0
    begin(made, denoiser)
    torch.testing.assert_close(translate(made, source), expected, rtol=0, atol=1e-3)
    with_skip = translate(made, source)
    nn.init.zeros_(made.net.skip.weight)
    assert 0 < (translate(made, source) - with_skip).abs().max() < 1e-3
    assert not any(a.data_ptr() == b.data_ptr() for a, b in zip(made.parameters(), denoiser.parameters(), strict=False))


def test_one_call_without_noise_and_its_folder_opens(tmp_path):
    made, source = turbo(), batch().source
    first, second = (made.sample(5, sources=source, seed=seed) for seed in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, translate(made, source).clamp(-1, 1))
    assert made.save(tmp_path / "pipe")
    assert torch.equal(load_generator(tmp_path / "pipe").sample(5, sources=source), first)


def test_losses_of_pairs_by_hand():
    settings = dict(reconstruction_weight=2.0, perceptual_weight=3.0, adversarial_weight=0.7)
    method = Pix2PixTurbo(turbo(), discriminator(), None, **settings)
    given = batch()
    rollout = method.rollout(given)
    made, sees = translate(method.generator, given.source), method.discriminator
    real, fake = (sees(x, Given(), given.draws) for x in (given.images, made))
    losses = method.discriminator_loss(given, rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    losses = method.generator_loss(given, rollout)
    torch.testing.assert_close(losses["reconstruction"], 2.0 * (made - given.images).square().mean())
    maps = [sees.backbone.maps(x) for x in (made, given.images)]
    torch.testing.assert_close(losses["perceptual"], 3.0 * feature_distance(*maps))
    torch.testing.assert_close(losses["adversarial"], 0.7 * softplus(-fake).mean())


def both_ways(**settings):
    method = CycleGANTurbo(turbo(), discriminator(), start(), **settings)
    for parameter in method.back.parameters():
        parameter.data += 0.03  # another map than there
    return method


def test_losses_of_both_ways_by_hand():
    weights = dict(cycle_weight=2.0, cycle_perceptual=3.0, identity_weight=0.5, identity_perceptual=0.25)
    method = both_ways(adversarial_weight=0.7, **weights)
    x, y = batch().images, batch().source
    rollout = method.rollout(batch())
    there, back = (lambda images, part=part: translate(part, images) for part in (method.generator, method.back))
    of_x, of_y = method.discriminator

    def apart(sees, one, other, weight, perceptual):
        return weight * (one - other).abs().mean() + perceptual * feature_distance(
            sees.backbone.maps(one), sees.backbone.maps(other)
        )

    losses = method.generator_loss(batch("generator"), rollout)
    cycle = apart(of_x, there(back(x)), x, 2.0, 3.0) + apart(of_y, back(there(y)), y, 2.0, 3.0)
    same = apart(of_x, there(x), x, 0.5, 0.25) + apart(of_y, back(y), y, 0.5, 0.25)
    torch.testing.assert_close(losses["cycle"], cycle)
    torch.testing.assert_close(losses["identity"], same)
    logits = [sees(fake, Given(), Draws(0)) for sees, fake in ((of_x, there(y)), (of_y, back(x)))]
    torch.testing.assert_close(losses["adversarial"], 0.7 * sum(softplus(-one).mean() for one in logits))
    found = method.discriminator_loss(batch("discriminator"), rollout)
    for key, sees, real, fake in (("", of_x, x, there(y)), ("back_", of_y, y, back(x))):
        one, other = (sees(images, Given(), Draws(0)) for images in (real, fake))
        torch.testing.assert_close(found[f"{key}adversarial"], softplus(-one).mean() + softplus(other).mean())


def test_maps_that_copy_have_no_cycle_and_no_identity_loss():
    method = both_ways()
    for part in (method.generator.net, method.back.net):
        nn.init.zeros_(part.net.conv_out.weight)
        nn.init.zeros_(part.net.conv_out.bias)
        nn.init.ones_(part.skip.weight)
    losses = method.generator_loss(batch("generator"), method.rollout(batch()))
    assert losses["cycle"].item() == pytest.approx(0, abs=1e-6)
    assert losses["identity"].item() == pytest.approx(0, abs=1e-6)


def test_both_ways_begin_at_the_same_start():
    method = CycleGANTurbo(turbo(), discriminator(), start())
    for one, other, own in zip(
        method.generator.net.net.parameters(), method.back.net.net.parameters(), start().net.parameters(), strict=True
    ):
        assert torch.equal(one, other)
        assert torch.equal(one.abs(), own.abs())  # the sign of v is in the last layer


def test_without_their_weight_the_discriminators_only_measure():
    for method in (
        Pix2PixTurbo(turbo(), discriminator(), None, adversarial_weight=0),
        both_ways(adversarial_weight=0, identity_weight=0, identity_perceptual=0),
    ):
        assert method.discriminator is None
        assert not any(parameter.requires_grad for parameter in method.eyes.parameters())
        losses = method.generator_loss(batch("generator"), method.rollout(batch()))
        assert list(losses) in (["reconstruction", "perceptual"], ["cycle"])


def test_what_cannot_be_is_one_line():
    plain = PlainDiscriminator(net=ConvDiscriminator(1, 8, [8, 8]))
    with pytest.raises(ValueError, match=r"`generator.net=Perceptron`: only a TurboUNet is made of a denoiser"):
        Pix2PixTurbo(LatentGenerator(Perceptron(out_shape=[1, 8, 8]), 2), plain, None)
    with pytest.raises(
        ValueError, match="the UNet2DModel of the start has other layers .* train the start on the same"
    ):
        Pix2PixTurbo(turbo(widths=(8, 16)), plain, start())
    with pytest.raises(ValueError, match="predicts flow with a RectifiedFlow process; the start must predict"):
        Pix2PixTurbo(turbo(), plain, start("flow", process=RectifiedFlow()))
    for other in (VP(num_timesteps=100), VP(last_time=0.5)):
        with pytest.raises(ValueError, match="`denoiser`: its last level must be pure noise at the network's time 999"):
            Pix2PixTurbo(turbo(), plain, start(process=other))
    with pytest.raises(ValueError, match="`perceptual_weight=-1` must be 0 or more"):
        Pix2PixTurbo(turbo(), plain, None, perceptual_weight=-1)
    with pytest.raises(ValueError, match="weights of cycle and discriminator are 0"):
        both_ways(cycle_weight=0, cycle_perceptual=0, adversarial_weight=0)


def test_a_distance_between_augmented_images_is_refused():
    for settings, words in (({}, "augment=color,cutout,translation"), ({"augment": "", "crop": 0.5}, "crop=0.5")):
        backbone = SmallConvNet(in_channels=1, widths=(4, 8), pretrain="none")
        backbone.image_size = 4
        moved = ProjectedDiscriminator(backbone=backbone, width=4, **settings)
        for method in (Pix2PixTurbo, CycleGANTurbo):
            with pytest.raises(ValueError, match=f"`discriminator.{words}`: the distance in its features"):
                method(turbo(), moved)
        Pix2PixTurbo(turbo(), moved, perceptual_weight=0.0)  # nothing is compared
