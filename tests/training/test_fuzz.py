"""Broken recipes, run folders, images and labels thrown at the command line: no traceback, nothing overwritten."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sparring.cli.main import main
from sparring.recipes.compose import compose

pytestmark = pytest.mark.slow


def few(examples: int) -> settings:
    """The same few examples every time; with SPARRING_FUZZ=20 in the environment twenty times as many, and others."""
    times = int(os.environ.get("SPARRING_FUZZ", "1"))
    return settings(
        max_examples=times * examples,
        deadline=None,
        derandomize=times == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


TINY = ["--trainer.steps=2", "--trainer.batch_size=4", "--trainer.num_samples=1", "--trainer.tracker=null"]
TINY += ["--trainer.checkpoint_every=1"]


def command(*arguments: object) -> int:
    """The exit code of a command; whatever it raises but argparse's own exit fails the test."""
    try:
        return main(list(map(str, arguments)))
    except SystemExit as left:  # how argparse ends
        return int(left.code or 0)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder."""
    paths = sorted(folder.rglob("*")) if folder.exists() else []
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


# -- recipes -----------------------------------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "",
        "digits",
        "nan",
        "torch.nn.Linear",
        "os.system",
        "subprocess.Popen",
        "sparring.data.Digits",
        "sparring.nothing",
    ]
    + [
        "sparring.methods.method.Method",
        "sparring.methods.tuning.adt.ADT",
        "diffusers.UNet2DModel",
        "../../etc/passwd",
        "é\x00",
        "-1",
        "[1",
    ]
)
numbers = st.integers(-3, 70) | st.sampled_from([0.0, -0.5, 1e-300, 1e300, float("nan"), float("inf")])
leaves = st.none() | st.booleans() | numbers | words
keys = words | st.sampled_from(
    ["class_path", "init_args", "steps", "batch_size", "method", "discriminator", "net", "lr"]
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5
)


def places(node: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a tree of mappings and lists."""
    found = [path] if path else []
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        found += places(value, (*path, key))
    return found


@st.composite
def spoilt_recipes(draw):
    """A shipped recipe with one to three of its entries replaced, removed or added to."""
    tree = compose("diffusion", draw(st.sampled_from(["digits", "digits", "digits-dit"])))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(tree) or [("data",)]))
        node = tree
        for key in path[:-1]:
            node = node[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            node[path[-1]] = draw(values)
        elif action == "remove":
            del node[path[-1]]
        elif isinstance(node, dict):
            node[draw(keys)] = draw(values)
    return tree


@few(25)
@given(tree=spoilt_recipes())
def test_a_spoilt_recipe_is_one_line(tmp_path_factory, capfd, tree):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "spoilt.yaml").write_text(yaml.safe_dump(tree))
    code = command("fit", folder / "spoilt.yaml", "--out", folder / "run", "--dry_run")
    check(code, capfd)
    assert contents(folder).keys() == {"spoilt.yaml"}


@few(30)
@given(text=st.text(max_size=60) | st.binary(max_size=60))
@example(text="a: &a [*a]")
@example(text="data: {class_path: os.system, init_args: {command: 'touch x'}}")
@example(text="? [data]\n: 1")
@example(text="[" * 90)
def test_any_text_as_a_recipe_is_one_line(tmp_path_factory, capfd, text):
    folder = tmp_path_factory.mktemp("text")
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (folder / "any.yaml").write_bytes(data)
    assert check(command("fit", folder / "any.yaml", "--out", folder / "run", "--dry_run"), capfd) == 2
    assert contents(folder).keys() == {"any.yaml"}


@few(20)
@given(
    flags=st.lists(
        st.tuples(
            st.sampled_from(["trainer.steps", "trainer.seed", "trainer.batch_size", "trainer.nothing"])
            | st.sampled_from(
                ["trainer.generator_optimizer.lr", "data.split", "method.class_path", "denoiser.prediction"]
            ),
            words | numbers.map(str),
        ),
        max_size=3,
    )
)
def test_any_flag_is_one_line(tmp_path_factory, capfd, flags):
    out = tmp_path_factory.mktemp("flags") / "run"
    given_flags = [f"--{name}={value}" for name, value in flags]
    check(command("fit", "diffusion", "--on", "digits", "--out", out, "--dry_run", *given_flags), capfd)
    assert not out.exists()


def check(code: int, capfd: pytest.CaptureFixture) -> int:
    """0, or 2 with one line on stderr."""
    errors = capfd.readouterr().err
    assert code in (0, 2)
    assert "Traceback" not in errors
    if code == 2:
        assert errors.count("sparring: error: ") == 1
        assert errors.strip().splitlines()[-1].startswith("sparring: error: ")
    return code


# -- run folders -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of two steps with two checkpoints."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert command("fit", "diffusion", "--on", "digits", "--out", run, *TINY) == 0
    return run


@pytest.fixture(scope="module")
def takes_labels(tmp_path_factory) -> Path:
    """A run of a network for ten classes."""
    run = tmp_path_factory.mktemp("conditional") / "run"
    assert (
        command(
            "fit", "diffusion", "--on", "digits", "--out", run, *TINY, "--denoiser.net.init_args.num_class_embeds=10"
        )
        == 0
    )
    return run


@st.composite
def damages(draw):
    """A file of a run folder by its rank in the list, and what happens to it."""
    kind = draw(st.sampled_from(["flip", "cut", "garbage", "remove", "folder", "text"]))
    return draw(st.integers(0, 99)), kind, draw(st.binary(max_size=40)), draw(st.floats(0, 1, exclude_max=True))


def apply(run: Path, damage: tuple) -> Path:
    rank, kind, garbage, where = damage
    files = sorted(path for path in run.rglob("*") if path.is_file() and "report" not in path.name)
    path = files[rank % len(files)]
    data = bytearray(path.read_bytes())
    if kind in ("remove", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    elif kind == "flip" and data:
        data[int(where * len(data))] ^= 1 + int(where * 254)
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(data[: int(where * len(data))])
    else:
        path.write_bytes(garbage if kind == "garbage" else b'{"step": "x"}')
    return path


@few(12)
@given(damage=damages())
def test_a_damaged_run_is_one_line_and_keeps_its_files(finished, tmp_path_factory, capfd, damage):
    run = shutil.copytree(finished, tmp_path_factory.mktemp("damaged") / "run")
    apply(run, damage)
    before = contents(run)
    capfd.readouterr()
    code = check(command("fit", "diffusion", "--on", "digits", "--out", run, "--resume"), capfd)
    if code == 2:
        after = contents(run)
        assert {name: after.get(name, "gone") for name in before} == before
    for arguments in (("sample", run, "--n", 1, "--steps", 1, "--out", run.parent / "grid.png"), ("compare", run)):
        check(command(*arguments), capfd)


def test_a_run_is_not_overwritten(finished, capfd):
    before = contents(finished)
    assert check(command("fit", "diffusion", "--on", "digits", "--out", finished, *TINY), capfd) == 2
    for step in (-1, 0, 7):
        assert (
            check(command("fit", "diffusion", "--on", "digits", "--out", finished, f"--resume_step={step}"), capfd) == 2
        )
    assert contents(finished) == before


# -- images and labels -------------------------------------------------------------------------------------------------


@st.composite
def files(draw):
    """A name that looks like an image's, and either an image or not."""
    name = draw(st.sampled_from(["a.png", "b.PNG", "c.jpg", "d.webp", "e.gif", "sub/f.png", "g.txt", "h"]))
    if draw(st.booleans()):
        return name, draw(st.binary(max_size=50))
    mode = draw(st.sampled_from(["L", "RGB", "RGBA", "1", "P"]))
    size = draw(st.sampled_from([(8, 8), (8, 8), (8, 8), (1, 1), (9, 8), (64, 3)]))
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(size[::-1], dtype=np.uint8)).convert(mode).save(buffer, "PNG")
    return name, buffer.getvalue()[: draw(st.sampled_from([None, None, 40]))]


@few(20)
@given(
    given_files=st.lists(files(), max_size=4),
    flags=st.sampled_from([[], ["--data.size=8"], ["--data.size=0"], ["--data.on_error=skip"]]),
)
def test_any_folder_of_images_is_one_line(tmp_path_factory, capfd, given_files, flags):
    folder = tmp_path_factory.mktemp("images")
    (folder / "images/sub").mkdir(parents=True)
    for name, data in given_files:
        (folder / "images" / name).write_bytes(data)
    before = contents(folder / "images")
    arguments = (
        "fit",
        "diffusion",
        "--on",
        "digits",
        "--data",
        folder / "images",
        "--out",
        folder / "run",
        "--dry_run",
        *flags,
    )
    check(command(*arguments, "--trainer.batch_size=1"), capfd)
    assert contents(folder / "images") == before
    assert not (folder / "run").exists()


@few(8)
@given(labels=st.lists(st.integers(-3, 12) | st.sampled_from(["x", "1.5", 10**30]), max_size=3), n=st.integers(-1, 2))
def test_any_labels_are_one_line(takes_labels, tmp_path_factory, capfd, labels, n):
    out = tmp_path_factory.mktemp("labels") / "grid.png"
    code = command("sample", takes_labels, "--n", n, "--steps", 1, "--out", out, "--labels", *labels)
    errors = capfd.readouterr().err
    assert code in (0, 2)
    assert code == 2 or all(label in range(10) for label in labels)
    assert "Traceback" not in errors
