"""MINE: mutual information neural estimation, a GAN that keeps its code (Belghazi et al., arXiv 1801.04062).

Status: no gain: its GAN covers all 25 modes without it (docs/results/gans.md).

    I(G(z); c) >= mean T(G(z), c) - mean exp(T(G(z), c') - 1)        (T maximises it)
    L_G = L_adv - beta I(G(z); c)

c is a part of z. A network T of an image and a code learns to tell codes that belong to an image from others, and the
value that it reaches is a lower bound of what an image says about its code. The generator maximises it beside its
adversarial loss, so that it cannot send many codes to one mode. The second gradient is clipped to the first:
`g = g_adv + min(|g_adv|, |g_mi|) g_mi / |g_mi|`.

Fake: one network call from noise. Discriminator: any that looks at single images. The paper trains T by the
Donsker-Varadhan bound with a moving average against its bias, and permutes the codes of a batch. Ours are: the
f-divergence form, in which a bias of T takes the place of that average; codes c' that are drawn anew, so that rows know
nothing of each other; clipping at the fakes, row by row, instead of at the weights; sizes, rates and the penalty.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given, Views
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses, check_not_negative
from sparring.objectives import Objective, Penalty
from sparring.objectives.information import donsker_varadhan, f_divergence, limited

MEASURED = 2000


@dataclass
class CodedViews(Views):
    """What a discriminator sees, and beside it the fakes [B, C, H, W], their codes and as many others [B, code_dim]."""

    images: Tensor | None = None
    codes: Tensor | None = None
    others: Tensor | None = None


class MINE(GAN):
    """A generator of images or points whose images tell a part of their latent, trained from scratch.

    Args:
        generator: from latents to images.
        discriminator: of single images.
        information: T, from images [B, C, H, W] and codes to [B, 1] or [B]: `net(x, joined=codes)`.
        code_dim: the first numbers of z, which are c.
        beta: weight of the mutual information.
        objective: what both players minimise; non-saturating when None.
        penalty: one penalty or several on the discriminator.
        shuffled: T gets codes of other images, so that there is no information: a control.

    Raises:
        ValueError: a negative `beta`, or a code that is not a part of z.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        information: nn.Module,
        *,
        code_dim: int = 3,
        beta: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        shuffled: bool = False,
    ):
        check_not_negative(beta=beta)
        if not 1 <= code_dim <= generator.latent_dim:
            raise ValueError(f"`code_dim={code_dim}` must lie in 1..{generator.latent_dim}: the code is a part of z")
        super().__init__(generator, discriminator, objective=objective, penalty=penalty)
        self.information, self.code_dim, self.beta, self.shuffled = information, code_dim, beta, shuffled

    def parts(self) -> list[nn.Module]:
        return [self.information]

    def rollout(self, batch: Batch) -> CodedViews:
        z, others, further = (self.generator.latents(batch) for _ in range(3))
        fake = self.generator(z, batch.labels)
        views = self.discriminator.views(batch.images, fake, Given(labels=batch.labels), batch.draws)
        codes = (further if self.shuffled else z)[:, : self.code_dim]
        return CodedViews(views.real, views.fake, views.given, fake, codes, others[:, : self.code_dim])

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        assert isinstance(rollout, CodedViews)
        assert rollout.images is not None
        adversarial = super().generator_loss(batch, rollout)["adversarial"]
        assert isinstance(adversarial, Tensor)
        (own,) = torch.autograd.grad(adversarial, rollout.images, retain_graph=True)
        images = rollout.images.detach().requires_grad_()
        bound = f_divergence(*self.values(images, rollout.codes, rollout.others))
        (towards,) = torch.autograd.grad(-self.beta * bound, images, retain_graph=True)
        self.log(information=bound)
        return {
            "adversarial": adversarial,
            "information": -bound,  # of T; its fakes have no graph
            "code": (rollout.images * limited(towards, own)).sum(),  # of the generator: has the clipped gradient
        }

    def values(self, images: Tensor, codes: Tensor | None, others: Tensor | None) -> tuple[Tensor, Tensor]:
        """T of images with codes that belong to them, and with others."""
        return self.information(images, joined=codes), self.information(images, joined=others)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`information`: the Donsker-Varadhan bound of I(G(z); c) on 2000 fakes, in nats."""
        assert isinstance(generator, LatentGenerator)
        labels = None if data.num_classes is None else torch.arange(MEASURED) % data.num_classes
        batch = Batch(torch.zeros(MEASURED, *data.image_shape, device=draws.device), labels, draws)
        z, others = generator.latents(batch), generator.latents(batch)
        codes = (z[:, : self.code_dim], others[:, : self.code_dim])
        labels = None if labels is None else labels.to(draws.device)
        return {"information": float(donsker_varadhan(*self.values(generator(z, labels), *codes)))}
