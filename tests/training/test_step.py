"""One step: the same however the batch is cut, each gradient to its player alone, and nothing from broken numbers."""

import math
from dataclasses import replace

import pytest
import torch
from small_runs import METHODS, ExactDigits, method, trainer
from torch import nn

from sparring.methods.tuning.adt import ADT
from sparring.process import Assignment
from sparring.training import AdamW, Trainer
from sparring.training.state import changing_tensors, fixed_tensors


def steps(run: Trainer, count: int) -> list[dict[str, float]]:
    """The trainer's loop without files; returns the statistics of each step."""
    run.method.prepare(run.data)
    windows, lines = run.micro_batches(), []
    for _ in range(count):
        run.train_step(next(windows))
        assert not run.skipped
        lines.append(run.means.line())
        run.step += 1
    return lines


def exact(tmp_path, name: str, **settings) -> Trainer:
    """In float64, so that a lost factor of a millionth shows."""
    return trainer(tmp_path / "run", method=method(name).double(), data=ExactDigits(), **settings)


@pytest.mark.parametrize("name", METHODS)
def test_eight_micro_batches_equal_one_batch(tmp_path, name):
    one, eight = (exact(tmp_path, name, accumulation=a) for a in (1, 8))
    lines = list(zip(steps(one, 3), steps(eight, 3), strict=True))
    for line, line_8 in lines:
        assert line.keys() == line_8.keys()
        for key in line:  # losses and the gradient norms of both players: Adam's update would hide a lost factor
            assert line[key] == pytest.approx(line_8[key], rel=1e-6, abs=1e-9), key
    ends = [changing_tensors(run.method) for run in (one, eight)]
    difference = torch.cat(
        [(a.detach() - b.detach()).abs().flatten() for a, b in zip(*map(dict.values, ends), strict=True)]
    )
    assert difference.mean() < 1e-9
    assert difference.max() < 1e-7
    assert one.images_so_far() <= eight.images_so_far()


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("discriminator_updates", [1, 2])
def test_each_player_is_updated_as_often_as_it_should_be(tmp_path, accumulation, discriminator_updates):
    settings = {"accumulation": accumulation, "discriminator_updates": discriminator_updates}
    run = trainer(tmp_path / "run", "adt", **settings)
    steps(run, 3)
    updates = {p.role: {int(s["step"]) for s in p.optimizer.state.values()} for p in run.players}
    assert updates == {"generator": {3}, "discriminator": {3 * discriminator_updates}}


def test_one_rollout_serves_both_players_and_more_updates_draw_their_own(tmp_path):
    run = trainer(tmp_path / "run", "add")
    fakes = {"discriminator": [], "generator": []}

    def spy(role):
        inner = getattr(run.method, f"{role}_loss")

        def loss(batch, fake):
            fakes[role].append(fake)
            return inner(batch, fake)

        return loss

    run.method.discriminator_loss, run.method.generator_loss = spy("discriminator"), spy("generator")
    run.alternate.discriminator_updates = 3
    steps(run, 1)
    assert fakes["discriminator"][2] is fakes["generator"][0]
    images = [fake.prediction.x0 for fake in fakes["discriminator"]]
    assert [image.requires_grad for image in images] == [False, False, True]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_only_the_player_whose_turn_it_is(tmp_path, name, accumulation):
    run = trainer(tmp_path / "run", name, accumulation=accumulation)
    inner, turns = run.alternate.finish, []

    def finish(player, loss):
        turns.append(player.role)
        own = {id(p) for p in player.parameters}
        with_gradient = {id(p) for p in run.method.parameters() if p.grad is not None}
        assert with_gradient
        assert with_gradient <= own
        return inner(player, loss)

    run.alternate.finish = finish
    steps(run, 2)
    order = run.players if run.method.generator_first else run.players[::-1]
    assert turns == [player.role for player in order] * 2
    assert all(p.grad is None for p in run.method.parameters())
    assert all(p.requires_grad for player in run.players for p in player.parameters)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_trained_moves_and_what_is_frozen_does_not(tmp_path, name):
    run = trainer(tmp_path / "run", name)
    run.method.prepare(run.data)
    trained = {name: tensor.detach().clone() for name, tensor in changing_tensors(run.method).items()}
    frozen = {name: tensor.clone() for name, tensor in fixed_tensors(run.method).items()}
    run.method.prepare = lambda data, seed=0: None
    steps(run, 3)
    for key, tensor in fixed_tensors(run.method).items():
        assert torch.equal(tensor, frozen[key]), f"{key} is frozen and moved"
    still = [n for n, p in run.method.named_parameters() if p.requires_grad and torch.equal(p, trained[n])]
    # of a hinge with all logits within its margins, or of a difference of logits
    assert len(still) <= 2
    assert all(one.startswith("discriminator.") and one.endswith("bias") for one in still)
    names = set(trained) | set(frozen)
    own = {name for name, _ in [*run.method.named_parameters(), *run.method.named_buffers()]}
    assert names == own & set(run.method.state_dict())
    for part in ("teacher", "reference", "discriminator.backbone", "frozen_discriminator"):
        module = dict(run.method.named_modules()).get(part)
        assert module is None or not module.training, f"{part} is in training mode"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_two_players_logs_what_a_user_looks_at(tmp_path, name):
    run = trainer(tmp_path / "run", name)
    line = steps(run, 1)[0]
    assert any(key.startswith("generator/") for key in line)
    if run.method.discriminator is None:
        return
    assert {"gradient_norm/generator", "gradient_norm/discriminator"} <= line.keys()
    assert any(key.startswith("discriminator/") for key in line)
    assert any(key.startswith("statistics/") for key in line)
    if name == "add":
        assert line["discriminator/r1"] > 0


# -- numbers that are not finite ---------------------------------------------------------------------------------------


class Broken(ADT):
    """ADT that breaks in chosen steps, at a chosen place."""

    place, broken_steps = "", ()

    def broken(self, place: str) -> bool:
        return place == self.place and self.step in self.broken_steps

    def discriminator_loss(self, batch, fake):
        losses = super().discriminator_loss(batch, fake)
        if self.broken("discriminator loss"):
            losses["adversarial"] = losses["adversarial"] * math.inf
        if self.broken("discriminator gradient"):  # finite itself
            losses["root"] = (self.discriminator.scale.sum() * 0).abs().sqrt()
        return losses

    def generator_loss(self, batch, fake):
        losses = super().generator_loss(batch, fake)
        if self.broken("generator loss"):
            losses["nan"] = self.generator.net.last.bias.sum() * math.nan
        if self.broken("generator gradient"):
            losses["root"] = (self.generator.net.last.bias.sum() * 0).abs().sqrt()
        return losses


PLACES = ("discriminator loss", "discriminator gradient", "generator loss", "generator gradient", "image")


def broken_method(place, broken_steps, net=None):
    sound = method("adt", net)
    broken = Broken(sound.generator, sound.discriminator, num_steps=3, warmup_steps=0, ramp_steps=0)
    broken.place, broken.broken_steps = place, broken_steps
    return broken


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("discriminator_updates", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_a_number_that_is_not_finite_skips_both_players(tmp_path, place, accumulation, discriminator_updates):
    settings = {"accumulation": accumulation, "discriminator_updates": discriminator_updates}
    run = trainer(tmp_path / "run", method=broken_method(place, (2,)), **settings)
    windows = run.micro_batches()
    for step in (0, 1):
        assert run.alternate(next(windows), step)[0]
        run.ema.update()
    before = everything(run)
    window = next(windows)
    if place == "image":
        images = window[0].images.clone()
        images[1, 0, 0, 0] = math.nan
        window[0] = replace(window[0], images=images)
    taken, noted = run.alternate(window, 2)
    assert not taken
    for name, tensor in everything(run).items():
        assert torch.equal(tensor, before[name]), f"{name} changed in a step that was left out"
    assert all(p.grad is None for p in run.method.parameters())
    assert all(p.requires_grad for player in run.players for p in player.parameters)
    assert run.alternate(next(windows), 3)[0]


def everything(run):
    tensors = {name: tensor.detach().clone() for name, tensor in changing_tensors(run.method).items()}
    tensors |= {f"ema {k}": v.clone() for k, v in run.ema.module.state_dict().items()}
    for player in run.players:
        tensors |= {f"{player.role} {k}": v.clone() for k, v in player.state().items()}
    return tensors


def test_the_first_step_can_be_left_out(tmp_path):
    run = trainer(tmp_path / "run", method=broken_method("generator loss", (0,)))
    before = everything(run)
    windows = run.micro_batches()
    assert not run.alternate(next(windows), 0)[0]
    assert everything(run).keys() == before.keys()  # no moments yet
    assert run.alternate(next(windows), 1)[0]


class WithBatchNorm(nn.Module):
    """A network whose buffers follow its inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 1, 3, padding=1),
        )

    def forward(self, x, time):
        return self.last(torch.tanh(self.norm(self.first(x)) + time[:, None, None, None] / 1000))


def test_buffers_that_saw_a_broken_image_are_put_back(tmp_path):
    run = trainer(tmp_path / "run", method=method("diffusion", WithBatchNorm()))
    windows = run.micro_batches()
    assert run.alternate(next(windows), 0)[0]
    before = everything(run)
    assert "generator.net.norm.running_mean" in before
    micro = next(windows)[0]
    assert not run.alternate([replace(micro, images=micro.images * math.nan)], 1)[0]
    for name, tensor in everything(run).items():
        assert torch.equal(tensor, before[name]), name


def test_skipped_steps_are_counted_and_said_and_the_run_goes_on(tmp_path, capfd):
    settings = {"steps": 8, "log_every": 4, "checkpoint_every": 4, "max_skipped": 3}
    run = trainer(tmp_path / "run", method=broken_method("generator gradient", (1, 2, 5)), **settings)
    run.fit()
    log = (tmp_path / "run/metrics.jsonl").read_text()
    assert '"skipped": 2' in log
    assert '"skipped": 3' in log
    assert "NaN" not in log
    assert log.count("warning") == 2
    assert "step 2 was left out: gradient_norm/generator was not finite" in capfd.readouterr().err
    assert {int(s["step"]) for s in run.generator.optimizer.state.values()} == {5}
    assert run.ema.updates == 5


@pytest.mark.parametrize("resumed", [False, True])
def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path, resumed):
    def run(max_skipped):
        broken = broken_method("discriminator loss", range(3, 99))
        return trainer(tmp_path / "run", method=broken, steps=20, checkpoint_every=2, max_skipped=max_skipped)

    if resumed:  # the checkpoint of step 6 knows of three
        with pytest.raises(ValueError, match="4 steps in a row up to step 7"):
            run(4).fit()
    with pytest.raises(ValueError, match=r"5 steps in a row up to step 8 .*\(discriminator/adversarial"):
        run(5).fit(resume=resumed)
    steps_kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert steps_kept[-1] == "000006"


def test_settings_that_would_train_nothing_are_refused(tmp_path):
    frozen = method("diffusion")
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing would be trained"):
        trainer(tmp_path / "run", method=frozen)
    with pytest.raises(ValueError, match="the generator's weights are torch.bfloat16"):
        trainer(tmp_path / "run", method=method("diffusion").bfloat16())
    for settings, message in (
        ({"lr": 0.0}, "`lr=0.0` must be positive"),
        ({"lr": math.nan}, "`lr=nan` must be positive"),
        ({"clip": 0.0}, "`clip=0.0` must be positive"),
        ({"betas": (0.9, 1.0)}, "`betas="),
        ({"weight_decay": -1.0}, "`weight_decay=-1.0`"),
    ):
        with pytest.raises(ValueError, match=message):
            AdamW(**settings)
    for name in ("steps", "accumulation", "keep_checkpoints", "log_every", "max_skipped", "num_samples"):
        with pytest.raises(ValueError, match=f"`{name}=0` must be at least 1"):
            trainer(tmp_path / "run", **{name: 0})
    with pytest.raises(ValueError, match="`checkpoint_every=-1` must be 0"):
        trainer(tmp_path / "run", checkpoint_every=-1)
    with pytest.raises(ValueError, match="`batch_size=16` must be a multiple of 3"):
        trainer(tmp_path / "run", accumulation=3)
    dealt = method("diffusion")
    dealt.generator.process.coupling = Assignment(group=16)
    with pytest.raises(ValueError, match="`coupling.group=16`.* of a batch of 16 images 4 are seen at once"):
        trainer(tmp_path / "run", method=dealt, accumulation=4)
    with pytest.raises(ValueError, match="`sharding=fsdp2` spreads the generator over processes"):
        trainer(tmp_path / "run", sharding="fsdp2")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "told"), [("sadm", True), ("adt", True), ("wgan", True), ("sadm-frozen", False)])
def test_a_discriminator_is_told_of_each_of_its_updates(tmp_path, name, told):
    """Its pull-back, its spectral norms, its clipped weights; a frozen one is left alone."""
    made, calls = method(name), []
    (discriminator,) = made.discriminators()
    discriminator.after_update = lambda: calls.append([p.detach().clone() for p in discriminator.parameters()])
    before = [p.detach().clone() for p in discriminator.parameters()]
    run = trainer(tmp_path / "run", method=made, discriminator_updates=3 if told else 1)
    steps(run, 2)
    assert len(calls) == (6 if told else 0)
    if told:  # after the update, not before
        assert any(not torch.equal(a, b) for a, b in zip(before, calls[0], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(discriminator.parameters(), calls[-1], strict=True))


def test_a_resting_discriminator_and_a_broken_step_are_no_updates(tmp_path):
    made, calls = method("adt"), []
    made.discriminator.after_update = lambda: calls.append(1)
    run = trainer(tmp_path / "run", method=made, discriminator_accuracy=0.8)
    run.folder.create()
    run.method.prepare(run.data)
    windows = run.micro_batches()
    run.balance.accuracy = 1.0
    run.train_step(next(windows))
    assert calls == []
    run.balance.accuracy = 0.5
    made.objective.discriminator = lambda real, fake: real.logits.mean() * math.nan
    run.train_step(next(windows))
    assert (run.skipped, calls) == (1, [])


def test_a_trained_encoder_is_pulled_back_to_its_start_in_every_step(tmp_path):
    free, pulled = (method("sadm") for _ in range(2))
    for made, pull in ((free, 0.0), (pulled, 0.9)):
        made.discriminator.pull = pull
        steps(trainer(tmp_path / str(pull), method=made), 3)
    assert 0 < pulled.discriminator.anchor_penalty() < 0.05 * free.discriminator.anchor_penalty()


@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_the_gradients_of_both_players_are_clipped(tmp_path, role):
    """The first moment after one step is (1 - beta) times the clipped gradient, whose norm is the limit."""
    run = trainer(tmp_path / "run", "adt", **{f"{role}_optimizer": AdamW(lr=1e-3, betas=(0.5, 0.9), clip=1e-4)})
    steps(run, 1)
    player = {player.role: player for player in run.players}[role]
    moments = [state["exp_avg"] for state in player.optimizer.state.values()]
    assert torch.stack([m.norm() for m in moments]).norm().item() == pytest.approx(0.5 * 1e-4, rel=1e-3)
