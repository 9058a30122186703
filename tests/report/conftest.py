"""The made-up demo, once for all tests of the page."""

import pytest
from made_up_runs import FRECHET, Comparison, make_run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The demo's six arms, one seed. Only to be read."""
    folder = tmp_path_factory.mktemp("demo")
    made = Comparison()
    for arm in FRECHET:
        made.runs.append(folder / arm)
        made.table.append(make_run(folder / arm))
    return made
