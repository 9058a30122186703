"""WaveDiff: wavelet diffusion models are fast and scalable image generators (Phung et al., arXiv 2211.16152).

Status: no gain: 1.84 in four calls of digits, both terms needed; plain diffusion 0.68 (docs/results/gans.md).

A DDGAN of the Haar bands of the images, which are half as wide, with a term that pulls the prediction to the image:

    x_0 = DWT(image) / 2,        L_D as in DDGAN,        L_G = sp(-D(x_s', x_t, t)) + lambda mean |xhat - x_0|

Fake and discriminator: those of DDGAN, in four times as many channels. The transform is fixed and takes the place of an
autoencoder, so that it is shipped in the folder. The paper's U-Net also uses wavelets between its own levels; ours is
the ordinary one. The mean in the term runs over all numbers of the bands (our reading), with the paper's lambda of 1.
"""

from diffusers import DiTTransformer2DModel, UNet2DModel

from sparring.data import Batch
from sparring.discriminators import Discriminator
from sparring.generators import Denoiser
from sparring.methods.denoising_gan.ddgan import DDGAN, DDGANRollout
from sparring.methods.method import Losses, check_not_negative
from sparring.networks import HaarWavelet
from sparring.objectives import Objective, Penalty
from sparring.process import Bands


class WaveDiff(DDGAN):
    """A `DDGAN` of the wavelet bands of images.

    Args:
        generator: a denoiser of a VP process, with `latent_dim` above 0, whose network takes four channels for each of
            the images; it works on bands from then on.
        discriminator: of a step of the bands.
        num_steps: T, the steps of the chain, and network calls of an image.
        reconstruction_weight: lambda, weight of the distance to the image; 0 leaves only the discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_steps: int = 4,
        reconstruction_weight: float = 1.0,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(reconstruction_weight=reconstruction_weight)
        net, config = generator.net, getattr(generator.net, "config", {})
        channels = config["in_channels"] if isinstance(net, UNet2DModel | DiTTransformer2DModel) else 1
        if channels % 4:
            raise ValueError(
                f"{type(net).__name__} does not take wavelet bands, which have 4 channels for each of the images: "
                "give a UNet2DModel or DiT such `in_channels` and `out_channels`, and half the `sample_size`"
            )
        if generator.space is None:
            generator.space = Bands(HaarWavelet(channels // 4))
        elif not isinstance(generator.space, Bands):
            raise ValueError("WaveDiff works on the wavelet bands of pixels, and this denoiser has an autoencoder")
        super().__init__(generator, discriminator, num_steps=num_steps, objective=objective, penalty=penalty)
        self.reconstruction_weight = reconstruction_weight

    def generator_loss(self, batch: Batch, rollout: DDGANRollout) -> Losses:
        losses = super().generator_loss(batch, rollout)
        if self.reconstruction_weight > 0:
            distance = (rollout.step.prediction.x0 - batch.x_0).abs().mean()
            losses["reconstruction"] = self.reconstruction_weight * distance
        return losses
