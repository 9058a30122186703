"""A discriminator that is a denoiser of two classes: an image is real if it is denoised better as real (DRAIL)."""

import torch
from torch import Tensor, nn

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.networks.precision import at_least_float32
from sparring.process import VP, Process

FAKE, REAL = 0, 1


class DiffusionClassifier(Discriminator):
    """Logits [B]: `mean [ |eps - net(x_t, t, fake)|^2 - |eps - net(x_t, t, real)|^2 ]` of noised copies of an image.

    The sigmoid of such a logit is a softmax over the two denoising errors (DRAIL, Lai et al., arXiv 2405.16194). Noise
    and levels are drawn with the features, so that both classes, and both players, see the same.

    Args:
        net: predicts the noise, called as `net(x_t, time, labels)` with two classes, such as an `MLP` with
            `num_class_embeds=2`.
        draws: noised copies of each image.
        scale: factor of the logits.
        process: how images are noised; VP when None.

    Raises:
        ValueError: no draw, or a scale that is not above 0.
    """

    def __init__(self, *, net: nn.Module, draws: int = 4, scale: float = 1.0, process: Process | None = None) -> None:
        super().__init__()
        if draws < 1 or scale <= 0:
            raise ValueError(f"`draws={draws}` must be at least 1, and `scale={scale}` above 0")
        self.net, self.draws, self.scale, self.process = net, draws, scale, process or VP()

    @property
    def takes_labels(self) -> bool:
        return False

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The images, and noise [B, draws, C, H, W] and times [B, draws] for copies of them."""
        eps = draws.normal((len(x), self.draws, *x.shape[1:])).to(x)
        return [x, eps, self.process.time_from_uniform(draws.uniform((len(x), self.draws)))]

    def logits(self, features: Features, given: Given) -> Tensor:
        x, *drawn = features
        eps, t = (of_x.detach() for of_x in drawn)  # penalties hold the slope along images, not along their noise
        copies, t = x[:, None].expand_as(eps).flatten(0, 1), t.flatten()
        eps = eps.flatten(0, 1)
        x_t, time = self.process.model_input(self.process.add_noise(copies, eps, t), t), self.process.model_time(t)
        dtype = next(self.net.parameters()).dtype
        errors = []
        for label in (FAKE, REAL):
            output = self.net(x_t.to(dtype), time, torch.full_like(t, label, dtype=torch.int64))
            output = output if isinstance(output, Tensor) else output.sample
            errors.append((at_least_float32(output) - eps).square().flatten(1).mean(1))
        return self.scale * (errors[FAKE] - errors[REAL]).view(len(x), -1).mean(1)
