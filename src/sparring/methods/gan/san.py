"""SAN: slicing adversarial network, GANs with a normalised last layer (Takida et al., arXiv 2301.12811).

Status: no gain over the hinge GAN beyond the spread of seeds, with and without R1, on 25 modes (docs/results/gans.md).

With `D(x) = <w, h(x)>`, omega = w / |w|, and sg for what takes no gradient:

    L_D = L_base(<|w| h(x), sg omega>, <|w| h(G(z)), sg omega>)
          + mean <sg |w| h(G(z)), omega> - mean <sg |w| h(x), omega>
    L_G = L_base(<h(G(z)), w>)

A discriminator is a distance of fakes and reals only if its direction omega is the one that separates the features h
of both best. The losses of ordinary GANs do not train it to be that, and the Wasserstein gap in the second line does.
Fake: one network call from noise. Discriminator: any of single images with a linear last layer. Base: hinge, as in the
paper's demonstration, or another objective. The recipe's rates are those of that demonstration; sizes are ours.
"""

from sparring.discriminators import Discriminator, SlicedDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.objectives import Hinge, Objective, Penalty, Sliced


class SAN(GAN):
    """A generator of images or points, trained from scratch: a `GAN` whose discriminator's last layer is sliced.

    Args:
        generator: from latents to images.
        discriminator: of single images, with a linear last layer.
        objective: base objective; hinge when None.
        penalty: one penalty or several on the discriminator.
        last: name of the discriminator's last layer, such as "net.read_out"; None: the layer that is defined last.
        direction_weight: factor of the gap that trains the direction; at 0 it stays as it was at the start.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        last: str | None = None,
        direction_weight: float = 1.0,
    ):
        objective = Sliced(objective or Hinge(), direction_weight=direction_weight)
        super().__init__(generator, SlicedDiscriminator(discriminator, last=last), objective=objective, penalty=penalty)
