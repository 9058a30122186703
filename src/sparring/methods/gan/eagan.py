"""EAGAN: evolutionary architecture search for GANs, its network with shared weights (Ying et al., arXiv 2111.15097).

Status: no gain; shared weights rank the 27 networks hardly better than chance, tau 0.06 (docs/results/gans.md).

    hinge:  L_D = mean relu(1 - D(x)) + mean relu(1 + D(G_a(z))),    L_G = -mean D(G_a(z)),    a one of 27 architectures

The first stage of the search: one generator holds many architectures with shared weights and is trained with one random
architecture at a time. `sparring.experiments.search` then lets a population of them evolve, each scored with the shared
weights, and says whether that ranking is the one of the architectures trained by themselves.

Fake: one network call from noise and the number of an architecture, which is a part of z. Discriminator: any that looks
at single images, the same for all architectures. In the paper the architectures are those of the present population,
after a warm-up with any, there are cells with 21 genes, and a second stage searches discriminators. Ours: 27
perceptrons by width, activation and normalisation, any of them in every step, one stage, sizes, rates and the penalty.
"""

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given, Views
from sparring.generators import Classes, Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import held_out
from sparring.metrics.toys import sliced_wasserstein
from sparring.networks.super_perceptron import GENOTYPES, SuperPerceptron
from sparring.objectives import Hinge, Penalty


class EAGAN(GAN):
    """A generator of points or images that is 27 generators with shared weights.

    Args:
        generator: a `SuperPerceptron` with a `Classes` prior of 27.
        discriminator: of single images.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: another network or prior.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        super().__init__(generator, discriminator, objective=Hinge(), penalty=penalty)
        classes = generator.prior.num_classes if isinstance(generator.prior, Classes) else 0
        if not isinstance(generator.net, SuperPerceptron) or classes != len(GENOTYPES):
            raise ValueError(
                f"EAGAN trains a SuperPerceptron with a Classes prior of {len(GENOTYPES)}, not a "
                f"{type(generator.net).__name__} with {classes} classes"
            )
        assert generator.prior is not None
        generator.prior.requires_grad_(False)  # every architecture as often as the others

    def rollout(self, batch: Batch) -> Views:
        noise = batch.draws.normal((len(batch), self.generator.noise_dim)).to(batch.images)[:, :-1]
        fake = made_by(self.generator, batch.draws.one_integer(len(GENOTYPES)), noise)
        return self.discriminator.views(batch.images, fake, Given(), batch.draws)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Sliced Wasserstein distance of the best and of the middle architecture to held-out images, and which is best.

        `best` is its number in `GENOTYPES`.
        """
        assert isinstance(generator, LatentGenerator)
        images = held_out(data, draws).images
        noise = draws.normal((len(images), generator.noise_dim)).to(images)[:, :-1]
        far = torch.tensor(
            [sliced_wasserstein(made_by(generator, a, noise).clamp(-1, 1), images) for a in range(len(GENOTYPES))]
        )
        return {"best": float(far.argmin()), "best_distance": float(far.min()), "middle_distance": float(far.median())}


def made_by(generator: LatentGenerator, architecture: int, noise: Tensor) -> Tensor:
    """Images [n, C, H, W] that one architecture makes of noise [n, in_features]."""
    number = torch.nn.functional.one_hot(torch.tensor(architecture, device=noise.device), len(GENOTYPES))
    return generator(torch.cat([noise, number.to(noise).expand(len(noise), -1)], 1))
