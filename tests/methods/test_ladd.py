"""LADD: what its heads see, the losses and the smoothness term by hand, the teacher at rest, what it refuses."""

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from method_parts import denoiser, trained
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import DenoiserHeads, Given
from sparring.discriminators.denoiser_heads import blocks_of
from sparring.generators import Denoiser
from sparring.methods.distillation.ladd import LADD
from sparring.networks import MLP
from sparring.process import VP, RectifiedFlow


def unet(**settings):
    torch.manual_seed(0)
    chosen = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16))
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False)
    return UNet2DModel(**chosen, **blocks, norm_num_groups=4, **settings).double()


def ladd(**settings):
    return LADD(Denoiser(unet(), VP(), "v"), **dict(num_steps=2, width=8) | settings).double()


def batch(n=4, phase="rollout"):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    return Batch(images, draws=Draws(0, phase=phase))


class Linear(nn.Module):
    """Two logits, linear in the noisy image, in place of the heads on a denoiser."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(64, 2, dtype=torch.float64)

    def logits(self, features, given):
        return self.layer(features[0].flatten(1))


def test_the_heads_sit_on_the_middle_and_on_all_that_comes_after():
    heads = DenoiserHeads(Denoiser(unet(), VP(), "v"), width=8)
    net = heads.denoiser.net
    assert [block for block, _ in blocks_of(net)] == [net.mid_block, *net.up_blocks]
    given = Given(t=torch.tensor([0.3, 0.9]))
    x = torch.zeros(2, 1, 8, 8)
    assert heads.float()(x, given, Draws(0)).shape == (2, 4 * 4 + 8 * 8 + 8 * 8)
    dit = DiTTransformer2DModel(
        **dict(num_attention_heads=2, attention_head_dim=8, num_layers=8, sample_size=8, patch_size=2),
        **dict(in_channels=1, out_channels=1, num_embeds_ada_norm=4),
    )
    assert [block for block, _ in blocks_of(dit)] == [dit.transformer_blocks[depth] for depth in (4, 6, 7)]
    given = Given(t=torch.tensor([0.3, 0.9]), condition=torch.tensor([1, 2]))
    assert DenoiserHeads(Denoiser(dit, VP(), "v"), width=8)(x, given, Draws(0)).shape == (2, 3 * 4 * 4)
    points = DenoiserHeads(Denoiser(MLP(width=16), VP(), "v"), width=8)
    assert points(torch.zeros(2, 2, 1, 1), Given(t=torch.tensor([0.3, 0.9])), Draws(0)).shape == (2, 1)


def test_images_are_noised_to_the_drawn_times_and_the_teacher_is_told_them():
    method = ladd()
    seen = []
    net = method.discriminator.denoiser.net
    net.register_forward_pre_hook(lambda layer, given: seen.append(given))
    rollout = method.rollout(batch(400))
    given, process = rollout.views.given, method.generator.process
    assert given.t.unique().numel() > 100
    left = rollout.views.real[0] - process.alpha(given.t).view(-1, 1, 1, 1) * batch(400).images
    noise = left / process.sigma(given.t).view(-1, 1, 1, 1)
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0, 1), abs=0.03)
    method.generator_loss(batch(400), rollout)
    (x_t, time), *_ = seen
    assert torch.equal(x_t, rollout.views.fake[0])
    torch.testing.assert_close(time, process.model_time(given.t).to(time))


def test_the_levels_of_the_discriminator_are_sigmoids_of_one_plus_a_normal_number():
    t = LADD(denoiser(unet(), RectifiedFlow(), "flow"), num_steps=1).rollout(batch(2000)).views.given.t
    logit = torch.logit(t.double())
    assert (logit.mean().item(), logit.std().item()) == pytest.approx((1, 1), abs=0.1)


def test_both_losses_are_those_of_the_equations():
    method = ladd(smooth_weight=0.0)
    rollout = method.rollout(batch())
    views, logits = rollout.views, method.discriminator.logits
    real, fake = logits(views.real, views.given), logits(views.fake, views.given)
    losses = method.discriminator_loss(batch(phase="discriminator"), rollout)
    torch.testing.assert_close(losses, {"adversarial": softplus(fake).mean() + softplus(-real).mean()})
    torch.testing.assert_close(method.generator_loss(batch(), rollout), {"adversarial": softplus(-fake).mean()})


def test_the_smoothness_of_linear_logits_has_a_closed_form():
    """Of logits <w, x_t>: weight s^2 mean alpha^2 mean |w|^2; over 4000 rows within 5 %."""
    method = ladd(smooth_weight=3.0, smooth_std=0.2)
    rollout = method.rollout(batch(4000))
    method.discriminator = linear = Linear()
    squares = linear.layer.weight.square().sum(1).mean()
    alpha = method.generator.process.alpha(rollout.views.given.t)
    found = method.squared_changes(batch(4000, phase="discriminator"), rollout)
    assert found.item() == pytest.approx((0.04 * alpha.square().mean() * squares).item(), rel=0.05)
    (slope,) = torch.autograd.grad(found, linear.layer.weight)  # both passes carry gradient: a quadratic form of w
    torch.testing.assert_close((slope * linear.layer.weight).sum(), 2 * found)
    whole = ladd(smooth_weight=3.0, smooth_std=0.2)
    rollout, phase = whole.rollout(batch()), "discriminator"
    value = whole.discriminator_loss(batch(phase=phase), rollout)["smooth"]()
    torch.testing.assert_close(value, 3 * whole.squared_changes(batch(phase=phase), rollout))


def test_the_teacher_is_the_start_and_only_the_heads_learn():
    method = ladd()
    before = {name: p.clone() for name, p in method.generator.net.named_parameters()}
    assert trained(method.discriminator) == {
        name for name, _ in method.discriminator.named_parameters() if name.startswith("heads.")
    }
    optimizer = torch.optim.Adam(method.generator.parameters(), 1e-2)
    method.generator_loss(batch(), method.rollout(batch()))["adversarial"].backward()
    optimizer.step()
    for name, parameter in method.discriminator.denoiser.net.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not torch.equal(method.generator.net.get_parameter(name), before[name])


def test_what_it_refuses():
    for settings, message in [
        (dict(smooth_weight=-1.0), "smooth_weight=-1"),
        (dict(smooth_std=0.0), "smooth_std=0"),
        (dict(num_steps=0), "num_steps=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            ladd(**settings)
    with pytest.raises(ValueError, match="no blocks are known of a Net"):
        LADD(denoiser())
    with pytest.raises(ValueError, match="latent z"):
        LADD(Denoiser(unet(), VP(), "v", latent_dim=4))
    with pytest.raises(ValueError, match="drawn times"):
        DenoiserHeads(Denoiser(unet(), VP(), "v")).features(batch().images, Given(), Draws(0))
