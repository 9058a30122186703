"""AM-GAN: activation maximisation, one target class for each generated image (Zhou et al., arXiv 1703.02000).

Status: no gain over a GAN without classes on digits; images are of the class that is asked for (docs/results/gans.md).

The discriminator has K + 1 logits l: the K classes of the real images, and one for fakes.

    L_D = mean CE(l(x), y) + mean CE(l(G), K + 1),        L_G = mean CE(l(G), target)

The target is the class that the generator was given or, by dynamic labelling, the class of the largest of the K logits,
taken without gradient: then the generator is given no class. Fake: one network call from noise. With K = 1
it is the non-saturating GAN. Input noise and dropout of the discriminator, which the authors' program has, are left
out; the recipe has R1 instead. Sizes and rates are ours.
"""

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.objectives import KPlusOne, Penalty
from sparring.objectives.classes import Target
from sparring.runs.field import Field


class AMGAN(GAN):
    """A generator of images or points with classes, trained from scratch.

    Args:
        generator: from latents to images.
        discriminator: of single images, with a logit for each class and one for fakes.
        target: "given", the class that the generator was given, or "dynamic", the one that the fake resembles most; or
            the class that another row was given, "shuffled": a control.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a given target of no class, a class that no target asks for, a discriminator of other classes.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        target: Target = "given",
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if target != "dynamic" and generator.num_classes is None:
            raise ValueError(f"`target={target}`: the generator is given no class; use `dynamic`, or `num_classes`")
        if target == "dynamic" and generator.num_classes is not None:
            raise ValueError(
                "`target=dynamic`: the class that the generator is given would mean nothing; set `num_classes` of the "
                "generator and of its network to null"
            )
        super().__init__(generator, discriminator, objective=KPlusOne(target=target), penalty=penalty)
        self.target = target
        if generator.num_classes is not None:
            with torch.no_grad():
                like = next(generator.parameters())
                image = torch.zeros(1, *generator.image_shape, dtype=like.dtype, device=like.device)
                label = torch.zeros(1, dtype=torch.long, device=like.device)
                shape = discriminator(image, Given(labels=label), Draws(0)).shape
            if len(shape) != 2 or shape[1] != generator.num_classes + 1:
                raise ValueError(
                    f"{generator.num_classes} classes need logits [B, {generator.num_classes + 1}], one for fakes, and "
                    f"the discriminator gives [B{''.join(f', {n}' for n in shape[1:])}]"
                )

    def size_for(self, data: ImageData) -> None:
        """Lets the objective refuse a discriminator of other classes than those of the data."""
        self.objective = KPlusOne(target=self.target, num_classes=data.num_classes)

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        """None: the logits of classes are no single number to draw."""
        return []
