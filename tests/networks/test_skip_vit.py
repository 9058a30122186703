"""SkipViT: skips and the last convolution change nothing at the start and something later; equal arithmetic."""

import pytest
import torch

from sparring.networks import SkipViT


def vit(**settings):
    torch.manual_seed(0)
    return SkipViT(**({"width": 16, "heads": 2} | settings))


X, TIME = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 400.0])


def test_skips_and_the_convolution_are_nothing_at_the_start():
    full = vit()
    plain = vit(skips=False, convolution=False)
    kept = {name: value for name, value in full.state_dict().items() if not name.startswith(("joins", "last"))}
    plain.load_state_dict(kept)
    torch.testing.assert_close(full(X, TIME).sample, plain(X, TIME).sample)


def test_the_last_block_of_the_encoder_is_joined_to_the_first_of_the_decoder():
    """Each join takes its skip only: what comes then is the output of the encoder block that it belongs to."""
    net, width = vit(encoder_blocks=3, decoder_blocks=2), 16
    assert len(net.joins) == 2
    seen, given = [], []
    for block in net.encoder:
        block.register_forward_hook(lambda _, inputs, output: seen.append(output))
    for block in net.decoder:
        block.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    for join in net.joins:
        join.weight.data = torch.cat([torch.zeros(width, width), torch.eye(width)], dim=1)
    net(X, TIME)
    torch.testing.assert_close(given[0], seen[2])
    torch.testing.assert_close(given[1], seen[1])


def test_blocks_can_stand_on_either_side_at_equal_arithmetic():
    """By their parameters without the joins, which the shorter side decides."""
    sizes = [
        sum(
            p.numel()
            for name, p in vit(encoder_blocks=e, decoder_blocks=4 - e).named_parameters()
            if "joins" not in name
        )
        for e in (1, 2, 3, 4)
    ]
    assert len(set(sizes)) == 1
    assert [len(vit(encoder_blocks=e, decoder_blocks=4 - e).joins) for e in (1, 2, 3, 4)] == [1, 2, 1, 0]


def test_patches_come_back_to_their_places():
    net = vit(in_channels=3, encoder_blocks=1, decoder_blocks=0)
    x = torch.zeros(1, 3, 8, 8)
    assert net(x, 3.0).sample.shape == (1, 3, 8, 8)
    tokens = torch.zeros(1, 16, 12)
    tokens[0, 5, 4:8] = torch.arange(1.0, 5.0)  # of token (1, 1), the second channel's four pixels
    net.read_out.register_forward_hook(lambda *_: tokens)
    image = net(x, 3.0).sample
    torch.testing.assert_close(image[0, 1, 2:4, 2:4], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert image.abs().sum() == 10


def test_it_is_told_the_time_and_the_class():
    net = vit(num_class_embeds=11)
    labels = torch.tensor([3, 3])
    same = net(X[:1].expand(2, -1, -1, -1), TIME, labels).sample
    assert not torch.allclose(same[0], same[1])
    assert not torch.allclose(net(X, TIME, labels).sample, net(X, TIME, labels + 1).sample)
    with pytest.raises(ValueError, match="belong together"):
        net(X, TIME)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`sample_size=7`"):
        vit(sample_size=7)
    with pytest.raises(ValueError, match="a block in the encoder"):
        vit(encoder_blocks=0)
