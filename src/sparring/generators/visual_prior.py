"""A short code of an image that a denoiser is conditioned on: of the clean image, or of its own first sample."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from sparring.data import Batch, Draws
from sparring.generators.own_source import OwnSource
from sparring.networks.mlp import Perceptron


class VisualPrior(OwnSource):
    """Codes [B, code] in [-1, 1] of images, by an encoder that is trained with the denoiser; 0 says that there is none.

    Samples begin without a code: that is the first stage. Source: Diffusion on Diffusion (arXiv 2410.08531), a narrow
    embedding of the image; the perceptron, its sizes, noise and dropout are ours.

    Args:
        image_shape: (C, H, W).
        code: Numbers of a code.
        width: Of the encoder's two hidden layers.
        noise: Deviation of what is added to codes in training, since codes of samples are not those of real images.
        dropout: Share of rows without a code in training.

    Raises:
        ValueError: A size below 1, a negative noise, or a share outside of [0, 1]; in `size_for`, images of another
            shape.
    """

    noise_dim = 1  # of which nothing is made

    @register_to_config
    def __init__(
        self,
        image_shape: Sequence[int] = (1, 8, 8),
        code: int = 16,
        width: int = 128,
        noise: float = 0.1,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if min(code, width, *image_shape) < 1 or noise < 0 or not 0 <= dropout <= 1:
            raise ValueError(
                f"`code={code}`, `width={width}` must be at least 1, `noise={noise}` 0 or more, `dropout={dropout}` "
                "lie in [0, 1]"
            )
        self.encoder = Perceptron(torch.Size(image_shape).numel(), [code], width, 2)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.config["code"],)

    def size_for(self, images: int, image_shape: tuple[int, int, int]) -> None:
        if tuple(image_shape) != tuple(self.config["image_shape"]):
            raise ValueError(
                f"`own_source.image_shape={list(self.config['image_shape'])}`: the images have {list(image_shape)}; "
                "set it to that"
            )

    def forward(self, noise: Tensor) -> Tensor:
        return torch.zeros(len(noise), *self.shape, device=noise.device, dtype=self.dtype)

    def of_images(self, images: Tensor) -> Tensor:
        """Codes of images [B, C, H, W], with their graph."""
        return self.encoder(images.to(self.dtype)).tanh()

    def told(self, images: Tensor, draws: Draws) -> Tensor:
        """Codes of images [B, C, H, W] as the network gets them in training: with noise, and for some rows 0."""
        codes = self.of_images(images)
        noisy = codes + self.config["noise"] * draws.normal(tuple(codes.shape)).to(codes)
        return noisy * (draws.uniform((len(codes),)) >= self.config["dropout"]).to(codes)[:, None]

    @torch.no_grad()
    def of_batch(self, batch: Batch, training: bool) -> Tensor:
        return self.told(batch.images, batch.draws) if training else self.of_images(batch.images)
