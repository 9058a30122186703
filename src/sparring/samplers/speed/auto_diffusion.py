"""AutoDiffusion: training-free optimization of time steps and architectures for acceleration (arXiv 2309.10438).

Status: no gain; 7 % better than even levels on digits in one feature space, and UniPC is better by half
(docs/results/sampling.md).

Which noise levels a sampler of few steps visits, and which blocks of the network each step needs, are searched for, and
the network stays as it is. `sparring search` finds them by evolution, scored by the Frechet distance of a few samples;
this walks what was found:

    x <- scheduler step at t_1 > t_2 > … > t_m, the network of step k without the blocks skips_k

Only blocks that give back the shape that they take can be left out. Schedulers that take no levels of their own (DDIM)
are refused; "euler" is the same solver. That a schedule is a small file is ours.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Intervention, Predictor
from sparring.networks.skips import skippable, without


class AutoDiffusion(Intervention):
    """Levels, and blocks that are left out, of each step.

    Args:
        schedule: file of `sparring search`; None: what `times` and `skips` say.
        times: t of the process in (0, 1] for each step, falling; none: those of the scheduler.
        skips: names of the blocks that each step leaves out; none: all steps run all blocks.

    Raises:
        ValueError: a file beside the others, a file of another kind, times that do not fall in (0, 1], or times and
            skips of different numbers.
    """

    place = "call"

    def __init__(
        self, *, schedule: str | None = None, times: Sequence[float] = (), skips: Sequence[Sequence[str]] = ()
    ):
        self.schedule = schedule
        if schedule is not None and (times or skips):
            raise ValueError(f"`schedule={schedule}` says the `times` and `skips`: give the file, or these")
        if schedule is not None:
            times, skips = read_schedule(schedule)
        falling = all(s < t for t, s in zip(times, times[1:], strict=False))
        if times and not (falling and times[-1] > 0 and times[0] <= 1):
            raise ValueError(f"`times={list(times)}` must fall, and lie in (0, 1]")
        if skips and times and len(skips) != len(times):
            raise ValueError(f"`skips` is for {len(skips)} steps and `times` for {len(times)}")
        self.times = tuple(times)
        self.skips = tuple(tuple(step) for step in skips)

    def check(self, denoiser: DenoisingNetwork) -> None:
        known = skippable(denoiser.net)
        for name in (name for step in self.skips for name in step):
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise ValueError(f"`skips={name}` is no block of the {type(denoiser.net).__name__} to leave out: {has}")

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        blocks = skippable(denoiser.net) if any(self.skips) else {}

        def lighter(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            if level.calls != len(self.skips):
                raise ValueError(
                    f"`skips` is for {len(self.skips)} network calls, and this sampler makes {level.calls}"
                )
            with without(blocks[name] for name in self.skips[level.call]):
                return inner(x_t, level, condition)

        return lighter if any(self.skips) else inner


def read_schedule(file: str | Path) -> tuple[list[float], list[list[str]]]:
    """Times and skips of a file of `sparring search`.

    Raises:
        ValueError: it is not there, or something else.
    """
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        return [float(t) for t in found["times"]], [[str(name) for name in step] for step in found["skips"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`schedule={file}` is no file of `sparring search` ({type(error).__name__})") from None
