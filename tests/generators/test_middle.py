"""Where the middle of every family's network is, and that its tokens come to lie where the images' parts do."""

import pytest
import torch
from tiny_families import FAMILIES, SIZES

from sparring.data import Draws
from sparring.discriminators.denoiser_heads import DenoiserHeads
from sparring.discriminators.discriminator import Given
from sparring.generators import Denoiser, load_pipeline
from sparring.generators.middle import as_map, middle_channels, middle_map
from sparring.networks import MLP
from sparring.networks.tap import Tap
from sparring.networks.trunk import trunk
from sparring.process import VP

KINDS = [*FAMILIES, "sd15", "sdxl", "sd3"]


def test_tokens_are_put_in_their_places_of_images_that_are_not_square():
    tokens = torch.arange(2 * 8 * 3.0).view(2, 8, 3)
    placed = as_map(tokens, Denoiser(MLP(width=8), VP(), "v"), torch.zeros(2, 1, 4, 8))
    assert placed.shape == (2, 3, 2, 4)
    assert torch.equal(placed[1, :, 1, 0], tokens[1, 4])


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_in_a_corner_of_the_image_changes_that_corner_of_the_middle(tiny, kind):
    denoiser = load_pipeline(tiny(kind))[0]
    denoiser.net.eval()
    side = SIZES.get(kind, 16)
    image_shape = (3, side, 2 * side)
    denoiser.check_shape(image_shape)
    shape = denoiser.latent_shape(image_shape)
    condition = denoiser.conditioning.blank(image_shape[1:], shape, torch.device("cpu"))
    x, t = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3])
    other = x.clone()
    other[:, :, -2:, :2] += 5.0  # lower left
    with torch.no_grad():
        before, after = (middle_map(denoiser, one, t, condition) for one in (x, other))
    assert before.shape[1] == middle_channels(denoiser.net)
    assert before.shape[3] == 2 * before.shape[2] > 2
    moved = (after - before).abs().sum(1)[0]
    row, column = divmod(int(moved.argmax()), moved.shape[1])
    assert row >= moved.shape[0] // 2
    assert column < moved.shape[1] // 4
    tap = Tap(denoiser.net)
    with tap.listening() as kept, torch.no_grad():
        denoiser(x, t, condition)
    assert as_map(kept[0], denoiser, x).shape[1] == tap.channels
    heads = DenoiserHeads(denoiser, width=8)
    assert heads(x, Given(t=t, condition=condition), Draws(0)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_leaves_the_gradient_of_the_middle_as_it_is(tiny, kind):
    """The pass stops at the middle block, for some networks inside of what is computed again."""
    denoiser = load_pipeline(tiny(kind))[0]
    denoiser.net.eval().requires_grad_(True)
    image_shape = (3, SIZES.get(kind, 16), SIZES.get(kind, 16))
    denoiser.check_shape(image_shape)
    shape = denoiser.latent_shape(image_shape)
    condition = denoiser.conditioning.blank(image_shape[1:], shape, torch.device("cpu"))
    t, slopes, passes = torch.tensor([0.3]), [], []
    first = (trunk(denoiser.net) or [denoiser.net.down_blocks[0].resnets[0]])[0]
    first.register_forward_pre_hook(lambda *_: passes.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        denoiser.net.zero_grad()
        passes.clear()
        middle_map(denoiser, x, t, condition).square().sum().backward()
        assert (len(passes) > 1) == checkpointing
        slopes.append([x.grad, *(p.grad for p in denoiser.net.parameters() if p.grad is not None)])
    assert len(slopes[0]) == len(slopes[1]) > 1
    for plain, again in zip(*slopes, strict=True):
        torch.testing.assert_close(plain, again)
