"""BiGAN: adversarial feature learning, a GAN with an encoder (Donahue et al., arXiv 1605.09782).

Status: no gain on digits in 700 steps: its encoder does not come to invert the generator (docs/results/gans.md).

    L_D = mean sp(-D(x, E(x))) + mean sp(D(G(z), z)),        sp(u) = log(1 + e^u)
    L_E = L_G = mean sp(D(x, E(x))) + mean sp(-D(G(z), z))

The discriminator tells pairs of an image and a code apart: a real image x with the code E(x) that the encoder gives
it, and a fake G(z) with the z that it was made from. The encoder and the generator minimise the same loss with the
labels swapped, so gradient passes through the encoder in the *real* pair. If the two joint laws are equal, E inverts G;
equal marginals are not enough.

Fake: one network call from noise. Discriminator: any network of an image and a vector. Of other objectives, too, the
encoder and the generator minimise the discriminator's loss with its two sides exchanged. Networks, rates, the number of
codes and the penalty are ours.
"""

from dataclasses import replace

from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Given, PairDiscriminator, Views
from sparring.discriminators.losses import scores_of
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses, held_out
from sparring.metrics.codes import linear_probe, nearest_errors, principal_components
from sparring.networks.precision import at_least_float32
from sparring.networks.probe import check_output
from sparring.objectives import MMD, FeatureMatching, Objective, Penalty
from sparring.runs.field import Field


class BiGAN(GAN):
    """A generator of images or points and an encoder that inverts it, trained from scratch.

    Args:
        generator: from latents to images, of no class.
        discriminator: of pairs of an image and a code.
        encoder: from images [B, C, H, W] to codes [B, latent_dim].
        objective: what both players minimise; non-saturating when None.
        penalty: one penalty or several on the discriminator.
        shuffled: the discriminator gets the code of another image with each image, so that nothing makes the encoder an
            inverse: a control.

    Raises:
        ValueError: a class-conditional generator, an objective that both players would raise alike, or codes of another
            size than its latents.
    """

    discriminator: PairDiscriminator

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: PairDiscriminator,
        encoder: nn.Module,
        *,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        shuffled: bool = False,
    ):
        super().__init__(generator, discriminator, objective=objective, penalty=penalty)
        if generator.takes_labels:
            raise ValueError(f"`num_classes={generator.num_classes}`: BiGAN encodes no class; set it to null")
        if isinstance(objective, MMD | FeatureMatching):
            name = type(objective).__name__
            raise ValueError(f"`objective={name}`: BiGAN's players swap real and fake pairs, and it has no such sides")
        check_output("encoder", encoder, generator.image_shape, (generator.latent_dim,))
        self.encoder = encoder
        self.shuffled = shuffled

    def parts(self) -> list[nn.Module]:
        return [self.encoder]

    def encode(self, images: Tensor) -> Tensor:
        """Codes [B, latent_dim], at least float32, of images [B, C, H, W]."""
        return at_least_float32(self.encoder(images))

    def rollout(self, batch: Batch) -> Views:
        z = self.generator.latents(batch)
        given = Given(labels=batch.labels)
        pairs = [(batch.images, self.encode(batch.images)), (self.generator(z), z)]
        real, fake = (
            self.discriminator.features(x, replace(given, condition=self.matched(code)), batch.draws)
            for x, code in pairs
        )
        return Views(real, fake, given)

    def matched(self, codes: Tensor) -> Tensor:
        """The codes [B, d] as the discriminator sees them beside the images."""
        return codes.roll(1, 0) if self.shuffled else codes

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        fake, real = scores_of(self.discriminator, [rollout.fake, rollout.real], rollout.given, batch.draws)
        return {"adversarial": self.objective.discriminator(fake, real)}

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        return []  # its logits are of pairs

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Errors of both inversions on held-out images and on as many fakes, and what the codes know of the classes.

        `inversion_error` is `mean |x - G(E(x))|` and `code_error` `mean |z - E(G(z))|`, each per number;
        `nearest_fake_error` is that of the nearest of as many fakes. `probe` is the accuracy of a linear classifier of
        codes, and `probe_pca` of as many principal components.
        """
        assert isinstance(generator, LatentGenerator)
        batch = held_out(data, draws)
        z = generator.latents(batch)
        fakes, codes = generator(z), self.encode(batch.images)
        found = {
            "inversion_error": float((batch.images - generator(codes)).abs().mean()),
            "code_error": float((z - self.encode(fakes)).abs().mean()),
            "nearest_fake_error": float(nearest_errors(batch.images, fakes).mean()),
        }
        train = Batch.of(data.images(n := min(len(data), 2000)).to(batch.images), data.labels(n), draws)
        if batch.labels is not None and train.labels is not None:
            components = principal_components(train.images, batch.images, generator.latent_dim)
            found["probe"] = linear_probe(self.encode(train.images), train.labels, codes, batch.labels)
            found["probe_pca"] = linear_probe(components[0], train.labels, components[1], batch.labels)
        return found
