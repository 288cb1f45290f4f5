"""The health service as a client of a connection sees it; over sockets, and beside the other shell's:
tests/extproc/test_health.py."""

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from picker._core.health import NAMES, STRICT_NAMES, Health
from tests.model import health as model
from tests.support.builds import debug_build_only
from tests.support.h2memory import MemoryCall, MemoryClient, server
from tests.support.h2peer import framed
from tests.support.leaks import assert_flat, each_allocation_failing

SERVING, NOT_SERVING, UNKNOWN = model.SERVING, model.NOT_SERVING, model.UNKNOWN


def path(method: str) -> str:
    return f"/grpc.health.v1.Health/{method}"


def asked(client: MemoryClient, method: str, message: bytes = b"", *, end_stream: bool = True) -> MemoryCall:
    call = client.open(path(method))
    call.send(framed(message), end_stream=end_stream)
    return call


def request(name: str) -> bytes:
    return bytes(health_pb2.HealthCheckRequest(service=name).SerializeToString())


def statuses(call: MemoryCall) -> list[int]:
    """Those told since this was last asked."""
    told = [health_pb2.HealthCheckResponse.FromString(message).status for message in call.messages]
    call.messages.clear()
    return told


def client_of(health: Health) -> MemoryClient:
    return MemoryClient(server(health))


def test_names_are_those_of_the_model() -> None:
    assert (NAMES, STRICT_NAMES) == (model.NAMES, model.Health(strict=True).names)
    Health()._check()
    assert Health().methods().paths == [path(method) for method in ("Check", "List", "Watch")]


@pytest.mark.parametrize(
    "name", [*NAMES, "what nobody knows", "liveness2", "liveness" * 20, "l" * 127, "l" * 128, "l" * 20_000]
)
@pytest.mark.parametrize("ready", [False, True])
def test_check(name: str, ready: bool) -> None:
    health = Health()
    health.is_ready = ready
    call = asked(client_of(health), "Check", request(name))
    assert call.status == "OK"
    assert statuses(call) == [SERVING if ready or name == "liveness" else NOT_SERVING]


@pytest.mark.parametrize("name", ["inference-extension", "what nobody knows", "liveness2", "readines", "l" * 20_000])
def test_a_strict_service_knows_no_other_names(name: str) -> None:
    """As the reference picker where a leader is elected (PROTOCOL 1.6)."""
    health = Health(strict=True)
    for ready in (False, True):
        health.is_ready = ready
        call = asked(client_of(health), "Check", request(name))
        assert (call.status, call.text, list(call.messages)) == ("NOT_FOUND", "unknown service", [])
        for known in STRICT_NAMES:
            call = asked(client_of(health), "Check", request(known))
            assert statuses(call) == [SERVING if ready or known == "liveness" else NOT_SERVING]


def test_a_strict_service_tells_watchers_once_that_it_does_not_know() -> None:
    health = Health(strict=True)
    client = client_of(health)
    call = asked(client, "Watch", request("inference-extension"))
    assert (statuses(call), call.status) == ([UNKNOWN], "")
    health.is_ready = True
    client.connection.wake()
    client.exchange()
    assert (statuses(call), call.status) == ([], "")


@pytest.mark.parametrize("strict", [False, True])
def test_list_is_a_message_as_protobuf_writes_it(strict: bool) -> None:
    call = asked(client_of(Health(strict=strict)), "List")
    assert call.status == "OK"
    (message,) = call.messages
    told = health_pb2.HealthListResponse.FromString(message).statuses
    assert {name: answer.status for name, answer in told.items()} == model.Health(strict=strict).list()


@pytest.mark.parametrize("method", ["Check", "Watch"])
@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",
        b"\x0a\x02x",
        b"\x0a\x01xy",
        b"\x12\x01x",
        b"\x0a\x80",
        b"\x0a\x80\x01x",
        b"\x0a\x81\x80\x80\x80\x80\x00x",
    ],
)
def test_what_is_no_request_is_an_invalid_argument(method: str, message: bytes) -> None:
    assert asked(client_of(Health()), method, message).status == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", ["Check", "List", "Watch"])
def test_no_request_is_an_error(method: str) -> None:
    client = client_of(Health())
    for end_with_headers in (True, False):
        call = client.open(path(method), end_stream=end_with_headers)
        client.exchange()
        if not end_with_headers:
            call.send(end_stream=True)
        assert (call.status, call.text) == ("INTERNAL", "a request without a message")


def test_an_answer_does_not_wait_for_the_end_of_the_request() -> None:
    client = client_of(Health())
    call = asked(client, "Check", end_stream=False)
    assert (call.status, statuses(call)) == ("OK", [NOT_SERVING])
    call.send(framed(b"") + b"\0", end_stream=True)  # it is not looked at
    assert client.connection.pending == 0


def test_a_watch_asks_once() -> None:
    client = client_of(Health())
    call = asked(client, "Watch", end_stream=False)
    assert statuses(call) == [NOT_SERVING]
    call.send(framed(b""))
    assert (call.status, call.text) == ("INVALID_ARGUMENT", "not one HealthCheckRequest")


def test_a_watch_that_has_not_asked_is_told_nothing() -> None:
    health = Health()
    client = client_of(health)
    call = client.open(path("Watch"))
    client.exchange()
    health.is_ready = True
    client.connection.wake()
    client.exchange()
    assert not call.messages
    call.send(framed(b""))
    assert statuses(call) == [SERVING]


def test_calls_that_are_over_are_not_woken() -> None:
    """They may never have had a method, or have lost its state."""
    health = Health()
    client = client_of(health)
    lingering = [client.open("/nobody"), client.open(path("Check"), method="GET"), client.open(path("Watch"))]
    lingering[2].send(framed(b"\xff"))
    health.is_ready = True
    client.connection.wake()
    client.exchange()
    assert [call.status for call in lingering] == ["UNIMPLEMENTED", "HTTP 405", "INVALID_ARGUMENT"]
    assert not any(call.messages for call in lingering)


class HealthMachine(RuleBasedStateMachine):
    """Changes that nobody is woken for are told with the next one, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.watches: dict[int, tuple[MemoryCall, list[int]]] = {}

    @initialize(strict=st.booleans())
    def begin(self, strict: bool) -> None:
        self.health, self.model = Health(strict=strict), model.Health(strict=strict)
        self.client = client_of(self.health)

    @rule(ready=st.booleans(), wakes=st.booleans())
    def set_ready(self, ready: bool, wakes: bool) -> None:
        self.health.is_ready = ready
        self.model.set_ready(ready)
        if wakes:
            self.client.connection.wake()
            self.client.exchange()
            self.model.wake()

    @rule(name=st.sampled_from([*NAMES, "other"]), ends=st.booleans())
    def watch(self, name: str, ends: bool) -> None:
        call = asked(self.client, "Watch", request(name), end_stream=ends)
        self.watches[call.id] = call, []
        self.model.watch(call.id, name)

    @precondition(lambda self: self.watches)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.watches)))
        self.watches.pop(key)[0].reset()
        del self.model.watches[key]

    @rule(name=st.sampled_from([*NAMES, "other"]))
    def check(self, name: str) -> None:
        wanted = self.model.status(name)
        assert statuses(asked(self.client, "Check", request(name))) == ([] if wanted == UNKNOWN else [wanted])

    @invariant()
    def equal(self) -> None:
        assert self.health.is_ready == self.model.is_ready
        for key, (call, told) in self.watches.items():
            told += statuses(call)
            assert (told, call.status) == (self.model.watches[key][1], "")


HealthMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestHealth = HealthMachine.TestCase


def churn() -> None:
    health = Health()
    client = client_of(health)
    for method in ("Check", "List", "Watch"):
        asked(client, method)
    for ready in (True, False):
        health.is_ready = ready
        client.connection.wake()
        client.exchange()
    client.close()


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=5)


@debug_build_only
def test_survives_failing_allocations() -> None:
    """What fails ends a call, or the connection."""
    assert each_allocation_failing(churn) > 40
