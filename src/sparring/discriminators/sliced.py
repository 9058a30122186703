"""The last layer of SAN: its direction is trained by another loss than all the rest."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.networks.precision import at_least_float32
from sparring.objectives import Objective, Scores


class SlicedDiscriminator(Discriminator):
    """Any discriminator of single images that ends in a linear layer `<w, h> + b`, with its direction sliced off.

    With `omega = w / |w|` and `sg` what takes no gradient, the logits are `<|w| h, sg omega> + b`: the objective trains
    h, |w| and b with them. `Scores.direction` is `<sg |w| h, omega>`: it trains omega. Both have the value of the plain
    logits, up to b. Source: Takida et al. 2024, "SAN" (arXiv 2301.12811); that a bias stays is ours.

    A layer with several outputs has a direction for each, and so has every filter of a convolution.

    Args:
        discriminator: the discriminator.
        last: name of its last layer, for example "net.read_out"; None: the linear layer or convolution that is defined
            last.

    Raises:
        ValueError: no such layer, or one that computes its weight itself (spectral norm); a discriminator that
            compares; in `logits`, a layer that is not the last.
    """

    def __init__(self, discriminator: Discriminator, *, last: str | None = None) -> None:
        super().__init__()
        kind = type(discriminator).__name__
        if discriminator.needs_reference != "no":
            raise ValueError(f"{kind} compares images with others, and its logits are not linear in features of one")
        layers = {name: part for name, part in discriminator.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
        if not layers or (last is not None and last not in layers):
            raise ValueError(f"`last={last}`: the linear layers of {kind} are {', '.join(layers) or 'none'}")
        self.discriminator = discriminator
        self.last = last or list(layers)[-1]
        if type(layers[self.last]) not in (nn.Linear, nn.Conv2d):
            name = type(layers[self.last]).__name__
            raise ValueError(f"`last={self.last}` is a {name}, which computes its weight: use a plain linear layer")
        self._known_to_be_last = False

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """Those of the discriminator."""
        return self.discriminator.features(x, given, draws)

    def logits(self, features: Features, given: Given) -> Tensor:
        """The logits of the discriminator, without gradient to the direction of its last layer."""
        return self.scores([features], given)[0].logits

    def scores(self, candidates: Sequence[Features], given: Given) -> list[Scores]:
        """The scores of each batch of candidates, with `direction` and, as `hidden`, the input of the last layer."""
        return [self._score(features, given) for features in candidates]

    def check_objective(self, objective: Objective) -> None:
        self.discriminator.check_objective(objective)

    @property
    def takes_labels(self) -> bool:
        return self.discriminator.takes_labels

    @property
    def num_classes(self) -> int | None:
        return self.discriminator.num_classes

    def losses(self) -> dict[str, Tensor]:
        return self.discriminator.losses()

    def statistics(self, real: Scores, fake: Scores, given: Given, step: int) -> dict[str, Tensor]:
        return self.discriminator.statistics(real, fake, given, step)

    def _score(self, features: Features, given: Given) -> Scores:
        found: list[tuple[Tensor, Tensor, Tensor]] = []

        def slice_off(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            (hidden,) = inputs
            with torch.autocast(hidden.device.type, enabled=False):
                hidden, weight = at_least_float32(hidden), at_least_float32(layer.weight)
                per_output = (-1,) if isinstance(layer, nn.Linear) else (1, -1, 1, 1)
                length = weight.flatten(1).norm(dim=1)
                omega = weight / length.view(-1, *[1] * (weight.ndim - 1))
                length = length.view(per_output)
                logits = length * linear(layer, hidden, omega.detach())
                if layer.bias is not None:
                    logits = logits + at_least_float32(layer.bias).view(per_output)
                found.append((hidden, logits, length.detach() * linear(layer, hidden.detach(), omega)))
            return logits.to(output.dtype)

        hook = self.discriminator.get_submodule(self.last).register_forward_hook(slice_off)
        try:
            (scores,) = self.discriminator.scores([features], given)
        finally:
            hook.remove()
        if len(found) != 1 or not (self._known_to_be_last or is_same(found[0][1], scores.logits)):
            kind = type(self.discriminator).__name__
            raise ValueError(f"`last={self.last}` does not give the logits of {kind}, which must end in that layer")
        self._known_to_be_last = True
        hidden, _, direction = found[0]
        return Scores(scores.logits, scores.features, hidden=hidden.flatten(1), direction=direction)


def linear(layer: nn.Linear | nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """What the layer does, with another weight and without bias."""
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight)
    return layer._conv_forward(x, weight, None)


def is_same(output: Tensor, logits: Tensor) -> bool:
    """Whether the logits are a layer's output in another shape, up to the rounding of half precision."""
    return output.numel() == logits.numel() and bool(
        torch.allclose(output.flatten().float(), logits.flatten().float(), rtol=0.01, atol=1e-3)
    )
