"""A trained baseline on real digits, each method from it, and plain training of equal cost: `sparring demo`."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sparring.data.waiting import counted
from sparring.evaluation import Evaluator, RealImages
from sparring.recipes import recipe
from sparring.recipes.compose import baseline_of, compose, read, shipped
from sparring.runs import RunFolder, is_run, summarise
from sparring.runs.results import keep_result, read_results
from sparring.samplers import Sampler

BASELINE, PLAIN = "baseline", "plain"
CALLS = {"ddim": (2, 5, 10), "unipc": (3, 5, 10, 20)}  # with two calls unipc is ddim
STUDENT_CALLS = {"lcm": (1, 2)}


@dataclass
class Demo:
    """Trains, samples and measures the baseline, plain training, and every recipe that says `demo: true`.

    What is finished already is kept, so that a demo that was stopped goes on.

    Args:
        out: folder of the runs, one for each arm.
        seed: of every arm.
        share: of the steps that a recipe has.
        n: images that are sampled for a number.
        calls: network calls by scheduler; students are measured with `STUDENT_CALLS`.
        setting: of the recipes.
        baseline: pipeline from which every arm starts; None: the one shipped for the setting.

    Raises:
        ValueError: `out` is a run.
    """

    out: Path
    seed: int = 0
    share: float = 0.6
    n: int = 1000
    calls: Mapping[str, Sequence[int]] = field(default_factory=lambda: CALLS)
    setting: str = "digits-vp"
    baseline: Path | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True), init=False)

    def __post_init__(self) -> None:
        if is_run(self.out):
            raise ValueError(f"`out={self.out}` is a run: give another folder for the runs of the demo")

    def run(self) -> list[Path]:
        """The folders of the arms, made or gone on with: the baseline, plain training, the methods.

        Raises:
            ValueError: `out` holds a demo with other settings.
            Interrupted: a signal asked to stop.
        """
        self.copy_baseline()
        methods = [name for name in shipped("methods") if read(name).get("demo")]
        for name in methods:
            self.train(name, name)
        self.train(PLAIN, "diffusion", steps=max(summarise(self.out / name).network_calls or 0 for name in methods))
        folders = [self.out / name for name in (BASELINE, PLAIN, *methods)]
        evaluator = Evaluator(RealImages.of(None, None, self.out / PLAIN))
        for folder in folders:
            self.measure(evaluator, folder)
        return folders

    def copy_baseline(self) -> None:
        """Puts the baseline beside the arms, where its results and pictures go, too."""
        folder = self.out / BASELINE
        if is_run(folder):
            raise self.other_settings()
        if not folder.exists():
            draft = self.out / f".{BASELINE}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(self.baseline or baseline_of(self.setting), draft)
            draft.rename(folder)
        self.say(BASELINE, f"trained before on {self.setting}, shipped with the package; every arm starts from it")

    def train(self, arm: str, method: str, steps: int | None = None) -> None:
        """Trains an arm, goes on with it if it was stopped, or keeps it if it is finished.

        Args:
            arm: name of its folder.
            method: its recipe.
            steps: None: the share of those of the recipe.
        """
        run, content = self.out / arm, compose(method, self.setting, tuned=True)
        steps = steps or max(1, round(self.share * content["trainer"]["steps"]))
        if not is_run(run):
            self.say(arm, shipped("methods")[method])
            start = str(self.out / BASELINE)
            flags = [f"--trainer.seed={self.seed}", f"--trainer.steps={steps}", "--trainer.tracker=null"]
            header = {"recipe": method, "setting": self.setting, "init": start, "allow": list[str]()}
            recipe.build(content, flags, out=run, init=start, header=header).fit()
            return
        trainer = recipe.rebuild(run, [])
        if (trainer.seed, trainer.steps) != (self.seed, steps):
            raise self.other_settings()
        if not RunFolder(run).load_checkpoint() or summarise(run).step != steps:
            self.say(arm, f"going on to step {steps}")
            trainer.fit(resume=True)

    def say(self, arm: str, text: str) -> None:
        self.console.print(f"[bold]{arm}[/]: {text}", highlight=False, soft_wrap=True)

    def other_settings(self) -> ValueError:
        return ValueError(f"{self.out} holds a demo with other settings: give another folder with --out")

    def measure(self, evaluator: Evaluator, folder: Path) -> None:
        """Samples an arm with each scheduler and number of calls, from the same latents, and measures the images."""
        sampler = Sampler(folder)
        student = sampler.generator.plan(1)[0] in STUDENT_CALLS
        controls = folder.name in (BASELINE, PLAIN)
        plan = {**({} if student else self.calls), **(STUDENT_CALLS if student or controls else {})}
        done = {(result.scheduler, result.nfe) for result in read_results(folder) if result.n == self.n}
        settings = [(scheduler, calls) for scheduler, numbers in plan.items() for calls in numbers]
        missing = [setting for setting in settings if setting not in done]
        if missing:
            self.say(folder.name, f"sampling and measuring {counted(len(missing), 'setting')}")
        for scheduler, calls in missing:
            result = evaluator.sampler(sampler, n=self.n, steps=calls, scheduler=scheduler, seed=0, pictures=folder)
            keep_result(folder, result)
