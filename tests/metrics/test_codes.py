"""What codes are worth: a linear probe, principal components and nearest images on cases with known answers."""

import pytest
import torch

from sparring.metrics.codes import linear_probe, nearest_errors, principal_components


def test_a_linear_probe_reads_what_is_linear_and_guesses_what_is_not_there():
    random = torch.Generator().manual_seed(0)
    codes = torch.randn(600, 4, generator=random)
    labels = (codes @ torch.tensor([1.0, -2.0, 0.0, 0.5]) > 0).long()
    codes = codes * torch.tensor([1.0, 1, 1e-3, 50]) + 7  # of any scale and place
    assert linear_probe(codes[:400], labels[:400], codes[400:], labels[400:]) > 0.95
    assert linear_probe(codes[:400], labels[:400], -codes[400:] + 14, labels[400:]) < 0.05
    unequal = torch.cat([torch.ones(300), torch.zeros(100)]).long()
    assert (
        linear_probe(torch.zeros(400, 3), unequal, torch.zeros(4, 3), torch.ones(4).long()) == 1.0
    )  # the more frequent


def test_principal_components_keep_the_variance_that_the_eigenvalues_say():
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 1, 2, 3, generator=random, dtype=torch.float64) * torch.tensor([3.0, 1, 0.1]).double()
    kept, others = principal_components(rows, rows[:10], 2)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(rows.flatten(1).T)).flip(0)
    torch.testing.assert_close(kept.var(0), eigenvalues[:2])
    torch.testing.assert_close(others, kept[:10])
    assert principal_components(rows[:, :, :1], rows[:, :, :1], 9)[0].shape == (500, 3)


def test_the_nearest_of_several_images():
    images = torch.zeros(2, 1, 1, 2)
    others = torch.tensor([[1.0, 1.0], [0.0, 0.5]]).view(2, 1, 1, 2)
    assert nearest_errors(images, others).tolist() == pytest.approx([0.25, 0.25])
