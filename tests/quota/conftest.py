from collections.abc import Iterator

import pytest

from tests.support.redisserver import RedisServer


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """One that the test may kill."""
    with RedisServer() as server:
        yield server
