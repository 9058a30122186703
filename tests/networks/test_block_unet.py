"""BlockUNet: the solver against closed forms, continuous blocks, and positions that move with the image."""

import math

import pytest
import torch
from torch import nn

from sparring.networks import BlockUNet
from sparring.networks.block_unet import ContinuousBlock, positions, runge_kutta


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def unet(**settings):
    torch.manual_seed(0)
    return BlockUNet(**({"widths": [8, 8], "norm_num_groups": 4, "num_steps": 2} | settings)).double()


def test_without_force_it_goes_straight_and_a_spring_swings():
    h, w = random(5), random(5).flip(0)
    torch.testing.assert_close(runge_kutta(lambda h, w: torch.zeros_like(h), h, w, 1), (h + w, w))
    omega = 2.0
    expected = h * math.cos(omega) + w * math.sin(omega) / omega
    errors = [(runge_kutta(lambda h, w: -(omega**2) * h, h, w, n)[0] - expected).abs().max().item() for n in (8, 16)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)
    velocity = -h * omega * math.sin(omega) + w * math.cos(omega)
    torch.testing.assert_close(runge_kutta(lambda h, w: -(omega**2) * h, h, w, 200)[1], velocity, atol=1e-8, rtol=0)


def test_a_damped_start_shows_that_the_force_sees_the_velocity():
    w = random(5)
    h = runge_kutta(lambda h, w: -w, torch.zeros(5, dtype=torch.float64), w, 50)[0]
    torch.testing.assert_close(h, w * (1 - math.exp(-1)), atol=1e-8, rtol=0)


def test_a_continuous_block_without_force_adds_its_velocity():
    torch.manual_seed(0)
    block = ContinuousBlock(8, 16, 4, "zeros").double()
    for parameter in block.second[2].parameters():
        nn.init.zeros_(parameter)
    h = random(2, 8, 4, 4)
    torch.testing.assert_close(block(h, random(2, 16)), h + block.velocity(h))


def test_its_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    block = ContinuousBlock(4, 4, 2, "zeros", num_steps=2).double()
    embedding = random(1, 4)
    assert torch.autograd.gradcheck(lambda h: block(h, embedding), random(1, 4, 2, 2).requires_grad_())


def test_gamma_of_zero_takes_the_positions_away():
    plain, placed = unet(), unet(positional="every")
    placed.load_state_dict(plain.state_dict() | {"gamma": torch.zeros(4)})
    x, time = random(2, 1, 8, 8), torch.tensor([3.0, 400.0])
    assert torch.equal(placed(x, time).sample, plain(x, time).sample)
    assert len(unet(positional="input").gamma) == 1
    nn.init.ones_(placed.gamma)
    assert not torch.allclose(placed(x, time).sample, plain(x, time).sample)


def test_codes_of_the_places():
    codes = positions(8, 4, 6, scale=1.0, offset=(0.0, 0.0))
    assert codes.shape == (8, 4, 6)
    torch.testing.assert_close(codes[0, :, 2], torch.arange(4.0).sin())
    torch.testing.assert_close(codes[1, :, 0], (torch.arange(4.0) / 100).sin())
    torch.testing.assert_close(codes[6, 3], torch.arange(6.0).cos())
    coarse = positions(8, 2, 3, scale=2.0, offset=(0.0, 0.0))
    torch.testing.assert_close(coarse[0, :, 0], torch.tensor([0.5, 2.5]).sin())  # between the pixels that it stands for
    moved = positions(8, 4, 6, scale=1.0, offset=(1.0, 2.0))
    torch.testing.assert_close(moved[:, 1:, 2:], codes[:, :-1, :-2])


@pytest.mark.parametrize("block", ["residual", "continuous"])
def test_an_image_that_moves_with_its_places_is_denoised_alike(block, monkeypatch):
    """With circular padding, rolling the input and the codes at every scale rolls the output, by the total stride."""
    net = unet(block=block, positional="every", padding="circular")
    x, time = random(2, 1, 8, 8), torch.tensor([3.0, 400.0])
    expected = net(x, time).sample.roll((2, 4), (2, 3))
    assert not torch.allclose(net(x.roll((2, 4), (2, 3)), time).sample, expected)
    rolled = lambda *args, scale, **named: positions(*args, scale=scale, **named).roll(  # noqa: E731
        (int(2 / scale), int(4 / scale)), (1, 2)
    )
    monkeypatch.setattr("sparring.networks.block_unet.positions", rolled)
    torch.testing.assert_close(net(x.roll((2, 4), (2, 3)), time).sample, expected)


def test_shifted_places_come_back():
    net = unet(positional="every")
    x, time = random(1, 1, 8, 8), torch.tensor([3.0])
    before = net(x, time).sample
    with net.shifted(4, 0):
        assert not torch.allclose(net(x, time).sample, before)
    assert torch.equal(net(x, time).sample, before)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`sample_size=6`"):
        BlockUNet(sample_size=6, widths=[8, 8, 8])
    with pytest.raises(ValueError, match="`block=dense`"):
        unet(block="dense")
    with pytest.raises(ValueError, match="multiples of 4"):
        unet(widths=[6, 6])
    with pytest.raises(ValueError, match="belong together"):
        unet()(random(1, 1, 8, 8), 3.0, torch.tensor([0]))
