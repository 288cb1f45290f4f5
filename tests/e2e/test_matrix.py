"""Body modes × ways to steer × Envoys: every request arrives whole, where picker said, and nothing is spurious.

The table in docs/protocol.md is what this run found; `make test-matrix` writes it, and runs the reference shell through
the old Envoys as well.
"""

import asyncio
import itertools
import os
from collections.abc import Callable

import pytest

from tests.e2e import matrix
from tests.e2e.matrix import ENVOYS, STEERINGS, Cell, Result
from tests.e2e.stack import NEWEST_ENVOY, OLD_ENVOYS, old_envoy

pytestmark = pytest.mark.e2e
IS_WHOLE = bool(os.environ.get("PICKER_WRITE_MATRIX"))
WITH = {"wire": ENVOYS, "grpcio": ENVOYS if IS_WHOLE else (NEWEST_ENVOY,)}
CASES = [(shell, *rest) for shell, envoys in WITH.items() for rest in itertools.product(envoys, STEERINGS)]
GONE = [version for version in OLD_ENVOYS if old_envoy(version) is None]
Matrix = Callable[[str], dict[Cell, Result]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """What a run over a shell has found; it runs once."""
    results: dict[str, dict[Cell, Result]] = {}

    def of(shell: str) -> dict[Cell, Result]:
        if shell not in results:
            directory = tmp_path_factory.mktemp(f"matrix-{shell}")
            there = [version for version in WITH[shell] if version not in GONE]
            results[shell] = asyncio.run(asyncio.wait_for(matrix.run(directory, shell, there), 300))
        return results[shell]

    return of


@pytest.mark.parametrize(("shell", "envoy", "steering"), CASES)
def test_every_pair_of_modes(found: Matrix, shell: str, envoy: str, steering: str) -> None:
    if envoy in GONE:
        pytest.skip(f"Envoy {envoy} is not installed: `make test` does that")
    of = {cell: result for cell, result in found(shell).items() if (cell.envoy, cell.steering) == (envoy, steering)}
    assert len(of) == len(matrix.MODES) ** 2
    assert {cell.name: result.problems for cell, result in of.items() if result.problems} == {}
    assert all(result.passed == list(matrix.REQUESTS) for result in of.values())


def test_the_table_in_the_documentation_is_what_was_found(found: Matrix) -> None:
    if GONE:
        pytest.skip("not every Envoy of the table is installed: `make test` does that")
    if IS_WHOLE:
        matrix.write(found("wire"))
    assert matrix.written() == matrix.table(found("wire")), "make test-matrix writes it"
