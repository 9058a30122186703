"""A discriminator that is one network, trained from scratch: for points, and for small images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.data import Draws
from sparring.discriminators.augment import DiffAugment
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.networks.conv_discriminator import Spread
from sparring.networks.minibatch import MinibatchDiscrimination
from sparring.networks.precision import at_least_float32
from sparring.objectives import Scores


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer is called with from here on."""
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        hook.remove()


class PlainDiscriminator(Discriminator):
    """Logits of single images by a network of your own; the features are the images, so penalties attach to these.

    Args:
        net: Images [B, C, H, W] to logits [B, ...], for example a `Perceptron` or a `ConvDiscriminator`. No batch
            statistics: they would tell real from fake by the company of an image.
        given: What the network takes beside the images, by keyword: any of "labels", "t" and "x_t", which are those of
            `Given`. A `ConvDiscriminator` is built for that (`num_classes`, `time`, `neighbour`).
        augment: Policy of `DiffAugment`; "" for none.
        last: Name of the last layer of the network, such as "read_out", whose input h is then `Scores.hidden`, for
            `FeatureMatching`; None: the scores have no such thing.
        minibatch: Rows of a group of which `MinibatchDiscrimination` sees how close they are in h: `D = net(x) + V o`,
            which is the last layer [W, V] on h and o together (V starts at 0, ours). Reals and fakes are groups of
            their own. 0: rows know nothing of each other.
        clip: After each update every trained weight is clipped to [-clip, clip] (Arjovsky et al. 2017, "Wasserstein
            GAN", algorithm 1, where it is 0.01); None: it is not.

    Raises:
        ValueError: A `clip` that is not above 0, `augment` beside "x_t", or a network with batch normalisation; in
            `check`, rows that do not fill the groups of what compares rows; in `logits`, what is not known.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        given: Sequence[Literal["labels", "t", "x_t"]] = (),
        augment: str = "",
        last: str | None = None,
        minibatch: int = 0,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        if last is not None and last not in (names := [name for name, _ in net.named_modules()][1:]):
            raise ValueError(f"`last={last}`: the layers of {type(net).__name__} are {', '.join(names)}")
        if clip is not None and clip <= 0:
            raise ValueError(f"`clip={clip}` must be above 0; leave it out to clip nothing")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
            raise ValueError(f"{type(net).__name__} has batch normalisation, which would couple the rows of a batch")
        if augment and "x_t" in given:
            raise ValueError(f"`augment={augment}` would change the images and not their noisier neighbours `x_t`")
        self.net = net
        self.given = tuple(given)
        self.augment = DiffAugment(policy=augment)
        self.last = last
        self.clip = clip
        self.minibatch: MinibatchDiscrimination | None = None
        if minibatch != 0:
            layer = None if last is None else net.get_submodule(last)
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"`minibatch={minibatch}` joins the last layer: name it, a linear one, with `last`")
            self.minibatch = MinibatchDiscrimination(layer.in_features, group=minibatch)
            self.read_minibatch = nn.Linear(self.minibatch.kernels, layer.out_features, bias=False)
            nn.init.zeros_(self.read_minibatch.weight)

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The augmented images themselves."""
        return [self.augment(x, draws)]

    def logits(self, features: Features, given: Given) -> Tensor:
        """Logits [B, ...], float32, as the network gives them."""
        return self._score(features, given).logits

    def scores(self, candidates: Sequence[Features], given: Given) -> list[Scores]:
        """The scores of each batch of candidates, with what the last layer takes of them if its name is known."""
        return [self._score(features, given) for features in candidates]

    def call(self, features: Features, given: Given) -> Tensor:
        """What the network makes of the features of each row, float32."""
        return at_least_float32(self.net(features[0], **self.beside(given)))

    def field(self, x: Tensor, given: Given) -> dict[str, Tensor]:
        """Logits [B] of points, each by itself."""
        return {"": self._score([x], given, alone=True).logits.view(len(x), -1).mean(1)}

    def _score(self, features: Features, given: Given, alone: bool = False) -> Scores:
        if self.last is None:
            return Scores(self.call(features, given), features)
        with inputs_of(self.net.get_submodule(self.last)) as inputs:
            logits = self.call(features, given)
        hidden = inputs[0].flatten(1)
        if self.minibatch is not None and not alone:
            logits = logits + at_least_float32(self.read_minibatch(self.minibatch(hidden))).view_as(logits)
        return Scores(logits, features, hidden=hidden)

    @property
    def takes_labels(self) -> bool:
        return "labels" in self.given

    @property
    def num_classes(self) -> int | None:
        known = getattr(self.net, "class_embedding", None)
        return known.num_embeddings if isinstance(known, nn.Embedding) else None

    def beside(self, given: Given) -> dict[str, Tensor]:
        """What the network takes beside the images, by name."""
        known = {"labels": given.labels, "t": given.t, "x_t": given.x_t}
        beside: dict[str, Tensor] = {name: value for name in self.given if (value := known[name]) is not None}
        if missing := [name for name in self.given if name not in beside]:
            raise ValueError(f"`given={list(self.given)}`: this method and its data know no `{missing[0]}`")
        return beside

    def check(self, batch_size: int) -> None:
        for module in self.modules():
            if isinstance(module, Spread | MinibatchDiscrimination):
                module.check(batch_size)

    @torch.no_grad()
    def after_update(self) -> None:
        """Clips the weights, with `clip`."""
        if self.clip is not None:
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.clamp_(-self.clip, self.clip)
