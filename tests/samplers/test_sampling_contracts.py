"""What every sampling system must keep: a new one is tested by having a case."""

import pytest
import torch
from cases import CASES, OF_LATENTS, OF_NETWORKS, OF_SIZES, pair, sampled

from sparring.process import EDM, VP, RectifiedFlow
from sparring.recipes.with_systems import sampling_systems

EACH = pytest.mark.parametrize("name", CASES)
PROCESSES = [(VP(), "v", "ddim"), (EDM(), "edm", "euler"), (RectifiedFlow(), "flow", "euler")]


def test_every_system_has_a_case():
    assert set(CASES) | OF_LATENTS | OF_NETWORKS | OF_SIZES == set(sampling_systems())


@EACH
@pytest.mark.parametrize(("process", "kind", "scheduler"), PROCESSES)
def test_strength_zero_is_the_plain_sampler_bit_for_bit_and_some_is_not(name, process, kind, scheduler):
    case = CASES[name]
    plain = sampled(pair(process, kind), scheduler, 6, d=2)
    zero = sampled(pair(process, kind), scheduler, 6, d=2, using=[case.make(process, kind, **case.zero)])
    some = sampled(pair(process, kind), scheduler, 6, d=2, using=[case.make(process, kind, **case.some)])
    assert torch.equal(zero, plain)
    assert (some - plain).abs().max() > 1e-3
    assert some.isfinite().all()


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].any_kind])
def test_a_network_of_any_output_gives_the_same_samples(name):
    """The scheduler's own float32 is what remains."""
    case = CASES[name]
    found = [
        sampled(pair(VP(), kind), "ddim", 6, d=2, using=[case.make(VP(), kind, **case.some)])
        for kind in ("eps", "x0", "v")
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=2e-5)


@EACH
def test_rows_do_not_see_each_other(name):
    case = CASES[name]
    whole, single = (
        sampled(pair(), "ddim", 6, d=2, using=[case.make(VP(), "v", **case.some)], batch_size=size) for size in (8, 1)
    )
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-10)


@EACH
def test_one_object_serves_any_number_of_walks(name):
    case = CASES[name]
    system = case.make(VP(), "v", **case.some)
    first, second = (sampled(pair(), "ddim", 6, d=2, using=[system]) for _ in range(2))
    assert torch.equal(first, second)


@EACH
def test_the_noise_of_the_scheduler_stays_as_it_was(name):
    """Two schedulers' worth of noise from one generator: what a system draws comes from elsewhere."""
    case, after = CASES[name], []
    for using in ([], [case.make(VP(), "v", **case.some)]):
        noise = torch.Generator().manual_seed(0)
        sampled(pair(), "ddpm", 6, d=2, using=using, generator=noise)
        after.append(torch.rand((), generator=noise))
    assert torch.equal(*after)


@EACH
def test_it_has_a_label_for_tables(name):
    case = CASES[name]
    assert case.make(VP(), "v", **case.some).label.startswith(name)
