"""GMem: a memory bank of features that a denoiser is conditioned on (Tang et al., arXiv 2412.08781).

Status: no gain; at 5 calls 0.85 against 1.36 for a classifier, worse without labels (docs/results/training.md).

A bank holds a code for every training image, so that the network need not keep what is where:

    c_i = y_i / |y_i|,    y_i = features of image i, pooled;      L = L_REPA(x_t, c_i with a share of its numbers at 0)

Samples draw a code from the bank. It is training data: what a sample has of its code's own image is measured. Fake: the
one-step prediction; there is no discriminator, and encoder and bank are frozen. Paper: the bank of a self-supervised
encoder's features, 0.4 of the numbers left out, a linear map added to the time embedding, REPA at 0.5. Ours: small
encoders, features less their mean, U-Nets; the cosine of velocities is left out.
"""

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone, freeze
from sparring.data import Draws, ImageData
from sparring.generators import Denoiser, Generator, Memory
from sparring.methods.denoising.repa import REPA
from sparring.methods.method import held_out
from sparring.process import Times, Weighting

MEASURED, COMPARED = 100, 10000  # samples, and training images that held-out ones are compared with


class GMem(REPA):
    """Denoising training with a memory, and an aligned block.

    Args:
        generator: the denoiser to train, whose own source is a `Memory`.
        encoder: backbone with feature maps; it is trained on the data first if it needs that, and then frozen.
        weight: of the alignment; 0 leaves the memory only.
        depth: blocks of a DiT up to the one that is aligned; None: 0.4 of them. A U-Net is aligned in its middle.
        layer: which of the encoder's maps; -1 is the deepest.
        width: of the perceptron that aligns.
        codes: what the bank holds: "features", those of other images ("shuffled"), or "gaussian" noise; controls.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.

    Raises:
        ValueError: a denoiser without a memory, or with one of another size; unknown codes.
    """

    def __init__(
        self,
        generator: Denoiser,
        encoder: Backbone,
        *,
        weight: float = 0.5,
        depth: int | None = None,
        layer: int = -1,
        width: int = 128,
        codes: str = "features",
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        settings = {"depth": depth, "layer": layer, "width": width, "times": times, "weighting": weighting}
        super().__init__(generator, encoder, weight=weight, **settings)  # type: ignore[arg-type]
        memory, dim = generator.own_source, encoder.channels[layer]
        if not isinstance(memory, Memory):
            raise ValueError("`denoiser.own_source`: GMem needs sparring.generators.Memory, which it fills")
        if memory.config["dim"] != dim:
            raise ValueError(
                f"`own_source.dim={memory.config['dim']}`: the encoder's features have {dim}; set it to that"
            )
        if codes not in ("features", "shuffled", "gaussian"):
            raise ValueError(f"`codes={codes}` is unknown; it is features, shuffled or gaussian")
        self.codes = codes
        if weight == 0:
            self.encoder, self.mean = freeze(encoder), nn.Parameter(torch.zeros(dim, 1, 1), requires_grad=False)

    @property
    def memory(self) -> Memory:
        """The denoiser's bank."""
        memory = self.generator.own_source
        assert isinstance(memory, Memory)
        return memory

    @torch.no_grad()
    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the encoder if it needs that, and fills the bank."""
        super().prepare(data, seed)
        rows = range(0, len(data), 512)
        codes = [self.pooled(data[list(range(first, min(first + 512, len(data))))][0]) for first in rows]
        draws, bank = Draws(seed, phase="bank", device=self.mean.device), torch.cat(codes)
        if self.codes == "shuffled":
            bank = bank[draws.uniform((len(bank),)).argsort()]
        if self.codes == "gaussian":
            bank = draws.normal(tuple(bank.shape))
        self.memory.fill(bank)

    def pooled(self, images: Tensor) -> Tensor:
        """Features [n, D] of images, less their mean over the training set, averaged over places."""
        assert self.encoder is not None
        return (self.encoder.maps(images.to(self.mean))[self.layer] - self.mean).mean((2, 3))

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """How near samples are to the image of their code: root mean squared distance per number.

        `copy_distance` is that of samples, and `nearest_distance` that of held-out images to the nearest training one:
        a memory that copies has the first below the second.
        """
        assert isinstance(generator, Denoiser)
        n = min(MEASURED, len(data))
        images = data[list(range(n))][0].to(draws.device)
        latents = draws.normal((n, *images.shape[1:]))
        made = generator.generate(
            generator.stepper(self.sampler), self.sample_steps, latents=latents, condition=self.memory.bank[:n]
        )
        others = data.images(min(len(data), COMPARED)).to(images).flatten(1)
        nearest = torch.cdist(held_out(data, draws, n).images.flatten(1), others).min(1).values
        return {
            "copy_distance": float((made - images).square().mean((1, 2, 3)).sqrt().mean()),
            "nearest_distance": float(nearest.mean()) / others.shape[1] ** 0.5,
        }
