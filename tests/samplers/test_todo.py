"""Coarser keys and values: exact for tokens that are constant in blocks, on the finest grid only, gone afterwards."""

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from diffusers.models.attention_processor import Attention

from sparring.generators import Denoiser
from sparring.networks import MLP
from sparring.process import VP, RectifiedFlow
from sparring.samplers.speed.todo import ToDo, coarse_keys, every, grid


def transformer() -> Denoiser:
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=1, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=3,
    )  # fmt: skip
    torch.manual_seed(0)
    for one in net.parameters():
        torch.nn.init.normal_(one, std=0.3)
    return Denoiser(net, RectifiedFlow(), "flow")


def unet() -> Denoiser:
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        attention_head_dim=4, down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
    )  # fmt: skip
    return Denoiser(net, VP(), "v")


def drawn(denoiser, n=4, batch_size=4, **settings):
    latents = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = denoiser.process.scheduler("euler", denoiser.prediction)
    condition = torch.tensor([0, 1, 2, 0]) if denoiser.num_classes else None
    with torch.no_grad():
        return denoiser.generate(scheduler, 3, latents=latents, condition=condition, batch_size=batch_size, **settings)


@pytest.mark.parametrize("norm", [None, 4])
def test_tokens_that_are_constant_in_blocks_give_the_output_of_full_attention(norm):
    torch.manual_seed(0)
    layer = Attention(8, heads=2, dim_head=4, norm_num_groups=norm).double()
    blocks = torch.randn(2, 8, 2, 3, dtype=torch.float64)
    x = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    other = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    if norm is None:
        x, other = x.flatten(2).transpose(1, 2), other.flatten(2).transpose(1, 2)
    full, full_other = layer(x), layer(other)
    with coarse_keys([layer], 2, (4, 6)):
        torch.testing.assert_close(layer(x), full, rtol=0, atol=1e-12)
        assert (layer(other) - full_other).abs().max() > 1e-3
    assert torch.equal(layer(other), full_other)


def test_nearest_neighbours_of_a_grid_of_any_shape():
    tokens = torch.arange(15.0).view(1, 15, 1)
    assert every(tokens, 2, (3, 5)).flatten().tolist() == [0, 2, 4, 10, 12, 14]
    assert every(tokens, 5, (3, 5)).flatten().tolist() == [0]


def test_the_grid_follows_the_size_and_is_not_guessed():
    assert grid(32, (8, 16)) == (4, 8)
    assert grid(15, (9, 17)) == (3, 5)
    with pytest.raises(ValueError, match="12 tokens are no grid of an image of 8 x 8"):
        grid(12, (8, 8))


@pytest.mark.parametrize("make", [transformer, unet])
def test_factor_1_is_the_plain_sampler_bit_for_bit_and_2_is_not(make):
    denoiser = make()
    plain = drawn(denoiser)
    assert torch.equal(drawn(denoiser, using=[ToDo(factor=1)]), plain)
    assert (drawn(denoiser, using=[ToDo(factor=2)]) - plain).abs().max() > 1e-5
    assert torch.equal(drawn(denoiser), plain)
    assert torch.equal(drawn(denoiser, using=[ToDo(factor=2, interval=(1e6, 1e7))]), plain)


def test_rows_do_not_see_each_other():
    denoiser = transformer()
    whole, single = (drawn(denoiser, using=[ToDo()], batch_size=size) for size in (4, 1))
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-5)


def test_only_the_finest_grid_is_downsampled():
    """Keys of the layers of an 8x8 U-Net, in the order of the calls: 64 tokens become 16, and 16 stay 16."""
    denoiser, seen = unet(), []
    layers = [one for one in denoiser.modules() if isinstance(one, Attention)]
    for layer in layers:
        layer.to_k.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    with torch.no_grad():
        denoiser(torch.zeros(1, 1, 8, 8), torch.full((1,), 0.5))
        plain = list(seen)
        seen.clear()
        with coarse_keys(layers, 2, (8, 8)):
            denoiser(torch.zeros(1, 1, 8, 8), torch.full((1,), 0.5))
    assert set(plain) == {64, 16}
    assert seen == [16] * len(plain)


def test_a_network_without_attention_is_refused_and_so_is_no_factor():
    denoiser = Denoiser(MLP(), VP(), "v")
    with pytest.raises(ValueError, match=r"todo coarsens self-attention, and MLP has none"):
        denoiser.generate(VP().scheduler("ddim", "v"), 2, latents=torch.zeros(1, 2, 1, 1), using=[ToDo()])
    with pytest.raises(ValueError, match="`factor=0` must be at least 1"):
        ToDo(factor=0)
