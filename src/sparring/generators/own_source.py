"""What a denoiser draws by itself before it starts, and is conditioned on: a draft of the image, or a code of it."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.data import Batch, Draws
from sparring.networks.mlp import Perceptron

BATCH, RATE = 128, 2e-3  # of the fit of an autoencoder
CODE_NOISE = 0.05


class OwnSource(ModelMixin, ConfigMixin):
    """The source of a network that takes one, made of the image itself in training and of noise in samples.

    It is a part of the denoiser, frozen or trained with it, and written beside its network. As its law is known,
    samples need no image.

    Attributes:
        noise_dim: standard normal numbers that one source is made of.
        copied: names of buffers of which the average of a run takes the last values, in place of their mean.
    """

    noise_dim: int
    copied: tuple[str, ...] = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one source."""

    @property
    def none(self) -> Tensor | None:
        """The source [*shape] that says "none", which guidance and `condition_dropout` need; by default none does."""
        return None

    @abstractmethod
    def forward(self, noise: Tensor) -> Tensor:
        """Sources [B, *shape] of standard normal noise [B, noise_dim]."""

    @abstractmethod
    def of_batch(self, batch: Batch, training: bool) -> Tensor:
        """Sources [B, *shape] of the images of a batch, random numbers by its draws."""

    def size_for(self, images: int, image_shape: tuple[int, int, int]) -> None:
        """Called before a run is made or goes on: the place to refuse data, or for what has its size."""

    def fit(self, images: Tensor, seed: int) -> None:
        """Called once before the first step with training images [N, C, H, W]; by default nothing is learned."""


class Draft(OwnSource):
    """A source that has the shape of the image, `image_shape` in its configuration."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.config["image_shape"])

    def size_for(self, images: int, image_shape: tuple[int, int, int]) -> None:
        if tuple(image_shape) != self.shape:
            raise ValueError(
                f"`own_source.image_shape={list(self.shape)}`: the images have {list(image_shape)}; set it to that"
            )


class Drafts(Draft):
    """Drafts [B, C, H, W] of images by a small variational autoencoder, which is trained first and then frozen.

    In training a draft decodes a code of the image's own posterior, in samples one of the standard normal law:

        loss of the autoencoder = |x - d(z)|^2 + alpha KL(q(z | x), N(0, 1)),   z ~ q(z | x)

    Source: DiffuseVAE (Pandey et al. 2022, arXiv 2201.00308). Perceptrons and their sizes are ours.

    Args:
        image_shape: (C, H, W).
        code: Numbers in z.
        width: Of the hidden layers of encoder and decoder.
        alpha: Weight of the KL term.
        steps: Of its training, with Adam and a cosine.
        posterior: Drafts in training are of the image; off, they are drawn as in samples and know nothing of it: a
            control.

    Raises:
        ValueError: A size below 1, or a weight that is not above 0; in `size_for`, images of another shape.
    """

    @register_to_config
    def __init__(
        self,
        image_shape: Sequence[int] = (1, 8, 8),
        code: int = 8,
        width: int = 256,
        alpha: float = 1.0,
        steps: int = 2000,
        posterior: bool = True,
    ) -> None:
        super().__init__()
        if min(code, width, steps, *image_shape) < 1 or alpha <= 0:
            raise ValueError(
                f"`code={code}`, `width={width}`, `steps={steps}` must be at least 1 and `alpha={alpha}` above 0"
            )
        self.noise_dim = code
        numbers = torch.Size(image_shape).numel()
        self.encoder = Perceptron(numbers, [2, code], width, 2)
        self.decoder = Perceptron(code, list(image_shape), width, 2)
        self.requires_grad_(False)

    def forward(self, noise: Tensor) -> Tensor:
        return self.decoder(noise.to(self.dtype)).clamp(-1, 1)

    def law_of_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of the variances [B, code] of the codes of images."""
        mean, log_variance = self.encoder(images.to(self.dtype)).unbind(1)
        return mean, log_variance

    @torch.no_grad()
    def of_batch(self, batch: Batch, training: bool) -> Tensor:
        noise = batch.draws.normal((len(batch), self.noise_dim)).to(self.device, self.dtype)
        if not self.config["posterior"]:
            return self.forward(noise)
        mean, log_variance = self.law_of_code(batch.images)
        return self.forward(mean + (0.5 * log_variance).exp() * noise)

    def loss(self, images: Tensor, noise: Tensor) -> Tensor:
        """Squared error summed over an image plus alpha KL, mean over images [B, C, H, W]; noise [B, code]."""
        mean, log_variance = self.law_of_code(images)
        made = self.decoder(mean + (0.5 * log_variance).exp() * noise)
        error = (made - images).square().flatten(1).sum(1)
        return (error + self.config["alpha"] * gaussian_kl(mean, log_variance)).mean()

    @torch.enable_grad()
    def fit(self, images: Tensor, seed: int) -> None:
        self.requires_grad_(True)
        optimizer = torch.optim.Adam(self.parameters(), RATE)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.config["steps"])
        for step in range(self.config["steps"]):
            draws = Draws(seed, step=step, phase="own source", device=images.device)
            rows = draws.integers(len(images), (BATCH,))
            loss = self.loss(images[rows], draws.normal((BATCH, self.noise_dim)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        self.zero_grad()
        self.requires_grad_(False)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """[B] divergence of N(mean, exp(log_variance)) from N(0, 1), summed over numbers [B, d]."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


class Coder(Draft):
    """Drafts [B, C, H, W] decoded from short codes, by an autoencoder that is trained with the denoiser.

    A code is `tanh` of a few small maps with noise of 0.05; that of a sample is drawn from the normal law of the codes
    of training images (`fit_law`). Source: SWYCC (Birodkar et al. 2024, arXiv 2409.02529), encoder and first decoder;
    layers, sizes, the noise and the law are ours.

    Args:
        image_shape: (C, H, W).
        code_channels: Maps of a code.
        halvings: Of the sides, from the image to the code.
        width: Channels inside.

    Raises:
        ValueError: A size below 1, or sides that cannot be halved so often; in `size_for`, images of another shape.
    """

    mean: Tensor
    root: Tensor
    copied = ("mean", "root")  # a mean of laws would have that of the first steps in it

    @register_to_config
    def __init__(
        self, image_shape: Sequence[int] = (1, 8, 8), code_channels: int = 1, halvings: int = 1, width: int = 32
    ) -> None:
        super().__init__()
        channels, height, wide = image_shape
        if min(code_channels, halvings, width) < 1 or height % 2**halvings or wide % 2**halvings:
            raise ValueError(
                f"`code_channels={code_channels}`, `halvings={halvings}`, `width={width}` must be at least 1, and "
                f"sides of {height}x{wide} be halved so often"
            )
        self.code_shape = (code_channels, height // 2**halvings, wide // 2**halvings)
        self.noise_dim = torch.Size(self.code_shape).numel()
        down: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(code_channels, width, 3, padding=1)]
        for _ in range(halvings):
            down += [nn.SiLU(), nn.Conv2d(width, width, 3, stride=2, padding=1)]
            up += [nn.SiLU(), nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)]
        self.encoder = nn.Sequential(*down, nn.SiLU(), nn.Conv2d(width, code_channels, 3, padding=1), nn.Tanh())
        self.decoder = nn.Sequential(*up, nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))
        self.register_buffer("mean", torch.zeros(self.noise_dim))
        self.register_buffer("root", torch.eye(self.noise_dim))

    def forward(self, noise: Tensor) -> Tensor:
        codes = (self.mean + noise.to(self.mean) @ self.root.T).clamp(-1, 1)
        return self.decoder(codes.to(self.dtype).unflatten(1, self.code_shape))

    def of_images(self, images: Tensor, draws: Draws) -> Tensor:
        """Drafts of images [B, C, H, W], with their graph."""
        noise = draws.normal((len(images), *self.code_shape)).to(images)
        return self.decoder(self.encoder(images.to(self.dtype)) + CODE_NOISE * noise.to(self.dtype))

    @torch.no_grad()
    def of_batch(self, batch: Batch, training: bool) -> Tensor:
        return self.of_images(batch.images, batch.draws)

    @torch.no_grad()
    def fit_law(self, images: Tensor) -> None:
        """Takes the mean and the full covariance of the codes of images [N, C, H, W]."""
        codes = self.encoder(images.to(self.dtype)).flatten(1).double()
        covariance = torch.cov(codes.T).view(self.noise_dim, -1) + CODE_NOISE**2 * torch.eye(self.noise_dim).to(codes)
        self.mean.copy_(codes.mean(0))
        self.root.copy_(torch.linalg.cholesky(covariance))


class Memory(OwnSource):
    """Codes [B, dim] out of a bank that holds one for each training image; samples draw a row of it evenly.

    A code is scaled to unit length, and in training each of its numbers is left out at a rate. The bank is filled by
    who has an encoder (`GMem.prepare`). Source: GMem (Tang et al. 2024, arXiv 2412.08781).

    Args:
        dim: Numbers in a code.
        dropout: Share of the numbers that is set to 0 in training, without scaling the rest.
        rows: Codes; set by itself.

    Raises:
        ValueError: A size below 1, or a share outside of [0, 1); in `of_batch`, rows that are not known; in `forward`,
            a bank that nobody has filled.
    """

    noise_dim = 1
    bank: Tensor

    @register_to_config
    def __init__(self, dim: int = 64, dropout: float = 0.4, rows: int = 0) -> None:
        super().__init__()
        if dim < 1 or not 0 <= dropout < 1:
            raise ValueError(f"`dim={dim}` must be at least 1, and `dropout={dropout}` lie in [0, 1)")
        self.bank = nn.Parameter(torch.zeros(rows, dim), requires_grad=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.config["dim"],)

    def size_for(self, images: int, image_shape: tuple[int, int, int]) -> None:
        if self.config["rows"] not in (0, images):
            raise ValueError(f"the memory holds {self.config['rows']} codes, and the data {images} images")
        if self.config["rows"] == 0:
            self.register_to_config(rows=images)
            self.bank.data = self.bank.data.new_zeros(images, self.config["dim"])

    def forward(self, noise: Tensor) -> Tensor:
        if not self.bank.any():
            raise ValueError(
                "the memory holds no codes: `gmem` fills it, and other methods start from its run (--init)"
            )
        rows = torch.special.ndtr(noise[:, 0]).mul(len(self.bank)).long().clamp(max=len(self.bank) - 1)
        return self.bank[rows]

    def of_batch(self, batch: Batch, training: bool) -> Tensor:
        if batch.index is None:
            raise ValueError(
                "a memory has a code for each image, and this data does not say which images a batch holds"
            )
        codes = self.bank[batch.index]
        if not training or self.config["dropout"] == 0:
            return codes
        return codes * (batch.draws.uniform(tuple(codes.shape)).to(codes) >= self.config["dropout"])

    def fill(self, codes: Tensor) -> None:
        """Takes over codes [rows, dim], each scaled to unit length."""
        self.bank.data.copy_(nn.functional.normalize(codes, dim=1))
