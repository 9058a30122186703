"""Shared fixtures: where real data lies, and one thread per test process."""

import os
from pathlib import Path

import pytest
import torch
from tiny_pipelines import TinyPipelines

from sparring.backbones import SmallConvNet

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets and weights; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("SPARRING_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPipelines:
    """Folders of tiny pipelines by kind: `tiny("sd15")`, "sdxl", "sd3", "dit"; built when first asked for."""
    return TinyPipelines(tmp_path_factory.mktemp("pipelines"))


class RowDraws:
    """Draws in which each row has its own generator, so that a row's numbers do not depend on the rows beside it."""

    def __init__(self, rows, seed=0):
        self.generators = [torch.Generator().manual_seed(1000 * seed + row) for row in rows]

    def uniform(self, shape):
        return torch.stack([torch.rand(tuple(shape[1:]), generator=g) for g in self.generators])

    def integers(self, high, shape):
        return torch.stack([torch.randint(high, tuple(shape[1:]), generator=g) for g in self.generators])


@pytest.fixture
def draws():
    """Makes draws: `draws(4)` for the rows 0 to 3, `draws([2], seed=1)` for row 2 of another phase."""
    return lambda rows, seed=0: RowDraws(range(rows) if isinstance(rows, int) else rows, seed)


@pytest.fixture
def backbone():
    return SmallConvNet(in_channels=3, widths=(8, 16), pretrain="none").double()
