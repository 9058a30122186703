"""Runs a study: trains what is missing, samples each run once, and measures the samples in every feature space."""

import time
from collections.abc import Callable, Sequence
from statistics import fmean

from sparring.data.waiting import counted, in_words
from sparring.experiments.measuring import Measuring
from sparring.experiments.study_runs import StudyRuns, last_step


def run_study(runs: StudyRuns, seeds: Sequence[int], arms: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Trains, samples and measures what is missing of these seeds and arms.

    Args:
        runs: of the study.
        seeds: of the runs.
        arms: names.
        say: takes a line of progress.

    Raises:
        ValueError: what a recipe or a data set refuses; a run that is there was trained with other settings.
        Interrupted: a signal asked to stop; what is done is kept.
    """
    tasks = [(setting, seed, arm) for setting in runs.study.settings for seed in seeds for arm in arms]
    for setting, seed, arm in tasks:  # refuses what is wrong before anything is trained
        runs.config(setting, arm)
        runs.check_same(setting, seed, arm)
    clock, measuring = Clock(), Measuring(runs)
    for setting in dict.fromkeys(setting for setting, _, arm in tasks if not runs.makes_no_images(setting, arm)):
        measuring.real(setting)
    tried: set[tuple[str, str]] = set()
    for number, (setting, seed, arm) in enumerate(tasks, start=1):
        started = time.monotonic()
        for other in arms:  # refuses what cannot start as soon as that shows, and not when its turn comes
            if (setting, other) not in tried and runs.can_start(setting, seed, other):
                runs.trainer(setting, seed, other)
                tried.add((setting, other))
        runs.check_same(setting, seed, arm)  # again: what it starts from may have been trained by now
        trained = runs.train(setting, seed, arm)
        measured = measuring.measure(setting, seed, arm)
        if trained or measured:
            clock.add(setting, arm, time.monotonic() - started)
        rest = [task for task in tasks[number:] if last_step(runs.folder(*task)) < runs.steps(task[0], task[2])]
        left = clock.left([(setting, arm) for setting, _, arm in rest])
        say(
            f"[{number}/{len(tasks)}] {setting}, seed {seed}, {arm}: {counted(trained, 'step')}, "
            f"{counted(measured, 'measurement')}" + (f"; about {in_words(left)} left" if left else "")
        )


class Clock:
    """How long the rest of a study takes, by what the same arms took."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}

    def add(self, setting: str, arm: str, seconds: float) -> None:
        self.seconds.setdefault((setting, arm), []).append(seconds)

    def left(self, tasks: Sequence[tuple[str, str]]) -> float | None:
        """Seconds for these settings and arms; None if nothing is known yet."""
        if not self.seconds:
            return None
        usual = fmean(fmean(seconds) for seconds in self.seconds.values())
        return sum(fmean(self.seconds.get(task, [usual])) for task in tasks)
