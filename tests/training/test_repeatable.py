import torch

from sparring.training.repeatable import repeatable


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_deterministic_kernels_are_taken_inside_only():
    before = state()
    with repeatable(True):
        assert state() == (True, True, False)
    assert state() == before
    with repeatable(False):
        assert state() == before
