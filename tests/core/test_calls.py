"""Replies on their way out, and what is taken of a client meanwhile: windows, back-pressure, bounded memory."""

from typing import Any

import pytest

from picker._core.calls import Methods
from tests.support.h2memory import END_HEADERS, HEADERS, SETTINGS, RawClient, frame, plain_headers
from tests.support.h2peer import framed
from tests.support.h2service import BEGIN, POST, PROCESS, Service, begun, bodies, chunk
from tests.support.leaks import assert_flat

STREAM = {"stream_pending": 50_000, "stream_window": 20_000}
LARGE = bytes(range(256)) * 1600
"""400 KB in which no two places look alike to a mod of 255."""


def give(client: Any, size: int, call: Any = None) -> None:
    """The client lets the server send more."""
    client.protocol.increment_flow_control_window(size, call.id if call else None)
    client.exchange()


# --- methods ---


def test_methods() -> None:
    made = Methods(None)
    assert made.paths == []
    made._check()
    for methods in (Service().extproc.methods(), Service().health.methods()):
        methods._check()


def test_methods_keep_their_service() -> None:
    """The server holds nothing else of it."""
    service = Service()
    del service.extproc, service.health
    client = service.client()
    call = begun(client)
    call.send(chunk(b"x"))
    assert bodies(call) == b"x"
    client.close()


# --- windows of the client ---


@pytest.mark.parametrize(("window", "size"), [(1, 3000), (2, 3000), (100, 100_000), (65_535, 400_000)])
def test_large_replies_through_small_windows(window: int, size: int) -> None:
    service = Service()
    client = service.client(initial_window=window, connection_window=0)
    calls = [begun(client) for _ in range(2)]
    for call in calls:
        call.send(chunk(LARGE[:size]), end_stream=True)
    for call in calls:
        assert (bodies(call), call.status) == (LARGE[:size], "OK")
    service.assert_idle()


def test_a_client_that_gives_no_window_gets_headers_and_no_more() -> None:
    service = Service()
    client = service.client(initial_window=0)
    client.reads = False
    call = begun(client)
    assert call.headers[":status"] == "200"
    assert not call.messages
    waiting = client.connection.pending
    assert 0 < waiting < 1000
    for size in (1, 4, 10):
        give(client, size, call)
        waiting -= size
        assert client.connection.pending == waiting
    give(client, waiting, call)
    assert (client.connection.pending, len(call.messages)) == (0, 1)


@pytest.mark.parametrize("error", [0, 3])
def test_an_end_stands_behind_what_waits(error: int) -> None:
    service = Service()
    client = service.client(initial_window=0)
    call = begun(client)
    call.send(framed(b"\xff\xff") if error else b"", end_stream=True)
    assert service.engine.sessions == 0
    assert (call.status, service.server.open_calls) == ("", 1)
    give(client, 10_000, call)
    assert (call.status, len(call.messages)) == ("INVALID_ARGUMENT" if error else "OK", 1)
    service.assert_idle()


def test_an_end_alone_needs_no_window() -> None:
    client = Service().client(initial_window=0)
    call = client.open(PROCESS)
    call.send(framed(b"\xff\xff"))
    assert call.status == "INVALID_ARGUMENT"


def test_windows_may_shrink_below_nothing() -> None:
    """By SETTINGS, while more is under way already (RFC 9113, 6.9.2)."""
    service = Service()
    client = RawClient(service.server)
    client.begin()
    sent = BEGIN + chunk(b"x" * 30_000)
    client.feed(frame(HEADERS, END_HEADERS, 1, plain_headers(POST)), frame(0, 0, 1, sent[:16_000]))
    answered = client.feed(frame(0, 0, 1, sent[16_000:]))
    assert sum(len(payload) for kind, _, _, payload in answered if kind == 0) > 30_000
    client.feed(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0"))
    assert client.feed(frame(0, 0, 1, chunk(b"y"))) == []
    waiting = client.connection.pending
    assert waiting > 0
    client.feed(frame(8, 0, 1, (30_000).to_bytes(4, "big")))
    assert client.connection.pending == waiting
    client.feed(frame(8, 0, 1, (2_000).to_bytes(4, "big")))
    assert client.connection.pending == 0


# --- a client that sends and does not read ---


def blocked(service: Service, size: int) -> tuple[Any, Any]:
    """A stream whose client sends `size` bytes of body and reads nothing of what comes back."""
    client = service.client(initial_window=0)
    call = begun(client)
    call.send(b"".join(chunk(LARGE[at : at + 1000]) for at in range(0, size, 1000)))
    return client, call


def test_a_stream_that_is_not_read_is_soon_not_taken_from() -> None:
    service = Service(rules=STREAM)
    client, call = blocked(service, 400_000)
    assert client.room(call) == 0
    assert len(call.unsent) > 300_000
    assert 50_000 < client.connection.pending < 50_000 + 20_000 + 20_000
    assert client.protocol.outbound_flow_control_window > 15 << 20  # the connection is not held up


def test_what_comes_out_when_it_is_read_again_is_whole() -> None:
    service = Service(rules=STREAM)
    client, call = blocked(service, 400_000)
    whole = b""
    for _ in range(2000):
        if not (call.unsent or client.connection.pending):
            break
        give(client, 777, call)
        whole += bodies(call)
        assert client.connection.pending < 90_000
    assert whole == LARGE[:400_000]
    call.send(end_stream=True)
    assert call.status == "OK"
    service.assert_idle()


def test_streams_beside_it_do_not_suffer() -> None:
    service = Service(rules=STREAM)
    client, stuck = blocked(service, 400_000)
    other = begun(client)
    give(client, 1 << 20, other)
    other.send(chunk(LARGE), end_stream=True)
    assert (bodies(other), other.status) == (LARGE, "OK")
    elsewhere = service.client()
    call = begun(elsewhere)
    call.send(chunk(LARGE), end_stream=True)
    assert (bodies(call), call.status) == (LARGE, "OK")
    stuck.reset()
    assert client.connection.pending == 0
    service.assert_idle()


CONNECTION = {"connection_pending": 60_000, "stream_pending": 1 << 20, "connection_window": 70_000}


def test_a_connection_that_is_not_read_is_soon_not_taken_from() -> None:
    service = Service(rules=CONNECTION)
    client = service.client(initial_window=0)
    calls = [begun(client) for _ in range(10)]
    for call in calls:
        call.send(b"".join(chunk(LARGE[at : at + 1000]) for at in range(0, 40_000, 1000)))
    assert client.protocol.outbound_flow_control_window == 0
    assert 60_000 < client.connection.pending < 60_000 + 70_000 + 10_000
    elsewhere = service.client()
    beside = begun(elsewhere)
    beside.send(chunk(LARGE[:50_000]), end_stream=True)
    assert (bodies(beside), beside.status) == (LARGE[:50_000], "OK")
    for call in calls:
        give(client, 1 << 20, call)
    for call in calls:
        assert bodies(call) == LARGE[:40_000]
        call.send(end_stream=True)
        assert call.status == "OK"
    assert client.protocol.outbound_flow_control_window > 30_000
    service.assert_idle()


def test_resets_give_back_what_waited() -> None:
    service = Service(rules=CONNECTION)
    client = service.client(initial_window=0)
    calls = [begun(client) for _ in range(10)]
    for call in calls:
        call.send(b"".join(chunk(LARGE[at : at + 1000]) for at in range(0, 40_000, 1000)))
    for call in calls:
        call.unsent = b""
        call.reset()
    assert client.connection.pending == 0
    assert client.protocol.outbound_flow_control_window > 30_000
    service.assert_idle()


def test_a_stream_that_is_not_read_may_be_held_up_by_a_connection_that_is_not() -> None:
    """The client's own window over all streams, which it opens again."""
    service = Service()
    client = service.client(connection_window=0)
    client.reads = False
    call = begun(client)
    call.send(chunk(LARGE))
    assert client.connection.pending > len(LARGE) - 65_535
    give(client, 1 << 20)
    assert bodies(call) == LARGE


# --- a socket that takes nothing ---


def test_nothing_is_lost_while_nothing_is_taken() -> None:
    service = Service(rules={"write_bytes": 1000})
    client = service.client()
    client.takes = False
    calls = [begun(client) for _ in range(5)]
    for call in calls:
        call.send(chunk(LARGE[:60_000]), end_stream=True)
    assert client.connection.pending > 300_000
    gone = calls.pop(2)
    gone.reset()
    client.takes = True
    client.exchange()
    for call in calls:
        assert (bodies(call), call.status) == (LARGE[:60_000], "OK")
    assert not gone.messages
    service.assert_idle()


@pytest.mark.parametrize("write_bytes", [1, 100, 20_000, 1 << 20])
def test_writes_are_as_large_as_the_rule_says(write_bytes: int) -> None:
    """And a frame, for frames are not cut."""
    service = Service(rules={"write_bytes": write_bytes})
    client = service.client()
    call = begun(client)
    call.send(chunk(LARGE), end_stream=True)
    assert (bodies(call), call.status) == (LARGE, "OK")
    largest = max(map(len, client.received))
    assert largest <= write_bytes + 16_384 + 9
    assert largest > min(write_bytes, 200_000)
    service.server._check()


def test_writes_of_headers_alone_are_no_larger() -> None:
    client = Service(rules={"write_bytes": 500}).client()
    for _ in range(200):
        client.open("/nobody", end_stream=True)
    client.exchange()
    assert {call.status for call in client.calls.values()} == {"UNIMPLEMENTED"}
    assert max(map(len, client.received)) < 600


def test_a_reset_between_two_writes() -> None:
    """A frame may be half way out: it must not be finished from a stream that is gone."""
    service = Service(rules={"write_bytes": 100})
    client = service.client()
    for _ in range(10):
        client.takes = False
        call = begun(client)
        call.send(chunk(LARGE[:50_000]))
        written = client.connection.take()
        assert written
        client.receive(bytes(written))
        call.reset()
        client.takes = True
        client.exchange()
    other = begun(client)
    other.send(chunk(LARGE[:50_000]), end_stream=True)
    assert (bodies(other), other.status) == (LARGE[:50_000], "OK")
    service.assert_idle()


def test_replies_go_on_while_others_wait() -> None:
    """What was sent makes room for what comes, more than once."""
    service = Service()
    client = service.client(initial_window=0)
    call = begun(client)
    whole = sent = b""
    for number in range(60):
        part = LARGE[number * 5000 : number * 5000 + 5000 + number]
        sent += part
        call.send(chunk(part))
        if number == 30:
            give(client, 150_000, call)
        elif number > 30:
            give(client, 5100, call)
        whole += bodies(call)
    give(client, 1 << 20, call)
    whole += bodies(call)
    assert whole == sent


def test_leaks_nothing_of_what_is_never_read() -> None:
    service = Service(rules=STREAM)

    def churn() -> None:
        client, call = blocked(service, 100_000)
        give(client, 30_000, call)
        client.close()

    churn()
    assert_flat(churn, calls=2)
    service.assert_idle()


def test_a_refusal_takes_back_no_reply_that_is_on_its_way() -> None:
    service = Service()
    client = service.client(initial_window=0)
    call = begun(client)
    call.send(chunk(b"first"))
    call.send(chunk(b"second") + framed(b"\xff\xff"))
    give(client, 1 << 20, call)
    assert (bodies(call), call.status) == (b"firstsecond", "INVALID_ARGUMENT")
