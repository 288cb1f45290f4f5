"""What holds for the tests that talk to an API server."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# A connection that is closed as its loop ends may still wait for its peer's goodbye. Python says so when it collects
# the transport, in whichever test that is: so it is collected here, where it is known to be nobody's fault.
LATE = "ignore::pytest.PytestUnraisableExceptionWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(LATE))


@pytest.fixture(autouse=True)
def collected(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        gc.collect()
