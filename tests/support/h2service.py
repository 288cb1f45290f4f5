"""ext_proc and health over connections in memory: what tests of `h2`, `calls` and `extproc` begin with."""

from collections.abc import Mapping
from typing import Any

from picker._core.engine import Engine
from picker._core.extproc import ExtProc
from picker._core.health import Health
from tests.support import messages as m
from tests.support.exchange import assert_idle, engine_with
from tests.support.h2memory import MemoryCall, MemoryClient, server
from tests.support.h2peer import framed

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SECOND = 1_000_000_000
POST = {
    ":method": "POST",
    ":scheme": "http",
    ":path": PROCESS,
    ":authority": "test",
    "content-type": "application/grpc",
}
"""Headers of a request, for those who write their own frames."""
BEGIN = framed(m.request_headers("/x"))
"""Of a request whose body is not read: each chunk of it is given back as it comes."""
BODY = b'{"model": "m", "prompt": "hi"}'
REQUEST = framed(m.request_headers("/v1/completions")) + framed(m.request_body(BODY))


def chunk(body: bytes) -> bytes:
    """A part of a request's body, as it is sent."""
    return framed(m.request_body(body, end_of_stream=False))


class Service:
    """A server of both services over an engine."""

    def __init__(
        self,
        *,
        rules: Mapping[str, int] | None = None,
        engine: Engine | None = None,
        timeout_ns: int = 3600 * SECOND,
        **server_options: Any,
    ) -> None:
        self.engine = engine or engine_with()
        self.extproc = ExtProc(self.engine, timeout_ns=timeout_ns)
        self.health = Health()
        self.server = server(self.extproc, self.health, rules=rules, **server_options)

    def client(self, **options: Any) -> MemoryClient:
        return MemoryClient(self.server, **options)

    def assert_idle(self) -> None:
        """Nothing is held for any stream."""
        assert self.server.open_calls == 0
        assert_idle(self.engine)
        self.server._check()
        self.extproc._check()


def begun(client: MemoryClient, *extra: tuple[str, str]) -> MemoryCall:
    """A stream whose request headers are answered, and whose body goes back as it comes."""
    call = client.open(PROCESS, *extra)
    call.send(BEGIN)
    return call


def bodies(call: MemoryCall) -> bytes:
    """What was given back of the request's body since this was last asked; headers do not count."""
    whole = b""
    while call.messages:
        reply = m.parse(call.messages.popleft())
        if reply.WhichOneof("response") == "request_body":
            whole += reply.request_body.response.body_mutation.streamed_response.body
    return whole
