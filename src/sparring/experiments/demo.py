"""A baseline on real digits, each method from its checkpoint, and plain training of equal cost: `sparring demo`."""

from pathlib import Path

from rich.console import Console

from sparring.evaluation import Evaluator, RealImages
from sparring.recipes import recipe
from sparring.recipes.compose import compose, read, shipped
from sparring.runs import RunFolder, is_run, summarise
from sparring.runs.results import keep_result, read_results
from sparring.samplers import Sampler

CALLS = (2, 5, 10, 50)
STUDENT_CALLS = (1, 2)
NUM_IMAGES = 1000
QUICK = {"baseline": 400, "arms": 60, "images": 400}


def run_demo(out: Path, *, quick: bool = False, seed: int = 0) -> list[Path]:
    """Trains, tunes, samples and measures; what is finished already is kept. Returns the runs, the baseline first.

    Args:
        out: folder of the runs, one for each arm.
        quick: fewer steps and images.
        seed: of every arm.

    Raises:
        ValueError: `out` is a run, or holds a demo with other settings.
    """
    if is_run(out):
        raise ValueError(f"`out={out}` is a run: give another folder for the runs of the demo")
    console = Console(stderr=True)
    arms = [name for name in shipped("methods") if read(name).get("demo")]
    steps = QUICK["arms"] if quick else None
    first = QUICK["baseline"] if quick else None
    baseline = arm(console, out, "baseline", "diffusion", seed, init=None, steps=first)
    for name in arms:
        arm(console, out, name, name, seed, init=baseline, steps=steps)
    plain_steps = max(summarise(out / name).network_calls or 0 for name in arms)
    arm(console, out, "plain", "diffusion", seed, init=baseline, steps=plain_steps)

    names = ("baseline", "plain", *arms)
    evaluator = Evaluator(RealImages.of("digits", None, out))
    for name in names:
        measure(console, evaluator, out / name, QUICK["images"] if quick else NUM_IMAGES)
    return [out / name for name in names]


def arm(
    console: Console, out: Path, name: str, method: str, seed: int, *, init: Path | None, steps: int | None
) -> Path:
    """Trains one arm, goes on with it where it was stopped, or keeps it where it is finished."""
    run, settings = out / name, compose(method, "digits", tuned=init is not None)
    flags = [f"--trainer.seed={seed}"] + ([f"--trainer.steps={steps}"] if steps else [])
    if is_run(run):
        trainer = recipe.rebuild(run, [])
        if (trainer.seed, trainer.steps) != (seed, steps or settings["trainer"]["steps"]):
            raise ValueError(f"{out} holds a demo with other settings: give another folder with --out")
        if RunFolder(run).load_checkpoint() and summarise(run).step == trainer.steps:
            return run
        console.print(f"[bold]{name}[/]: going on to step {trainer.steps}")
        trainer.fit(resume=True)
        return run
    source = None if init is None else str(init)
    header = {"recipe": method, "setting": "digits", "init": source, "allow": list[str]()}
    trainer = recipe.build(settings, flags, out=run, init=source, header=header)
    console.print(f"[bold]{name}[/]: {shipped('methods')[method]}")
    trainer.fit()
    return run


def measure(console: Console, evaluator: Evaluator, run: Path, n: int) -> None:
    """Every scheduler and number of calls of one arm, from the same latents; the images of each go into the page."""
    sampler = Sampler(run)
    student = sampler.generator.plan(1)[0] == "lcm"
    plan = [] if student else [(scheduler, calls) for scheduler in ("ddim", "dpm") for calls in CALLS]
    if student or summarise(run).plain:  # the student's own rule, and its control
        plan += [("lcm", calls) for calls in STUDENT_CALLS]
    done = {(result.scheduler, result.nfe, result.n) for result in read_results(run)}
    missing = [(scheduler, calls) for scheduler, calls in plan if (scheduler, calls, n) not in done]
    if missing:
        console.print(f"[bold]{run.name}[/]: sampling and measuring {len(missing)} settings")
    for scheduler, calls in missing:
        keep_result(run, evaluator.sampler(sampler, n=n, steps=calls, scheduler=scheduler, seed=0, pictures=run))
