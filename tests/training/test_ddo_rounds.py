"""DDO in rounds within one run: resuming with a moved reference, and what is shipped when the self-play ends."""

import shutil

import pytest
import torch
from small_runs import assert_same_checkpoint, trainer
from small_runs import method as tiny


@pytest.mark.parametrize("validate", [False, True])
def test_a_run_goes_on_bit_for_bit_with_a_reference_that_has_moved(validate, tmp_path):
    def settings():
        rounds = dict(rounds=3, average=0.5, validate=validate, num_fakes=6, num_steps=2)
        return dict(method=tiny("ddo", **rounds), steps=9, checkpoint_every=1, keep_checkpoints=9)

    trainer(tmp_path / "whole", **settings()).fit()
    for step in (3, 5, 7):
        shutil.copytree(tmp_path / "whole", tmp_path / str(step))
        resumed = trainer(tmp_path / str(step), **settings())
        resumed.fit(resume_step=step)
        assert_same_checkpoint(tmp_path / "whole", tmp_path / str(step), 9)
        if not validate:
            assert resumed.method.accepted == 2


def test_an_average_starts_again_where_the_model_was_put(tmp_path):
    """Rounds of three steps, the model put back after the first: the average that is shipped is the reference."""
    settings = dict(rounds=2, validate=True, num_fakes=6, num_steps=2)
    run = trainer(tmp_path / "run", method=tiny("ddo", **settings), steps=6)
    run.method.distance_to_held_out = lambda fakes: 1.0
    run.fit()
    assert run.method.over
    for name, tensor in run.method.reference.module.state_dict().items():
        assert torch.equal(run.ema.module.state_dict()[name], tensor)
        assert torch.equal(run.method.generator.state_dict()[name], tensor)
