"""The servers that the suite is played against."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.protocol import player
from tests.protocol.server import Server, Started, given

SHELLS = ["given"] if given() else ["wire", "grpcio"]


def _serving(tracking: str) -> Any:
    """A fixture: the server that was given, or one of our own for each shell."""

    @pytest.fixture(scope="session", params=SHELLS, name=f"server_{tracking}")
    def serve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        there = given()
        if there is not None:
            if there.tracking != tracking:
                pytest.skip(
                    f"the server has another responseTracking: start one with {tracking}, and say so (TRACKING)"
                )
            yield there
            return
        started = Started(tmp_path_factory.mktemp("server"), request.param, tracking)
        try:
            yield started.server
        finally:
            started.stop()

    return serve


@pytest.fixture(scope="session", autouse=True)
def one_loop() -> Iterator[None]:
    """grpc.aio does not like loops that come and go."""
    with asyncio.Runner() as runner:
        player.RUNNERS.append(runner)
        yield
        player.RUNNERS.clear()


server_full, server_headers, server_off = map(_serving, ("full", "headers", "off"))
