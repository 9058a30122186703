"""Class shares, the Inception-Score form, and the measures of 2-D toys."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from sparring.metrics.classes import class_coverage, class_histogram, inception_score, rarest_class
from sparring.metrics.toys import good_share, modes_covered, sliced_wasserstein, wasserstein


def _certain(classes: list[int], num_classes: int = 4) -> torch.Tensor:
    return 1000.0 * torch.nn.functional.one_hot(torch.tensor(classes), num_classes)


def test_histogram_and_coverage() -> None:
    real = class_histogram(_certain([0, 0, 1, 1, 2, 2, 3, 3]))
    assert real.tolist() == [2, 2, 2, 2]
    fake = class_histogram(_certain([0, 0, 0, 0, 1, 1, 2, 0]))
    assert fake.tolist() == [5, 2, 1, 0]
    assert class_coverage(fake, real) == 0.75  # class 2 is there half as often: just covered
    assert class_coverage(fake, real, share=0.6) == 0.5
    assert class_coverage(fake, torch.tensor([1, 1, 0, 0])) == 1


def test_the_share_of_the_rarest_class_if_it_is_rare() -> None:
    fake = torch.tensor([6, 3, 1])
    assert rarest_class(fake, torch.tensor([50, 41, 9])) == pytest.approx(0.1)
    assert rarest_class(fake, torch.tensor([50, 9, 41])) == pytest.approx(0.3)
    assert rarest_class(fake, torch.tensor([40, 43, 17])) is None  # more than half of 33.3
    assert rarest_class(fake, torch.tensor([40, 44, 16])) == pytest.approx(0.1)


def test_inception_score_between_one_and_the_number_of_classes() -> None:
    assert inception_score(_certain([0, 1, 2, 3] * 5)) == pytest.approx(4)
    assert inception_score(_certain([1] * 8)) == pytest.approx(1)
    assert inception_score(torch.randn(1, 4).expand(50, 4)) == pytest.approx(1)
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    marginal = p.mean(0)
    assert inception_score(p.log()) == pytest.approx(float((p * (p / marginal).log()).sum(1).mean().exp()))
    assert inception_score(_certain([0, 0, 1, 1]), splits=2) == pytest.approx(1)
    with pytest.raises(ValueError, match="splits=5"):
        inception_score(_certain([0, 1]), splits=5)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 30), (7, 200)])
def test_sliced_wasserstein_in_one_dimension_is_scipys(n: int, m: int) -> None:
    x, y = torch.randn(n, 1), torch.randn(m, 1) * 2 + 1
    assert sliced_wasserstein(x, y, p=1) == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-5)


def test_the_earth_movers_distance_is_that_of_the_cheapest_assignment() -> None:
    """Sets that differ by a shift are as far apart as that; on a line it is scipy's; other orders change nothing."""
    x = torch.randn(40, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 4.0]).view(2, 1, 1)
    assert wasserstein(x, (x + shift).flip(0)) == pytest.approx(5.0, rel=1e-5)
    a, b = x[:, 0, 0], x[:, 1, 0] + 0.3
    assert wasserstein(a, b) == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-5)
    with pytest.raises(ValueError, match="expected twice"):
        wasserstein(x, x[:3])


def test_sliced_wasserstein_of_a_shift() -> None:
    x = torch.randn(300, 2, 1, 1)
    shift = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    # E <u, s>^2 over the unit circle is |s|^2 / 2
    assert sliced_wasserstein(x, x + shift, projections=20000) == pytest.approx(np.sqrt(25 / 2), rel=0.01)
    assert sliced_wasserstein(x, x[torch.randperm(300)]) == 0
    with pytest.raises(ValueError, match=r"expected \[n, d\] and \[m, d\]"):
        sliced_wasserstein(x, torch.zeros(3, 3))


def test_modes_of_a_mixture() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    far = torch.tensor([3.0, 8.0]).expand(4, 2)  # nearest to the last mode, and not good
    samples = torch.cat([torch.zeros(5, 2), centres[1:2] + 0.1, far]).view(10, 2, 1, 1)
    assert good_share(samples, centres, radius=0.5) == 0.6
    assert modes_covered(samples, centres, radius=0.5) == 2
    assert modes_covered(samples, centres, radius=0.5, at_least=2) == 1
    with pytest.raises(ValueError, match="modes"):
        good_share(samples, torch.zeros(3, 5), radius=1)
