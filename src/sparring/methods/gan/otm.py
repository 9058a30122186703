"""OTM: generative modeling with optimal transport maps (Rout et al., arXiv 2110.02999).

Status: proven on eight modes in the plane, in three seeds (docs/results/gans.md).

The generator is not to be any map from noise to images, but the one that moves the noise least. A fixed Q makes an
image of the noise z; phi is the discriminator, a potential; n is the number of pixels.

    c(z) = |Q(z) - G(z)|^2 / (2n)
    L_D = mean phi(G(z)) - mean phi(x) + optimality_weight |mean (G(z) - Q(z)) / n - mean grad phi(G(z))|
    L_G = mean c(z) - mean phi(G(z))

The paper has `psi(y) = |y|^2 / (2n) - phi(y)`, with the same saddle point. No slope is bounded: the cost does what a
Lipschitz constant does for WGAN. The last term of L_D is how far L_G is from stationary in G(z), in the mean. The
authors' program has it with weight 10, but compares grad psi with Q although its inner product is a mean over pixels;
here all terms have the same 1 / n, and it is off: between Gaussians on a line the map is right without it, and wrong
with weight 10. Fake: one network call from noise. Q: the numbers of z are the pixels of a smaller image, which is
enlarged bicubically, or z is the image itself. Unbalanced transport (phi1, phi2), sizes and rates are ours.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given, Views
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses, held_out
from sparring.networks.precision import at_least_float32
from sparring.objectives import Penalty, Scores, Transport, penalties_of
from sparring.objectives.kernel import groups
from sparring.objectives.penalties import Scoring
from sparring.objectives.transport import Conjugate


class OTM(GAN):
    """A generator of images or points, trained from scratch as a transport map.

    Args:
        generator: from latents to images; its latents have as many numbers as the images or as smaller ones.
        discriminator: of single images, the potential.
        cost_weight: factor of the cost; 0 leaves a GAN without a bound on its slope (a control).
        optimality_weight: factor of the stationarity in the potential's loss.
        group: rows over which the stationarity is averaged; all that are seen at once when None.
        generator_updates: updates of the generator on the same latents for each of the potential.
        own_source: False measures the cost from other noise than that of the fake (a control that breaks the method).
        phi1: conjugate on fakes, see `Transport`.
        phi2: conjugate on reals.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        cost_weight: float = 1.0,
        optimality_weight: float = 0.0,
        group: int | None = None,
        generator_updates: int = 1,
        own_source: bool = True,
        phi1: Conjugate = "linear",
        phi2: Conjugate = "linear",
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if generator_updates < 1:
            raise ValueError(f"`generator_updates={generator_updates}` must be at least 1")
        objective = Transport(weight=cost_weight, phi1=phi1, phi2=phi2)
        super().__init__(generator, discriminator, objective=objective, penalty=penalty)
        self.source_shape = smaller_shape(generator.image_shape, generator.latent_dim)
        self.updates_per_rollout = generator_updates
        self.own_source = own_source
        stationary = Stationarity(self.source, cost_weight, weight=optimality_weight, group=group)
        self.penalties = penalties_of([*self.penalties, stationary])

    def rollout(self, batch: Batch) -> Views:
        z = self.generator.latents(batch)
        return self.transported(batch, z, z if self.own_source else self.generator.latents(batch))

    def transported(self, batch: Batch, z: Tensor, source: Tensor) -> Views:
        """What the discriminator sees of the fakes of latents z, the cost of bringing them from Q(source) among it."""
        fake = self.generator(z, batch.labels)
        given = Given(labels=batch.labels, cost=self.cost(source, fake), condition=(z, source))
        return self.discriminator.views(batch.images, fake, given, batch.draws)

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        if self.updates_per_rollout > 1:  # its rollout has no graph
            rollout = self.transported(batch, *rollout.given.condition)
        return super().generator_loss(batch, rollout)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`cost`: the mean c of 1000 latents and what is made of them, without its weight."""
        assert isinstance(generator, LatentGenerator)
        batch = held_out(data, draws)
        z = generator.latents(batch)
        return {"cost": float(self.cost(z, generator(z, batch.labels)).mean())}

    def cost(self, z: Tensor, made: Tensor) -> Tensor:
        """c [B]: half the mean squared difference of images [B, C, H, W] and the Q of latents [B, latent_dim]."""
        return (self.source(z) - made).square().flatten(1).mean(1) / 2

    def source(self, z: Tensor) -> Tensor:
        """Q(z): latents [B, latent_dim] as images [B, C, H, W]; fixed, linear."""
        image = z.view(-1, *self.source_shape)
        size = self.generator.image_shape[1:]
        return image if image.shape[2:] == size else interpolate(image, size, mode="bicubic", align_corners=False)


class Stationarity(Penalty):
    """`|mean grad c(G) - mean grad phi(G)|`: how far the generator's loss is from stationary in its fakes, in the mean.

    Args:
        source: Q, from the latents in `given.condition` to images.
        cost_weight: factor of the cost.
        weight: factor of the penalty.
        group: rows that a mean is over; all when None.
    """

    name = "optimality"

    def __init__(self, source: Callable[[Tensor], Tensor], cost_weight: float, *, weight: float, group: int | None):
        super().__init__(weight=weight)
        self.source, self.cost_weight, self.group = source, cost_weight, group

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        (x,) = fake.features
        (slope,) = torch.autograd.grad(at_least_float32(fake.logits).sum(), x, create_graph=True)
        of_cost = self.cost_weight * (x.detach() - self.source(given.condition[1])) / x[0].numel()
        means = [rows.mean(0) for rows in groups(of_cost - slope, self.group)]
        return torch.stack([mean.square().sum().clamp_min(1e-12).sqrt() for mean in means]).mean()


def smaller_shape(image_shape: tuple[int, int, int], numbers: int) -> tuple[int, int, int]:
    """The shape of an image of so many numbers, whose sides are those of `image_shape` over a whole number.

    Raises:
        ValueError: there is none.
    """
    channels, height, width = image_shape
    sides = [(height // f, width // f) for f in range(1, min(height, width) + 1) if height % f == width % f == 0]
    shapes = {channels * h * w: (channels, h, w) for h, w in sides}
    if numbers not in shapes:
        raise ValueError(
            f"`latent_dim={numbers}`: transport begins at an image of noise, and those of {channels}x{height}x{width} "
            f"or smaller have {', '.join(map(str, shapes))} numbers"
        )
    return shapes[numbers]
