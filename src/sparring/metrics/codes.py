"""What codes of images are worth: how well a linear classifier reads the classes from them, and what PCA would give."""

import torch
from torch import Tensor


def linear_probe(codes: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, ridge: float = 1e-3) -> float:
    """Accuracy on other codes [m, d] of a linear classifier that is fitted to codes [n, d] and labels [n].

    It is the least-squares fit of one-hot labels to standardised codes with an intercept, in float64; `ridge` times n
    is added to the diagonal of the normal equations.
    """
    x, y = codes.double(), others.double()
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-12)
    x, y = ((rows - mean) / deviation for rows in (x, y))
    targets = torch.nn.functional.one_hot(labels).double()
    inner = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    weight = torch.linalg.solve(inner, x.T @ (targets - targets.mean(0)))
    found = (y @ weight + targets.mean(0)).argmax(1)
    return float((found == other_labels).double().mean())


def principal_components(x: Tensor, others: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Coordinates of rows x [n, ...] and of other rows [m, ...] along the `dim` first principal axes of x.

    Of rows with fewer numbers than `dim`, all coordinates.
    """
    rows, mean = x.flatten(1).double(), x.flatten(1).double().mean(0)
    _, _, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    first, second = ((part - mean) @ axes[:dim].T for part in (rows, others.flatten(1).double()))
    return first, second


def nearest_errors(images: Tensor, others: Tensor) -> Tensor:
    """[n] mean absolute difference of each image [n, ...] to that of the others [m, ...] from which it is smallest."""
    size = images[0].numel()
    return torch.cdist(images.flatten(1), others.flatten(1), p=1).amin(1) / size
