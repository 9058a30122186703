"""A new method is one file and one recipe: it is listed, fitted and held to the contracts by existing."""

import shutil
from inspect import signature

import pytest
import test_contracts

from sparring.recipes import compose

TOY = """
from sparring.generators import Denoiser
from sparring.methods import Method
from sparring.rollout import denoising_error, one_step


class Toy(Method):
    def __init__(self, generator: Denoiser, *, times=None):
        super().__init__(generator)
        self.times = times

    def rollout(self, batch):
        return one_step(self.generator, batch, self.times)

    def generator_loss(self, batch, rollout):
        return {"toy": 2 * denoising_error(self.generator, rollout).mean()}


class Careless(Toy):
    def rollout(self, batch):
        from sparring.data import Batch

        return super().rollout(Batch(batch.images, batch.labels))  # draws of its own
"""
RECIPE = """# A toy.
method:
  class_path: toymethods.{}
  init_args: {{times: $times}}
"""
CONTRACTS = [check for name, check in vars(test_contracts).items() if name.startswith("test_")]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package's recipes with two more, and a module with their classes."""
    folder = tmp_path / "recipes"
    for kind in ("methods", "settings"):
        shutil.copytree(compose.HERE / kind, folder / kind)
    for name in ("Toy", "Careless"):
        (folder / "methods" / f"{name.lower()}.yaml").write_text(RECIPE.format(name))
    (tmp_path / "toymethods.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compose, "HERE", folder)
    monkeypatch.setattr("sparring.recipes.recipe.ALLOWED", ("sparring", "torch", "diffusers", "toymethods"))


@pytest.mark.parametrize("check", CONTRACTS, ids=lambda check: check.__name__)
def test_a_new_method_is_held_to_every_contract(check, package, request, tmp_path):
    assert compose.shipped("methods")["toy"] == "A toy."
    _, start, _ = signature(check).parameters  # name, one of the starts, folder
    check("toy", request.getfixturevalue(start), tmp_path / "run")


def test_a_method_that_breaks_a_contract_is_found(package, start, tmp_path):
    with pytest.raises(AssertionError):
        test_contracts.test_equal_draws_give_equal_steps_and_others_do_not("careless", start, tmp_path / "run")
