"""Moved places: what circular networks draw is moved with them, and rolled back to where it was."""

import pytest
import torch
from diffusers import UNet2DModel

from sparring.generators import Denoiser
from sparring.networks import BlockUNet
from sparring.process import RectifiedFlow
from sparring.samplers.size.moved import Moved


def denoiser(positional="every", **settings) -> Denoiser:
    torch.manual_seed(0)
    net = BlockUNet(sample_size=8, widths=[8, 8], norm_num_groups=4, positional=positional, **settings)
    return Denoiser(net, RectifiedFlow(), "flow")


def drawn(model, using=(), moved_by=(0, 0)):
    latents = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).roll(moved_by, dims=(-2, -1))
    scheduler = model.process.scheduler("euler", model.prediction)
    with torch.no_grad():
        return model.generate(scheduler, 3, latents=latents, using=using, batch_size=2)


@pytest.mark.parametrize("by", [(4, 0), (0, -2), (2, 6)])
def test_without_edges_and_places_a_moved_start_gives_the_moved_image_rolled_back(by):
    """Circular padding and no places: moving all by a multiple of the stride moves the image, exactly."""
    model = denoiser("none", padding="circular")
    rolled = drawn(model, [Moved(down=by[0], right=by[1])], moved_by=by)
    torch.testing.assert_close(rolled, drawn(model), rtol=0, atol=1e-5)


def test_places_are_moved_down_and_to_the_right_while_the_network_is_called(monkeypatch):
    model, seen = denoiser(), []
    forward = BlockUNet.forward

    def watched(net, *args, **kwargs):
        seen.append(net.offset)
        return forward(net, *args, **kwargs)

    monkeypatch.setattr(BlockUNet, "forward", watched)
    drawn(model, [Moved(down=4, right=-1)])
    assert set(seen) == {(4, -1)}
    assert model.net.offset == (0.0, 0.0)


def test_the_image_is_that_of_the_network_within_moved_places():
    model = denoiser()
    with model.net.shifted(3, 1):
        there = drawn(model)
    assert torch.equal(drawn(model, [Moved(down=3, right=1, back=False)]), there)
    assert torch.equal(drawn(model, [Moved(down=3, right=1)]), there.roll((-3, -1), dims=(-2, -1)))
    assert (there - drawn(model)).abs().max() > 1e-3
    assert torch.equal(drawn(model, [Moved(down=0, right=0)]), drawn(model))


def test_a_network_that_is_given_no_places_is_refused():
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="UNet2DModel is given none: train one with recipe positional"):
        drawn(Denoiser(net, RectifiedFlow(), "flow"), [Moved()])
