"""Ranks of adapters: what each direction brings for its parameters, the budget, and that they start at no change."""

import pytest
import torch
from torch import nn

from sparring.networks import EditNet
from sparring.networks.adapters import LoRA
from sparring.networks.adapters.ranks import apply_ranks, matrices, searched_ranks, uniform_ranks


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def test_directions_are_taken_by_what_they_bring_for_each_parameter():
    """`a` costs 4 a rank and brings 9, 1; `b` costs 6 and brings 12, 12, 0.01: 2.25, 0.25 against 2, 2, 0.002."""
    gradients = {"a": diagonal(3.0, 1.0), "b": diagonal(12**0.5, 12**0.5, 0.1)}
    assert searched_ranks(gradients, 4) == {"a": 1}
    assert searched_ranks(gradients, 6) == {"a": 1}
    assert searched_ranks(gradients, 10) == {"a": 1, "b": 1}
    assert searched_ranks(gradients, 16) == {"a": 1, "b": 2}
    assert searched_ranks(gradients, 20) == {"a": 2, "b": 2}
    assert searched_ranks(gradients, 3) == {}
    assert uniform_ranks(gradients, 19) == {"a": 1, "b": 1}
    assert uniform_ranks(gradients, 20) == {"a": 2, "b": 2}
    assert uniform_ranks(gradients, 9) == {}


def test_adapters_of_the_ranks_cost_what_was_counted_and_change_nothing_at_first():
    torch.manual_seed(0)
    net, x = EditNet(8, width=8).double(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        before = net(x, source=x)
    net(x, source=x).square().mean().backward()
    gradients = matrices(net)
    net.zero_grad()
    budget = 400
    ranks = searched_ranks(gradients, budget)
    assert len(set(ranks.values())) > 1
    apply_ranks(net, ranks)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == sum(r * sum(gradients[name].shape) for name, r in ranks.items())
    assert sum(p.numel() for p in trained.values()) <= budget
    with torch.no_grad():
        assert torch.equal(net.double()(x, source=x), before)
        name = next(iter(ranks))
        layer = net.get_submodule(name)
        layer.lora_B["default"].weight.fill_(0.1)
        a = layer.lora_A["default"].weight.flatten(1)
        delta = layer.lora_B["default"].weight.flatten(1) @ a
        torch.testing.assert_close(layer.get_delta_weight("default").flatten(1), delta)  # scale 1


def test_a_full_rank_adapter_reaches_any_change_of_its_layer():
    net = nn.Sequential(nn.Linear(3, 2))
    LoRA(rank=1, targets=["0"], ranks={"0": 2}).apply(net)
    layer, wanted = net[0], torch.randn(2, 3)
    with torch.no_grad():
        u, s, v = torch.linalg.svd(wanted, full_matrices=False)
        layer.lora_B["default"].weight.copy_(u * s)
        layer.lora_A["default"].weight.copy_(v)
    torch.testing.assert_close(layer.get_delta_weight("default"), wanted)


def test_what_the_network_cannot_be_is_one_line():
    for settings in (dict(sample_size=7), dict(width=6)):
        with pytest.raises(ValueError, match="must be even, and"):
            EditNet(**settings)
