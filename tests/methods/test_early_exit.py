"""Early exit: passes of fewer blocks against a shorter network, rows with exits of their own, nothing when off."""

from copy import deepcopy

import pytest
import torch
from diffusers import DiTTransformer2DModel
from small_networks import small_dit, small_unet

from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser
from sparring.methods import Diffusion
from sparring.methods.denoising.exit_tuning import ExitTuning
from sparring.networks.exits import Exits
from sparring.process import VP, RectifiedFlow
from sparring.samplers.speed.auto_diffusion import AutoDiffusion
from sparring.samplers.speed.early_exit import EarlyExit

DATA = Digits()


def batch(n=8):
    return Batch(DATA.images(n), DATA.labels(n), draws=Draws(0))


def denoiser():
    return Denoiser(small_dit(), RectifiedFlow(), "flow")


def loss_of(method):
    return method.generator_loss(batch(), method.rollout(batch()))["diffusion"]


def drawn(generator, scheduler="euler", steps=5, **settings):
    latents = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    stepper = generator.process.scheduler(scheduler, generator.prediction)
    with torch.no_grad():
        return generator.generate(stepper, steps, latents=latents, condition=torch.tensor([0, 1, 2]), **settings)


def shorter(generator, blocks):
    """A network of the first blocks only."""
    short = deepcopy(generator)
    short.net.transformer_blocks = short.net.transformer_blocks[:blocks]
    return short


def test_blocks_of_times_are_rounded_up_and_the_ends_belong_to_the_outer_parts():
    exits = Exits(small_dit(), [1.0, 0.75, 0.51, 0.25])
    assert exits.blocks == [4, 3, 3, 1]
    assert exits.at(torch.tensor([0.0, 0.25, 0.2501, 0.6, 0.75, 0.76, 1.0])).tolist() == [4, 4, 3, 3, 3, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_is_the_schedule_of_28_blocks_in_tenths_of_1000_steps(dtype):
    """Official code: steps 0 to 99 run 28 blocks, ..., 900 to 999 run 12; step n of VP is the time (n + 1) / 1000."""
    exits = Exits(DiTTransformer2DModel(1, 4, in_channels=1, num_layers=28, sample_size=2, norm_num_groups=1))
    table = [28, 28, 24, 24, 20, 20, 16, 16, 12, 12]
    assert exits.blocks == table
    steps = torch.arange(1000)
    times = VP().t_from_model_time(steps.to(dtype))
    assert exits.at(times).tolist() == [table[step // 100] for step in steps.tolist()]


def test_a_pass_of_k_blocks_is_that_of_a_network_of_k_blocks_and_the_others_do_not_run():
    generator, ran = denoiser(), []
    for number, block in enumerate(generator.net.transformer_blocks):
        block.attn1.register_forward_hook(lambda *_, number=number: ran.append(number))
    x, t = DATA.images(3), torch.tensor([0.3, 0.3, 0.3])
    whole = generator(x, t, torch.tensor([0, 1, 2])).x0
    ran.clear()
    with Exits(generator.net).after(2):
        left = generator(x, t, torch.tensor([0, 1, 2])).x0
    assert ran == [0, 1]
    assert torch.equal(left, shorter(generator, 2)(x, t, torch.tensor([0, 1, 2])).x0)
    assert torch.equal(generator(x, t, torch.tensor([0, 1, 2])).x0, whole)
    assert not torch.equal(left, whole)


def test_blocks_that_a_schedule_leaves_out_may_lie_behind_the_exit():
    generator = denoiser()
    plain = drawn(generator, using=[EarlyExit(shares=[0.5])])
    skips = AutoDiffusion(skips=[["transformer_blocks.3"]] * 5)
    for using in ([skips, EarlyExit(shares=[0.5])], [EarlyExit(shares=[0.5]), skips]):
        assert torch.equal(drawn(generator, using=using), plain)
    assert not torch.equal(drawn(generator), plain)


def test_rows_that_leave_by_themselves_are_those_that_leave_together():
    generator = denoiser()
    x, t, labels = DATA.images(3), torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0, 1, 2])
    with Exits(generator.net).after_each(torch.tensor([4, 2, 1])):
        rows = generator(x, t, labels).x0
    for row, blocks in enumerate((4, 2, 1)):
        one = shorter(generator, blocks)(x, t, labels).x0[row]
        torch.testing.assert_close(rows[row], one, rtol=0, atol=1e-5)


def test_tuning_teaches_only_the_blocks_before_the_exit():
    method = ExitTuning(denoiser(), shares=[0.5])
    loss_of(method).backward()
    learns = [block.attn1.to_q.weight.grad.abs().sum() > 0 for block in method.generator.net.transformer_blocks]
    assert learns == [True, True, False, False]


def test_with_all_blocks_tuning_and_sampling_are_the_plain_ones_bit_for_bit():
    generator = denoiser()
    assert torch.equal(loss_of(ExitTuning(generator, shares=[1.0])), loss_of(Diffusion(generator)))
    assert not torch.equal(loss_of(ExitTuning(generator)), loss_of(Diffusion(generator)))
    plain = drawn(generator)
    assert torch.equal(drawn(generator, using=[EarlyExit(shares=[1.0])]), plain)
    assert not torch.equal(drawn(generator, using=[EarlyExit()]), plain)
    assert torch.equal(drawn(generator), plain)


def test_a_sampler_leaves_early_at_noise_and_late_at_clean_levels():
    generator, ran = denoiser(), []
    for block in generator.net.transformer_blocks:
        block.attn1.register_forward_hook(lambda *_: ran.append(1))
    drawn(generator, steps=4, using=[EarlyExit(shares=[1.0, 0.25])])  # times 1, 3/4; 1/2, 1/4
    assert len(ran) == 1 + 1 + 4 + 4


def test_what_cannot_be_left_early_is_refused():
    with pytest.raises(ValueError, match="a DiT is left early, and this is a UNet2DModel"):
        ExitTuning(Denoiser(small_unet(), VP(), "v"))
    with pytest.raises(ValueError, match="a DiT is left early, and this is a UNet2DModel"):
        Denoiser(small_unet(), VP(), "v").generate(
            VP().scheduler("ddim", "v"), 2, latents=torch.zeros(1, 1, 8, 8), using=[EarlyExit()]
        )
    for shares in ([], [0.0], [1.5]):
        with pytest.raises(ValueError, match="must be one or more numbers in"):
            Exits(small_dit(), shares)
    method = ExitTuning(denoiser())
    method.generator.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="`gradient_checkpointing`: blocks that are left"):
        method.rollout(batch())
