"""The made-up demo, once for all tests of the page."""

import pytest
from made_up_runs import FRECHET, Demo, make_run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo's six arms, one seed. Only to be read."""
    folder = tmp_path_factory.mktemp("demo")
    made = Demo()
    for arm in FRECHET:
        made.runs.append(make_run(folder / arm))
    return made
