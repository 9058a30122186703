"""The trainer's parts against closed forms: average, optimiser, log means, the watch and the balance."""

import logging
import math
import re

import pytest
import torch
from small_runs import TinyNet, trainer
from torch import nn

from sparring.runs import RunFolder
from sparring.training import EMA, AdamW
from sparring.training.optimizer import Player
from sparring.training.watch import Balance, Means, Watch


class Counter(nn.Module):
    """One weight, a floating and an integer buffer, and a buffer that is not saved."""

    def __init__(self, value=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("level", torch.tensor([value]))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("scratch", torch.tensor(0.0), persistent=False)

    @torch.no_grad()
    def become(self, value):
        self.weight.fill_(value)
        self.level.fill_(2 * value)
        self.count.fill_(int(value))


def test_average_is_its_closed_form_and_holds_buffers():
    net = Counter(3.0).double()
    ema = EMA(net, decay=0.9)
    values = [5.0, -1.0, 2.0, 7.0]
    for value in values:
        net.become(value)
        ema.update()
    n = len(values)
    expected = 0.9**n * 3 + sum(0.1 * 0.9 ** (n - 1 - k) * value for k, value in enumerate(values))
    assert ema.module.weight.item() == pytest.approx(expected, rel=1e-12)
    assert ema.module.level.item() == pytest.approx(2 * expected - 0.9**n * 3, rel=1e-12)
    assert ema.module.count.item() == 7
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_average_with_warmup_forgets_its_start_and_without_decay_follows():
    net = Counter(100.0).double()
    ema, follower = EMA(net, decay=0.999, warmup=True), EMA(net, decay=0.0)
    net.become(1.0)
    rest = 1.0
    for k in range(5):
        ema.update()
        follower.update()
        rest *= (1 + k) / (10 + k)
    assert ema.module.weight.item() == pytest.approx(1 + 99 * rest, rel=1e-12)
    assert torch.equal(follower.module.weight, net.weight)


def test_half_life_is_in_images():
    ema = EMA(Counter(1.0), halflife_images=1000, batch_size=100)
    assert ema.decay**10 == pytest.approx(0.5)
    for settings, message in (
        ({"decay": 1.0}, "ema_decay=1.0"),
        ({"halflife_images": 0}, "ema_halflife_images=0"),
        ({"warmup": "linear"}, "`ema_warmup=linear` must be False, True or cosine"),
    ):
        with pytest.raises(ValueError, match=message):
            EMA(Counter(), **settings)


def test_a_half_life_that_rises_over_the_run():
    """0.5^(1 / half-life), in updates: 10 at the end, half of it after half of the run, next to none at the start."""
    ema = EMA(Counter(1.0), halflife_images=1000, batch_size=100, warmup="cosine", steps=100)
    lives = []
    for ema.updates in (0, 49, 99, 500):
        lives.append(math.log(0.5) / math.log(ema.beta()) if ema.beta() > 0 else 0.0)
    assert lives == pytest.approx([10 * 0.5 * (1 - math.cos(math.pi / 100)), 5, 10, 10])
    assert EMA(Counter(1.0), decay=0.0, warmup="cosine", steps=100).beta() == 0


def test_average_of_a_run_follows_its_network(tmp_path):
    run = trainer(tmp_path / "run", ema_decay=0.5)
    windows, average = run.micro_batches(), None
    for step in range(4):
        if average is None:
            average = run.method.generator.net.last.weight.detach().clone()
        run.alternate(next(windows), step)
        run.ema.update()
        average = average.lerp(run.method.generator.net.last.weight.detach(), 0.5)
    torch.testing.assert_close(run.ema.module.net.last.weight, average)
    assert run.ema.module is not run.method.generator


def trained(net):
    return dict(net.named_parameters())


def test_learning_rate_is_a_function_of_the_step():
    player = Player("generator", trained(TinyNet()), AdamW(lr=0.1, warmup_steps=4, decay="cosine"), steps=20)
    rates = [player.lr(step) for step in range(21)]
    assert rates[0] == pytest.approx(0.025 * 0.5 * (1 + math.cos(0)))
    assert rates[10] == pytest.approx(0.05)
    assert rates[20] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert {Player("generator", trained(TinyNet()), AdamW(lr=0.1), steps=20).lr(step) for step in range(20)} == {0.1}


def test_clipping_and_update_are_those_of_torch():
    settings = AdamW(lr=0.1, betas=(0.8, 0.9), weight_decay=0.01, clip=0.5)
    ours, theirs = TinyNet().double(), TinyNet().double()
    theirs.load_state_dict(ours.state_dict())
    player = Player("generator", trained(ours), settings, steps=9)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
    for step in range(3):
        x = torch.randn(4, 1, 8, 8, dtype=torch.float64) * 10**step
        for net in (ours, theirs):
            net(x, torch.ones(4)).square().sum().backward()
        norm = player.gradient_norm()
        assert norm.item() == pytest.approx(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item())
        player.update(step, norm.item())
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)  # torch clips with 1e-6 in the denominator
    assert player.gradients() == []


def test_means_of_the_log():
    means = Means()
    means.add([("a", torch.tensor(1.0)), ("a", 3.0), ("b", torch.tensor(0.1))])
    again = Means()
    again.load_state(means.state())
    for part in (means, again):
        part.add([("a", 5.0)])
        assert part.line() == {"a": 3.0, "b": pytest.approx(0.1)}
        assert part.line() == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"statistics/accuracy": 0.99}, "discriminator_accuracy: 0.8"),
        ({"statistics/accuracy": 0.4}, "worse than a coin"),
        ({"gradient_norm/discriminator": 0.0}, "no longer learns"),
    ],
)
def test_a_discriminator_that_wins_or_dies_is_said_once(line, words):
    watch = Watch(patience=3)
    fine = {"statistics/accuracy": 0.8, "gradient_norm/discriminator": 0.1}
    assert [watch(seen) for seen in (line, line, fine, line, line)] == [None] * 5
    resumed = Watch(patience=3)
    resumed.load_state(watch.state())
    assert words in resumed(line)
    assert [resumed(line) for _ in range(9)] == [None] * 9
    assert Watch(patience=1)({"generator/diffusion": 0.1}) is None


def test_a_warning_is_in_the_log_and_on_the_screen(tmp_path, capfd):
    run = trainer(tmp_path / "run", "adt", log_every=1)
    run.method.log = lambda **values: run.method.statistics.update(accuracy=torch.tensor(1.0))
    run.fit()
    assert (tmp_path / "run/metrics.jsonl").read_text().count('"warning": "the discriminator is right in more') == 1
    assert capfd.readouterr().err.count("warning: the discriminator is right in more than 98% of the cases") == 1


class FastClock:
    """Seconds pass between two looks, as many as are set."""

    def __init__(self, seconds: float):
        self.seconds, self.now = seconds, 0.0

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def test_plain_lines_of_a_run_are_few_and_say_what_is_left(tmp_path, capfd, monkeypatch):
    """A line before the first step, one every ten seconds, and the last step."""
    trainer(tmp_path / "quick", steps=9).fit()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "training: step 0 of 9"
    assert len(lines) == 2
    assert lines[1].startswith("step 9/9  ")
    monkeypatch.setattr("sparring.data.waiting.time", FastClock(1.0))
    trainer(tmp_path / "slow", steps=40).fit()
    lines = capfd.readouterr().err.splitlines()
    said = [re.match(r"step (\d+)/40, about (\d+) s left  \d+ img/s", line) for line in lines if line[:5] == "step "]
    steps = [int(found[1]) for found in said if found]
    assert 2 <= len(steps) <= 12
    assert all(found is not None for found in said[1:-1])


def test_a_step_of_minutes_says_how_far_it_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("sparring.data.waiting.SAYS.propagate", True)
    caplog.set_level(logging.INFO, "sparring")
    run = trainer(tmp_path / "run", "adt", steps=1, accumulation=8)
    monkeypatch.setattr("sparring.data.waiting.time", FastClock(9.0))
    run.train_step(next(run.micro_batches()))
    lines = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert lines[0].startswith("step 1: 25 %, about ")  # 4 of 2 x 8 passes of 9 s: more than 30 silent seconds
    assert len(lines) <= 12


def test_a_discriminator_that_is_too_good_rests(tmp_path):
    run = trainer(tmp_path / "run", "adt", discriminator_accuracy=0.8, log_every=1)
    run.balance.accuracy = 0.95
    windows = run.micro_batches()
    updates, accuracies = [], []
    for step in range(12):
        run.method.log = lambda **values: run.method.statistics.update(accuracy=torch.tensor(0.6))
        assert run.alternate(next(windows), step)[0]
        moments = run.players[1].optimizer.state.values()
        updates.append(max((int(s["step"]) for s in moments), default=0))
        accuracies.append(run.balance.accuracy)
    resting = next(i for i, accuracy in enumerate(accuracies) if accuracy <= 0.8) + 1
    assert resting > 1
    assert updates == [0] * resting + list(range(1, 13 - resting))
    assert {int(s["step"]) for s in run.generator.optimizer.state.values()} == {12}


def test_balance_refuses_what_has_no_accuracy(tmp_path):
    for target in (0.5, 1.0):
        with pytest.raises(ValueError, match="must lie between 0.5"):
            Balance(target)
    with pytest.raises(ValueError, match="Diffusion has no discriminator"):
        trainer(tmp_path / "run", discriminator_accuracy=0.8)
    with pytest.raises(ValueError, match="has no accuracy"):
        trainer(tmp_path / "run", "sadm", discriminator_accuracy=0.8).fit()


def test_resumed_balance_and_watch_are_those_of_the_uninterrupted_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sparring.training.watch.LOSES", 1.01)  # every line counts
    settings = {"discriminator_accuracy": 0.99, "checkpoint_every": 3, "log_every": 1, "keep_checkpoints": 9}
    whole = trainer(tmp_path / "whole", "adt", steps=9, **settings)
    half = trainer(tmp_path / "cut", "adt", steps=6, **settings)
    for run in (whole, half):
        run.balance.accuracy = 0.9  # seldom far from a coin on its own
        run.fit()
    assert half.balance.accuracy != whole.balance.accuracy
    assert half.watch.said == ["loses"]
    cut = trainer(tmp_path / "cut", "adt", steps=9, **settings)
    cut.fit(resume=True)
    assert cut.balance.accuracy == whole.balance.accuracy
    assert cut.watch.state() == whole.watch.state()
    assert cut.watch.lines["loses"] == 9


def test_player_loads_only_its_own_moments():
    player = Player("discriminator", trained(TinyNet()), AdamW(), steps=1)
    with pytest.raises(ValueError, match="the discriminator has no parameter 'other'"):
        player.load_state({"other/step": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="time.weight of the discriminator has another shape"):
        player.load_state({"time.weight/exp_avg": torch.zeros(3)})


def test_a_tracker_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: [])
    with pytest.raises(ValueError, match="`tracker=wandb` is not installed"):
        trainer(tmp_path / "run", tracker="wandb")


def test_the_tracker_gets_the_lines_of_the_log(tmp_path):
    run = trainer(tmp_path / "run", tracker="tensorboard").fit()
    assert list((run / "tensorboard").rglob("events.out.tfevents*"))


def test_the_configuration_says_what_a_run_was_made_with(tmp_path):
    made_with = RunFolder(trainer(tmp_path / "run").fit()).read_config()["made_with"]
    assert made_with["processes"] == 1
    assert "threads" in made_with["device"]
    assert "torch" in made_with["versions"]
