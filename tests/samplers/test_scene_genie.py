"""Objects in boxes: crops of whole pixels, one box is the guide of the whole image, order, sign, ink outside."""

import pytest
import torch
from cases import Bent, guide, pair, sampled
from torch import nn

from sparring.generators import Guide
from sparring.generators.level import Level
from sparring.generators.predictor import wrapped
from sparring.process import VP
from sparring.samplers.guidance.cheap import CheapGuidance
from sparring.samplers.guidance.scene_genie import SceneGenie, cropped, ink_outside

X = torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WHOLE, LEFT, RIGHT = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 0.5)


class Sees(nn.Module):
    """Logits of 3 classes of images of one size, in float64; rows and pixels have weights of their own."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(torch.Size(shape).numel(), 3, generator=random, dtype=torch.float64))

    def forward(self, x, time):
        return torch.tanh(x.flatten(1)) @ self.weights


def seeing(*shape: int) -> Guide:
    made = Guide(Sees(shape), VP())
    made.check_shape(shape)
    return made


def predicted(system, t=0.4):
    level, labels = Level.at(VP(), torch.tensor(t)), torch.zeros(3, dtype=torch.int64)
    denoiser = pair()
    denoiser.check_shape((1, 4, 6))
    with torch.no_grad():
        return denoiser.predict(X, level, labels), wrapped(denoiser, [system])(X, level, labels)


def test_a_box_of_whole_pixels_is_their_slice_and_another_is_scaled():
    torch.testing.assert_close(cropped(X, (0.5, 0.25, 1.0, 0.75), (2, 3)), X[:, :, 1:3, 3:])
    torch.testing.assert_close(cropped(X, WHOLE, (4, 6)), X)
    torch.testing.assert_close(cropped(X, WHOLE, (2, 3)), torch.nn.functional.avg_pool2d(X, 2))


@pytest.mark.parametrize("graph", ["fix", "J"])
def test_one_object_in_the_whole_image_is_the_guide_of_the_clean_estimate(graph):
    classifier, labels = seeing(1, 4, 6), torch.full((3,), 2)
    boxed = SceneGenie(classifier, boxes=[WHOLE], classes=2, outside=0.5, graph=graph, weight=2.0)
    whole = CheapGuidance(classifier, graph=graph, weight=2.0)
    x_0 = X / 2
    torch.testing.assert_close(boxed.log_probability(x_0, None), whole.log_probability(x_0, labels))
    plain, guided = predicted(boxed)
    assert (guided.x0 - plain.x0).abs().max() > 1e-3
    level, inner = Level.at(VP(), torch.tensor(0.4)), pair().predict
    condition = torch.zeros(3, dtype=torch.int64)
    if graph == "fix":  # whose gradient does not ask the denoiser with the wanted class
        expected = whole.gradient(plain, X, level, labels, inner)
        torch.testing.assert_close(boxed.gradient(plain, X, level, condition, inner), expected)


def test_boxes_weigh_by_their_areas_and_their_order_does_not_matter():
    classifier = seeing(1, 4, 6)
    one, other = (
        SceneGenie(classifier, boxes=boxes, classes=classes, outside=0.3)
        for boxes, classes in (([LEFT, RIGHT], [0, 2]), ([RIGHT, LEFT], [2, 0]))
    )
    torch.testing.assert_close(one.log_probability(X, None), other.log_probability(X, None))
    single = [
        SceneGenie(classifier, boxes=[box], classes=label, outside=0.0).log_probability(X, None)
        for box, label in ((LEFT, 0), (RIGHT, 2))
    ]
    expected = (0.5 * single[0] + 0.25 * single[1]) / 0.75 - 0.3 * ink_outside(X, [LEFT, RIGHT])
    torch.testing.assert_close(one.log_probability(X, None), expected)


def test_ink_is_counted_outside_of_all_boxes():
    torch.testing.assert_close(ink_outside(X, [LEFT, RIGHT]), (X[:, 0, 2:, 3:].flatten(1).mean(1) + 1) / 2)
    assert torch.equal(ink_outside(X, [WHOLE]), torch.zeros(3, dtype=torch.float64))


def test_guidance_makes_what_is_asked_for_more_probable_and_a_negative_weight_less():
    settings = dict(boxes=[LEFT, RIGHT], classes=[0, 2], outside=0.2)
    up, down = (SceneGenie(seeing(1, 2, 3), weight=weight, **settings) for weight in (0.05, -0.05))
    plain, more = predicted(up)
    _, less = predicted(down)
    assert bool((up.log_probability(more.x0, None) > up.log_probability(plain.x0, None)).all())
    assert bool((up.log_probability(less.x0, None) < up.log_probability(plain.x0, None)).all())


def test_no_boxes_are_the_plain_sampler_bit_for_bit():
    plain = sampled(pair(), "ddim", 4, d=2)
    assert torch.equal(sampled(pair(), "ddim", 4, d=2, using=[SceneGenie(guide(Bent(VP(), 2), VP()))]), plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxes": [WHOLE], "classes": [0, 1]}, "`boxes` are 1 and `classes` 2"),
        ({"boxes": [(0.5, 0.0, 0.5, 1.0)], "classes": 0}, "must be left, upper, right and lower end"),
        ({"boxes": [(0.0, 1.0)], "classes": 0}, "must be lists of left, upper, right and lower end"),
        ({"boxes": WHOLE, "classes": 0}, "must be lists of left, upper, right and lower end, one for each object"),
        ({"boxes": [WHOLE], "classes": 3}, r"`classes=\[3\]`: the classifier has the classes 0 to 2"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SceneGenie(seeing(1, 4, 6), **settings)


def test_a_classifier_of_other_channels_is_refused():
    colour = SceneGenie(seeing(3, 4, 6), boxes=[WHOLE], classes=0)
    with pytest.raises(ValueError, match=r"`classifier` is for images of shape \(3, 4, 6\), and the model makes"):
        sampled(pair(), "ddim", 2, d=2, using=[colour])
