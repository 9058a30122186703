"""SLOGAN: Stein latent optimization, a GAN whose mixture prior finds clusters (Hwang et al., arXiv 2106.05319).

Status: no gain on k-means (0.99); 0.96 with learned shares, 0.57 with equal ones (docs/results/gans.md).

    z ~ sum_k pi_k N(mu_k, S_k),        l(z) = -D(G(z)) + contrast U2C(z),        g = dl/dz,        q_k(z) = p(k | z)
    gradient at mu_k: mean q_k g,    at the logarithm of deviation k: mean q_k (z - mu_k) g
    gradient at rho_k: mean (q_k - pi_k) (-D(G(z)))

The latents come from a mixture whose proportions `pi = softmax(rho)`, means and covariances are trained with the
generator, by implicit reparameterisation: z moves with every component by its responsibility. An encoder brings fakes
back to the means of their components, which ties components to what is seen (U2C), and puts a real image into a
cluster. Classes may be of unequal size.

Fake: one network call from noise. Discriminator: any that looks at single images; the objective is Wasserstein's. In
the paper the encoder also learns from two views of a fake, U2C contrasts the rows of a batch with a margin that falls
to 0, the component is drawn again from q, covariances are full, and the prior takes plain steps of its own. Ours: U2C
is the cross entropy of the component that z came from, over the components, so that rows know nothing of each other;
one deviation for each coordinate; Adam for all; and from `-D(G(z))` at rho the logit of a real image is subtracted,
which changes no mean and takes away what all fakes have in common. Sizes, rates, spread and penalty are ours, too.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given, Views
from sparring.discriminators.losses import scores_of
from sparring.generators import Generator, LatentGenerator, Mixture
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses, check_not_negative
from sparring.metrics.clusters import clusters_found
from sparring.networks.precision import at_least_float32
from sparring.networks.probe import check_output
from sparring.objectives import Penalty, Wasserstein


@dataclass
class MixtureViews(Views):
    """What a discriminator sees, and beside it the fakes [B, C, H, W], their latents [B, d] and components [B]."""

    images: Tensor | None = None
    z: Tensor | None = None
    component: Tensor | None = None


class SLOGAN(GAN):
    """A generator of images or points with a trained mixture prior, and an encoder that finds its clusters.

    Args:
        generator: from latents to images, of no class, with a `Mixture` prior.
        discriminator: of single images.
        encoder: from images [B, C, H, W] to [B, latent_dim].
        contrast: weight of U2C at the start; it falls linearly to 0.
        scale: of the cosine of an encoded image and a mean, in U2C.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a negative weight, a class-conditional generator, another prior, or an encoder of another size.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        encoder: nn.Module,
        *,
        contrast: float = 4.0,
        scale: float = 4.0,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(contrast=contrast, scale=scale)
        super().__init__(generator, discriminator, objective=Wasserstein(), penalty=penalty)
        if generator.takes_labels:
            raise ValueError(f"`num_classes={generator.num_classes}`: SLOGAN finds classes; set it to null")
        mixture_of(generator)
        check_output("encoder", encoder, generator.image_shape, (generator.latent_dim,))
        self.encoder, self.contrast, self.scale = encoder, contrast, scale

    def parts(self) -> list[nn.Module]:
        return [self.encoder]

    def rollout(self, batch: Batch) -> MixtureViews:
        prior = mixture_of(self.generator)
        noise = batch.draws.normal((len(batch), prior.noise_dim)).to(batch.images)
        z = prior(noise)
        fake = self.generator(z)
        views = self.discriminator.views(batch.images, fake, Given(labels=batch.labels), batch.draws)
        return MixtureViews(views.real, views.fake, views.given, fake, z.detach(), prior.component(noise))

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        assert isinstance(rollout, MixtureViews)
        assert rollout.images is not None
        assert rollout.z is not None
        assert rollout.component is not None
        fake, real = scores_of(self.discriminator, [rollout.fake, rollout.real], rollout.given)
        prior, share = mixture_of(self.generator), max(0.0, 1 - self.step / self.steps)
        gain = (at_least_float32(real.logits) - at_least_float32(fake.logits)).detach().view(len(batch), -1).mean(1)
        own = cross_entropy(self.closeness(prior, rollout.images), rollout.component)
        self.log(smallest_share=prior.shares.min(), largest_share=prior.shares.max())
        return {
            "adversarial": self.objective.generator(fake),
            "u2c": self.contrast * share * own,
            "shares": proportions(prior, rollout.z, gain),
        }

    def closeness(self, prior: Mixture, images: Tensor) -> Tensor:
        """[B, components] scaled cosines of encoded images and means, plus the logarithms of the proportions."""
        codes = at_least_float32(self.encoder(images))
        cosines = cosine_similarity(codes[:, None], prior.means.detach()[None], dim=2)
        return self.scale * cosines + prior.logits.detach().log_softmax(0)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """How well the clusters of 2000 training images are their classes, beside k-means on the pixels.

        `clustering_accuracy` and `rand` (adjusted) with the best matching, `share_error` the largest error of a
        proportion of the prior, `kmeans_accuracy` and `kmeans_rand` those of k-means with as many clusters.
        """
        assert isinstance(generator, LatentGenerator)
        prior = mixture_of(generator)
        return clusters_found(lambda x: self.closeness(prior, x.to(draws.device)).argmax(1), data, prior.shares)


def mixture_of(generator: LatentGenerator) -> Mixture:
    """The prior of a generator.

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(generator.prior, Mixture):
        raise ValueError("`prior`: SLOGAN needs sparring.generators.Mixture, which it trains")
    return generator.prior


def proportions(prior: Mixture, z: Tensor, loss: Tensor) -> Tensor:
    """A scalar whose gradient at the prior's logits rho is `mean (q_k - pi_k) loss`, and 0 at all else.

    It is `mean loss log p(z)`, the gradient of the mean of `loss` over the prior by the score.

    Args:
        prior: the mixture.
        z: [B, latent_dim] latents.
        loss: [B] of each.
    """
    normal = (prior.log_joint(z) - prior.logits.log_softmax(0)).detach()
    return (loss.detach() * (prior.logits.log_softmax(0) + normal).logsumexp(1)).mean()
