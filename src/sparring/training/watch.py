"""What is noted about the two players, and what is said when one of them wins or dies."""

from typing import Any

import torch
from torch import Tensor

from sparring.training import processes

Noted = list[tuple[str, Tensor | float]]
"""Statistics of one step; a name stands there once for each micro-batch."""

WINS, LOSES, DEAD = 0.98, 0.45, 1e-7  # a good pair of players is often near 0.5
HINTS = {
    "wins": (
        "the discriminator is right in more than {share:.0%} of the cases and may leave the generator nothing to "
        "learn: lower its learning rate, regularise it (augment, a penalty such as R1), or set "
        "`discriminator_accuracy: 0.8`"
    ),
    "loses": (
        "the discriminator is right in fewer than {share:.0%} of the cases, worse than a coin: the generator fools it "
        "faster than it learns, and images may get worse. Raise its learning rate or `discriminator_updates`"
    ),
    "dead": (
        "the discriminator's gradient is 0: it no longer learns. Look at its losses; a hinge that is satisfied "
        "everywhere, or SADM's `ceiling`, gives no gradient"
    ),
}


class Means:
    """Means of the statistics since the last line of the log. Nothing waits for the device before a line is written."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor | float]] = {}

    def add(self, noted: Noted) -> None:
        for name, value in noted:
            if isinstance(value, Tensor) and value.device.type == "cpu":  # beside others on a GPU, or without one
                value = float(value.detach().float())
            self.values.setdefault(name, []).append(value)

    def line(self) -> dict[str, float]:
        """The means; the next line starts empty."""
        line = {name: sum(values) / len(values) for name, values in self.state().items()}
        self.values = {}
        return line

    def state(self) -> dict[str, list[float]]:
        """All values as numbers, each the mean over the processes."""
        every = [value for values in self.values.values() for value in values]
        on_device = [value.detach().float() for value in every if isinstance(value, Tensor)]
        numbers = iter(torch.stack(on_device).tolist() if on_device else [])  # one transfer
        own = [next(numbers) if isinstance(value, Tensor) else value for value in every]
        shared = iter((processes.total(torch.tensor(own, dtype=torch.float64)) / processes.world()).tolist())
        return {name: [next(shared) for _ in values] for name, values in self.values.items()}

    def load_state(self, state: dict[str, list[float]]) -> None:
        self.values = {name: list(values) for name, values in state.items()}


class Watch:
    """Sees a discriminator that wins, loses or dies, and says so once.

    Accuracy above 0.98 or below 0.45, or a gradient norm below 1e-7, for `patience` lines of the log in a row; default
    (ours).

    Args:
        patience: lines in a row.
    """

    def __init__(self, patience: int = 5):
        self.patience = patience
        self.lines = dict.fromkeys(HINTS, 0)
        self.said: list[str] = []

    def __call__(self, line: dict[str, float]) -> str | None:
        """A warning with a hint, when a line of the log is the last of too many; else None."""
        accuracy, norm = line.get("statistics/accuracy"), line.get("gradient_norm/discriminator")
        signs = {
            "wins": accuracy is not None and accuracy > WINS,
            "loses": accuracy is not None and accuracy < LOSES,
            "dead": norm is not None and norm < DEAD,
        }
        for name, seen in signs.items():
            self.lines[name] = self.lines[name] + 1 if seen else 0
            if self.lines[name] >= self.patience and name not in self.said:
                self.said.append(name)
                return HINTS[name].format(share=WINS if name == "wins" else LOSES)
        return None

    def state(self) -> dict[str, Any]:
        return {"lines": self.lines, "said": self.said}

    def load_state(self, state: dict[str, Any]) -> None:
        self.lines = {**self.lines, **state["lines"]}
        self.said = list(state["said"])


class Balance:
    """Lets the discriminator rest while it is too good, so that the ratio of updates adapts itself.

    It rests in a step when its accuracy, averaged over about the last ten steps, is above the target; default (ours),
    after the adaptive ratio of generator and discriminator updates that many public trainers have.

    Args:
        target: accuracy in (0.5, 1), over real and fake images alike.
    """

    memory = 0.9

    def __init__(self, target: float):
        if not 0.5 < target < 1:
            raise ValueError(f"`discriminator_accuracy={target}` must lie between 0.5 (a coin) and 1, such as 0.8")
        self.target = target
        self.accuracy = 0.5

    @property
    def rests(self) -> bool:
        """Whether the discriminator is to be left alone in this step."""
        return self.accuracy > self.target

    def observe(self, noted: Noted) -> None:
        """Takes in the accuracies noted in one discriminator update, over all processes.

        Raises:
            ValueError: the discriminator has no accuracy.
        """
        seen = [torch.as_tensor(value, dtype=torch.float64) for name, value in noted if name == "statistics/accuracy"]
        if not seen:
            raise ValueError("`discriminator_accuracy`: this method's discriminator has no accuracy; leave it out")
        accuracy = float(processes.total(torch.stack(seen).mean())) / processes.world()
        self.accuracy = self.memory * self.accuracy + (1 - self.memory) * accuracy
