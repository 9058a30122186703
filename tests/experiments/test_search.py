"""The search: sorting on a hand example, mutants, and which search wins where the truth is known."""

import json

import pytest
import torch

from sparring.experiments import search
from sparring.experiments.search import compare, crossed, evolve, fronts, main, mutant, random_search, survivors
from sparring.networks.super_perceptron import GENOTYPES, Genotype


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def test_non_dominated_sorting_by_hand():
    scores = [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0), (3.0, 4.0), (5.0, 5.0), (2.0, 3.0)]
    assert fronts(scores) == [[0, 1, 2, 5], [3], [4]]
    scored = dict(zip(GENOTYPES, scores, strict=False))
    assert survivors(scored) == [GENOTYPES[0], GENOTYPES[1], GENOTYPES[5]]
    assert fronts([(1.0, 2.0), (1.0, 3.0)]) == [[0], [1]]  # as good in one number, better in the other


def test_a_mutant_differs_in_exactly_one_gene_and_a_crossing_has_one_of_the_other():
    seen = set()
    for seed in range(200):
        parent, other = GENOTYPES[seed % 27], Genotype(*((gene + 1) % 3 for gene in GENOTYPES[seed % 27]))
        child = mutant(parent, random(seed))
        assert sum(a != b for a, b in zip(parent, child, strict=True)) == 1
        seen |= {(i, child[i] - parent[i]) for i in range(3) if child[i] != parent[i]}
        child = crossed(parent, other, random(seed))
        assert sum(a == b for a, b in zip(other, child, strict=True)) == 1
    assert {place for place, _ in seen} == {0, 1, 2}
    assert len(seen) == 12


def score(genotype):
    """Best at (2, 1, 0), and smooth: each gene counts by its distance."""
    return (float(sum(abs(a - b) for a, b in zip(genotype, (2, 1, 0), strict=True))),)


@pytest.mark.parametrize("method", [evolve, random_search])
@pytest.mark.parametrize("evaluations", [2, 9, 27])
def test_searches_score_as_many_different_ones_as_they_may(method, evaluations):
    calls = []
    scored = method(lambda one: calls.append(one) or score(one), evaluations, random())
    assert len(calls) == len(set(calls)) == len(scored) == evaluations


def test_evolution_wins_where_neighbours_are_alike(monkeypatch):
    monkeypatch.setattr(search, "TOP", 1)
    exact = {one: score(one) for one in GENOTYPES}
    found = compare(exact, exact, evaluations=12, restarts=60)
    assert found["tau"] == pytest.approx(1)
    assert found["random_search"] == pytest.approx(12 / 27, abs=0.2)
    assert found["evolution"] > found["random_search"] + 0.15
    reverse = {one: (-exact[one][0],) for one in GENOTYPES}
    assert compare(reverse, exact, restarts=5)["tau"] == pytest.approx(-1)


def test_the_experiment_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "GENOTYPES", GENOTYPES[:2])
    monkeypatch.setattr(search, "SAMPLES", 100)
    monkeypatch.setattr(search, "compare", lambda shared, alone: {"tau": float(len(shared) + len(alone))})
    for _ in range(2):
        assert main(["--out", str(tmp_path), "--steps", "1"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"tau": 4.0}
    scores = json.loads((tmp_path / "search.json").read_text())["scores"]
    assert list(scores) == ["000", "001"]
    assert scores["000"]["alone"][2] == 626  # 2 * 16 + 16 + 2 * (16 * 16 + 16) + 16 * 2 + 2
    assert {path.name for path in tmp_path.iterdir()} == {"shared", "alone-000", "alone-001", "search.json"}


def test_half_of_the_children_are_mutants(monkeypatch):
    """Nine of each over six generations of three."""
    made = []
    for name in ("mutant", "crossed"):
        real = getattr(search, name)
        monkeypatch.setattr(search, name, lambda *told, name=name, real=real: made.append(name) or real(*told))
    known = {}

    def child_of(population, scored, number, random):
        made.clear()
        child = real_child(population, scored, number, random)
        known.setdefault(made[0], []).append(child)
        return child

    real_child = search.new_child
    monkeypatch.setattr(search, "new_child", child_of)
    search.evolve(score, search.PARENTS + 18, random())
    assert (len(known["mutant"]), len(known["crossed"])) == (9, 9)
