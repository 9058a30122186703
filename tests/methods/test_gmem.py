"""GMem: its bank holds pooled, centred features of unit length; controls; weight 0; what it refuses."""

import pytest
import torch
from torch import nn

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser, Drafts, Memory
from sparring.methods.denoising.gmem import GMem
from sparring.networks import CodeUNet, SourceUNet
from sparring.process import VP


def gmem(dim=8, **settings):
    torch.manual_seed(0)
    net = CodeUNet(sample_size=8, code_dim=dim, block_out_channels=[8, 8], norm_num_groups=4)
    denoiser = Denoiser(net, VP(), "v", own_source=Memory(dim=dim))
    encoder = SmallConvNet(in_channels=1, num_classes=10, widths=[8, 16], pretrain="none")
    method = GMem(denoiser, encoder, **({"layer": -2} | settings))
    denoiser.check(DATA)
    method.prepare(DATA)
    return method


DATA = Digits()


def test_the_bank_holds_pooled_features_of_unit_length_in_the_order_of_the_data():
    method = gmem()
    rows = [0, 5, 900]
    features = method.encoder.maps(DATA[rows][0])[-2] - method.mean
    expected = nn.functional.normalize(features.mean((2, 3)), dim=1)
    torch.testing.assert_close(method.memory.bank[rows], expected)
    images = DATA[rows][0]
    batch = method.generator.eval().embed(Batch(images, draws=Draws(0), index=torch.tensor(rows)))
    torch.testing.assert_close(batch.condition, expected)


def test_controls_hold_other_codes():
    own, shuffled, gaussian = (gmem(codes=codes).memory.bank for codes in ("features", "shuffled", "gaussian"))
    assert not torch.equal(own, shuffled)
    torch.testing.assert_close(own.sum(1).sort().values, shuffled.sum(1).sort().values)  # the same rows
    assert gaussian.mean().abs() < 0.02
    torch.testing.assert_close(gaussian.norm(dim=1), torch.ones(len(DATA)))


def test_without_alignment_only_the_memory_is_left():
    method = gmem(weight=0.0)
    images = DATA[[0, 1, 2, 3]][0]
    batch = method.generator.embed(Batch(images, draws=Draws(0), index=torch.arange(4)))
    losses = method.generator_loss(batch, method.rollout(batch))
    assert list(losses) == ["diffusion"]
    assert method.parts() == []
    torch.testing.assert_close(method.memory.bank, gmem().memory.bank)
    assert set(gmem().generator_loss(batch, gmem().rollout(batch))) == {"diffusion", "alignment"}


def test_a_sample_that_is_its_image_has_no_distance_to_it():
    method = gmem()

    def copies(scheduler, steps, *, latents, condition):
        torch.testing.assert_close(condition, method.memory.bank[: len(latents)])
        return DATA[list(range(len(latents)))][0] + 0.3

    method.generator.generate = copies
    found = method.measures(method.generator, DATA, Draws(0))
    assert found["copy_distance"] == pytest.approx(0.3, rel=1e-5)
    assert 0.2 < found["nearest_distance"] < 1


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`own_source.dim=4`: the encoder's features have 8"):
        gmem(dim=4)
    with pytest.raises(ValueError, match="`codes=all` is unknown"):
        gmem(codes="all")
    net = SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4)
    drafts = Denoiser(net, VP(), "v", own_source=Drafts(width=8))
    with pytest.raises(ValueError, match="GMem needs sparring.generators.Memory"):
        GMem(drafts, SmallConvNet(in_channels=1, num_classes=10, pretrain="none"), weight=0.0)
