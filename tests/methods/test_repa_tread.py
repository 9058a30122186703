"""REPA and TREAD: plain training when switched off, the alignment by hand, the encoder, which tokens stay."""

import math

import pytest
import torch
from small_networks import small_dit, small_unet

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser
from sparring.methods import Diffusion
from sparring.methods.denoising.repa import REPA
from sparring.methods.denoising.tread import TREAD
from sparring.process import VP, RectifiedFlow

DATA = Digits()


def batch(n=8):
    return Batch(DATA.images(n), DATA.labels(n), draws=Draws(0))


def encoder():
    return SmallConvNet(in_channels=1, widths=(4, 6), pretrain="none")


def loss_of(method):
    losses = method.generator_loss(batch(), method.rollout(batch()))
    return losses, sum(losses.values())


def test_switched_off_both_are_plain_training_bit_for_bit():
    net = small_dit()
    plain, off = (
        kind(Denoiser(net, RectifiedFlow(), "flow"), **s) for kind, s in ((Diffusion, {}), (TREAD, {"ratio": 0}))
    )
    repa = REPA(Denoiser(net, RectifiedFlow(), "flow"), encoder(), weight=0.0)
    expected = loss_of(plain)[1]
    assert torch.equal(loss_of(off)[1], expected)
    assert torch.equal(loss_of(repa)[1], expected)
    assert repa.parts() == []


def test_tread_routes_the_asked_share_of_each_image_by_its_draws():
    method = TREAD(Denoiser(small_dit(), RectifiedFlow(), "flow"), ratio=0.75)
    ids = method.ids(batch())
    assert ids.shape == (8, 4)
    assert (ids[:, 1:] > ids[:, :-1]).all()
    assert len({tuple(row) for row in ids.tolist()}) > 4
    parts = [method.ids(Batch(DATA.images(8)[r], draws=Draws(0, rows=r, total=8))) for r in (slice(0, 3), slice(3, 8))]
    assert torch.equal(torch.cat(parts), ids)
    assert not torch.equal(loss_of(method)[1], loss_of(Diffusion(method.generator))[1])
    with pytest.raises(ValueError, match="`ratio=1`"):
        TREAD(method.generator, ratio=1)
    method.generator.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="`gradient_checkpointing`: TREAD's blocks"):
        method.rollout(batch())


def test_the_alignment_is_the_mean_cosine_of_centred_features():
    method = REPA(Denoiser(small_unet(), VP(), "v"), encoder(), layer=-1, weight=0.3)
    method.prepare(DATA)
    rollout = method.rollout(batch())
    maps = method.encoder.maps(DATA.images(8))[-1]
    torch.testing.assert_close(method.mean.flatten(), method.encoder.maps(DATA.images(1000))[-1].mean((0, 2, 3)))
    target = torch.nn.functional.interpolate(maps - method.mean, (4, 4), mode="bilinear", antialias=True)
    told = method.projector(rollout.features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    cosine = (told * target).sum(1) / (told.norm(dim=1) * target.norm(dim=1))
    losses, _ = loss_of(method)
    torch.testing.assert_close(losses["alignment"], -0.3 * cosine.mean())
    assert torch.equal(losses["diffusion"], loss_of(Diffusion(method.generator))[1])


def test_a_perfect_projection_has_alignment_one_whatever_its_scale():
    method = REPA(Denoiser(small_unet(), VP(), "v"), encoder(), layer=-1)
    method.prepare(DATA)
    images = DATA.images(200)
    maps = torch.nn.functional.interpolate(
        method.encoder.maps(images)[-1] - method.mean, (4, 4), mode="bilinear", antialias=True
    )
    method.projector = torch.nn.Identity()
    assert method.alignment(images, 3 * maps).mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_the_encoder_takes_no_gradient_and_the_projector_is_no_part_of_the_generator(kind):
    net = small_unet() if kind == "unet" else small_dit()
    process, prediction = (VP(), "v") if kind == "unet" else (RectifiedFlow(), "flow")
    method = REPA(Denoiser(net, process, prediction), encoder(), layer=0)
    method.prepare(DATA)
    loss_of(method)[0]["alignment"].backward()
    assert all(parameter.grad is None for parameter in method.encoder.parameters())
    assert all(parameter.grad is not None for parameter in method.projector.parameters())
    assert not any("projector" in name or "encoder" in name for name in method.generator.state_dict())
    assert math.isfinite(float(method.statistics["alignment"]))


def test_an_encoder_that_learns_is_prepared_with_the_data_and_frozen():
    learner = SmallConvNet(in_channels=1, widths=(4, 6), num_classes=10, epochs=1)
    method = REPA(Denoiser(small_unet(), VP(), "v"), learner)
    method.prepare(DATA)
    assert not math.isnan(learner.accuracy)
    assert not any(parameter.requires_grad for parameter in learner.parameters())
    with pytest.raises(ValueError, match="`layer=5`: convnet-4-6-random has 2 maps"):
        REPA(method.generator, encoder(), layer=5)
