"""Does evolution with shared weights find a good architecture? The experiment of EAGAN on 27 small perceptrons.

    python -m sparring.experiments.search --out runs/search

trains the network that holds all of them (`sparring fit eagan --on ring`) and each of them by itself, and writes
search.json: Kendall's tau between the ranking by shared weights and the one of the networks trained alone, and how
often evolution and random search, at equal numbers of evaluations by shared weights, end with one of the three that are
truly best. What is there is kept, so that it goes on when it is called again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sparring.data import GaussianMixture
from sparring.experiments.study import as_flags
from sparring.experiments.study_runs import last_step
from sparring.generators import LatentGenerator, load_generator
from sparring.methods.gan.eagan import made_by
from sparring.metrics.toys import good_share, sliced_wasserstein
from sparring.networks.super_perceptron import GENOTYPES, Genotype, size_of
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.runs import is_run

SAMPLES, RADIUS = 5000, 3.0  # points that are scored; standard deviations around a mode
PARENTS = 3
TOP = 3
Score = tuple[float, ...]
"""Numbers of an architecture of which lower ones are better."""


def dominates(a: Score, b: Score) -> bool:
    """Whether a is nowhere worse than b, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def fronts(scores: Sequence[Score]) -> list[list[int]]:
    """The rows by non-dominated sorting: those that nothing dominates, then those that only these dominate, and so on.

    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II".
    """
    left, found = list(range(len(scores))), []
    while left:
        front = [i for i in left if not any(dominates(scores[j], scores[i]) for j in left)]
        found.append(front)
        left = [i for i in left if i not in front]
    return found


def mutant(genotype: Genotype, random: torch.Generator) -> Genotype:
    """The genotype with exactly one gene changed."""
    place, step = (int(torch.randint(low, high, (), generator=random)) for low, high in ((0, 3), (1, 3)))
    genes = list(genotype)
    genes[place] = (genes[place] + step) % 3
    return Genotype(*genes)


def crossed(genotype: Genotype, other: Genotype, random: torch.Generator) -> Genotype:
    """The genotype with one gene of another."""
    place = int(torch.randint(3, (), generator=random))
    return Genotype(*(other[i] if i == place else gene for i, gene in enumerate(genotype)))


def survivors(scored: dict[Genotype, Score]) -> list[Genotype]:
    """The best `PARENTS` by non-dominated sorting, within a front by the first score."""
    names = list(scored)
    order = [
        i
        for front in fronts([scored[name] for name in names])
        for i in sorted(front, key=lambda i: scored[names[i]][0])
    ]
    return [names[i] for i in order[:PARENTS]]


def evolve(score: Callable[[Genotype], Score], evaluations: int, random: torch.Generator) -> dict[Genotype, Score]:
    """What was scored: first `PARENTS` at random, then children, in turn mutants and crossings, of who survives.

    A child that is known already is made again, after some tries as a random one.
    """
    scored = random_search(score, min(PARENTS, evaluations), random)
    population = survivors(scored)
    while len(scored) < evaluations:
        for _ in range(min(PARENTS, evaluations - len(scored))):
            child = new_child(population, scored, len(scored), random)
            scored[child] = score(child)
        population = survivors({one: scored[one] for one in scored})
    return scored


def new_child(
    population: list[Genotype], known: dict[Genotype, Score], number: int, random: torch.Generator
) -> Genotype:
    """A genotype that is not known yet."""
    for _ in range(20):
        parent, other = (population[int(torch.randint(len(population), (), generator=random))] for _ in range(2))
        child = mutant(parent, random) if number % 2 == 0 else crossed(parent, other, random)
        if child not in known:
            return child
    left = [one for one in GENOTYPES if one not in known]
    return left[int(torch.randint(len(left), (), generator=random))]


def random_search(
    score: Callable[[Genotype], Score], evaluations: int, random: torch.Generator
) -> dict[Genotype, Score]:
    """What was scored: so many different genotypes at random."""
    chosen = torch.randperm(len(GENOTYPES), generator=random)[:evaluations].tolist()
    return {GENOTYPES[i]: score(GENOTYPES[i]) for i in chosen}


def compare(
    shared: dict[Genotype, Score], alone: dict[Genotype, Score], evaluations: int = 9, restarts: int = 20
) -> dict[str, float]:
    """Kendall's tau of the first score, and how often each search ends with one of the truly best three.

    Args:
        shared: scores by shared weights, by which both searches choose.
        alone: scores of the networks trained by themselves: the truth.
        evaluations: of each search.
        restarts: of each search, with different random numbers.
    """
    from scipy.stats import kendalltau

    best = sorted(alone, key=lambda one: alone[one][0])[:TOP]
    found: dict[str, float] = {
        "tau": float(kendalltau([shared[one][0] for one in GENOTYPES], [alone[one][0] for one in GENOTYPES]).statistic)
    }
    for name, search in (("evolution", evolve), ("random_search", random_search)):
        hits = 0
        for restart in range(restarts):
            scored = search(shared.__getitem__, evaluations, torch.Generator().manual_seed(restart))
            hits += min(scored, key=lambda one: scored[one][0]) in best
        found[name] = hits / restarts
    return found


def score_of(points: torch.Tensor, data: GaussianMixture, genotype: Genotype) -> Score:
    """Sliced Wasserstein distance, share of points beside all modes, and parameters."""
    real = data.sample(len(points), seed=1)
    beside = 1 - good_share(points, data.centres, RADIUS * data.std)
    return sliced_wasserstein(points, real), beside, float(size_of(genotype, 2, 2))


def trained(out: Path, name: str, steps: int, seed: int, **settings: Any) -> LatentGenerator:
    """The generator of a run on the ring, trained as far as it is not."""
    run = out / name.replace(" ", "-")
    flags = as_flags({"trainer.steps": steps, "trainer.seed": seed, "trainer.tracker": None} | settings, {})
    if not is_run(run):
        kind = "eagan" if name == "shared" else "gan"
        header: dict[str, Any] = {"recipe": kind, "setting": "ring", "init": None, "allow": []}
        recipe.build(compose(kind, "ring"), flags, out=run, init=None, header=header).fit()
    elif last_step(run) < steps:
        recipe.rebuild(run, as_flags({"trainer.steps": steps}, {})).fit(resume=True)
    generator = load_generator(run)
    assert isinstance(generator, LatentGenerator)
    return generator


def run(out: Path, steps: int, seed: int) -> dict[str, Any]:
    """Trains what is missing, compares, and writes search.json."""
    data = GaussianMixture()
    noise = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(seed))
    holds_all = trained(out, "shared", steps * 3, seed)
    shared, alone = {}, {}
    for number, genotype in enumerate(GENOTYPES):
        net = {"class_path": "sparring.networks.SmallPerceptron", "init_args": {"genotype": list(genotype)}}
        settings = {"generator.net": net, "method.objective": "Hinge"}
        generator = trained(out, "alone " + "".join(map(str, genotype)), steps, seed, **settings)
        with torch.no_grad():
            shared[genotype] = score_of(made_by(holds_all, number, noise).clamp(-1, 1), data, genotype)
            alone[genotype] = score_of(generator(noise).clamp(-1, 1), data, genotype)
    found: dict[str, Any] = compare(shared, alone)
    found["scores"] = {
        "".join(map(str, one)): {"shared": list(shared[one]), "alone": list(alone[one])} for one in GENOTYPES
    }
    (out / "search.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sparring.experiments.search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of search.json")
    parser.add_argument("--steps", type=int, default=1000, help="of each network; three times of the shared one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"`steps={options.steps}` must be at least 1")
    found = run(options.out, options.steps, options.seed)
    print(json.dumps({name: round(value, 3) for name, value in found.items() if name != "scores"}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
