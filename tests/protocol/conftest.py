"""The servers that the suite is played against."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.protocol import player
from tests.protocol.server import VARIANTS, Server, Started, given

SHELLS = ["given"] if given() else ["wire", "grpcio"]


def _serving(variant: str) -> Any:
    """A fixture: the server that was given, or one of our own for each shell."""

    @pytest.fixture(scope="session", params=SHELLS, name=f"server_{variant}")
    def serve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        there = given()
        if there is not None:
            if there.variant != variant:
                pytest.skip(f"the server is not configured as {variant} (say with VARIANT how it is)")
            yield there
            return
        started = Started(tmp_path_factory.mktemp("server"), request.param, variant)
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


server_plain, server_headers, server_off, server_conformance = map(_serving, VARIANTS)
