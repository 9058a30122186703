"""A class-conditional generator and its discriminator: what is told of the classes, and that labels are never idle."""

import pytest
import torch
from method_parts import backbone
from torch import nn

from sparring.discriminators import (
    Augmented,
    PlainDiscriminator,
    ProjectedDiscriminator,
    ReconstructingDiscriminator,
    SlicedDiscriminator,
)
from sparring.generators import Denoiser, LatentGenerator
from sparring.methods import AFM, D2O, DDGAN, FAIL, RGM
from sparring.methods.gan.gan import GAN
from sparring.networks import MLP, ConvDiscriminator, Perceptron, StepPerceptron
from sparring.objectives import KPlusOne
from sparring.process import VP, RectifiedFlow


def plain(classes=None):
    net = Perceptron(width=8, depth=1, num_classes=classes)
    return PlainDiscriminator(net=net, given=[] if classes is None else ["labels"])


def reconstructing(classes):
    net = ConvDiscriminator(size=8, widths=(8, 8), num_classes=classes)
    inner = PlainDiscriminator(net=net, given=[] if classes is None else ["labels"])
    return ReconstructingDiscriminator(discriminator=inner)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize(
    "made",
    [
        plain,
        lambda classes: SlicedDiscriminator(plain(classes)),
        lambda classes: Augmented(discriminator=plain(classes)),
        lambda classes: ProjectedDiscriminator(backbone=backbone(), num_classes=classes),
        reconstructing,
    ],
)
def test_a_discriminator_says_whether_it_looks_at_classes(made, classes):
    assert made(classes).takes_labels == (classes is not None)


class Step(nn.Module):
    """A network of steps that is told the class, too."""

    def forward(self, x, *, labels, t, x_t=None):
        return x.flatten(1).sum(1) + labels


def latent(discriminator, objective=None, classes=3):
    net = Perceptron(in_features=2, out_shape=[2, 1, 1], width=8, depth=1, num_classes=classes)
    return GAN(LatentGenerator(net, 2, num_classes=classes), discriminator, objective=objective)


def denoiser(process=None, kind="v", classes=3):
    net = MLP(width=8, depth=1, num_class_embeds=classes)
    return Denoiser(net, process or VP(schedule="cosine"), kind, latent_dim=0 if process else 2)


def trained(classes=3):
    return Denoiser(MLP(width=8, depth=1, num_class_embeds=classes), VP(schedule="cosine"), "v")


def test_classes_of_which_nobody_tells_the_discriminator_are_refused():
    torch.manual_seed(0)
    step = PlainDiscriminator(net=StepPerceptron(width=8, depth=1), given=["t", "x_t"])
    level = PlainDiscriminator(net=StepPerceptron(width=8, depth=1, neighbour=False), given=["t"])
    for make in (
        lambda: latent(plain()),
        lambda: DDGAN(denoiser(), step),
        lambda: RGM(denoiser(), level),
        lambda: AFM(denoiser(RectifiedFlow(), "flow"), level),
        lambda: D2O(trained(), plain()),
        lambda: FAIL(trained(), plain()),
    ):
        with pytest.raises(ValueError, match="class-conditional and PlainDiscriminator takes no classes"):
            make()


def test_what_tells_them_apart_or_has_none_is_taken():
    told = [PlainDiscriminator(net=Step(), given=["labels", "t", "x_t"][:n]) for n in (3, 2)]
    latent(plain(3))
    latent(plain(), KPlusOne())
    latent(plain(), classes=None)
    DDGAN(denoiser(), told[0])
    RGM(denoiser(), told[1])
    RGM(denoiser(), PlainDiscriminator(net=Step(), given=["t"]), adversarial_weight=0)
    AFM(denoiser(RectifiedFlow(), "flow"))
    D2O(trained(), plain(3))
    FAIL(trained(), plain(), anchor_weight=0.1)  # which holds the classes
