"""Two players with all their parts: order, warm-up, several updates, fresh images, learning rates and frozen parts."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from latent_runs import TinyGAN, points_gan, trainer
from small_runs import assert_same_checkpoint, checkpoint
from torch import nn

from sparring.data import Draws, GaussianMixture
from sparring.training import AdamW


class Recorded(TinyGAN):
    """Notes what happens to whom: who learns, on which images and rollouts, and who takes gradient."""

    def __init__(self):
        base = points_gan()
        super().__init__(base.generator, base.discriminator)
        self.events = []

    def rollout(self, batch):
        fake = super().rollout(batch)
        self.events.append(("rollout", fake.requires_grad))
        return fake

    def discriminator_loss(self, batch, rollout):
        assert not any(parameter.requires_grad for parameter in self.generator.parameters())
        assert all(parameter.requires_grad for parameter in self.discriminator.parameters())
        self.events.append(("discriminator", batch.images.clone(), rollout.detach().clone(), batch.draws.phase))
        return super().discriminator_loss(batch, rollout)

    def generator_loss(self, batch, rollout):
        assert not any(parameter.requires_grad for parameter in self.discriminator.parameters())
        assert all(parameter.requires_grad for parameter in self.generator.parameters())
        self.events.append(("generator", batch.images.clone(), rollout.detach().clone(), batch.draws.phase))
        return super().generator_loss(batch, rollout)

    def of(self, who):
        return [event for event in self.events if event[0] == who]


class GeneratorFirst(Recorded):
    generator_first = True


class Policy(Recorded):
    """Two updates on one rollout, whose graph cannot serve both: the loss runs the network again."""

    updates_per_rollout = 2

    def rollout(self, batch):
        fake = super().rollout(batch)
        fake.latents = self.generator.latents(replace(batch, draws=Draws(0, rows=batch.draws.rows, total=32)))
        return fake

    def generator_loss(self, batch, rollout):
        assert not rollout.requires_grad
        again = self.generator(rollout.latents)
        return super().generator_loss(batch, rollout + 0 * again) | {"policy": (again - 1 - rollout).square().mean()}


def one_step(tmp_path, method, **settings):
    run = trainer(tmp_path / "run", method, **settings)
    windows = run.micro_batches()
    assert run.alternate(next(windows), 0)[0]
    return run


def test_the_discriminator_goes_first_and_both_see_one_rollout(tmp_path):
    method = Recorded()
    one_step(tmp_path, method)
    assert [event[0] for event in method.events] == ["rollout", "discriminator", "generator"]
    assert torch.equal(method.of("discriminator")[0][2], method.of("generator")[0][2])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_generator_may_go_first_and_the_discriminator_sees_its_rollout_of_before_the_update(tmp_path, accumulation):
    method = GeneratorFirst()
    one_step(tmp_path, method, accumulation=accumulation)
    names = [event[0] for event in method.events]
    assert names == ["rollout", "generator"] * accumulation + ["discriminator"] * accumulation
    for theirs, ours in zip(method.of("discriminator"), method.of("generator"), strict=True):
        assert torch.equal(theirs[2], ours[2])


@pytest.mark.parametrize("kind", [Recorded, GeneratorFirst, Policy])
def test_micro_batches_equal_the_whole_whoever_goes_first(tmp_path, kind):
    runs = [one_step(tmp_path / str(n), kind(), accumulation=n) for n in (1, 4)]
    for whole, cut in zip(*(run.method.parameters() for run in runs), strict=True):
        torch.testing.assert_close(cut, whole, rtol=0, atol=2e-6)


def test_several_updates_on_one_rollout(tmp_path):
    method = Policy()
    run = one_step(tmp_path, method)
    assert [event[0] for event in method.events] == ["rollout", "discriminator", "generator", "generator"]
    assert method.of("rollout") == [("rollout", False)]
    assert torch.equal(method.of("generator")[0][2], method.of("generator")[1][2]) is True
    assert [event[3] for event in method.of("generator")] == ["generator", "generator 1"]
    assert {int(state["step"]) for state in run.generator.optimizer.state.values()} == {2}


@pytest.mark.parametrize("kind", [Recorded, GeneratorFirst])
@pytest.mark.parametrize("fresh", [False, True])
def test_discriminator_updates_have_rollouts_and_if_asked_images_of_their_own(tmp_path, kind, fresh):
    method = kind()
    run = one_step(tmp_path, method, discriminator_updates=3, discriminator_fresh_images=fresh)
    seen, shared = method.of("discriminator"), method.of("generator")[0]
    assert len(seen) == 3
    assert len({rollout.sum().item() for _, _, rollout, _ in seen}) == 3
    assert len({images.sum().item() for _, images, _, _ in seen}) == (3 if fresh else 1)
    with_generator = [event for event in seen if torch.equal(event[2], shared[2])]
    assert len(with_generator) == 1
    assert torch.equal(with_generator[0][1], shared[1])
    assert run.alternate.batches == (3 if fresh else 1)


def test_fresh_images_go_through_the_data_in_order_and_resume_bit_for_bit(tmp_path):
    settings = {"discriminator_updates": 2, "discriminator_fresh_images": True}
    method = Recorded()
    whole = trainer(tmp_path / "whole", method, **settings).fit()
    order = trainer(tmp_path / "other").data.order().stretch(0, 0, 12 * 32)
    images = GaussianMixture(num_samples=200)[order][0]
    assert torch.equal(torch.cat([event[1] for event in method.of("discriminator")]), images)
    trainer(tmp_path / "cut", steps=3, **settings).fit()
    trainer(tmp_path / "cut", **settings).fit(resume=True)
    assert_same_checkpoint(whole, tmp_path / "cut", 6)


def test_an_average_that_grows_longer_is_at_its_full_length_in_the_last_step_behind_a_warm_up_too(tmp_path):
    run = trainer(tmp_path / "run", points_gan(), ema_warmup="cosine", ema_decay=0.9, discriminator_warmup_steps=2)
    betas = []
    update = run.ema.update
    run.ema.update = lambda beta=None: betas.append(run.ema.beta()) or update(beta)
    run.fit()
    assert len(betas) == 4
    assert betas == sorted(betas)
    assert betas[-1] == pytest.approx(0.9)


def test_in_the_warm_up_only_the_discriminator_learns(tmp_path):
    optimizer = AdamW(lr=1e-2, warmup_steps=2)
    settings = {"discriminator_warmup_steps": 3, "checkpoint_every": 3, "generator_optimizer": optimizer}
    method = Recorded()
    run = trainer(tmp_path / "run", method, **settings)
    folder, start = run.fit(), points_gan().state_dict()
    early, late = (checkpoint(folder, step)[0] for step in (3, 6))
    for name, tensor in early["generator"].items():
        assert torch.equal(tensor, start[f"generator.{name}"])
        assert torch.equal(early["ema"][name], tensor)
        assert not torch.equal(late["generator"][name], tensor)
    assert all(not torch.equal(tensor, start[f"discriminator.{n}"]) for n, tensor in early["discriminator"].items())
    assert not [graph for _, graph in method.of("rollout")[:3] if graph]
    assert (len(method.of("discriminator")), len(method.of("generator")), run.ema.updates) == (6, 3, 3)
    assert [run.generator.lr(step) for step in (3, 4, 5)] == [5e-3, 1e-2, 1e-2]
    trainer(tmp_path / "cut", **settings | {"steps": 4}).fit()
    trainer(tmp_path / "cut", **settings).fit(resume=True)
    assert_same_checkpoint(folder, tmp_path / "cut", 6)


class WithProjector(TinyGAN):
    """A GAN whose generator is helped by a projector that belongs to nobody's network."""

    def __init__(self, owned=True):
        base = points_gan()
        super().__init__(base.generator, base.discriminator)
        self.projector = nn.Linear(2, 2)
        self.owned = owned

    def parts(self):
        return [self.projector] if self.owned else []

    def generator_loss(self, batch, rollout):
        pull = (self.projector(rollout.flatten(1)) - batch.images.flatten(1)).square().mean()
        return super().generator_loss(batch, rollout) | {"projector": pull}


def with_projector(**settings):
    torch.manual_seed(1)
    return WithProjector(**settings)


def test_a_part_learns_with_the_generator_is_resumed_and_neither_averaged_nor_shipped(tmp_path):
    run = trainer(tmp_path / "run", with_projector())
    folder, start = run.fit(), with_projector().projector.state_dict()
    tensors, _ = checkpoint(folder, 6)
    for name, tensor in start.items():
        assert not torch.equal(tensors["method"][f"projector.{name}"], tensor)
    assert "projector.weight/exp_avg" in tensors["optimizer_generator"]
    assert not [name for name in tensors["ema"] if "projector" in name]
    trainer(tmp_path / "cut", with_projector(), steps=3).fit()
    trainer(tmp_path / "cut", with_projector()).fit(resume=True)
    assert_same_checkpoint(folder, tmp_path / "cut", 6)


def test_the_learning_rate_of_a_named_part(tmp_path):
    slow = AdamW(lr=1e-2, lr_of={"projector": 1e-6, "projector.bias": 1e-3})
    run = trainer(tmp_path / "run", with_projector(), steps=1, generator_optimizer=slow)
    before = {name: parameter.detach().clone() for name, parameter in run.method.named_parameters()}
    run.fit()
    moved = {name: (p - before[name]).abs().max().item() for name, p in run.method.named_parameters()}
    assert moved["projector.weight"] == pytest.approx(1e-6, rel=0.2)  # the first step of Adam is the rate
    assert moved["projector.bias"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["generator.net.read_out.weight"] == pytest.approx(1e-2, rel=1e-3)


def test_a_frozen_part_needs_no_rate_of_its_own(tmp_path):
    """A recipe that gives a part its rate can be run with that part frozen."""
    settings = AdamW(lr=1e-2, lr_of={"projector": 1e-3, "generator.net.read_out": 1e-4})
    assert settings.without(["projector"]) == replace(settings, lr_of={"generator.net.read_out": 1e-4})
    assert settings.without(["generator.net", "projector.bias"]) == replace(settings, lr_of={"projector": 1e-3})
    run = trainer(tmp_path / "run", with_projector(), steps=1, generator_optimizer=settings, freeze=["projector"])
    run.fit()
    start = with_projector().projector.state_dict()
    assert all(torch.equal(now, start[name]) for name, now in run.method.projector.state_dict().items())


def test_frozen_parts_rest_and_are_kept_once(tmp_path):
    run = trainer(tmp_path / "run", freeze=["generator.net.hidden.0", "discriminator.read_out.bias"])
    folder, start = run.fit(), points_gan().state_dict()
    now = run.method.state_dict()
    frozen = {name for name in now if torch.equal(now[name], start[name])}
    expected = {"generator.net.hidden.0.weight", "generator.net.hidden.0.bias", "discriminator.read_out.bias"}
    assert frozen == expected
    assert not [name for name in checkpoint(folder, 6)[0]["generator"] if name.startswith("net.hidden.0.")]


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (
            lambda: with_projector(owned=False),
            {},
            "`projector.weight` of WithProjector requires gradient and has",
        ),
        (points_gan, {"freeze": ["generator.nett"]}, "`freeze=generator.nett`: TinyGAN trains nothing of that name"),
        (points_gan, {"freeze": ["generator"]}, "the generator has no parameter that requires gradient"),
        (points_gan, {"generator_optimizer": AdamW(lr_of={"proj": 1.0})}, "`lr_of.proj`: the generator trains nothing"),
        (
            points_gan,
            {"discriminator_fresh_images": True},
            "`discriminator_fresh_images=true` with `discriminator_updates=1`: the one update of a step",
        ),
        (points_gan, {"sharding": "zero3"}, "`sharding=zero3` must be none or fsdp2"),
        (points_gan, {"precision": "fp8"}, "`precision=fp8` must be fp32, bf16 or fp16"),
        (points_gan, {"discriminator_warmup_steps": 6}, "`discriminator_warmup_steps=6` must be .* below `steps=6`"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path, method, settings, words):
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path / "run", method(), **settings)


def test_a_part_must_be_an_attribute_and_have_one_player(tmp_path):
    stranger, shared = with_projector(), with_projector()
    stranger.parts = lambda: [nn.Linear(2, 2)]
    shared.parts = lambda: [shared.discriminator]
    for method, words in ((stranger, "`parts`: a Linear is no attribute"), (shared, "belongs to both players")):
        with pytest.raises(ValueError, match=words):
            trainer(tmp_path / "run", method)
    with pytest.raises(ValueError, match="`lr_of.x=0` must be positive"):
        AdamW(lr_of={"x": 0})


def test_a_step_with_a_broken_number_leaves_both_players_as_they_were(tmp_path):
    for number, kind in enumerate((Recorded, GeneratorFirst, Policy)):
        for broken in ("discriminator", "generator"):
            run = trainer(tmp_path / f"{number}{broken}", kind(), discriminator_updates=2)
            windows = run.micro_batches()
            assert run.alternate(next(windows), 0)[0]
            before = {name: tensor.clone() for name, tensor in run.method.state_dict().items()}
            moments = [{k: v.clone() for k, v in player.state().items()} for player in run.players]
            loss = getattr(run.method, f"{broken}_loss")
            calls = []

            def last_is_broken(batch, rollout, loss=loss, calls=calls):
                calls.append(1)
                losses = loss(batch, rollout)
                return {name: value * (float("nan") if len(calls) == 2 else 1) for name, value in losses.items()}

            if broken == "generator" and kind is not Policy:
                calls.append(1)  # it has one update
            setattr(run.method, f"{broken}_loss", last_is_broken)
            assert not run.alternate(next(windows), 1)[0]
            for name, tensor in run.method.state_dict().items():
                assert torch.equal(tensor, before[name]), (kind, broken, name)
            for player, kept in zip(run.players, moments, strict=True):
                assert all(torch.equal(player.state()[name], tensor) for name, tensor in kept.items())


def test_rates_in_the_log_are_of_every_update(tmp_path):
    folder = trainer(tmp_path / "run", Recorded(), discriminator_updates=2, log_every=1).fit()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(a["discriminator/adversarial"] != b["discriminator/adversarial"] for a, b in pairwise(lines))
