"""The discriminator on the middle of a denoiser: what it sees, whose weights learn, maps of each kind of network."""

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from torch import nn

from sparring.data import Draws
from sparring.discriminators import Given, MiddleHead
from sparring.generators import Denoiser
from sparring.generators.middle import middle_block, middle_channels, middle_map
from sparring.networks import MLP
from sparring.process import VP, RectifiedFlow, Uniform

BLOCKS = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4)
HEADS = dict(num_layers=4, num_attention_heads=2, attention_head_dim=4, num_embeds_ada_norm=3)


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "unet":
        sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8))
        return UNet2DModel(**sizes, **BLOCKS, add_attention=False)
    if kind == "dit":
        return DiTTransformer2DModel(sample_size=8, patch_size=2, in_channels=1, out_channels=1, **HEADS)
    return MLP(width=16, depth=2)


CASES = {"unet": (1, 8, 8, 4), "dit": (1, 8, 8, 4), "mlp": (2, 1, 16, 1)}


def of(kind: str) -> tuple[Denoiser, torch.Tensor, Given]:
    channels, size, _, _ = CASES[kind]
    images = torch.randn(5, channels, size, size, generator=torch.Generator().manual_seed(0))
    return (
        Denoiser(network(kind).eval(), VP(), "v"),
        images,
        Given(condition=torch.zeros(5).long() if kind == "dit" else None),
    )


@pytest.mark.parametrize("kind", CASES)
def test_the_map_is_the_output_of_the_middle_and_what_comes_after_does_not_run(kind):
    denoiser, images, given = of(kind)
    _, _, channels, side = CASES[kind]
    t = torch.linspace(0.1, 0.9, 5)
    map_ = middle_map(denoiser, images, t, given.condition)
    assert map_.shape == (5, channels, side, side)
    assert middle_channels(denoiser.net) == channels
    seen = []
    handle = middle_block(denoiser.net).register_forward_hook(lambda module, inputs, output: seen.append(output))
    denoiser(images, t, given.condition)
    handle.remove()
    torch.testing.assert_close(map_.flatten(2).transpose(1, 2).flatten(), _as_tokens(seen[0]).flatten())
    reached = torch.autograd.grad(map_.sum(), list(denoiser.parameters()), allow_unused=True)
    unused = {name for (name, _), slope in zip(denoiser.named_parameters(), reached, strict=True) if slope is None}
    assert any("out" in name for name in unused)


def _as_tokens(output):
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


def test_every_image_is_noised_at_a_level_of_its_own():
    denoiser, _, given = of("unet")
    head, images = MiddleHead(denoiser, times=Uniform(low=0.5), width=8), torch.full((400, 1, 8, 8), 2.0)
    x_t, t = head.features(images, given, Draws(0))
    assert t.unique().numel() > 100
    assert t.min() >= 0.5
    alpha = denoiser.process.alpha(t)
    torch.testing.assert_close(x_t.mean((1, 2, 3)), 2 * alpha, rtol=0, atol=0.5)
    assert (x_t.mean((1, 2, 3)) - 2 * alpha).std().item() == pytest.approx(
        denoiser.process.sigma(t).mean().item() / 8, rel=0.2
    )


@pytest.mark.parametrize("kind", CASES)
def test_logits_of_each_place_with_a_slope_for_images_and_weights(kind):
    denoiser, images, given = of(kind)
    head = MiddleHead(denoiser, width=8)
    features = head.features(images.requires_grad_(), given, Draws(0))
    logits = head.logits(features, given)
    assert logits.shape == (5, CASES[kind][3] ** 2)
    logits.sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in head.parameters())
    rows = head.logits(
        [x[2:3] for x in features], Given(condition=None if given.condition is None else given.condition[2:3])
    )
    torch.testing.assert_close(rows, logits[2:3], rtol=1e-4, atol=1e-5)


def test_a_head_in_float32_reads_a_base_in_half_precision_without_autocast():
    denoiser, images, given = of("unet")
    head = MiddleHead(denoiser, width=8)
    expected = head(images, given, Draws(0))
    denoiser.net.to(torch.bfloat16)
    torch.testing.assert_close(head(images, given, Draws(0)), expected, rtol=0.1, atol=0.1)


def test_without_a_head_the_logits_are_the_mean_over_channels_within_10():
    denoiser, images, given = of("unet")
    head = MiddleHead(denoiser, width=0)
    assert not list(head.parameters())
    x_t, t = head.features(images, given, Draws(0))
    expected = middle_map(denoiser, x_t, t).mean(1).flatten(1)
    torch.testing.assert_close(head.logits([x_t, t], given), expected)
    denoiser.net.mid_block.register_forward_hook(lambda module, inputs, output: 1e4 * output)
    assert head.logits([x_t, t], given).abs().max() == 10


class Plain(nn.Module):
    def forward(self, x, time):
        return x


def test_the_denoiser_is_no_part_and_another_network_is_refused():
    denoiser, _, _ = of("unet")
    assert denoiser not in list(MiddleHead(denoiser, width=8).modules())
    with pytest.raises(ValueError, match="Plain has neither a middle block nor"):
        MiddleHead(Denoiser(Plain(), RectifiedFlow(), "flow"))


def test_spectral_norms_move_after_an_update():
    head = MiddleHead(of("unet")[0], width=8)
    before = head.head.last.u.clone()
    with torch.no_grad():
        head.head.last.weight.add_(torch.randn(head.head.last.weight.shape))
        head.head.first[0].weight.mul_(torch.rand(head.head.first[0].weight.shape))
    first = head.head.first[0].u.clone()
    head.after_update()
    assert not torch.equal(head.head.first[0].u, first)
    assert head.head.last.u.shape == before.shape
