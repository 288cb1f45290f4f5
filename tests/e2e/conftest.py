"""What every end-to-end test is given."""

import pytest

from tests.e2e.stack import SHELLS


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Each shell: whoever starts a picker starts one of each."""
    return str(request.param)
