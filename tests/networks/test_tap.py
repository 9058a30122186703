"""Taps and routes on stock networks: what they keep, where gradient goes, tokens that pass by, copies."""

from copy import deepcopy

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel

from sparring.networks import MLP
from sparring.networks.tap import Tap, TokenRoute

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor([1.0, 500.0, 900.0]), torch.tensor([0, 1, 2])
IDS = torch.tensor([[0, 3, 7, 8], [1, 2, 3, 15], [4, 5, 6, 7]])


def dit(blocks=4):
    torch.manual_seed(0)
    sizes = dict(sample_size=8, patch_size=2, in_channels=1, out_channels=1, num_layers=blocks)
    net = DiTTransformer2DModel(
        **sizes, num_attention_heads=2, attention_head_dim=4, num_embeds_ada_norm=10, norm_num_groups=4
    )
    for parameter in net.parameters():  # its modulation begins at 0
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return net.eval()


def unet():
    blocks = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2)
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=[8, 16])
    return UNet2DModel(**sizes, norm_num_groups=4, add_attention=False, **blocks)


def test_a_tap_keeps_the_features_of_its_block_and_gradient_goes_up_to_it_only():
    net = dit()
    tap = Tap(net, depth=2)
    with tap.listening() as kept:
        net(X, T, Y)
    assert kept[0].shape == (3, 16, 8)
    assert tap.channels == 8
    kept[0].square().mean().backward()
    with_gradient = [block.attn1.to_q.weight.grad is not None for block in net.transformer_blocks]
    assert with_gradient == [True, True, False, False]


def test_a_tap_of_a_unet_is_in_its_middle_and_keeps_nothing_unasked():
    net = unet()
    tap = Tap(net)
    net(X, T)
    assert tap.kept == []
    with tap.listening() as kept:
        net(X, T)
        net(X, T)
    assert [k.shape for k in kept] == [(3, 16, 4, 4)] * 2
    assert tap.kept == []


def test_tokens_that_pass_by_come_back_bit_for_bit_and_the_others_are_changed():
    net = dit()
    route, seen = TokenRoute(net, 1, -2), {}
    net.transformer_blocks[0].register_forward_hook(lambda _, given, out: seen.__setitem__("before", out))
    net.transformer_blocks[3].register_forward_pre_hook(lambda _, given: seen.__setitem__("after", given[0]))
    lengths = []
    net.transformer_blocks[1].attn1.register_forward_pre_hook(
        lambda _, args, named: lengths.append(args[0].shape[1]), with_kwargs=True
    )
    with route.only(IDS):
        net(X, T, Y)
    same = (seen["before"] == seen["after"]).all(2)
    expected = torch.ones(3, 16, dtype=torch.bool).scatter(1, IDS, False)
    assert torch.equal(same, expected)
    assert lengths == [4]
    kept = seen["before"].gather(1, IDS[:, :, None].expand(-1, -1, 8))
    for block in net.transformer_blocks[1:3]:
        kept = block(kept, timestep=T, class_labels=Y)
    torch.testing.assert_close(seen["after"].gather(1, IDS[:, :, None].expand(-1, -1, 8)), kept)


def test_without_a_route_the_network_is_the_stock_one_also_as_a_copy():
    plain, net = dit(), dit()
    route = TokenRoute(net, 1, -2)
    expected = plain(X, T, Y).sample
    assert torch.equal(net(X, T, Y).sample, expected)
    with route.only(None):
        assert torch.equal(net(X, T, Y).sample, expected)
    twin = deepcopy(net)
    with route.only(IDS):
        assert torch.equal(twin(X, T, Y).sample, expected)  # the copy has a route of its own
        assert not torch.equal(net(X, T, Y).sample, expected)
    assert plain.state_dict().keys() == net.state_dict().keys()


def test_what_is_not_there_is_said():
    with pytest.raises(ValueError, match="`depth=9` must lie in 1 to 4"):
        Tap(dit(), depth=9)
    with pytest.raises(ValueError, match="`depth=1`: a UNet2DModel is tapped in its middle"):
        Tap(unet(), depth=1)
    with pytest.raises(ValueError, match="the blocks of a MLP are not known"):
        Tap(MLP())
    with pytest.raises(ValueError, match="this is a UNet2DModel: take --on digits-dit"):
        TokenRoute(unet(), 1, -2)
    with pytest.raises(ValueError, match="`first=3`, `last=-2`: the network has blocks 0 to 3"):
        TokenRoute(dit(), 3, -2)
