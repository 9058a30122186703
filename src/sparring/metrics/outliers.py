"""How many of the generated images are of a kind that does not belong."""

import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

COPIES, WIDTH = 4, 64


def outlier_share(images: Tensor, clean: Tensor, foreign: Tensor) -> float:
    """Share of images [n, C, H, W] that a small classifier of clean [m, ...] and foreign [m, ...] ones calls foreign.

    It learns from copies that are blurred and noised by random amounts, so that an image is not foreign for being
    unsharp, as its nearest neighbour in pixels would say. Our choice: one hidden layer of scikit-learn.
    """
    generator = torch.Generator().manual_seed(0)
    shown = torch.cat([unsharp(real.cpu().float(), generator) for real in (clean, foreign) for _ in range(COPIES)])
    is_foreign = torch.arange(2).repeat_interleave(torch.tensor([COPIES * len(clean), COPIES * len(foreign)]))
    classifier = MLPClassifier((WIDTH,), max_iter=200, early_stopping=True, random_state=0)
    classifier.fit(shown.flatten(1).numpy(), is_foreign.numpy())
    return float(classifier.predict(images.cpu().float().flatten(1).numpy()).mean())


def unsharp(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [n, C, H, W], each moved by a random share towards its mean over 3x3 pixels, with noise of up to 0.5."""
    blur, noise = torch.rand(2, len(images), 1, 1, 1, generator=generator)
    mean = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return images + blur * (mean - images) + 0.5 * noise * torch.randn(images.shape, generator=generator)
