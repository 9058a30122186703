"""What a network is conditioned on, beside the noisy image and its time: classes, captions, or another image."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data import ImageData
from sparring.generators.condition import Condition, TextCondition
from sparring.generators.families import Family
from sparring.generators.labels import SOURCE, label_argument, null_class_of, num_classes_of
from sparring.generators.own_source import OwnSource


class Conditioning:
    """The one kind of condition that a network takes: it is checked, and becomes an argument.

    It is no module: network, encoders and source are the denoiser's.

    Args:
        net: the network.
        text: the family of its text-to-image pipeline, or None.
        own_source: what makes its source if no data has it, or None.

    Attributes:
        classes_of_data: how many classes it was trained on, as far as is known; 0: unknown, or none.

    Raises:
        ValueError: a network that takes a source and classes, or an own source of one that takes none.
    """

    def __init__(self, net: nn.Module, text: Family | None, own_source: OwnSource | None) -> None:
        self.net, self.text = net, text
        self.own_source: Any = own_source
        self.name = type(net).__name__
        self.classes_of_data = 0
        self.label, self.needs_labels = label_argument(net) if text is None else (None, False)
        self.by_source = text is None and SOURCE in inspect.signature(net.forward).parameters
        if self.by_source and self.label is not None:
            raise ValueError(f"{self.name} takes a source and classes: a network has one condition here")
        if own_source is not None and not self.by_source:
            raise ValueError(f"`own_source`: {self.name} takes no source; sparring.networks.SourceUNet and CodeUNet do")

    @property
    def takes_source(self) -> bool:
        """Whether it is given another image beside the noisy one."""
        return self.by_source and self.own_source is None

    @property
    def num_classes(self) -> int | None:
        """How many classes the network was built for, if it takes any and says so."""
        return None if self.label is None else num_classes_of(self.net)

    @property
    def null_class(self) -> int:
        """The class that means "none"; see `null_class_of`."""
        return null_class_of(self.net, self.num_classes, self.classes_of_data)

    @property
    def knows_none(self) -> bool:
        """Whether it takes captions, or a class or an own source says "none"."""
        if self.own_source is not None and self.own_source.none is not None:
            return True
        try:
            return self.text is not None or self.null_class >= self.classes_of_data
        except ValueError:
            return False

    def check(self, data: ImageData) -> None:
        """Raises ValueError if the network needs classes, captions or sources that the data has not, or the reverse."""
        if self.text is not None:
            self.text.check(data, self.name)
        if self.text is None and data.text:
            raise ValueError(f"`text_column`: {self.name} takes no captions; leave it out")
        if self.takes_source and data.source_shape is None:
            raise ValueError(
                f"{self.name} is conditioned on source images and `{data.name}` has none: give pairs, or LowResolution"
            )
        if self.label is not None and data.num_classes is None:
            raise ValueError(f"the network is class-conditional and `{data.name}` has no labels: give labelled images")
        self.classes_of_data = data.num_classes or 0
        if self.num_classes is not None and self.classes_of_data > self.num_classes:
            raise ValueError(
                f"{self.name} has {self.num_classes} classes and `{data.name}` has {self.classes_of_data}: "
                "build the network with as many"
            )

    def of(self, given: Tensor | list[str] | None, size: tuple[int, int], device: torch.device) -> Condition:
        """What the network takes for classes [B], B captions or sources [B, ...] of images of `size` (height, width).

        Raises:
            ValueError: a text-to-image network without captions, or captions for another.
        """
        if self.text is None:
            if isinstance(given, list):
                raise ValueError(f"{self.name} takes no captions")
            return given
        if not isinstance(given, list):
            raise ValueError(f"{self.name} takes captions and there are none")
        return self.text(given, size, device)

    def none(self, condition: Condition) -> Condition:
        """The condition that says "none", in as many rows: the null class, the empty prompt, or an own source's."""
        if isinstance(condition, TextCondition):
            assert self.text is not None
            return self.text.empty(condition)
        if condition is None:
            raise ValueError(f"guidance of {self.name} needs classes or captions, and there are none")
        if self.own_source is not None and self.own_source.none is not None:
            return self.own_source.none.to(condition).expand_as(condition)
        return torch.full_like(condition, self.null_class)

    def blank(self, size: tuple[int, int], shape: tuple[int, int, int], device: torch.device) -> Condition:
        """A condition of one row to try the network with, for an image of `size` that is diffused in `shape`."""
        if self.text is not None:
            return self.text([""], size, device)
        if self.own_source is not None:
            return torch.zeros(1, *self.own_source.shape, device=device)
        if self.by_source:
            config: Any = getattr(self.net, "config", {})
            return torch.zeros(1, config.get("source_channels") or shape[0], *shape[1:], device=device)
        return None if self.label is None else torch.zeros(1, dtype=torch.long, device=device)

    def output(self, x: Tensor, time: Tensor, condition: Condition) -> Any:
        """What the network gives for x [B, C, H, W] and times [B] in its own terms, and their condition.

        Raises:
            ValueError: there is no condition and the network needs one, or captions that nobody embedded.
        """
        if condition is None and self.by_source:
            raise ValueError(f"{self.name} is conditioned on a source image, and none was given")
        if condition is None and self.needs_labels:
            raise ValueError(f"{self.name} is class-conditional and no labels were given")
        if self.text is None:
            name = SOURCE if self.by_source else self.label
            return self.net(x, time, **({} if condition is None or name is None else {name: condition}))
        if not isinstance(condition, TextCondition):
            raise ValueError(f"{self.name} takes captions, and the batch was not embedded")
        return self.text.output(self.net, x, time, condition.to(x.dtype))
