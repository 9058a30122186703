"""The slot for a latent z: what it adds to each stock network, copies, folders and pipelines of denoisers with one."""

from copy import deepcopy

import pytest
import torch
from diffusers import DiffusionPipeline, DiTTransformer2DModel, UNet2DModel
from torch import nn

from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser, Pretrained, load_generator
from sparring.networks import MLP, LatentSlot
from sparring.process import VP
from sparring.rollout.simulate import deterministic_scheduler

UNET = dict(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    layers_per_block=1,
    block_out_channels=(8, 8),
    norm_num_groups=4,
    down_block_types=("DownBlock2D",) * 2,
    up_block_types=("UpBlock2D",) * 2,
    add_attention=False,
)
DIT = dict(sample_size=8, in_channels=1, patch_size=4, num_layers=2, num_attention_heads=2, attention_head_dim=8)


def unet(**settings):
    return UNet2DModel(**{**UNET, **settings})


def dit():
    net = DiTTransformer2DModel(**DIT, num_embeds_ada_norm=3, norm_num_groups=1)
    with torch.no_grad():  # a new DiT gives zeros
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net.eval()


def last_biases(net):
    """Of the layers whose output is the time embedding."""
    if isinstance(net, DiTTransformer2DModel):
        return [block.norm1.emb.timestep_embedder.linear_2.bias for block in net.transformer_blocks]
    return [net.time_embedding[-1].bias if isinstance(net, MLP) else net.time_embedding.linear_2.bias]


@pytest.mark.parametrize(
    ("make", "shape", "labels"), [(unet, (1, 8, 8), None), (dit, (1, 8, 8), 2), (MLP, (2, 1, 1), None)]
)
def test_the_vector_of_z_is_added_to_the_time_embedding(make, shape, labels):
    """For one row that is the same as adding it to the last bias of the time embedding."""
    torch.manual_seed(0)
    net = make()
    plain = deepcopy(net)
    slot = LatentSlot.on(net, 5)
    slot.attach(net)  # a second time
    x, time, z = torch.randn(1, *shape), torch.tensor([300.0]), torch.randn(1, 5)
    told = {} if labels is None else {"class_labels": torch.tensor([labels])}
    before = plain(x, time, **told).sample
    assert torch.equal(net(x, time, **told).sample, before)  # without a z
    with slot.given(z):
        found = net(x, time, **told).sample
    with torch.no_grad():
        for bias in last_biases(plain):
            bias += slot(z)[0]
    torch.testing.assert_close(found, plain(x, time, **told).sample)
    assert (found - before).abs().max() > 1e-3
    assert torch.equal(net(x, time, **told).sample, before)  # and not afterwards


def test_z_counts_by_its_direction():
    slot = LatentSlot(4, 8)
    z = torch.randn(3, 4)
    torch.testing.assert_close(slot(3 * z), slot(z))
    assert not torch.allclose(slot(-z), slot(z))


def denoiser(**settings):
    torch.manual_seed(0)
    made = Denoiser(unet(**settings), VP(), "v", latent_dim=5)
    made.check_shape((1, 8, 8))
    return made


def test_a_copy_has_a_slot_of_its_own():
    first = denoiser()
    copy = deepcopy(first)
    x, t, z = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.6]), torch.randn(2, 5)
    assert torch.equal(copy(x, t, z=z).x0, first(x, t, z=z).x0)
    with torch.no_grad():
        copy.slot.layers[-1].bias += 1
    assert not torch.allclose(copy(x, t, z=z).x0, first(x, t, z=z).x0)


def test_a_latent_is_asked_for_and_nowhere_else_taken():
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.6])
    with pytest.raises(ValueError, match="conditioned on a latent z, and none was given"):
        denoiser()(x, t)
    with pytest.raises(ValueError, match="takes no latent z"):
        Denoiser(unet(), VP(), "v")(x, t, z=torch.randn(2, 5))
    with pytest.raises(ValueError, match="no place for it is known in a Conv2d"):
        LatentSlot.on(nn.Conv2d(1, 1, 1), 5)
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        denoiser().enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="sharding"):
        denoiser().network_to_shard()
    with pytest.raises(ValueError, match="no sampler to simulate"):
        deterministic_scheduler(denoiser(), "ddim", 4, 1)


def test_latents_and_the_error_follow_the_draws_of_a_batch():
    images = Digits().images(4)
    batches = [Batch(images, draws=Draws(seed, phase="test")) for seed in (0, 0, 1)]
    latents = [denoiser().z(batch) for batch in batches]
    assert latents[0].shape == (4, 5)
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])
    assert torch.equal(denoiser().error(batches[0]), denoiser().error(batches[1]))
    assert Denoiser(unet(), VP(), "v").z(batches[0]) is None


def test_every_call_of_a_sampler_has_a_new_latent_from_its_seed():
    generator = denoiser()
    seen = []
    generator.slot.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    first = generator.sample(3, 4, scheduler="ddim", seed=1)
    assert len(seen) == 4
    assert all(not torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False))
    assert torch.equal(generator.sample(3, 4, scheduler="ddim", seed=1), first)
    assert not torch.equal(generator.sample(3, 4, scheduler="ddim", seed=2), first)


def test_guidance_asks_twice_with_the_same_latent():
    generator = denoiser(num_class_embeds=4)
    seen = []
    generator.slot.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    generator.sample(3, 2, scheduler="ddim", labels=[1], guidance=2.0)
    assert [len(z) for z in seen] == [6, 6]
    assert all(torch.equal(z[:3], z[3:]) for z in seen)


def test_a_folder_draws_in_diffusers_what_we_draw(tmp_path):
    generator = denoiser()
    expected = generator.sample(4, 4, scheduler="ddpm", seed=3)
    assert generator.save(tmp_path / "pipe", "ddpm")
    opened = load_generator(tmp_path / "pipe")
    assert torch.equal(opened.sample(4, 4, seed=3), expected)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "pipe", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(4, num_inference_steps=4, generator=torch.Generator().manual_seed(3), output_type="pt").images
    torch.testing.assert_close(2 * made - 1, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        generator.slot.layers[-1].bias += 1
    generator.save(tmp_path / "pipe", "ddpm")  # over the old one
    assert torch.equal(load_generator(tmp_path / "pipe").slot.layers[-1].bias, generator.slot.layers[-1].bias)


def test_a_trained_network_gets_a_slot_or_keeps_its_own(tmp_path):
    Denoiser(unet(), VP(), "v").save(tmp_path / "plain")
    assert Pretrained(str(tmp_path / "plain")).slot is None
    assert Pretrained(str(tmp_path / "plain"), latent_dim=7).slot.config["latent_dim"] == 7
    generator = denoiser()
    generator.save(tmp_path / "with")
    for latent_dim in (0, 5):
        tuned = Pretrained(str(tmp_path / "with"), latent_dim=latent_dim)
        assert torch.equal(tuned.slot.layers[0].weight, generator.slot.layers[0].weight)
    with pytest.raises(ValueError, match=r"`latent_dim=7`: the network in .* is conditioned on a z of 5 numbers"):
        Pretrained(str(tmp_path / "with"), latent_dim=7)
