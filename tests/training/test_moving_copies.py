"""Copies of two kinds: one that never changes, and one that moves and is in every checkpoint."""

import pytest
import torch
from small_runs import TinyNet, assert_same_checkpoint, checkpoint, trainer

from sparring.generators import Denoiser
from sparring.methods import frozen_copy, moving_copy
from sparring.methods.method import Method
from sparring.process import VP, Uniform
from sparring.rollout import one_step


class Follows(Method):
    """Denoising towards the prediction of a target that follows the generator by 0.3 after every step."""

    copy = staticmethod(moving_copy)

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(Denoiser(TinyNet(), VP(), "v"))
        self.target = self.copy(self.generator)

    def rollout(self, batch):
        return one_step(self.generator, batch, Uniform())

    def generator_loss(self, batch, rollout):
        with torch.no_grad():
            target = self.target(rollout.noised.x_t, rollout.noised.t).x0
        return {"target": (rollout.prediction.x0 - 0.5 * target - 0.5 * batch.images).square().mean()}

    def after_step(self):
        self.target.follow(self.generator, 0.3)


class Wrong(Follows):
    """The same with a target that is kept as frozen: on resume it would be put back to its start."""

    copy = staticmethod(frozen_copy)

    @torch.no_grad()
    def after_step(self):
        for ours, theirs in zip(self.target.parameters(), self.generator.parameters(), strict=True):
            ours.lerp_(theirs, 0.3)


class Refrozen(Follows):
    """A teacher that becomes the generator of before each second step."""

    def after_step(self):
        if self.step % 2:
            self.target.refreeze(self.generator)


def test_the_copy_goes_a_share_of_the_way_or_all_of_it():
    torch.manual_seed(0)
    source = TinyNet()
    copy = moving_copy(source)
    start = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    copy.follow(source, 0.3)
    copy.follow(source, 0.3)
    for name, tensor in copy.module.state_dict().items():
        torch.testing.assert_close(tensor, start[name] + 1 - 0.7**2, rtol=0, atol=1e-6)
    copy.refreeze(source)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in copy.module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in copy.train().parameters())
    assert not copy.module.training
    with pytest.raises(ValueError, match="`factor=1.5`"):
        copy.follow(source, 1.5)


def test_what_is_frozen_in_the_source_is_shared_and_stays():
    source = TinyNet()
    source.first.weight.requires_grad_(False)
    copy = moving_copy(source)
    assert copy.module.first.weight.data_ptr() == source.first.weight.data_ptr()
    assert copy.module.last.weight.data_ptr() != source.last.weight.data_ptr()
    assert "module.first.weight" not in copy.tensors()


@pytest.mark.parametrize("kind", [Follows, Refrozen])
def test_three_steps_and_three_more_equal_six_with_a_target_that_moves(tmp_path, kind):
    whole = trainer(tmp_path / "whole", method=kind()).fit()
    trainer(tmp_path / "cut", method=kind(), steps=3).fit()
    trainer(tmp_path / "cut", method=kind()).fit(resume=True)
    assert_same_checkpoint(whole, tmp_path / "cut", 6)
    tensors, _ = checkpoint(whole, 6)
    target = tensors["method"]["target.module.net.last.weight"]
    assert not torch.equal(target, tensors["generator"]["net.last.weight"]) or kind is Refrozen
    assert not torch.equal(target, kind().target.module.net.last.weight)


def test_a_frozen_part_that_changed_is_an_error_at_the_first_checkpoint(tmp_path):
    run = trainer(tmp_path / "run", method=Wrong(), checkpoint_every=2)
    with pytest.raises(ValueError, match="`target.net.* of Wrong is frozen and has changed: .*`moving_copy`") as error:
        run.fit()
    assert "\n" not in str(error.value)
    assert run.step == 2
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_a_step_that_is_left_out_moves_nothing(tmp_path):
    class Early(Follows):
        def rollout(self, batch):
            self.target.follow(self.generator, 0.3)
            return super().rollout(batch)

        def generator_loss(self, batch, rollout):
            losses = super().generator_loss(batch, rollout)
            return {name: value * (float("nan") if self.step == 1 else 1) for name, value in losses.items()}

    run = trainer(tmp_path / "run", method=Early())
    windows = run.micro_batches()
    assert run.alternate(next(windows), 0)[0]
    before = {name: tensor.clone() for name, tensor in run.method.target.state_dict().items()}
    assert not run.alternate(next(windows), 1)[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.method.target.state_dict().items())
