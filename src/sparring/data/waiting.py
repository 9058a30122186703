"""What is said of long work: a line now and then, with the time that is left.

The lines go to `logging.getLogger("sparring")`, which is silent in a program that does not ask; the command line prints
them on stderr.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

SAYS = logging.getLogger("sparring")
FIRST_SECONDS, EVERY_SECONDS = 2.0, 10.0

Unit = TypeVar("Unit")


class Pace:
    """When a line about long work is due, and about how long the rest of it takes.

    Args:
        total: units of work.
        done: units that were done before.
        first: seconds until the first line; the others follow every ten.
    """

    def __init__(self, total: float, done: float = 0, first: float = EVERY_SECONDS):
        self.total, self.before = total, done
        self.begun = time.monotonic()
        self.next_line = self.begun + first

    def begin(self, at_once: bool) -> None:
        """Starts the clock now instead, with the first line at once or in ten seconds."""
        self.begun = time.monotonic()
        self.next_line = self.begun + (0.0 if at_once else EVERY_SECONDS)

    def due(self) -> bool:
        """Whether it is time for a line; if so, the next one is due ten seconds from now."""
        now = time.monotonic()
        if now < self.next_line:
            return False
        self.next_line = now + EVERY_SECONDS
        return True

    def left(self, done: float) -> str:
        """The end of a line, such as ", about 40 s left"; empty before the first unit and after the last."""
        if done <= self.before or done >= self.total:
            return ""
        seconds = (time.monotonic() - self.begun) * (self.total - done) / (done - self.before)
        return f", about {in_words(seconds)} left"


class Told:
    """Counts units of work, one a call, and says how far it is once it takes long.

    Args:
        what: the beginning of its lines.
        total: units of work.
        first: seconds until the first line.
    """

    def __init__(self, what: str, total: int, first: float = FIRST_SECONDS):
        self.what, self.done = what, 0
        self.pace = Pace(total, first=first)

    def __call__(self, *_: object) -> None:
        """One more unit is done."""
        self.done += 1
        if self.done < self.pace.total and self.pace.due():
            SAYS.info("%s: %.0f %%%s", self.what, 100 * self.done / self.pace.total, self.pace.left(self.done))


def told(units: Iterable[Unit], what: str, total: int) -> Iterator[Unit]:
    """Passes units of work on, and says how far they are once they take long."""
    one_more = Told(what, total)
    for unit in units:
        yield unit
        one_more()


def counted(number: int, thing: str) -> str:
    """How many there are, as in "1 image" and "2 images"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def in_words(seconds: float) -> str:
    """A rough duration."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
