"""How a run is asked to stop: Ctrl-C and SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop by a signal and has written its checkpoint.

    Attributes:
        exit_code: 128 plus the signal's number, as shells have it.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; go on with --resume")
        self.exit_code = 128 + number


@contextmanager
def stop_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Calls `stop` with the number of a stopping signal in place of what it would do; only in the main thread."""

    def handler(number: int, _: Any) -> None:
        stop(number)

    try:
        old = {number: signal.signal(number, handler) for number in STOPPING}
    except ValueError:  # signals can only be handled in the main thread; its owner must stop us
        old = {}
    try:
        yield
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def ignore_stop_signals(worker: int) -> None:
    """For data workers: a signal to the whole group is for the trainer, which still needs them to end its step.

    The second SIGTERM ends a worker: that is how torch and Python put an end to one that does not listen.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
