"""Values that change over a run: rates, weights of penalties, half-lives."""

import math


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine, flat at both ends.

    Args:
        start: value at progress 0.
        end: value at progress 1 and after.
        progress: share of the run that is over.
    """
    return end + (start - end) * (0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
