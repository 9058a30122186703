"""GLO: optimising the latent space of generative networks (Bojanowski et al., arXiv 1707.05776).

Status: proven; 4.5 in one call, with codes at random 32, from the standard law 12, a GAN 4.9 (docs/results/gans.md).

    min over theta and z_1 .. z_N of  mean_i l(G(z_i), x_i),        then  z_i <- z_i / max(|z_i|, 1)

A generator without a discriminator: every training image has a code of its own, which is optimised together with the
network that decodes it. l is the distance of Laplacian pyramids, `sum_j 2^(2j) |L^j(x) - L^j(y)|`. To sample, codes are
drawn from a normal law with the mean and full covariance of all codes.

Fake: the decoded code of the image itself. The codes start from a standard normal law that is drawn into the unit ball.
The paper trains with plain SGD, codes at ten times the rate of the network. Ours is Adam without momentum (`betas` with
0 first), which leaves the codes of images that are not in the batch where they are; also ours: sizes, rates, |.| as a
sum over pixels, and that the law of the samples is the average of those of the last steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData, derived_seed
from sparring.generators import FittedGaussian, Generator, LatentGenerator
from sparring.methods.method import Losses, Method, held_out
from sparring.objectives.pyramid import pyramid_distance

SEARCH_STEPS, SEARCH_LR = 200, 0.05  # to find the codes of held-out images, with Adam
MEASURED = 256


@dataclass
class Decoded:
    """Images [B, C, H, W] that the codes of a batch decode to, with their graph."""

    fake: Tensor


class GLO(Method):
    """A generator of images or points with a free code for every training image.

    Args:
        generator: from codes to images, with a `FittedGaussian` prior.
        fit: samples come from the law of the codes; off, from the standard normal law: a control.

    Raises:
        ValueError: a class-conditional generator, or one with another prior.
    """

    generator: LatentGenerator
    sample_steps = 1

    def __init__(self, generator: LatentGenerator, *, fit: bool = True):
        super().__init__(generator)
        if generator.takes_labels:
            raise ValueError(f"`num_classes={generator.num_classes}`: GLO has no classes; set it to null")
        if not isinstance(generator.prior, FittedGaussian):
            raise ValueError("`prior`: GLO needs sparring.generators.FittedGaussian, which it fits to the codes")
        self.fit = fit
        self.codes: nn.Embedding | None = None

    def size_for(self, data: ImageData) -> None:
        """Makes a code for each image; `prepare` gives it a value."""
        if len(data) < 2:
            raise ValueError(f"`{data.name}` has {len(data)} image, and GLO fits a law to the codes of several")
        self.codes = nn.Embedding(len(data), self.generator.latent_dim)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(derived_seed(seed, "codes"))
        codes = self.table.weight.data
        codes.copy_(in_ball(torch.randn(codes.shape, generator=random)))
        self.move_prior()

    def parts(self) -> list[nn.Module]:
        return [self.table]

    @property
    def table(self) -> nn.Embedding:
        """The codes of all images."""
        if self.codes is None:
            raise ValueError("GLO has no codes before `size_for(data)`, which a Trainer calls")
        return self.codes

    def rollout(self, batch: Batch) -> Decoded:
        if batch.index is None:
            raise ValueError("GLO has a code for each image, and this data does not say which images a batch holds")
        return Decoded(self.generator(self.table(batch.index)))

    def generator_loss(self, batch: Batch, rollout: Decoded) -> Losses:
        return {"pyramid": pyramid_distance(rollout.fake, batch.images).mean()}

    def after_step(self) -> None:
        if self.table.weight.requires_grad:  # and is not frozen: a code on the sphere would move by its rounding
            self.table.weight.data.copy_(in_ball(self.table.weight.data))
        self.move_prior()

    def move_prior(self) -> None:
        """Fits the law of the samples to the codes."""
        prior = self.generator.prior
        assert isinstance(prior, FittedGaussian)
        if self.fit:
            prior.fit(self.table.weight)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`mean |x - G(z)|` per pixel with the best code found for each held-out image, and the length of the codes."""
        assert isinstance(generator, LatentGenerator)
        images = held_out(data, draws, MEASURED).images
        codes = self.search(generator, images)
        return {
            "inversion_error": float((generator(codes) - images).abs().mean()),
            "code_norm": float(self.table.weight.norm(dim=1).mean()),
        }

    @torch.enable_grad()
    def search(self, generator: LatentGenerator, images: Tensor) -> Tensor:
        """Codes [n, latent_dim] in the ball whose images are near the given ones, from the mean of all codes on."""
        codes = self.table.weight.detach().mean(0).repeat(len(images), 1).requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=SEARCH_LR)
        for _ in range(SEARCH_STEPS):
            distance = pyramid_distance(generator(codes), images).sum()
            (codes.grad,) = torch.autograd.grad(distance, codes)
            optimizer.step()
            codes.data.copy_(in_ball(codes.data))
        return codes.detach()


def in_ball(codes: Tensor) -> Tensor:
    """Codes [N, d] with those outside of the unit ball brought back to it: `z / max(|z|, 1)`."""
    return codes / codes.norm(dim=1, keepdim=True).clamp_min(1)
