"""27 architectures in one network: each is the network by itself with its weights, and rows choose theirs."""

import pytest
import torch

from sparring.networks import SmallPerceptron, SuperPerceptron
from sparring.networks.super_perceptron import GENOTYPES, size_of


def whole():
    torch.manual_seed(0)
    return SuperPerceptron(in_features=3, out_shape=[2, 1, 1]).double()


def rows(number, n=5):
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(number).expand(n), 27).double()
    return noise, torch.cat([noise, one_hot], 1)


@pytest.mark.parametrize("number", range(27))
def test_an_architecture_is_the_network_by_itself(number):
    noise, z = rows(number)
    alone = whole().alone(GENOTYPES[number])
    torch.testing.assert_close(whole()(z), alone(noise), rtol=1e-6, atol=1e-6)
    assert sum(p.numel() for p in alone.parameters()) == size_of(GENOTYPES[number], 3, 2)


def test_all_differ_and_each_row_has_its_own():
    numbers = torch.arange(27)
    noise = rows(0, 1)[0].expand(27, 3)
    z = torch.cat([noise, torch.eye(27, dtype=torch.float64)], 1)
    made = whole()(z).flatten(1)
    assert len(GENOTYPES) == len({tuple(row) for row in made.round(decimals=9).tolist()}) == 27
    order = torch.randperm(27, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole()(z[order]).flatten(1), made[order])
    assert numbers.tolist() == sorted(order.tolist())


def test_a_gene_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"`genotype=\[0, 3, 0\]`"):
        SmallPerceptron([0, 3, 0])
