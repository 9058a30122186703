"""Shared fixtures: where real data lies, and one thread per test process."""

import os
from pathlib import Path

import pytest
import torch
from tiny_pipelines import TinyPipelines

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


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
