"""What a classifier says about the fakes: class histogram, coverage and accuracy, and the Inception-Score form."""

import torch
from torch import Tensor


def class_histogram(logits: Tensor) -> Tensor:
    """Number of rows of logits [n, K] whose largest entry is each class -> [K] int64."""
    return torch.bincount(logits.argmax(1).cpu(), minlength=logits.shape[1])


def class_coverage(fake: Tensor, real: Tensor, *, share: float = 0.5) -> float:
    """Share of the classes of the reals that the fakes hold at least `share` times as often. default (ours).

    Half, and not "at least one fake", since a classifier that errs puts a few fakes into every class.

    Args:
        fake: Counts [K] of the fakes, from `class_histogram`.
        real: Counts [K] of the reals.
        share: Smallest ratio of frequencies that counts as covered.
    """
    present = real > 0
    ratio = (fake.double() / fake.sum())[present] / (real.double() / real.sum())[present]
    return float((ratio >= share).double().mean())


def rarest_class(fake: Tensor, real: Tensor) -> float | None:
    """Share of the fakes that are of the class with the fewest reals; None if that class is not rare. default (ours).

    Rare is a class that the reals hold less than half as often as their classes on average.

    Args:
        fake: Counts [K] of the fakes, from `class_histogram`.
        real: Counts [K] of the reals.
    """
    rarest = int(real.argmin())
    rare = 2 * len(real) * int(real[rarest]) < int(real.sum())
    return float(fake[rarest] / fake.sum()) if rare else None


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the rows of logits [n, K] whose largest entry is the class that was asked for, labels [n]."""
    return float((logits.argmax(1).cpu() == labels.cpu()).double().mean())


def inception_score(logits: Tensor, *, splits: int = 1) -> float:
    """exp(mean KL(p(y|x) || p(y))) of logits [n, K], between 1 and K, as the mean over `splits` equal parts.

    Source: Salimans et al. 2016, there with Inception and 10 splits (the expectation of a part falls with its size). It
        sees neither the reals nor anything within a class: on another classifier it is a form and not an Inception
        Score.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits={splits}: expected 1 to {len(logits)}, the number of rows")
    scores = []
    for part in logits.double().tensor_split(splits):
        log_p = part.log_softmax(1)
        marginal = log_p.exp().mean(0)
        divergence = torch.where(log_p.exp() > 0, log_p.exp() * (log_p - marginal.clamp(min=1e-300).log()), 0.0)
        scores.append(divergence.sum(1).mean().exp())
    return float(torch.stack(scores).mean())
