"""Half precision inside the networks and nowhere else; options that change speed and memory and nothing else."""

import shutil

import pytest
import torch
from diffusers import UNet2DModel
from small_runs import METHODS, OF_DENOISERS, TUNING, TinyNet, assert_same_checkpoint, method, trainer
from torch import nn

from sparring.generators import Prediction
from sparring.objectives import adversarial as objectives
from sparring.objectives import structure as affinity
from sparring.training.state import changing_tensors

pytestmark = pytest.mark.slow

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def half_run(tmp_path, name, precision, scale=2.0**8, **settings):
    """A run whose loss scales begin where these tiny networks do not overflow."""
    run = trainer(tmp_path / precision, name, precision=precision, **settings)
    for player in run.players if precision == "fp16" else []:
        player.scaler._init_scale = scale
        player.scaler.set_growth_interval(3)
    return run


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", METHODS)
def test_networks_run_in_half_precision_and_everything_else_in_float32(tmp_path, monkeypatch, name, precision):
    run = half_run(tmp_path, name, precision)
    run.method.prepare(run.data)
    inside, outside = [], []
    for generator in run.method.generators():
        layer = next(part for part in generator.net.modules() if isinstance(part, nn.Conv2d))
        layer.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    made = Prediction.__init__

    def prediction(self, *arguments, **named):
        made(self, *arguments, **named)
        outside.extend(x.dtype for x in (self.output, self.x_t, self.x0, self.eps))

    monkeypatch.setattr(Prediction, "__init__", prediction)
    cosines, statistics = affinity.cosines, objectives.discriminator_statistics

    def see_affinities(z):
        found = cosines(z)
        outside.append(found.dtype)
        return found

    def see_logits(real, fake):
        outside.extend([real.logits.dtype, fake.logits.dtype])
        return statistics(real, fake)

    monkeypatch.setattr(affinity, "cosines", see_affinities)
    monkeypatch.setattr(objectives, "discriminator_statistics", see_logits)
    windows = run.micro_batches()
    for step in range(2):
        taken, noted = run.alternate(next(windows), step)
        run.ema.update()
        outside.extend(value.dtype for key, value in noted if isinstance(value, torch.Tensor))
    assert taken
    assert set(inside) == {HALF[precision]}
    assert set(outside) == {torch.float32}
    kept = [*changing_tensors(run.method).values(), *run.ema.module.parameters()]
    kept += [tensor for player in run.players for tensor in player.state().values()]
    assert {tensor.dtype for tensor in kept if tensor.is_floating_point()} == {torch.float32}  # others count


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", METHODS)
def test_half_precision_gives_about_the_same_losses(tmp_path, name, precision):
    lines = []
    for chosen in ("fp32", precision):
        run = half_run(tmp_path, name, chosen)
        run.method.prepare(run.data)
        run.train_step(next(run.micro_batches()))
        lines.append(run.means.line())
    exact, half = lines
    assert exact.keys() == half.keys()
    for key, value in exact.items():
        if "accuracy" not in key:  # a step function
            near_zero = 0.01 if key.endswith(("adversarial", "logit_real", "logit_fake", "gap")) else 1e-6
            near = 0.03 if name.partition("-")[0] in TUNING else 0.2  # gradients of a penalty, or through a generator
            assert half[key] == pytest.approx(value, rel=near, abs=near_zero), key


@pytest.mark.parametrize("name", ["diffusion", "sadm", "adt"])
def test_a_run_in_fp16_resumes_exactly_with_its_scales(tmp_path, name):
    settings = {"precision": "fp16", "checkpoint_every": 2, "keep_checkpoints": 9}
    run = half_run(tmp_path, name, **settings)
    whole = run.fit()
    shutil.copytree(whole, tmp_path / "cut")
    again = trainer(tmp_path / "cut", name, **settings)
    again.fit(resume_step=4)
    assert_same_checkpoint(whole, tmp_path / "cut", 6)
    assert [p.scaler.get_scale() for p in again.players] == [2.0**10] * len(run.players)


def test_an_overflow_in_fp16_skips_both_players_and_lowers_the_scale(tmp_path):
    run = half_run(tmp_path, "adt", "fp16", max_skipped=2)
    generator, discriminator = (player.scaler for player in run.players)
    generator._init_scale = 2.0**40
    before = {name: t.detach().clone() for name, t in changing_tensors(run.method).items()}
    windows = run.micro_batches()
    for _ in range(4):
        run.train_step(next(windows))
    assert run.skipped == 4
    assert run.skipped_in_a_row == 0  # each overflow halves the scale: it ends by itself
    assert generator.get_scale() == 2.0**36
    assert discriminator.get_scale() == 2.0**9
    for name, tensor in changing_tensors(run.method).items():
        assert torch.equal(tensor, before[name]), name
    while run.skipped < 40 and not run.ema.updates:
        run.train_step(next(windows))
    assert run.ema.updates == 1
    assert 2.0**8 < generator.get_scale() < 2.0**30


def test_broken_numbers_in_fp16_end_the_run(tmp_path):
    run = trainer(tmp_path / "run", precision="fp16", max_skipped=3, steps=100)
    nn.init.constant_(run.method.generator.net.last.bias, float("nan"))
    with pytest.raises(ValueError, match="3 steps in a row up to step 19 "):  # 2^16 is halved 17 times to get below 1
        run.fit()


def test_a_scaler_that_has_seen_no_gradient_does_not_step(tmp_path):
    """ADT without denoising loss: the generator rests while the discriminator warms up."""
    waiting = method("adt", diffusion_weight=0.0, warmup_steps=2)
    start = [p.detach().clone() for p in waiting.generator.parameters()]
    run = half_run(tmp_path, "adt", "fp16", method=waiting)
    windows = run.micro_batches()
    for step in range(4):
        run.train_step(next(windows))
        run.step += 1
        moved = not all(torch.equal(p, s) for p, s in zip(waiting.generator.parameters(), start, strict=True))
        assert moved == (step >= 2)
    assert run.skipped == 0
    assert {int(s["step"]) for s in run.players[0].optimizer.state.values()} == {2}
    assert {int(s["step"]) for s in run.players[1].optimizer.state.values()} == {4}


# -- speed and memory --------------------------------------------------------------------------------------------------


def unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        dropout=0.1,
    )


@pytest.mark.parametrize("name", OF_DENOISERS)
def test_gradient_checkpointing_changes_nothing_but_the_number_of_forward_passes(tmp_path, name):
    runs, calls = [], []
    for keep in (True, False):
        run = trainer(tmp_path / str(keep), method=method(name, unet()), steps=2, gradient_checkpointing=not keep)
        copies = [part for part in run.method.modules() if isinstance(part, UNet2DModel)]
        calls.append([[] for _ in copies])
        for net, seen in zip(copies, calls[-1], strict=True):
            net.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        trained = [i for i, net in enumerate(copies) if any(p.requires_grad for p in net.parameters())]
        runs.append(run.fit())
    assert_same_checkpoint(*runs, 2)
    assert all(len(calls[1][i]) > len(calls[0][i]) for i in trained)  # of the generator, and of a fake score


def test_gradient_checkpointing_of_a_network_without_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`gradient_checkpointing`: TinyNet has none"):
        trainer(tmp_path / "run", gradient_checkpointing=True)


@pytest.mark.parametrize("name", ["diffusion", "adt", "ddo"])
def test_compiled_networks_train_to_the_same_weights(tmp_path, name, monkeypatch):
    """With torch's tracing and without its code generator, which takes a minute; names in checkpoints stay."""
    plain = trainer(tmp_path / "plain", name, steps=3).fit()
    compiled = []
    inner = nn.Module.compile

    def traced(self, *arguments, **named):
        compiled.append(self)
        return inner(self, *arguments, backend="aot_eager", **named)

    monkeypatch.setattr(nn.Module, "compile", traced)
    run = trainer(tmp_path / "run", name, steps=3, compile=True, generator_optimizer=plain_optimizer())
    run.fit()
    assert [type(net) for net in compiled] == [TinyNet] * len(run.method.generators())
    weights = [changing(path) for path in (plain, tmp_path / "run")]
    assert weights[0].keys() == weights[1].keys()
    for key, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][key], rtol=1e-3, atol=1e-4)
    trainer(tmp_path / "run", name, steps=4).fit(resume=True)


def plain_optimizer():
    from sparring.training import AdamW

    return AdamW(lr=1e-2)


def changing(run):
    from small_runs import checkpoint

    return checkpoint(run, 3)[0]["generator"]
