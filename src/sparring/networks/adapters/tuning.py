"""Which of a network's weights are trained: the abstract choice, and named parts."""

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import nn


class Tuning(ABC):
    """Chooses what of a network is trained. Everything else is frozen."""

    @abstractmethod
    def apply(self, net: nn.Module) -> None:
        """Freezes the network in place but for what is trained, and adds new layers if there are any.

        The output stays, bit for bit, what it was.

        Raises:
            ValueError: nothing in this network matches.
        """


class Parts(Tuning):
    """Only parameters whose name matches.

    Args:
        pattern: regular expression, searched for in each name: "attn", "^mid_block", "to_[kv]" …
    """

    def __init__(self, *, pattern: str):
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"`pattern={pattern}` is not a regular expression ({error})") from None

    def apply(self, net: nn.Module) -> None:
        net.requires_grad_(False)
        named = dict(net.named_parameters())
        found = [name for name in named if self.pattern.search(name)]
        if not found:
            raise no_match(f"`pattern={self.pattern.pattern}`", "parameter", net, named, [self.pattern.pattern])
        for name in found:
            named[name].requires_grad_(True)


def names_ending_in(names: Iterable[str], ends: Iterable[str]) -> list[str]:
    """The names that are, or end with a dot and, one of `ends`."""
    return [name for name in names if any(f".{name}".endswith(f".{end}") for end in ends)]


def no_match(setting: str, kind: str, net: nn.Module, names: Iterable[str], given: Iterable[str]) -> ValueError:
    """The error for a name that is not there, with names that are close to it."""
    known = list(names)
    words = {word: name for name in reversed(known) for word in (*name.split("."), name)}
    near = [words[word] for text in given for word in difflib.get_close_matches(text, words, 3, 0.5)]
    examples = ", ".join(list(dict.fromkeys(near or known))[:3]) or "none"
    return ValueError(f"{setting} matches no {kind} of {type(net).__name__}, which has: {examples}")
