"""E2GAN: efficient training of efficient GANs for image-to-image translation (Gong et al., arXiv 2401.06127).

Status: no gain of its adapters over training from scratch; three seeds (docs/results/translation.md).

A small GAN learns an edit from pairs (source y, edited image x). For a new edit it is adapted and not trained anew:

    L_G = 100 mean |G(y) - x| + mean sp(-D(G(y), y)),      L_D = mean sp(-D(x, y)) + mean sp(D(G(y), y))
    adapted: W + B A in some layers of the base G, B = 0 at first, with at most a share of G's parameters

Fake: one call of the source. Discriminator: of pairs, from scratch. From the paper, of which a summary was read: the
parts of the generator, LoRA on the layers that matter with a rank of its own for each, pairs that a diffusion editor
made. Ours: the losses are those of pix2pix, and the ranks are found by the gradient of the error on the new pairs
(`searched_ranks`); the base has learned one edit where the paper's has learned several; all pairs are used, where the
paper keeps those near the centres of clusters; edits are known functions, one logit an image.
"""

from dataclasses import dataclass

from torch import Tensor

from sparring.data import Batch, ImageData
from sparring.discriminators import Discriminator, Given, Views, check_single, generator_loss
from sparring.generators import LatentGenerator
from sparring.generators.loading import load_generator
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.networks.adapters.ranks import apply_ranks, matrices, searched_ranks, uniform_ranks
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of

LOOKED_AT = 256  # pairs, for the gradient


@dataclass
class EditedImages:
    """Images [B, C, H, W] made of sources, and what the discriminator sees of the pairs."""

    images: Tensor
    views: Views


def begin(generator: LatentGenerator, base: str) -> None:
    """Gives a generator the weights of a run's.

    Raises:
        ValueError: that has other layers; what `load_generator` refuses.
    """
    loaded, name = load_generator(base), type(generator.net).__name__
    try:
        if not isinstance(loaded, LatentGenerator):
            raise RuntimeError
        generator.net.load_state_dict(loaded.net.state_dict())
    except RuntimeError:
        raise ValueError(f"`base={base}` has other layers than this {name}: give a run of e2gan") from None


class E2GAN(Method):
    """A small GAN of pairs, trained from scratch or adapted to a new edit.

    Args:
        generator: a `LatentGenerator` whose network is conditioned on a source, such as `EditNet`.
        discriminator: of pairs: given x_t, in whose place it sees the source.
        base: run of another edit that is adapted; None: random weights, all of which are trained.
        share: of the generator's parameters, how many the adapters may have; 1 trains all of its weights.
        searched: the ranks of the layers are searched; off, all are equal (a control).
        reconstruction_weight: of the mean absolute error.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    generator: LatentGenerator
    discriminator: Discriminator
    sample_steps = 1

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        base: str | None = None,
        share: float = 0.05,
        searched: bool = True,
        reconstruction_weight: float = 100.0,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(reconstruction_weight=reconstruction_weight)
        if not 0 < share <= 1:
            raise ValueError(f"`share={share}` must lie in (0, 1]")
        if not generator.takes_source:
            raise ValueError(f"{type(generator.net).__name__} takes no source image: use sparring.networks.EditNet")
        check_single(discriminator)
        super().__init__(generator, discriminator)
        self.base, self.share, self.searched = base, share, searched
        self.reconstruction_weight = reconstruction_weight
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)
        if base is not None:
            begin(generator, base)

    def size_for(self, data: ImageData) -> None:
        """Gives the layers of a base their adapters, by the gradient of the error on up to 256 pairs."""
        if self.base is None or self.share == 1:
            return
        net, n = self.generator.net, min(len(data), LOOKED_AT)
        images, sources = data.images(n), data.source_images(n)
        if sources is None:
            raise ValueError(f"`{data.name}` has no sources: give pairs")
        (net(sources.new_zeros(n, self.generator.latent_dim), source=sources) - images).abs().mean().backward()
        gradients = matrices(net)
        net.zero_grad()
        budget = int(self.share * sum(parameter.numel() for parameter in net.parameters()))
        ranks = (searched_ranks if self.searched else uniform_ranks)(gradients, budget)
        if not ranks:
            raise ValueError(f"`share={self.share}`: {budget} parameters are too few for any adapter")
        apply_ranks(net, ranks)

    def rollout(self, batch: Batch) -> EditedImages:
        source = batch.source
        assert source is not None
        images = self.generator(source.new_zeros(len(batch), self.generator.latent_dim), source=source)
        return EditedImages(images, self.discriminator.views(batch.images, images, Given(x_t=source), batch.draws))

    def discriminator_loss(self, batch: Batch, rollout: EditedImages) -> Losses:
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: EditedImages) -> Losses:
        error = (rollout.images - batch.images).abs().mean()
        return {
            "reconstruction": self.reconstruction_weight * error,
            "adversarial": generator_loss(self.discriminator, rollout.views, self.objective),
        }
