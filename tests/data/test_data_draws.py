"""Random numbers of a step: the same however the batch is cut, different for every step and phase."""

import pytest
import torch

from sparring.data import Batch, Draws, derived_seed


def parts(size: int, total: int = 8) -> list[Draws]:
    return [Draws(3, step=5, phase="x", rows=slice(i, i + size), total=total) for i in range(0, total, size)]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_micro_batches_together_draw_what_one_batch_draws(size):
    whole = Draws(3, step=5, phase="x")
    cut = parts(size)
    for call in (
        lambda draws, n: draws.normal((n, 3, 5)),
        lambda draws, n: draws.uniform([n]),
        lambda draws, n: draws.integers(7, (n, 2)),
        lambda draws, n: draws.normal((n,)),
    ):
        torch.testing.assert_close(torch.cat([call(draws, size) for draws in cut]), call(whole, 8), rtol=0, atol=0)


def test_shared_numbers_are_equal_everywhere_and_leave_the_rows_numbers_alone():
    whole, cut = Draws(3, step=5, phase="x"), parts(2)
    for draws in cut:
        draws.one_integer(10), draws.subset(5, 2)  # must not shift the numbers of the rows
    torch.testing.assert_close(torch.cat([draws.normal((2,)) for draws in cut]), whole.normal((8,)), rtol=0, atol=0)
    for call in (lambda d: d.one_integer(10**6), lambda d: d.subset(50, 9)):
        assert len({str(call(draws)) for draws in parts(2)}) == 1


def test_seed_step_and_phase_each_change_the_numbers():
    settings = [{}, {"step": 1}, {"phase": "generator"}, {"phase": "discriminator"}, {"step": 1, "phase": "generator"}]
    firsts = [Draws(0, **kwargs).normal((4,)) for kwargs in settings] + [Draws(1).normal((4,))]
    assert len({str(first.tolist()) for first in firsts}) == len(firsts)
    torch.testing.assert_close(Draws(0, step=1).normal((4,)), firsts[1], rtol=0, atol=0)


def test_calls_in_a_row_differ():
    draws = Draws(0)
    assert not torch.equal(draws.normal((8,)), draws.normal((8,)))
    assert len({draws.one_integer(10**9) for _ in range(5)}) == 5


def test_distributions_ranges_and_types():
    draws = Draws(0)
    normal, uniform, integers = draws.normal((4000, 4)), draws.uniform((4000,)), draws.integers(3, (4000,))
    assert normal.dtype == uniform.dtype == torch.float32
    assert integers.dtype == torch.int64
    assert abs(normal.mean()) < 0.04
    assert abs(normal.std() - 1) < 0.04
    assert 0 <= uniform.min() < 0.01 < 0.99 < uniform.max() < 1
    assert integers.unique().tolist() == [0, 1, 2]
    subset = draws.subset(10, 4)
    assert subset == sorted(set(subset))
    assert len(subset) == 4
    assert set(subset) <= set(range(10))
    assert draws.subset(3, 3) == [0, 1, 2]
    assert draws.subset(3, 0) == []


def test_without_a_seed_torchs_global_seed_decides():
    torch.manual_seed(11)
    first = Draws().normal((3,))
    torch.manual_seed(11)
    torch.testing.assert_close(Draws().normal((3,)), first, rtol=0, atol=0)
    assert not torch.equal(Draws().normal((3,)), first)


def test_derived_seed_is_fixed_for_ever():
    """Stored runs depend on this number: it must not change with versions or machines."""
    assert derived_seed(0, 1, "generator", "rows") == 7948414109208314434
    assert derived_seed(1, 11) != derived_seed(11, 1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="give both"):
        Draws(0, rows=slice(0, 2))
    with pytest.raises(ValueError, match="give both"):
        Draws(0, total=2)
    with pytest.raises(ValueError, match="start < stop <= total=4"):
        Draws(0, rows=slice(2, 6), total=4)
    with pytest.raises(ValueError, match="asks for 4 rows, but these draws are for 2 rows"):
        Draws(0, rows=slice(0, 2), total=4).normal((4, 1))
    with pytest.raises(ValueError, match="`k=4` numbers out of `n=3`"):
        Draws(0).subset(3, 4)


def test_a_batch_knows_its_length():
    batch = Batch(torch.zeros(3, 1, 2, 2))
    assert len(batch) == 3
    assert batch.labels is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_draws_follow_the_images_to_the_gpu():
    batch = Batch(torch.zeros(2, 1, 2, 2, device="cuda"), draws=Draws(0, rows=slice(2, 4), total=4))
    whole = Draws(0, device="cuda").normal((4, 3))
    torch.testing.assert_close(batch.draws.normal((2, 3)), whole[2:], rtol=0, atol=0)
    assert batch.draws.subset(20, 5) == Draws(0).subset(20, 5)
