"""Clusters against classes on small cases: matched names, chance, proportions, and k-means on separate groups."""

import pytest
import torch

from sparring.metrics.clusters import adjusted_rand, agreement, contingency, k_means

LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])


def test_clusters_that_are_the_classes_under_other_names():
    found = agreement((LABELS + 1) % 3, LABELS, torch.tensor([0.1, 0.6, 0.3]))
    assert found == pytest.approx((1.0, 1.0, 0.0), abs=1e-6)
    assert agreement((LABELS + 1) % 3, LABELS, torch.full((3,), 1 / 3)).proportion_error == pytest.approx(0.6 - 1 / 3)


def test_a_cluster_too_many_and_one_too_few():
    split = torch.tensor([0, 0, 0, 0, 3, 3, 1, 1, 1, 2])
    found = agreement(split, LABELS, torch.tensor([0.4, 0.3, 0.1, 0.2]))
    assert found.accuracy == pytest.approx(0.8)
    assert found.proportion_error == pytest.approx(0.2)  # of both: 0.4 for 0.6, and 0.2 for a class that is not there
    joined = agreement(torch.tensor([0] * 9 + [1]), LABELS, torch.tensor([0.9, 0.1]))
    assert joined.accuracy == pytest.approx(0.7)


def test_the_rand_index_by_hand_and_by_chance():
    table = contingency(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]), 2)
    assert table.tolist() == [[2, 0], [1, 1]]
    # pairs: 1 in both, 2 in the clusters, 3 in the classes, 6 in all; chance 2 * 3 / 6
    assert adjusted_rand(table) == pytest.approx((1 - 1) / (2.5 - 1))
    random = torch.Generator().manual_seed(0)
    guessed = torch.randint(3, (30_000,), generator=random), torch.randint(4, (30_000,), generator=random)
    assert adjusted_rand(contingency(*guessed, 3)) == pytest.approx(0, abs=1e-3)
    assert adjusted_rand(torch.tensor([[5]])) == 1


def test_k_means_finds_groups_that_lie_apart():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = centres[LABELS] + 0.1 * torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    clusters = k_means(rows.view(10, 1, 1, 2), 3)
    assert agreement(clusters, LABELS, torch.bincount(clusters) / 10) == pytest.approx((1.0, 1.0, 0.0), abs=1e-6)
    assert torch.equal(clusters, k_means(rows, 3))
