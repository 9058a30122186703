"""Any rollout with any discriminator, from recipes as a user changes them; what cannot go together is one line."""

import json

import pytest
import torch

from sparring.cli.main import main
from sparring.recipes import recipe
from sparring.recipes.compose import compose

CONVNET = ["SmallConvNet", "{}.in_channels=1", "{}.pretrain=none", "{}.widths=[4,8]"]
PART = {"SiameseDiscriminator": "backbone", "ProjectedDiscriminator": "backbone", "StructureDiscriminator": "encoder"}
ROLLOUTS = {"sadm": "one step", "add": "few steps", "adt": "the simulated sampler"}
TERM = {"sadm": "structure", "add": "adversarial", "adt": "adversarial"}


def discriminator(kind: str) -> list[str]:
    """Flags that put a discriminator on a small untrained backbone."""
    part = f"--method.discriminator.{PART[kind]}"
    return [f"--method.discriminator={kind}", f"{part}={CONVNET[0]}", *(flag.format(part) for flag in CONVNET[1:])]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid") / "start"
    recipe.build(compose("diffusion", "tiny"), ["--trainer.steps=2"], out=out, init=None, header={}).fit()
    return out


@pytest.mark.parametrize("kind", PART)
@pytest.mark.parametrize("name", ROLLOUTS)
def test_every_rollout_is_trained_against_every_discriminator(name, kind, start, tmp_path):
    """Both players learn, and the adversarial term reaches the generator."""
    tuned = compose(name, "tiny", tuned=True).get("start") == "trained"
    composed = compose(name, "tiny", tuned=tuned)
    flags = [*discriminator(kind), "--trainer.steps=2"]
    flags += ["--method.warmup_steps=0", "--method.ramp_steps=0"] if name == "adt" else []
    run = recipe.build(composed, flags, out=tmp_path / "run", init=str(start) if tuned else None, header={})
    assert type(run.method.discriminator).__name__ == kind
    players = {role: dict(getattr(run.method, role).named_parameters()) for role in ("generator", "discriminator")}
    before = {role: {k: p.detach().clone() for k, p in players[role].items() if p.requires_grad} for role in players}
    run.fit()
    for role, parameters in before.items():
        moved = [name for name, old in parameters.items() if not torch.equal(players[role][name], old)]
        assert len(moved) > 0.8 * len(parameters), role
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["skipped"] == 0
    assert line[f"generator/{TERM[name]}"] != 0
    assert line["gradient_norm/discriminator"] > 0


def test_what_cannot_go_together_is_one_line(start, tmp_path, capsys):
    base = ["--on", "tiny", "--out", str(tmp_path / "run")]
    adt = ["fit", "adt", *base, "--init", str(start), *discriminator("StructureDiscriminator")]
    assert main([*adt, "--method.reference=unpaired"]) == 2
    assert "use `reference=paired`" in capsys.readouterr().err.strip().splitlines()[-1]
    assert main(["fit", "wgan", *base, *discriminator("SiameseDiscriminator")]) == 2
    assert "SiameseDiscriminator compares fakes with the images" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_penalties_are_given_by_name_one_or_several(start, tmp_path):
    """On the command line one, in a recipe a list of them."""
    composed = compose("adt", "tiny", tuned=True)
    flags = ["--method.penalty=R1", "--method.penalty.weight=0.1", "--method.penalty.every=4"]
    run = recipe.build(composed, flags, out=tmp_path / "one", init=str(start), header={})
    assert [(p.name, p.weight, p.every) for p in run.method.penalties] == [("r1", 0.1, 4)]
    kinds = [{"class_path": f"sparring.objectives.{kind}", "init_args": {"weight": 0.1}} for kind in ("R1", "R2")]
    composed["method"]["init_args"]["penalty"] = kinds
    run = recipe.build(composed, [], out=tmp_path / "two", init=str(start), header={})
    assert [p.name for p in run.method.penalties] == ["r1", "r2"]
