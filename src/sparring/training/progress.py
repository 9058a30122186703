"""What a user sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from sparring.data.waiting import Pace


class Progress:
    """Step, losses, images per second and time left.

    Args:
        steps: last step of the run.
        done: steps already behind it.
        visible: False on all processes but one.
    """

    def __init__(self, steps: int, done: int, visible: bool = True):
        self.steps = steps
        self.done = done
        self.visible = visible
        self.losses = ""
        self.rate = 0.0
        self.pace = Pace(steps, done)
        console = Console(stderr=True)
        self.live = visible and console.is_terminal
        self.bar = RichProgress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rate]:.0f} img/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[losses]}"),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("train", total=steps, completed=done, rate=0.0, losses="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        if self.visible and not self.live:
            print(f"training: step {self.done} of {self.steps}", file=sys.stderr, flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, line: dict[str, float]) -> None:
        """Keeps the losses of a log line for display."""
        shown = [f"{name.split('/')[1]} {value:.3g}" for name, value in line.items() if name.startswith("generator/")]
        shown += [f"D {name.split('/')[1]} {value:.3g}" for name, value in line.items() if name.startswith("discrim")]
        self.losses = "  ".join(shown)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self.visible:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self, images_per_second: float) -> None:
        """One more step is done."""
        self.done += 1
        self.rate = images_per_second if self.rate == 0 else 0.95 * self.rate + 0.05 * images_per_second
        if self.live:
            self.bar.update(self.task, completed=self.done, rate=self.rate, losses=self.losses)
        elif self.visible and (self.pace.due() or self.done == self.steps):
            parts = [f"step {self.done}/{self.steps}{self.pace.left(self.done)}", f"{self.rate:.0f} img/s", self.losses]
            print("  ".join(filter(None, parts)), file=sys.stderr, flush=True)
