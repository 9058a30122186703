"""A trained start for the methods that tune."""

import pytest
from contract_parts import build


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "run"
    build("diffusion", out, out).fit()
    return out


@pytest.fixture(scope="session")
def start_with_classes(tmp_path_factory):
    out = tmp_path_factory.mktemp("classes") / "run"
    build("diffusion", out, out, "--denoiser.net.init_args.num_class_embeds=11").fit()
    return out
