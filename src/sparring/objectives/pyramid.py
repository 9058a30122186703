"""Laplacian pyramids of images, and the distance of images in them."""

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


def laplacian_pyramid(x: Tensor) -> list[Tensor]:
    """Images [B, C, H, W] as what each halving loses, finest first, and the smallest image last.

    An image is halved by the mean of four pixels while both its sides are even, and doubled bilinearly; so the pyramid
    can be undone exactly (`of_pyramid`). The filters are ours.
    """
    levels = []
    while x.shape[-1] % 2 == x.shape[-2] % 2 == 0:
        smaller = avg_pool2d(x, 2)
        levels.append(x - _doubled(smaller))
        x = smaller
    return [*levels, x]


def of_pyramid(levels: list[Tensor]) -> Tensor:
    """The images of `laplacian_pyramid`."""
    *finer, x = levels
    for level in reversed(finer):
        x = level + _doubled(x)
    return x


def pyramid_distance(x: Tensor, y: Tensor) -> Tensor:
    """[B] `sum_j 2^(2j) sum |L^j(x) - L^j(y)|` over the levels L^j of the pyramid, divided by the pixels of an image.

    A level has a quarter of the pixels of the one before, so that the mean of each level counts alike. Source:
    Bojanowski et al. 2018, "Optimizing the Latent Space of Generative Networks" (arXiv 1707.05776).
    """
    levels = zip(laplacian_pyramid(x), laplacian_pyramid(y), strict=True)
    return sum((a - b).abs().flatten(1).mean(1) for a, b in levels)  # type: ignore[return-value]


def _doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
