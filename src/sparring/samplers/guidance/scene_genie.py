"""SceneGenie: scene graph guided diffusion models for image synthesis (arXiv 2304.14573).

Status: proven to put digits into the boxes, at a large weight and a loss of diversity; which digit is not measured
(docs/results/sampling.md).

Objects are asked for in boxes of the image. What is in a box of the clean estimate is cut out and shown to a classifier
of clean images, and the gradient leads there:

    l = sum_k a_k log p(y_k | crop_k(x_0hat)) - outside mean ink outside of all boxes,    eps' = eps - w sigma r grad l

a_k the areas of the boxes, normalised to sum 1; with the denoiser's output held fixed (graph fix, see `cheap`) or
through it (graph J). In the official code similarities of CLIP take the place of the classifier, the whole image is
compared with its caption too, and the sign as written raises the distance; boxes come from a network that reads a scene
graph. The classifier, boxes given by hand, and the ink outside in place of the paper's masks are ours.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from sparring.generators import Condition, DenoisingNetwork, Guide
from sparring.generators.predictor import Predictor
from sparring.samplers.gradients import ACTS_IN, check_guide
from sparring.samplers.guidance.cheap import CheapGuidance

Box = Sequence[float]
"""Left, upper, right and lower end, in [0, 1]."""


class SceneGenie(CheapGuidance):
    """Towards objects in boxes, the same for all images.

    Args:
        classifier: run of `sparring fit noisy_classifier`, or the guide itself; its images may have another size.
        boxes: (left, upper, right, lower) in [0, 1] of each object; none: the plain sampler.
        classes: of the objects.
        outside: weight of the ink outside of all boxes.
        weight: w; 0 is none, and costs no call.
        graph: "J" takes the gradient through the denoiser, "fix" holds its output fixed.
        variance: of the data a pixel, for "fix".
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
        allow: further packages whose networks the folder may name.
    """

    def __init__(
        self,
        classifier: str | Guide,
        *,
        boxes: Sequence[Box] = (),
        classes: int | Sequence[int] = (),
        outside: float = 0.1,
        weight: float = 1.0,
        graph: Literal["J", "fix"] = "fix",
        variance: float = 0.5,
        interval: tuple[float, float] | None = ACTS_IN,
        allow: Sequence[str] = (),
    ):
        super().__init__(classifier, weight=weight, graph=graph, variance=variance, interval=interval, allow=allow)
        wanted = [classes] if isinstance(classes, int) else list(classes)
        for box in boxes:
            if not isinstance(box, Sequence) or len(box) != 4:
                raise ValueError(
                    f"`boxes={boxes}` must be lists of left, upper, right and lower end, one for each object"
                )
            if not 0 <= box[0] < box[2] <= 1 or not 0 <= box[1] < box[3] <= 1:
                raise ValueError(f"`boxes={list(box)}` must be left, upper, right and lower end in [0, 1]")
        if len(wanted) != len(boxes):
            raise ValueError(f"`boxes` are {len(boxes)} and `classes` {len(wanted)}: give a class for each box")
        if any(not 0 <= label < self.guide.outputs for label in wanted):
            raise ValueError(f"`classes={wanted}`: the classifier has the classes 0 to {self.guide.outputs - 1}")
        self.boxes = [list(box) for box in boxes]
        self.classes = wanted
        self.outside = outside

    @property
    def num_classes(self) -> int | None:
        return None

    def check(self, denoiser: DenoisingNetwork) -> None:
        check_guide(self.guide, denoiser, self.name, any_size=True)

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        return super().wrap(inner, denoiser) if self.boxes else inner

    def log_probability(self, x_0: Tensor, condition: Condition) -> Tensor:
        """l [B] of clean estimates [B, C, H, W]."""
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in self.boxes]
        total = x_0.new_zeros(len(x_0))
        for box, label, area in zip(self.boxes, self.classes, areas, strict=True):
            shown = cropped(x_0, box, (self.guide.image_shape[1], self.guide.image_shape[2]))
            wanted = torch.full((len(x_0),), label, device=x_0.device)
            total = total + area / sum(areas) * super().log_probability(shown, wanted)
        return total - self.outside * ink_outside(x_0, self.boxes)


def cropped(x: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """What lies in a box of x [B, C, H, W], resampled (bilinear) to `size`; gradient passes."""
    left, upper, right, lower = box
    rows = [[right - left, 0.0, left + right - 1], [0.0, lower - upper, upper + lower - 1]]
    where = torch.tensor(rows, dtype=x.dtype, device=x.device).expand(len(x), 2, 3)
    grid = affine_grid(where, [len(x), x.shape[1], *size], align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def ink_outside(x: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Mean of (x + 1) / 2 over the pixels whose middle is in no box [B]; 0 if there are none."""
    height, width = x.shape[-2:]
    down = (torch.arange(height, device=x.device)[:, None] + 0.5) / height
    across = (torch.arange(width, device=x.device) + 0.5) / width
    free = torch.ones(height, width, dtype=torch.bool, device=x.device)
    for left, upper, right, lower in boxes:
        free &= ~((left <= across) & (across < right) & (upper <= down) & (down < lower))
    ink = (x.mean(1) + 1) / 2 * free
    return ink.flatten(1).sum(1) / free.sum().clamp(min=1)
