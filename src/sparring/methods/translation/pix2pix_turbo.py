"""pix2pix-turbo: one-step image translation with a diffusion model of one step (Parmar et al., arXiv 2403.12036).

Status: no gain of its discriminator; its trained start gains; three seeds (docs/results/translation.md).

A trained diffusion network becomes a translator in one call: it is shown the source y at its noisiest time in the place
of noise, and what it predicts for the clean image is the translation. From pairs (y, x),

    xhat = G(y) = x0_pred(x_t = y, t = T) + skip(y)
    L_G = a mean (xhat - x)^2 + p d(xhat, x) + w mean sp(-D(xhat)),      L_D = mean sp(-D(x)) + mean sp(D(xhat))

with a = 1, p = 5, w = 0.5, and d a distance in features. Fake: one call of the source, without noise. Discriminator:
heads on a frozen network, which sees single images. The skip starts at 1e-5. From the paper: all of that, on Stable
Diffusion Turbo with LoRA of the U-Net and the autoencoder and four skips between the autoencoder's halves, features of
CLIP for D, LPIPS for d, and another term of CLIP for captions. Ours: a small diffusion model of pixels, all of whose
weights are trained; d in the features that D sees, which takes LPIPS' place (with a `PlainDiscriminator` these are
pixels); no captions and no random variant.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, check_single, generator_loss
from sparring.discriminators.on_backbone import OnFrozenBackbone
from sparring.generators import Denoiser, LatentGenerator
from sparring.generators.loading import opened
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.networks import TurboUNet
from sparring.networks.turbo_unet import LAST
from sparring.objectives import NonSaturating, Objective, Penalty, feature_distance, penalties_of
from sparring.process import VP


@dataclass
class Translated:
    """Images [B, C, H, W] made of sources, and what the discriminator sees."""

    images: Tensor
    views: Views


def begin(generator: LatentGenerator, denoiser: str | Denoiser | None) -> None:
    """Gives a translator the weights of a trained denoiser, so that it makes the image that this would predict.

    At the noisiest time x_0 = -v / sigma of a network that predicts v, as alpha is 0 there; None leaves it random.

    Raises:
        ValueError: another network; a start that does not predict x0 or v with a VP process in pixels, or whose last
            level is not the network's time 999 or still shows the image.
    """
    if not isinstance(generator.net, TurboUNet):
        raise ValueError(f"`generator.net={type(generator.net).__name__}`: only a TurboUNet is made of a denoiser")
    if denoiser is None:
        return
    start = opened(denoiser)
    if start.prediction not in ("x0", "v") or not isinstance(start.process, VP) or start.space is not None:
        raise ValueError(
            f"`denoiser`: it predicts {start.prediction} with a {type(start.process).__name__} process"
            f"{'' if start.space is None else ' in latents'}; the start must predict x0 or v with VP in pixels"
        )
    last = torch.ones(1)
    if float(start.process.model_time(last)) != LAST or float(start.process.alpha(last)) > 0.02:
        raise ValueError(f"`denoiser`: its last level must be pure noise at the network's time {LAST:g}; it is another")
    generator.net.take(start.net, 1.0 if start.prediction == "x0" else -1.0)


def translate(generator: LatentGenerator, source: Tensor) -> Tensor:
    """Images [B, C, H, W] of sources, in one call; the latent is not read."""
    return generator(source.new_zeros(len(source), generator.latent_dim), source=source)


def check_same_view(discriminator: Discriminator, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError for a discriminator in whose features two equal images differ by how each was augmented."""
    policy = ",".join(sorted(getattr(getattr(discriminator, "augment", None), "policy", ())))
    name = f"augment={policy}" if policy else ""
    if isinstance(discriminator, OnFrozenBackbone) and discriminator.crop > 0 and not policy:
        larger = max(image_shape[1:]) > (discriminator.backbone.image_size or math.inf)
        name = f"crop={discriminator.crop}" if larger else ""
    if name:
        raise ValueError(
            f"`discriminator.{name}`: the distance in its features would compare images of which each is augmented in "
            "its own way; switch it off"
        )


class Pix2PixTurbo(Method):
    """A translator of pairs, in one call.

    Args:
        generator: a `LatentGenerator` of a `TurboUNet`.
        discriminator: of single images, such as a `ProjectedDiscriminator`; without augmentation, as it measures d.
        denoiser: run or pipeline folder of the diffusion model that it starts from, or the denoiser; None: random
            weights (a control).
        reconstruction_weight: a, of the mean squared error.
        perceptual_weight: p, of the distance in the discriminator's features.
        adversarial_weight: w; with 0 the discriminator is not trained, and only measures d.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a negative weight, a discriminator that compares or augments, another network or start.
    """

    generator: LatentGenerator
    discriminator: Discriminator | None
    sample_steps = 1

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        denoiser: str | Denoiser | None = None,
        *,
        reconstruction_weight: float = 1.0,
        perceptual_weight: float = 5.0,
        adversarial_weight: float = 0.5,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        weights = dict(reconstruction_weight=reconstruction_weight, perceptual_weight=perceptual_weight)
        check_not_negative(**weights, adversarial_weight=adversarial_weight)
        check_single(discriminator)
        if perceptual_weight > 0:
            check_same_view(discriminator, generator.image_shape)
        begin(generator, denoiser)
        super().__init__(generator, discriminator if adversarial_weight > 0 else None)
        self.eyes = discriminator.requires_grad_(False) if adversarial_weight == 0 else None
        self.reconstruction_weight, self.perceptual_weight = reconstruction_weight, perceptual_weight
        self.adversarial_weight = adversarial_weight
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    def rollout(self, batch: Batch) -> Translated:
        assert batch.source is not None
        images = translate(self.generator, batch.source)
        sees = self.discriminator or self.eyes
        assert sees is not None
        return Translated(images, sees.views(batch.images, images, Given(), batch.draws))

    def discriminator_loss(self, batch: Batch, rollout: Translated) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: Translated) -> Losses:
        views = rollout.views
        losses: Losses = {
            "reconstruction": self.reconstruction_weight * (rollout.images - batch.images).square().mean(),
            "perceptual": self.perceptual_weight * feature_distance(views.fake, views.real),
        }
        if self.discriminator is not None:
            adversarial = generator_loss(self.discriminator, views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        return losses
