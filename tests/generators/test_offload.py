"""Frozen encoders that leave the device after use: the meta device stands for a GPU, since what was there is lost."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from tiny_families import FAMILIES

from sparring.data import Batch, Draws
from sparring.generators import Pretrained, TextCondition
from sparring.networks.device import lent

META, CPU = torch.device("meta"), torch.device("cpu")
WORDS = ["a red apple", "zebra"]
IMAGES = Draws(seed=0).normal((2, 3, 32, 32)).clamp(-1, 1)


def places(*parts):
    return {tensor.device for part in parts for tensor in part.state_dict().values()}


def numbers(*parts):
    return [tensor.clone() for part in parts for tensor in part.state_dict().values()]


def same(ones, others):
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.fixture
def no_autocast(monkeypatch):
    """Autocast does not know the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *told, **settings: nullcontext())


def test_a_lent_network_is_there_meanwhile_and_its_own_tensors_are_what_it_gets_back():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).requires_grad_(False)
    tied = torch.nn.Sequential(net[0], torch.nn.Linear(2, 2))
    tied[1].weight = net[0].weight
    before = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    with lent([net, tied], META, back=True):
        assert places(net, tied) == {META}
    after = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert places(net, tied) == {CPU}
    assert all(after[name] is tensor for name, tensor in before.items())
    assert tied[1].weight is net[0].weight
    with lent([net], META, back=False):
        pass
    assert places(net) == {META}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", *FAMILIES])
def test_encoders_are_on_the_device_while_captions_are_embedded(tiny, monkeypatch, no_autocast, kind):
    for offload in (True, False):
        text, seen = Pretrained(str(tiny(kind)), offload=offload).text, []
        whole = numbers(*text.encoders)

        def encode(texts, device, text=text, seen=seen):
            seen.append(places(*text.encoders))
            return TextCondition(torch.empty(len(texts), 4, 8, device=device))

        monkeypatch.setattr(text, "encode", encode)
        monkeypatch.setattr(text, "encode_nothing", lambda device, encode=encode: encode([""], device))
        text.empty(text(WORDS, (32, 32), META))
        assert seen == [{META}, {META}]
        assert places(*text.encoders) == {CPU if offload else META}
        assert not offload or same(numbers(*text.encoders), whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "qwen_image", "flux2", "sana"])
def test_the_autoencoder_leaves_unless_the_backward_pass_needs_it(tiny, no_autocast, kind):
    space = Pretrained(str(tiny(kind)), offload=True).space
    whole = numbers(space.vae)
    latents = space.encode(IMAGES.to(META), torch.empty(2, *space.shape((3, 32, 32)), device=META))
    assert latents.device == META
    assert places(space.vae) == {CPU}
    with torch.no_grad():
        assert space.decode(latents).device == META
    assert places(space.vae) == {CPU}
    assert same(numbers(space.vae), whole)
    image = space.decode(latents.requires_grad_())
    space.encode(IMAGES.to(META), torch.empty_like(latents))
    assert places(space.vae) == {META}
    assert torch.autograd.grad(image.sum(), latents)[0].device == META


def embedded(denoiser):
    """Latents, captions, the empty caption and none, which are not the same for every family."""
    batch = denoiser.embed(Batch(IMAGES, texts=WORDS, draws=Draws(1)))
    told = [batch.condition, denoiser.text([""], (32, 32), CPU), denoiser.text.empty(batch.condition)]
    return [batch.x_0, *(tensor for condition in told for tensor in condition.tensors().values())]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "qwen_image", "sana_sprint"])
def test_nothing_moves_when_all_is_kept(tiny, tmp_path, monkeypatch, kind):
    plain = embedded(Pretrained(str(tiny(kind))))
    assert same(embedded(Pretrained(str(tiny(kind)), cache=str(tmp_path))), plain)
    monkeypatch.setattr("sparring.generators.families.family.lent", None)
    monkeypatch.setattr("sparring.process.space.lent", None)
    assert same(embedded(Pretrained(str(tiny(kind)), cache=str(tmp_path))), plain)


def test_nothing_to_offload_is_one_line(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 8}
    net = UNet2DModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, **blocks)
    DDPMPipeline(net, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`offload=True`: UNet2DModel takes images as they are .*; leave it out"):
        Pretrained(str(tmp_path), offload=True)
