"""A discriminator that is one network, trained from scratch: for points, and for small images."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.data import Draws
from sparring.discriminators.augment import DiffAugment
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.networks.conv_discriminator import Spread
from sparring.networks.precision import at_least_float32


class PlainDiscriminator(Discriminator):
    """Logits of single images by a network of your own; the features are the images, so penalties attach to these.

    Args:
        net: Images [B, C, H, W] to logits [B, ...], for example a `Perceptron` or a `ConvDiscriminator`. No batch
            statistics: they would tell real from fake by the company of an image.
        given: What the network takes beside the images, by keyword: any of "labels", "t" and "x_t", which are those of
            `Given`. A `ConvDiscriminator` is built for that (`num_classes`, `time`, `neighbour`).
        augment: Policy of `DiffAugment`; "" for none.
        clip: After each update every trained weight is clipped to [-clip, clip] (Arjovsky et al. 2017, "Wasserstein
            GAN", algorithm 1, where it is 0.01); None: it is not.

    Raises:
        ValueError: A `clip` that is not above 0, `augment` beside "x_t", or a network with batch normalisation; in
            `check`, rows that do not fill the groups of a network that compares rows (`Spread`); in `logits`, what is
            not known.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        given: Sequence[Literal["labels", "t", "x_t"]] = (),
        augment: str = "",
        clip: float | None = None,
    ) -> None:
        super().__init__()
        if clip is not None and clip <= 0:
            raise ValueError(f"`clip={clip}` must be above 0; leave it out to clip nothing")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
            raise ValueError(f"{type(net).__name__} has batch normalisation, which would couple the rows of a batch")
        if augment and "x_t" in given:
            raise ValueError(f"`augment={augment}` would change the images and not their noisier neighbours `x_t`")
        self.net = net
        self.given = tuple(given)
        self.augment = DiffAugment(policy=augment)
        self.clip = clip

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The augmented images themselves."""
        return [self.augment(x, draws)]

    def logits(self, features: Features, given: Given) -> Tensor:
        """Logits [B, ...], float32, as the network gives them."""
        return at_least_float32(self.net(features[0], **self.beside(given)))

    def beside(self, given: Given) -> dict[str, Tensor]:
        """What the network takes beside the images, by name."""
        known = {"labels": given.labels, "t": given.t, "x_t": given.x_t}
        beside: dict[str, Tensor] = {name: value for name in self.given if (value := known[name]) is not None}
        if missing := [name for name in self.given if name not in beside]:
            raise ValueError(f"`given={list(self.given)}`: this method and its data know no `{missing[0]}`")
        return beside

    def check(self, batch_size: int) -> None:
        for module in self.net.modules():
            if isinstance(module, Spread):
                module.check(batch_size)

    @torch.no_grad()
    def after_update(self) -> None:
        """Clips the weights, with `clip`."""
        if self.clip is not None:
            for parameter in self.parameters():
                parameter.clamp_(-self.clip, self.clip)
