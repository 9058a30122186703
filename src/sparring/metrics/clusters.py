"""Clusters against true classes: accuracy, adjusted Rand index, errors of proportions; k-means to compare with."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparring.data import ImageData

RESTARTS, MEASURED = 10, 2000


class Agreement(NamedTuple):
    """Share of rows in the class of their cluster, adjusted Rand index, largest error of a proportion."""

    accuracy: float
    rand: float
    proportion_error: float


def contingency(clusters: Tensor, labels: Tensor, num_clusters: int) -> Tensor:
    """[clusters, classes] numbers of rows; clusters [n] in 0..num_clusters-1 and labels [n] from 0."""
    classes = int(labels.max()) + 1
    return torch.bincount(clusters * classes + labels, minlength=num_clusters * classes).view(num_clusters, classes)


def agreement(clusters: Tensor, labels: Tensor, shares: Tensor) -> Agreement:
    """How well clusters are the classes, each cluster being given at most one class, so that most rows are right.

    Args:
        clusters: [n] in 0..K-1.
        labels: [n] true classes from 0.
        shares: [K] proportions of the clusters by the model, compared with those of their classes.
    """
    from scipy.optimize import linear_sum_assignment

    table = contingency(clusters.cpu(), labels.cpu(), len(shares)).double()
    rows, columns = (torch.as_tensor(found) for found in linear_sum_assignment(table.numpy(), maximize=True))
    error = shares.cpu().double().clone()  # a cluster without a class should be empty
    error[rows] -= table.sum(0)[columns] / table.sum()
    return Agreement(float(table[rows, columns].sum() / table.sum()), adjusted_rand(table), float(error.abs().max()))


def adjusted_rand(table: Tensor) -> float:
    """The share of pairs of rows on which two partitions agree, 0 by chance and 1 for equal ones.

    Source: Hubert and Arabie 1985, "Comparing partitions".

    Args:
        table: numbers of rows by both partitions.
    """

    def pairs(counts: Tensor) -> Tensor:
        return (counts * (counts - 1) / 2).sum()

    table = table.double()
    both, first, second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = first * second / pairs(table.sum())
    most = (first + second) / 2
    return 1.0 if most == chance else float((both - chance) / (most - chance))


def k_means(rows: Tensor, k: int, seed: int = 0) -> Tensor:
    """[n] clusters of rows [n, ...]: the one of 10 starts of k-means++ with the smallest squared distances."""
    from scipy.cluster.vq import kmeans2

    points = rows.flatten(1).double().cpu().numpy()
    best, found = float("inf"), None
    for restart in range(RESTARTS):
        centres, clusters = kmeans2(points, k, minit="++", missing="warn", seed=seed * RESTARTS + restart)
        distance = float(((points - centres[clusters]) ** 2).sum())
        if distance < best:
            best, found = distance, clusters
    return torch.as_tensor(found).long()


def clusters_found(assign: Callable[[Tensor], Tensor], data: ImageData, shares: Tensor) -> dict[str, float]:
    """The agreement of clusters with the labels of up to 2000 images, and that of k-means; {} without labels.

    Args:
        assign: from images [n, C, H, W] to clusters [n].
        data: images, on which the clusters were found.
        shares: [K] proportions of the clusters by the model.
    """
    n = min(len(data), MEASURED)
    labels = data.labels(n)
    if labels is None:
        return {}
    images = data.images(n)
    mine, clusters = agreement(assign(images), labels, shares), k_means(images, len(shares))
    theirs = agreement(clusters, labels, torch.bincount(clusters, minlength=len(shares)) / n)
    found = {"clustering_accuracy": mine.accuracy, "rand": mine.rand, "share_error": mine.proportion_error}
    kmeans = {"kmeans_accuracy": theirs.accuracy, "kmeans_rand": theirs.rand}
    return found | kmeans | {"kmeans_share_error": theirs.proportion_error}
