"""Control headers of a client, through real Envoys: they change nothing, and no backend sees them."""

import asyncio
import itertools
from pathlib import Path

import pytest

from picker.demo.envoy import DESTINATION, BodyMode
from tests.e2e.matrix import CHAT, ENVOYS, PROCEDURE, STEERINGS, Cell, chat, pickers, start_envoy
from tests.e2e.stack import NEWEST_ENVOY, OLD_ENVOYS, old_envoy
from tests.support import http1, http2
from tests.support.echo import echoes

pytestmark = pytest.mark.e2e

OLD_AND_NEW = ("inference-objective", "inference-fairness-id", "model-name-rewrite")
NAMES = [
    "x-gateway-destination-endpoint-subset",
    "x-gateway-destination-endpoint-served",
    *(f"x-{prefix}-{name}" for prefix in ("gateway", "llm-d") for name in OLD_AND_NEW),
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
]
PLACES = [("wire", version) for version in ENVOYS] + [("grpcio", NEWEST_ENVOY)]
MODES: tuple[BodyMode, ...] = ("FULL_DUPLEX_STREAMED", "BUFFERED", "NONE")
BODY = chat(300)


def spoofed(victim: str, *, upper: bool) -> list[http1.Header]:
    """Every control header, saying that `victim` is to be picked; the destination twice."""
    names = [DESTINATION, *NAMES, DESTINATION]
    rewrites = {name for name in names if "rewrite" in name}
    return [(name.title() if upper else name, "echo" if name in rewrites else victim) for name in names]


@pytest.mark.parametrize(("shell", "version"), PLACES)
def test_control_headers_change_nothing_and_reach_nobody(tmp_path: Path, shell: str, version: str) -> None:
    if version in OLD_ENVOYS and old_envoy(version) is None:
        pytest.skip(f"Envoy {version} is not installed: `make test` does that")
    asyncio.run(asyncio.wait_for(_spoof(tmp_path, shell, version), 60))


async def _spoof(directory: Path, shell: str, version: str) -> None:
    """The victim listens, and is not of the pool: whoever is believed goes there."""
    of = [Cell(version, mode, "FULL_DUPLEX_STREAMED", way) for mode, way in itertools.product(MODES, STEERINGS)]
    async with echoes(1) as victims, echoes(2) as servers, pickers(directory, shell, servers) as stacks:
        envoy = start_envoy(version, of, stacks, [*servers, *victims], directory)
        try:
            envoy.wait_ready()
            for cell, upper in itertools.product(of, (False, True)):
                await _ask(envoy.addresses[cell.name], spoofed(victims[0].address, upper=upper), upper=upper)
        finally:
            envoy.stop()
        assert victims[0].arrived == []
        arrived = [one for server in servers for one in server.arrived]
        assert len(arrived) == len(of) * 2 * 3
        known = PROCEDURE | {"content-type", DESTINATION}
        for one in arrived:
            assert {name for name, _ in one.headers} <= known
            destinations = [value for name, value in one.headers if name == DESTINATION]
            assert len(destinations) == 1
            assert set(destinations[0].split(",")) <= {server.address for server in servers}


async def _ask(address: str, headers: list[http1.Header], *, upper: bool) -> None:
    """GET, POST of an API that is read, POST of one that is not."""
    kind = [("content-type", "application/json")]
    for method, path, pieces in (("GET", "/v1/models", None), ("POST", CHAT, [BODY]), ("POST", "/x", [b"x"])):
        client = http1.request if upper else http2.request
        answer = await client(address, path, method=method, headers=[*kind, *headers], pieces=pieces)
        assert answer.status == 200, answer.body
        assert answer.body == b"".join(pieces or [])
