"""A trained start for the methods that tune, and one with classes."""

import pytest
from contract_parts import CLASSES, build


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Without classes; beside it lies one with classes, for the recipes whose start takes them."""
    folder = tmp_path_factory.mktemp("starts")
    build("diffusion", folder / "run", folder / "run").fit()
    build("diffusion", folder / CLASSES, folder / CLASSES, "--denoiser.net.init_args.num_class_embeds=11").fit()
    return folder / "run"


@pytest.fixture(scope="session")
def start_with_classes(start):
    return start.with_name(CLASSES)
