"""A discriminator of pairs: an image and the vector that belongs to it."""

from torch import Tensor

from sparring.data import Draws
from sparring.discriminators.discriminator import Features, Given
from sparring.discriminators.plain import PlainDiscriminator
from sparring.networks.precision import at_least_float32


class PairDiscriminator(PlainDiscriminator):
    """Logits of an image with a vector, such as its latent code: `net(x, joined=vector)`, and what else is in `given`.

    The vector [B, d] is `Given.condition` of `features`, which may differ for reals and fakes. It is a feature beside
    the image, so that penalties attach to both. Arguments are those of `PlainDiscriminator`.
    """

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The augmented images, and the vectors."""
        return [*super().features(x, given, draws), given.condition]

    def call(self, features: Features, given: Given) -> Tensor:
        """What the network makes of each pair, float32."""
        return at_least_float32(self.net(features[0], joined=features[1], **self.beside(given)))
