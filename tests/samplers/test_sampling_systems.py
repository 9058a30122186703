"""The sampling systems: listed from their files, and their pages say what the code has."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.cli.main import main, parser
from sparring.generators.predictor import Intervention
from sparring.recipes.systems import STATUSES, systems
from sparring.recipes.with_systems import class_of, groups, interventions, sampling_systems

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = sampling_systems()
EACH = pytest.mark.parametrize("name", SYSTEMS)


def page(name):
    return (ROOT / SYSTEMS[name].page).read_text(encoding="utf-8")


@EACH
def test_it_has_name_title_paper_status_and_page(name):
    one = SYSTEMS[name]
    assert one.name, f"{one.file}: the first line must read NAME: title (authors, arXiv NUMBER)."
    assert one.title
    assert re.search(r"arXiv \d{4}\.\d{4,5}", one.paper)
    assert one.status in STATUSES
    assert one.family == "sampling"
    assert one in systems("sampling")
    assert page(name).startswith("# ")


@EACH
def test_the_table_of_settings_has_every_argument_with_its_default(name):
    table = page(name).split("## Settings")[1].split("\n##")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]*?)`? \|", table, flags=re.MULTILINE))
    arguments = inspect.signature(class_of(name)).parameters.values()
    expected = {p.name: "required" if p.default is p.empty else str(p.default) for p in arguments if p.name != "allow"}
    assert rows == expected


@EACH
def test_the_commands_parse(name):
    commands = re.findall(r"^    (sparring sample .*--with .*)$", page(name), flags=re.MULTILINE)
    assert commands
    for command in commands:
        _, rest = parser().parse_known_args(shlex.split(command)[1:])
        for system, flags in groups(rest):
            known = inspect.signature(class_of(system)).parameters
            assert all(flag[2:].partition("=")[0] in known for flag in flags)
    assert any(system == name for system, _ in groups(rest))


@EACH
def test_the_code_that_equations_point_to_exists(name):
    table = page(name).split("## Equations and code")[1].strip().split("\n\n")[0]
    everything = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "sparring").rglob("*.py"))
    cells = re.findall(r"\| ([^|]*) \|$", table, flags=re.MULTILINE)
    named = [code for cell in cells for code in re.findall(r"`([^`]*)`", cell)]
    assert named
    for code in named:
        assert re.search(rf"(class|def|    ) ?{code.split('.')[-1]}\b", everything), code


def test_they_are_listed_without_importing_torch():
    code = "import sys; from sparring.cli.main import main; main(['systems', 'sampling'])\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed = [line.split()[:2] for line in done.stdout.splitlines()]
    assert [name for name, family in listed if family == "sampling"] == list(SYSTEMS)


# -- the command line --------------------------------------------------------------------------------------------------


def test_settings_belong_to_the_name_before_them():
    words = "--with autoguidance --with.weak runs/x --with.interval 0.2 5 --with projected --with.momentum=-0.3"
    assert groups(words.split()) == [
        ("autoguidance", ["--weak=runs/x", "--interval=[0.2, 5]"]),
        ("projected", ["--momentum=-0.3"]),
    ]
    (made,) = interventions(["--with", "projected", "--with.momentum", "-0.3", "--with.interval", "0.2", "5"])
    assert (made.momentum, made.interval, made.weight) == (-0.3, (0.2, 5.0), 3.0)
    assert made.label == "projected(momentum=-0.3, interval=(0.2, 5.0))"


def test_runs_of_one_name_in_two_places_are_told_apart_by_their_label():
    class Beside(Intervention):
        def __init__(self, weak):
            self.weak = weak

    labels = [Beside(weak=folder).label for folder in ("/a/first/weak", "/a/second/weak", "weak")]
    assert labels == ["Beside(weak=first/weak)", "Beside(weak=second/weak)", "Beside(weak=weak)"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--with projectd", "did you mean projected?"),
        ("--with projected --with.wieght 2", "it takes --with.weight, --with.eta"),
        ("--with projected --with.weight a", "`--with projected`: `--with.weight a` must be a number: scale of"),
        ("--with projected --with.weight 1 2", "`--with.weight [1, 2]` must be a number: scale of"),
        ("--with projected --with.interval 1", "`--with.interval 1` must be 2 numbers: guidance acts if"),
        ("--with recycle --with.steps 1.5", "`--with.steps 1.5` must be a whole number: "),
        ("--with unite --with.other a b", "`--with.other [a, b]` must be a text: run or pipeline folder of the other"),
        (
            "--with unite --with.other a --with.other_class one",
            "`--with.other_class one` must be a whole number: class",
        ),
        (
            "--with scene_genie --with.classifier a --with.boxes b",
            "`--with.boxes b` must be a list of lists of numbers: ",
        ),
        (
            "--with scene_genie --with.classifier a --with.boxes 0 0 1 1",
            "`--with.boxes [0, 0, 1, 1]` must be a list of",
        ),
        (
            "--with scene_genie --with.classifier a --with.classes b",
            "must be a whole number or a list of whole numbers",
        ),
        ("--with cheap --with.classifier a --with.graph K", "`--with.graph K` must be J or fix: "),
        ("--with projected --with.momentum 3", "`momentum=3.0` must lie between -1 and 1"),
        ("--with.weight 3", "give --with NAME first"),
        ("--with autoguidance", "it needs --with.weak, a text: "),
        ("--with autoguidance --with.weak nowhere", "nowhere does not exist"),
        ("--with", "`--with` needs a name: there are"),
        ("--foo 3", "unknown argument --foo"),
        ("--with projected 3", "unknown argument 3"),
        ("--guidance 2 --guidance_interval 2 1", "must be two noise levels"),
        ("--guidance 2 --guidance_interval 0 1", "takes neither classes nor captions"),
        ("--steps 5 10", "`steps=5 10`: give one, or --sweep"),
        ("--seed 1 2 3", "3 seeds for `n=2` images"),
        ("--with rescaled", "UNet2DModel takes neither classes nor captions"),
    ],
)
def test_slips_are_one_line(words, message, baseline, tmp_path, capsys):
    command = ["sample", str(baseline), "--n", "2", "--steps", "1", "--out", str(tmp_path / "x.png")]
    assert main([*command, *words.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "x.png").exists()


def test_a_system_is_added_on_the_command_line(baseline, tmp_path, capsys):
    grid = tmp_path / "x.png"
    command = ["sample", str(baseline), "--n", "2", "--steps", "2", "--out", str(grid)]
    assert main([*command, "--with", "perturbed", "--with.delta", "0.1"]) == 0
    assert grid.is_file()
    assert main(["sample", str(baseline), "--with", "projected", "--with.help"]) == 0
    said = capsys.readouterr().out
    assert "--with.eta 0.0   [float]" in said
    assert "share of the part along the estimate that is kept" in said


@pytest.fixture
def baseline():
    from sparring.recipes.compose import baseline_of

    return baseline_of("digits-vp")
