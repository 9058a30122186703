"""GAN-EM: expectation maximisation whose second step is a class-conditional GAN (Zhao et al., arXiv 1812.00335).

Status: no gain; 0.89 of the images in the right class, of k-means, from which it starts, 0.91 (docs/results/gans.md).

    M:  L_D = mean_x sum_k w_k(x) sp(-d_k(x)) + mean_{z,c} sp(d_c(G(z, c))),    L_G = mean sp(-d_c(G(z, c))),    c ~ pi
    E:  w(x) = E(x), the E-net being trained by cross entropy on pairs (G(z, c), c);    pi_k = mean_x w_k(x)

The discriminator has K outputs, a decision between real and fake for each class, and a real image counts for each class
as much as the E-net says. The generator learns the classes, the E-net learns from its images which class is which, and
so the classes of the real images are found without a label.

Fake: one network call from noise and a class, which is a part of z. Discriminator: one network with K logits. Equal
weights for all are a fixed point, so the E-net starts as a classifier of the clusters of k-means, which is our choice;
ours, too, are one update of everything in each step, the share of the run in which E-net and proportions rest, the
proportions as logits that are trained by `-mean sum_k w_k log pi_k`, whose minimum is the equation above, the networks,
the rates and the penalty.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparring.data import Batch, Draws, ImageData, derived_seed
from sparring.discriminators import Discriminator, Given, Views, generator_loss
from sparring.generators import Classes, Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses
from sparring.metrics.clusters import MEASURED, clusters_found, k_means
from sparring.networks.precision import at_least_float32
from sparring.networks.probe import check_output
from sparring.objectives import Penalty
from sparring.objectives.classes import Decisions
from sparring.runs.choice import check_choice
from sparring.runs.field import Field

START_STEPS, START_BATCH, START_LR = 300, 64, 1e-3  # of the E-net on the clusters of k-means, with Adam


@dataclass
class ClassViews(Views):
    """What a discriminator sees; and the fakes [B, C, H, W], their classes [B], the weights of the reals [B, K]."""

    images: Tensor | None = None
    classes: Tensor | None = None
    weights: Tensor | None = None

    def objective(self) -> Decisions:
        """The losses of both players on these rows."""
        assert self.weights is not None
        assert self.classes is not None
        return Decisions(self.weights, self.classes)


class GANEM(GAN):
    """A generator of images or points with classes that nobody named, and a network that finds them.

    Args:
        generator: from latents to images, with a `Classes` prior.
        discriminator: of single images, with a logit for each class.
        encoder: the E-net, from images [B, C, H, W] to logits [B, K].
        start: the E-net begins with the clusters of k-means on the training images, or "random" as it is made.
        rest: share of the run, at its beginning, in which E-net and proportions stay as they are.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a `rest` outside [0, 1), another prior, or networks without a logit for each class.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        encoder: nn.Module,
        *,
        start: Literal["k-means", "random"] = "k-means",
        rest: float = 0.3,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_choice("k-means", "random", start=start)
        if not 0 <= rest < 1:
            raise ValueError(f"`rest={rest}` must lie in [0, 1): a share of the run")
        super().__init__(generator, discriminator, penalty=penalty)
        classes = classes_of(generator).num_classes
        check_output("encoder", encoder, generator.image_shape, (classes,))
        self.encoder, self.start, self.rest = encoder, start, rest

    def parts(self) -> list[nn.Module]:
        return [self.encoder]

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        if self.start == "k-means":
            self.learn_clusters(data.images(min(len(data), MEASURED)).to(next(self.generator.parameters())), seed)

    @torch.enable_grad()
    def learn_clusters(self, images: Tensor, seed: int) -> None:
        """Trains the E-net on the clusters of k-means, and gives the prior their proportions."""
        prior = classes_of(self.generator)
        clusters = k_means(images, prior.num_classes, seed).to(images.device)
        counts = torch.bincount(clusters, minlength=prior.num_classes) + 1.0
        prior.logits.data.copy_((counts / counts.sum()).log())
        learner = deepcopy(self.encoder).requires_grad_()  # the E-net itself may be frozen from here on
        optimizer = torch.optim.Adam(learner.parameters(), START_LR)
        random = torch.Generator().manual_seed(derived_seed(seed, "clusters"))
        for _ in range(START_STEPS):
            rows = torch.randint(len(images), (min(len(images), START_BATCH),), generator=random)
            optimizer.zero_grad()
            cross_entropy(at_least_float32(learner(images[rows])), clusters[rows]).backward()
            optimizer.step()
        self.encoder.load_state_dict(learner.state_dict())

    def rollout(self, batch: Batch) -> ClassViews:
        prior = classes_of(self.generator)
        noise = batch.draws.normal((len(batch), prior.noise_dim)).to(batch.images)
        fake = self.generator(prior(noise))
        views = self.discriminator.views(batch.images, fake, Given(), batch.draws)
        with torch.no_grad():
            weights = self.responsibilities(batch.images)
        return ClassViews(views.real, views.fake, views.given, fake, prior.component(noise), weights)

    def responsibilities(self, images: Tensor) -> Tensor:
        """[B, K] the E-net's probabilities of the classes."""
        return at_least_float32(self.encoder(images)).softmax(1)

    def discriminator_loss(self, batch: Batch, rollout: Views) -> Losses:
        assert isinstance(rollout, ClassViews)
        return self.discriminator_terms(self.discriminator, rollout, rollout.objective(), self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        assert isinstance(rollout, ClassViews)
        assert rollout.images is not None
        assert rollout.classes is not None
        assert rollout.weights is not None
        prior, learns = classes_of(self.generator), float(self.step >= self.rest * self.steps)
        named = at_least_float32(self.encoder(rollout.images.detach()))
        shares = -(rollout.weights * prior.logits.log_softmax(0)).sum(1).mean()
        self.log(smallest_share=prior.shares.min(), largest_share=prior.shares.max())
        return {
            "adversarial": generator_loss(self.discriminator, rollout, rollout.objective()),
            "expectation": learns * cross_entropy(named, rollout.classes),
            "shares": learns * shares,
        }

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        return []  # a field for each class

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """How well the classes are those of 2000 training images, beside k-means; see `clusters_found`."""
        assert isinstance(generator, LatentGenerator)
        shares = classes_of(generator).shares
        return clusters_found(lambda x: self.responsibilities(x.to(draws.device)).argmax(1), data, shares)


def classes_of(generator: LatentGenerator) -> Classes:
    """The prior of a generator.

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(generator.prior, Classes):
        raise ValueError("`prior`: GAN-EM needs sparring.generators.Classes, whose proportions it trains")
    return generator.prior
