"""What a trained denoiser sees in an image: the middle of its network, as a backbone."""

from typing import Any

import torch
from torch import Tensor

from sparring.backbones.backbone import Backbone
from sparring.generators import load_pipeline
from sparring.generators.middle import middle_block, middle_map


class DenoiserFeatures(Backbone):
    """The output of the middle block of a denoiser's network, for images with a little noise.

    The map is the output of a U-Net's `mid_block` or of the transformer block halfway, features its mean over
    positions; what comes after is not run. Every image gets the same noise, so that equal images have equal features. A
    class-conditional network gets the class "none" (`Denoiser.null_class`). A denoiser of latents takes latents
    (SADM's `discriminator_input="latents"`). Features of denoisers as a representation: Tang et al. 2023, "Emergent
    Correspondence from Image Diffusion" (arXiv 2306.03881); the middle block, one noise for all and its level: default
    (ours).

    Args:
        path: Run of sparring, or pipeline folder.
        t: Time of the noise, in (0, 1).
        seed: Of the noise.

    Raises:
        ValueError: Nothing to open there, a network without a middle that is known, or one that takes captions; `t`
            outside (0, 1); images of other channels.
    """

    def __init__(self, *, path: str, t: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if not 0 < t < 1:
            raise ValueError(f"`t={t}` must lie between 0 and 1")
        denoiser = load_pipeline(path)[0]
        if denoiser.text is not None:
            raise ValueError(f"`path={path}` takes captions: its features need them too, and a backbone has none")
        self.net = denoiser.net
        self._denoiser = (denoiser,)  # in a tuple it is no part: its passes are no network calls of the training
        self.t, self.seed = t, seed
        self.name = f"middle of {type(self.net).__name__} at t={t:g}"
        middle_block(self.net)
        config: Any = self.net.config
        self.in_channels: int = config.in_channels
        image = torch.zeros(1, *denoiser.latent_shape(denoiser.image_shape))
        self.channels = [self.maps(image)[0].shape[1]]
        self.dim = self.channels[0]
        parameters = list(self.net.parameters())
        reached = torch.autograd.grad(self.features(image).sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, reached, strict=True):
            parameter.requires_grad_(gradient is not None)

    def maps(self, images: Tensor) -> list[Tensor]:
        denoiser = self._denoiser[0]
        if images.shape[1] != self.in_channels:
            raise ValueError(
                f"images have {images.shape[1]} channels and this denoiser takes {self.in_channels}"
                + ("" if denoiser.space is None else ": it works on latents, so set discriminator_input='latents'")
            )
        generator = torch.Generator().manual_seed(self.seed)
        eps = torch.randn(1, *images.shape[1:], generator=generator).to(images).expand_as(images)
        t = torch.full((len(images),), self.t, device=images.device)
        x_t = denoiser.process.add_noise(images, eps, t)
        condition = None
        if denoiser.takes_labels:
            condition = torch.full((len(images),), denoiser.null_class, device=images.device)
        return [middle_map(denoiser, x_t, t, condition)]

    def features(self, images: Tensor) -> Tensor:
        return self.maps(images)[0].mean((2, 3))
