"""Power-function averages: their profiles, any of them from snapshots, exact resume, and the command."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import assert_same_checkpoint, trainer
from torch import nn

from sparring.cli.main import main
from sparring.generators.loading import load_denoiser
from sparring.runs import RunFolder
from sparring.training.power_ema import (
    STDS,
    PowerAverages,
    PowerEMA,
    correlation,
    distance,
    exponent_of,
    reconstruct,
    weights_for,
)


class Number(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("copy", torch.tensor(0.0))


def walk(steps, seed=0):
    return torch.randn(steps, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(0)


def test_widths_and_exponents_of_the_paper():
    assert exponent_of(0.05) == pytest.approx(16.972, abs=1e-3)
    assert exponent_of(0.10) == pytest.approx(6.937, abs=1e-3)
    for std in (0, 0.3):
        with pytest.raises(ValueError, match=f"`std={std}`"):
            exponent_of(std)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.25])
def test_an_average_has_the_width_it_is_called_by(std):
    """Of a ramp, and of its square, the average has mean (g + 1) / (g + 2) and that standard deviation."""
    module, n = Number(), 2000
    average = PowerEMA(module, std)
    for step in range(n):
        t = (step + 1) / n
        module.value.data.copy_(torch.tensor([t, t * t, 1.0], dtype=torch.float64))
        average.update()
    mean, square, one = average.module.value.tolist()
    gamma = exponent_of(std)
    assert one == pytest.approx(1)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)
    assert (square - mean**2) ** 0.5 == pytest.approx(std, rel=0.01)


def test_inner_products_of_profiles_are_their_integrals():
    for a, b in (((0.4, 7.0), (1.0, 17.0)), ((1.0, 3.0), (0.7, 7.0)), ((0.5, 7.0), (0.5, 7.0))):
        t = (np.arange(200000) + 0.5) / 200000
        profiles = [np.where(t <= end, (g + 1) * t**g / end ** (g + 1), 0) for end, g in (a, b)]
        assert correlation(*a, *b) == pytest.approx(np.mean(profiles[0] * profiles[1]), rel=1e-3)


@pytest.mark.parametrize("std", [0.03, 0.07, 0.15, 0.2])
def test_an_average_from_snapshots_is_the_one_that_was_tracked(std, tmp_path):
    module, steps = Number(), 1600
    tracked, powers = PowerEMA(module, std), PowerAverages(module, 32, steps, tmp_path / "ema", {"copy"})
    for step, value in enumerate(walk(steps)):
        module.value.data.copy_(value)
        module.count += 1
        module.copy += 1
        tracked.update()
        powers.update()
        if powers.due(step + 1):
            powers.write(step + 1, {"value", "count", "copy"})
    found = reconstruct(tmp_path / "ema", std)
    spread = walk(steps).std(0)
    assert tracked.module.value.abs().min() > 0
    assert ((found["value"] - tracked.module.value).abs() < 0.02 * spread).all()
    assert found["count"] == found["copy"] == steps
    assert sum(weights_for([50, 50, 100, 100], [*STDS, *STDS], std)) == pytest.approx(1)


def test_the_distance_of_a_mix_is_that_of_the_profiles():
    steps, stds = [1, 1, 2, 2, 3, 3, 4, 4], [*STDS] * 4
    weights = weights_for(steps, stds, 0.2)
    t = (np.arange(200000) + 0.5) / 50000
    profile = lambda end, std: np.where(t <= end, (exponent_of(std) + 1) * (t / end) ** exponent_of(std) / end, 0)  # noqa: E731
    wanted = profile(4, 0.2)
    mix = sum(w * profile(*one) for w, *one in zip(weights, steps, stds, strict=True))
    assert distance(weights, steps, stds, 0.2) == pytest.approx(
        (np.square(mix - wanted).mean() / np.square(wanted).mean()) ** 0.5, rel=1e-3
    )
    assert distance(weights_for(steps, stds, STDS[0]), steps, stds, STDS[0]) == pytest.approx(0, abs=1e-5)


def test_a_profile_that_the_snapshots_cannot_give_is_refused(tmp_path):
    module, powers = Number(), PowerAverages(Number(), 2, 10, tmp_path / "ema")
    for step in (5, 10):
        powers.write(step, set(module.state_dict()))
    assert reconstruct(tmp_path / "ema", 0.15).keys() == {"value", "count", "copy"}
    with pytest.raises(ValueError, match="`std=0.25`: the mix of 2 snapshots is 73% away from that profile"):
        reconstruct(tmp_path / "ema", 0.25)


def test_a_snapshot_average_of_a_tracked_width_is_the_last_snapshot():
    weights = weights_for([50, 50, 100, 100], [*STDS, *STDS], STDS[1])
    assert weights == pytest.approx([0, 0, 0, 1], abs=1e-6)


def test_a_run_goes_on_bit_for_bit_with_its_averages_and_snapshots(tmp_path):
    settings = {"steps": 6, "ema_snapshots": 3, "checkpoint_every": 3, "keep_checkpoints": 9}
    trainer(tmp_path / "whole", **settings).fit()
    trainer(tmp_path / "cut", **settings).fit()
    trainer(tmp_path / "cut", **settings).fit(resume_step=3)
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "cut", 6)
    names = [file.name for file in sorted((tmp_path / "cut" / "ema").iterdir())]
    assert names == ["0000002.safetensors", "0000004.safetensors", "0000006.safetensors"]
    for name in names:
        one, two = (load_file(tmp_path / run / "ema" / name) for run in ("whole", "cut"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("steps", "snapshots"), [(1500, 32), (2000, 32), (7, 3), (5, 9)])
def test_snapshots_are_as_many_as_asked_for_and_the_last_is_the_end_of_the_run(steps, snapshots, tmp_path):
    """So that a width is a share of all of the run."""
    powers = PowerAverages(Number(), snapshots, steps, tmp_path)
    due = [step for step in range(1, steps + 1) if powers.due(step)]
    assert len(due) == min(steps, snapshots)
    assert due[-1] == steps


def test_snapshots_change_nothing_of_the_run(tmp_path):
    trainer(tmp_path / "with", ema_snapshots=2).fit()
    trainer(tmp_path / "without").fit()
    one, two = (load_file(tmp_path / run / "checkpoints" / "000006" / "ema.safetensors") for run in ("with", "without"))
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert not (tmp_path / "without" / "ema").exists()


def test_the_command_writes_a_folder_that_samples(tmp_path, capsys):
    run, out = str(tmp_path / "run"), tmp_path / "out"
    flags = ["--trainer.steps=12", "--trainer.ema_snapshots=4", "--trainer.ema_decay=0.5"]
    assert main(["fit", "diffusion", "--on", "tiny", "--out", run, *flags]) == 0
    assert main(["ema", run, "--std", "0.15", "--out", str(out)]) == 0
    weights = reconstruct(tmp_path / "run" / "ema", 0.15)
    net = load_denoiser(out).net.state_dict()
    assert all(torch.equal(net[name.removeprefix("net.")], tensor) for name, tensor in weights.items())
    shipped = load_denoiser(run).net.state_dict()
    assert any(not torch.equal(net[name], shipped[name]) for name in net)
    assert main(["sample", str(out), "--n", "2", "--steps", "2", "--out", str(tmp_path / "x.png")]) == 0


def test_the_average_of_an_earlier_checkpoint_is_that_of_a_run_that_was_stopped_there(tmp_path):
    run, early = tmp_path / "run", tmp_path / "early"
    flags = ["--trainer.checkpoint_every=2", "--trainer.keep_checkpoints=9", "--trainer.keep_best=true"]
    assert main(["fit", "diffusion", "--on", "tiny", "--out", str(run), "--trainer.steps=6", *flags]) == 0
    assert main(["ema", str(run), "--step", "4", "--out", str(early)]) == 0
    net, kept = load_denoiser(early).net.state_dict(), load_file(run / "checkpoints" / "000004" / "ema.safetensors")
    assert all(torch.equal(net[name.removeprefix("net.")], tensor) for name, tensor in kept.items())
    assert any(not torch.equal(net[name], tensor) for name, tensor in load_denoiser(run).net.state_dict().items())
    scores = {step: RunFolder(run).score(step) for step in (2, 4, 6)}
    assert main(["ema", str(run), "--step", "best", "--out", str(tmp_path / "best")]) == 0
    best = load_file(run / "checkpoints" / f"{min(scores, key=scores.get):06d}" / "ema.safetensors")
    net = load_denoiser(tmp_path / "best").net.state_dict()
    assert all(torch.equal(net[name.removeprefix("net.")], tensor) for name, tensor in best.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--std", "0.5"], "`std=0.5` must lie above 0"),
        (["--std", "0.1"], "holds no snapshots of averages: train with --trainer.ema_snapshots"),
        (["--step", "7"], "has no checkpoint of step 7; it has [1]"),
        (["--step", "best"], "has a score: train with --trainer.keep_best true"),
        (["--step", "last"], "'last' must be the number of a step, or best"),
        (["--step", "1", "--std", "0.1"], "not allowed with argument --step"),
        ([], "one of the arguments --std --step is required"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path, capsys):
    trainer(tmp_path / "run", steps=1).fit()
    assert main(["ema", str(tmp_path / "run"), *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fewer_than_no_snapshots_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`ema_snapshots=-1` must be 0"):
        trainer(tmp_path / "run", steps=6, ema_snapshots=-1)


def test_snapshots_beside_a_warm_up_without_updates_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`ema_snapshots=2`: their profile counts updates from step 0"):
        trainer(tmp_path / "run", "adt", steps=6, ema_snapshots=2, discriminator_warmup_steps=2)


def test_snapshots_of_a_method_that_may_go_back_to_an_earlier_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sparring.methods.tuning.adt.ADT.jumps", True)
    with pytest.raises(ValueError, match="`ema_snapshots=2`: ADT may go back to an earlier model"):
        trainer(tmp_path / "run", "adt", steps=6, ema_snapshots=2)
