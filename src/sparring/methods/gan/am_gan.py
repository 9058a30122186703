"""AM-GAN: activation maximisation, one target class for each generated image (Zhou et al., arXiv 1703.02000).

Status: unproven.

The discriminator has K + 1 logits l: the K classes of the real images, and one for fakes.

    L_D = mean CE(l(x), y) + mean CE(l(G), K + 1),        L_G = mean CE(l(G), target)

The target is the class that the generator was given or, by dynamic labelling, the class of the largest of the K logits,
taken without gradient: then the generator need not be class-conditional. Fake: one network call from noise. With K = 1
it is the non-saturating GAN. Input noise and dropout of the discriminator, which the authors' program has, are left
out; the recipe has R1 instead. Sizes and rates are ours.
"""

from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch, Draws
from sparring.discriminators import Discriminator, Given
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.objectives import KPlusOne, Penalty
from sparring.runs.field import Field


class AMGAN(GAN):
    """A generator of images or points with classes, trained from scratch.

    Args:
        generator: from latents to images.
        discriminator: of single images, with a logit for each class and one for fakes.
        target: "given", the class that the generator was given, or "dynamic", the one that the fake resembles most.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        target: Literal["given", "dynamic"] = "given",
        penalty: Penalty | list[Penalty] | None = None,
    ):
        super().__init__(generator, discriminator, objective=KPlusOne(target=target), penalty=penalty)
        if target == "given" and generator.num_classes is None:
            raise ValueError("`target=given`: the generator is given no class; use `target=dynamic`, or `num_classes`")
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

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        """None: the logits of classes are no single number to draw."""
        return []
