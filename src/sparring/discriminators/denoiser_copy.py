"""A discriminator that starts as a copy of a trained denoiser, with a number in place of its output."""

from copy import deepcopy
from typing import Any

from diffusers import DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.generators import Denoiser
from sparring.networks import MLP
from sparring.networks.precision import at_least_float32

PLACES = ((UNet2DModel, "conv_out"), (DiTTransformer2DModel, "proj_out_2"), (MLP, "read_out.2"))
"""The last layer of each kind of network without captions; those with captions have it in their family."""


class DenoiserDiscriminator(Discriminator):
    """Logits [B] of noisy images at their times: what the last layer of a denoiser sees, as one number.

    Its input, averaged over positions, goes through RMSNorm and a linear layer without bias, as in CAFM (Lin et al.,
    arXiv 2604.11521), where a token of its own is read. It takes x_t, `Given.t` and `Given.condition` and can be
    differentiated in x_t and t. All of the copy is trained but its last layer.

    Args:
        denoiser: what it starts as; the copy shares what is frozen in it.

    Raises:
        ValueError: a network whose last layer is not known, or one with a latent z; in `logits`, no times.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        if denoiser.slot is not None:
            raise ValueError("`discriminator`: a copy of this denoiser would need a latent z; give another one")
        frozen = {id(p): p for p in denoiser.parameters() if not p.requires_grad}
        self.denoiser = deepcopy(denoiser, frozen)
        last = self.last.requires_grad_(False)
        self.read_out = nn.Linear(last.in_channels if isinstance(last, nn.Conv2d) else last.in_features, 1, bias=False)

    @property
    def last(self) -> Any:
        """The layer whose input is read."""
        net, text = self.denoiser.net, self.denoiser.text
        if text is not None:
            return net.get_submodule(text.last)
        name = next((name for kinds, name in PLACES if isinstance(net, kinds)), None)
        if name is not None:
            return net.get_submodule(name)
        raise ValueError(f"`discriminator`: no last layer is known of a {type(net).__name__}; give a discriminator")

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The noisy images themselves."""
        return [x]

    def logits(self, features: Features, given: Given) -> Tensor:
        x, t, process = features[0], given.t, self.denoiser.process
        if t is None:
            raise ValueError("a DenoiserDiscriminator needs the times of the images, and this method has none")
        still = t.detach()  # a time of a table is rounded; its slope is not
        time = process.model_time(still) + process.rate(process.model_time, still) * (t - still)
        seen: list[Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
        try:
            self.denoiser.network(process.model_input(x, t), time, given.condition)
        finally:
            handle.remove()
        pooled = seen[0] if seen[0].ndim == 2 else seen[0].mean(1) if seen[0].ndim == 3 else seen[0].mean((2, 3))
        normed = rms_norm(pooled, pooled.shape[1:]).to(self.read_out.weight.dtype)  # of a base in half precision
        return at_least_float32(self.read_out(normed)).squeeze(1)
