"""Connections over time: deadlines, keepalive, draining, stopping, many streams, and what they leave behind."""

import contextlib
import gc
import tracemalloc
from typing import Any

import h2.exceptions
import pytest

from picker._core.h2 import Connection, Server
from tests.support import messages as m
from tests.support.builds import debug_build_only
from tests.support.h2memory import (
    END_HEADERS,
    GOAWAY,
    HEADERS,
    MS,
    RST_STREAM,
    START_NS,
    RawClient,
    frame,
    plain_headers,
)
from tests.support.h2peer import framed
from tests.support.h2service import BEGIN, BODY, POST, PROCESS, REQUEST, SECOND, WATCH, Service, begun, bodies, chunk
from tests.support.leaks import assert_flat, each_allocation_failing, traced_bytes

MINUTE = 60 * SECOND

# --- deadlines ---

UNITS = {"n": 1, "u": 1000, "m": MS, "S": SECOND, "M": MINUTE, "H": 60 * MINUTE}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("number", ["1", "7", "0", "00000012"])
def test_the_client_says_how_long_it_waits(unit: str, number: str) -> None:
    service = Service(timeout_ns=2**60)
    client = service.client()
    call = client.open(PROCESS, ("grpc-timeout", number + unit))
    call.send(BEGIN)
    time_ns = int(number) * UNITS[unit]
    if time_ns:
        client.now_ns += time_ns - 1
        client.connection.tick(client.now_ns)
        client.exchange()
        assert call.status == ""
    client.connection.tick(client.now_ns + 1)
    client.exchange()
    assert (call.status, call.text) == ("DEADLINE_EXCEEDED", "the time the client gave is up")
    assert (service.engine.sessions, len(call.messages)) == (0, 1)
    call.send(end_stream=True)
    service.assert_idle()


@pytest.mark.parametrize("text", ["", "1", "S", "S1", "-1S", "+1S", "1.5S", "1 S", "1s", "1X", "123456789S", "1é"])
def test_nonsense_sets_no_deadline(text: str) -> None:
    service = Service(timeout_ns=2**60, rules={"ping_after_ns": 2**60})
    client = service.client()
    call = client.open(PROCESS, ("grpc-timeout", text))
    call.send(BEGIN)
    client.pass_time(2**59)
    assert call.status == ""


def test_a_far_deadline_is_no_deadline() -> None:
    """It must not come round past the end of time."""
    service = Service(timeout_ns=2**60, rules={"ping_after_ns": 2**62})
    client = service.client()
    call = client.open(PROCESS, ("grpc-timeout", "99999999H"))
    call.send(framed(m.request_headers()))
    client.pass_time(2**61)
    assert call.status == "OK"  # picker's own limit: the body did not come


def test_deadlines_end_in_their_order() -> None:
    service = Service()
    client = service.client()
    calls = {seconds: begun(client, ("grpc-timeout", f"{seconds}S")) for seconds in (3, 1, 4, 2)}
    ended = []
    for _ in range(5):
        client.pass_time(SECOND)
        ended.append(sorted(seconds for seconds, call in calls.items() if call.is_over))
    assert ended == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]]


def test_a_deadline_does_not_outlive_its_call() -> None:
    service = Service()
    client = service.client()
    call = begun(client, ("grpc-timeout", "2S"))
    call.send(end_stream=True)
    assert call.status == "OK"
    client.pass_time(3 * SECOND)
    assert (call.status, call.reset_by) == ("OK", -1)
    left = begun(client, ("grpc-timeout", "2S"))
    left.reset()
    client.pass_time(3 * SECOND)
    service.assert_idle()


# --- is there anybody? ---


def pings(client: Any) -> int:
    return sum(kind == 6 and flags == 0 for kind, flags, _, _ in client.frames())


def test_a_silent_peer_is_asked_and_its_answer_will_do() -> None:
    client = Service().client()
    client.pass_time(30 * SECOND)
    assert pings(client) == 0
    for count in (1, 2, 3):
        client.pass_time(1)
        assert pings(client) == count
        client.pass_time(30 * SECOND)
        assert pings(client) == count
    assert not client.connection.is_over


def test_a_peer_that_talks_is_not_asked() -> None:
    client = Service().client()
    for _ in range(10):
        client.pass_time(29 * SECOND)
        client.protocol.ping(b"12345678")
        client.exchange()
    assert pings(client) == 0


def test_a_peer_that_does_not_answer_is_given_up() -> None:
    service = Service()
    client = RawClient(service.server)
    client.begin()
    client.feed(frame(HEADERS, END_HEADERS, 1, plain_headers(POST)), frame(0, 0, 1, REQUEST))
    client.connection.tick(START_NS + 31 * SECOND)
    assert [kind for kind, *_ in client.feed()] == [6]
    client.connection.tick(START_NS + 51 * SECOND)
    assert not client.connection.is_over
    client.connection.tick(START_NS + 51 * SECOND + 1)
    assert client.connection.is_over
    assert service.engine.in_flight == 1
    client.connection.close(START_NS + 52 * SECOND)
    service.assert_idle()


def test_a_peer_that_talks_and_does_not_answer_yet_is_not_given_up() -> None:
    """The answer stands behind all that it has sent before."""
    service = Service()
    client = RawClient(service.server)
    client.begin()
    now_ns = START_NS + 31 * SECOND
    client.connection.tick(now_ns)
    client.feed()
    for _ in range(10):
        now_ns += 19 * SECOND
        client.connection.feed(frame(2, 0, 99, b"\0\0\0\0\1"), now_ns)  # PRIORITY: any frame will do
        client.connection.tick(now_ns)
        assert not client.connection.is_over
    client.connection.tick(now_ns + 20 * SECOND + 1)
    assert client.connection.is_over


def test_nobody_is_asked_twice() -> None:
    client = RawClient(Service().server)
    client.begin()
    for seconds in (31, 35, 40, 50):
        client.connection.tick(START_NS + seconds * SECOND)
    assert [kind for kind, *_ in client.feed()] == [6]


# --- draining ---


def test_draining() -> None:
    """Two GOAWAYs: the first says go, the second says where the line is drawn."""
    service = Service()
    client = service.client()
    call = begun(client)
    client.connection.drain(client.now_ns)
    client.connection.drain(client.now_ns)
    client.exchange()
    assert [goaway.last_stream_id for goaway in client.goaways] == [2**31 - 1]
    late = begun(client)
    late.send(chunk(b"on its way already"))
    assert bodies(late) == b"on its way already"
    client.pass_time(SECOND - 1)
    assert len(client.goaways) == 1
    client.connection.drain(client.now_ns)  # asked again: it begins no second time
    client.pass_time(1)
    assert [goaway.last_stream_id for goaway in client.goaways] == [2**31 - 1, late.id]
    assert {goaway.error_code for goaway in client.goaways} == {0}
    refused = begun(client)
    client.pass_time(SECOND)
    assert (refused.status, len(refused.messages), len(client.goaways)) == ("", 0, 2)
    for one in (call, late):
        assert not client.connection.is_over
        one.send(chunk(b"rest"), end_stream=True)
        assert (bodies(one), one.status) == (b"rest", "OK")
    assert client.connection.is_over
    assert service.server.counters()["faults"] == 0
    service.assert_idle()


def test_draining_from_the_beginning_of_time() -> None:
    """Clocks may start at nothing."""
    service = Service()
    connection = Connection(service.server, 0)
    connection.drain(0)
    connection.tick(SECOND)
    connection.take()
    assert connection.is_over


def test_an_idle_connection_is_over_when_it_has_been_told() -> None:
    client = Service().client()
    client.connection.drain(client.now_ns)
    client.exchange()
    assert not client.connection.is_over
    client.pass_time(SECOND)
    assert client.connection.is_over


def test_a_peer_that_leaves_is_let_go() -> None:
    service = Service()
    client = service.client()
    call = begun(client)
    client.send_raw(frame(GOAWAY, 0, 0, b"\0" * 8))
    assert not client.connection.is_over
    call.send(end_stream=True)
    assert client.connection.is_over


# --- stopping ---


def test_stopping_ends_all_calls() -> None:
    service = Service()
    client = service.client()
    picked = client.open(PROCESS)
    picked.send(REQUEST)
    watch = client.open(WATCH)
    watch.send(framed(b""), end_stream=True)
    silent = client.open(PROCESS)
    client.exchange()
    client.connection.stop()
    client.exchange()
    for call, replies in ((picked, 2), (watch, 1), (silent, 0)):
        assert (call.status, call.text) == ("UNAVAILABLE", "the endpoint picker is stopping")
        assert len(call.messages) == replies
    assert (service.engine.sessions, service.engine.in_flight) == (0, 0)
    client.connection.stop()
    client.close()
    client.connection.stop()
    client.connection.drain(client.now_ns)
    client.connection.tick(client.now_ns)
    client.connection.wake()
    service.assert_idle()


# --- what is left ---


def small_request(client: Any) -> None:
    call = client.open(PROCESS)
    call.send(REQUEST + framed(m.response_headers()) + framed(m.response_body(b"x", end_of_stream=True)))
    assert len(call.messages) == 4
    call.send(end_stream=True)
    assert call.status == "OK"
    client.calls.clear()


def requests_of_every_end(service: Service) -> None:
    client = service.client()
    small_request(client)
    begun(client).reset()
    client.open("/nobody", end_stream=True)
    begun(client, ("grpc-timeout", "1S")).send(chunk(b"x" * 100_000))
    begun(client).send(framed(b"x", flag=1))
    begun(client).send(chunk(b"cut off")[:-1])
    client.pass_time(2 * SECOND)
    client.pass_time(2 * SECOND)
    begun(client)
    client.close()


def test_leaks_nothing() -> None:
    service = Service()
    requests_of_every_end(service)  # what the engine keeps of the first of its kind
    assert_flat(lambda: requests_of_every_end(service), calls=3)
    service.assert_idle()


def test_leaks_nothing_of_connections_that_nobody_closes() -> None:
    service = Service()

    def forget() -> None:
        client = service.client()
        begun(client).send(chunk(b"x")[:3])

    forget()
    assert_flat(forget, calls=3)
    service.assert_idle()


@debug_build_only
def test_survives_failing_allocations() -> None:
    """A call may end by it, or its connection; nothing is left, and nobody is told that all were well."""

    def action() -> None:
        service = Service()
        with contextlib.suppress(AssertionError, h2.exceptions.ProtocolError):  # not all goes as it should
            requests_of_every_end(service)
        if service.server.open_calls:
            gc.collect()
        service.assert_idle()

    assert each_allocation_failing(action) > 100


@pytest.mark.parametrize("watched", ["connection", "block"])
def test_garbage_in_a_ring_is_freed_in_any_order(watched: str) -> None:
    """The collector clears what it frees, and these still need one another when they go."""
    ring: dict[str, Any] = {}
    service = Service(on_error=ring.get)
    client = service.client()
    call = begun(client)
    call.send(chunk(BODY))
    if watched == "block":
        client.takes = False
        call.send(chunk(b"x" * 100_000))
        ring["block"] = client.connection.take()
        assert isinstance(ring["block"], memoryview)
    ring["connection"] = client.connection
    engine = service.engine
    assert engine.in_flight == 1
    del client, call, service, ring
    gc.collect()
    assert (engine.sessions, engine.in_flight) == (0, 0)


# --- many ---


def test_resets_are_not_counted_against_the_peer() -> None:
    """Envoy ends every stream that way. Nothing is kept of them: `Debian`'s libnghttp2 would say GOAWAY after 1,000."""
    service = Service()
    client = RawClient(service.server)
    client.begin()
    block = plain_headers(POST)
    stream_id = 1

    def thousand() -> None:
        nonlocal stream_id
        for _ in range(20):
            sent = b""
            for _ in range(50):
                sent += frame(HEADERS, END_HEADERS, stream_id, block) + frame(0, 0, stream_id, BEGIN)
                sent += frame(RST_STREAM, 0, stream_id, b"\0\0\0\x08")
                stream_id += 2
            assert client.feed(sent) == []

    readings = traced_bytes(thousand, rounds=4, calls=20)
    assert len(set(readings[1:])) == 1, readings
    assert stream_id > 200_000
    assert not client.connection.is_over
    assert service.server.counters()["calls"] == stream_id // 2
    service.assert_idle()


def test_many_streams_at_once_leave_nothing() -> None:
    service = Service()
    client = RawClient(service.server)
    client.begin()
    block = plain_headers(POST)
    stream_id = 1

    def many() -> None:
        nonlocal stream_id
        numbers = range(stream_id, stream_id + 2000, 2)
        stream_id += 2000
        client.feed(*(frame(HEADERS, END_HEADERS, number, block) + frame(0, 0, number, BEGIN) for number in numbers))
        assert service.server.open_calls == service.engine.sessions == 1000
        answered = client.feed(*(frame(0, 1, number) for number in numbers))
        assert sum(kind == HEADERS and flags & 1 for kind, flags, *_ in answered) == 1000

    readings = traced_bytes(many, rounds=4, calls=2)
    assert len(set(readings[1:])) == 1, readings
    service.assert_idle()


def test_a_server_keeps_a_few_blocks_and_no_more() -> None:
    service = Service(rules={"write_bytes": 20_000})
    server: Server = service.server

    def several() -> None:
        client = service.client()
        client.takes = False
        call = begun(client)
        call.send(b"".join(chunk(b"x" * 50_000) for _ in range(10)))
        taken = []
        while (part := client.connection.take()) is not None:
            taken.append(part)
        assert sum(isinstance(part, memoryview) for part in taken) > 10
        assert sum(map(len, taken)) > 500_000
        client.close()
        del taken, part
        server._check()

    several()
    assert_flat(several, calls=2)


def test_idle_connections_hold_little() -> None:
    """What a large reply was written into goes on to the next who has one."""
    service = Service()
    clients = [service.client() for _ in range(30)]

    def large(client: Any) -> None:
        call = begun(client)
        call.send(chunk(b"x" * 300_000), end_stream=True)
        assert call.status == "OK"
        client.received.clear()
        client.given.clear()
        client.calls.clear()

    for client in clients[:10]:
        large(client)
    gc.collect()
    tracemalloc.start()
    try:
        for client in clients[10:]:
            large(client)
        gc.collect()
        held = [trace for trace in tracemalloc.take_snapshot().traces if trace.size > 20_000]
        assert len(held) <= 2, held  # in the server's pool
    finally:
        tracemalloc.stop()
    service.server._check()


def test_a_flood_of_pings_is_the_end_of_a_connection() -> None:
    """Answers that nobody takes are not piled up."""
    client = RawClient(Service().server)
    client.begin()
    answered = client.feed(*(frame(6, 0, 0, b"12345678") for _ in range(5000)))
    assert answered[-1][0] == GOAWAY and answered[-1][3][4:8] == b"\0\0\0\x0b"  # ENHANCE_YOUR_CALM
    assert len(answered) < 1100
    assert client.connection.is_over
