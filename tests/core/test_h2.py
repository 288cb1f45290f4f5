"""gRPC over HTTP/2 as RFC 9113 and gRPC have it: requests, messages, refusals, ends. Flow control: test_calls.py;
the life of connections: test_h2_life.py."""

from typing import Any

import pytest

from picker._core.h2 import Connection, Server
from tests.support import messages as m
from tests.support.h2memory import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    START_NS,
    RawClient,
    frame,
    plain_headers,
)
from tests.support.h2peer import framed
from tests.support.h2service import BEGIN, BODY, CHECK, POST, PROCESS, REQUEST, Service, begun, bodies, chunk

FLAG_ACK = 1


def kinds(call: Any) -> list[str]:
    """Those of the replies that have come since this was last asked."""
    found = [m.parse(message).WhichOneof("response") for message in call.messages]
    call.messages.clear()
    return found


# --- what is announced ---


def test_settings_say_what_the_rules_are() -> None:
    rules = {"streams": 7, "header_bytes": 1234, "stream_window": 100_000, "connection_window": 5_000_000}
    client = Service(rules=rules).client()
    told = client.protocol.remote_settings
    assert (told.max_concurrent_streams, told.max_header_list_size, told.initial_window_size) == (7, 1234, 100_000)
    assert client.protocol.outbound_flow_control_window == 5_000_000


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"no rule called \['frames'\]; there are \['connection_pending'"):
        Service(rules={"frames": 1})
    for name, value in (("streams", 0), ("stream_window", 2**31), ("ping_after_ns", -1)):
        with pytest.raises(ValueError, match=f"rule {name} cannot be {value}"):
            Service(rules={name: value})
    with pytest.raises(OverflowError):
        Service(rules={"streams": 2**32})
    with pytest.raises(TypeError):
        Server([object()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at most 16 methods"):
        Server([Service().health.methods() for _ in range(6)])


def test_a_server_is_a_buffer_to_read_into() -> None:
    service = Service(inbound_bytes=100)
    view = memoryview(service.server)
    assert (view.nbytes, view.readonly) == (100, False)
    connection = Connection(service.server, START_NS)
    client = service.client(is_open=False)
    sent = client.protocol.data_to_send()
    for at in range(0, len(sent), 100):
        part = sent[at : at + 100]
        view[: len(part)] = part
        connection.received(len(part), START_NS)
    written = connection.take()
    assert written
    client.receive(bytes(written))
    with pytest.raises(ValueError, match="the buffer has 100 bytes, not 101"):
        connection.received(101, START_NS)
    connection.close(START_NS)
    connection.close(START_NS)
    connection.received(10, START_NS)
    connection.feed(b"x", START_NS)
    assert (connection.take(), connection.is_over, connection.pending) == (None, True, 0)


# --- requests that are refused ---


def test_an_unknown_path_is_unimplemented() -> None:
    service = Service()
    client = service.client()
    for path in ("/nobody", PROCESS + "x", PROCESS[:-1], "/"):
        call = client.open(path, end_stream=True)
        client.exchange()
        assert (call.headers[":status"], call.status, call.text) == ("200", "UNIMPLEMENTED", "no such method")
        assert call.headers["content-type"] == "application/grpc"
    assert service.server.counters()["refused"] == 4
    service.assert_idle()


@pytest.mark.parametrize("method", ["GET", "PUT", "post", "POSTS"])
def test_only_posts_are_grpc(method: str) -> None:
    client = Service().client()
    call = client.open(PROCESS, method=method, end_stream=True)
    client.exchange()
    assert call.status == "HTTP 405"


@pytest.mark.parametrize("kind", ["text/plain", "application/grpc-web", "application/grpcx", "application/gRPC/", "x"])
def test_other_content_is_not_taken(kind: str) -> None:
    client = Service().client()
    call = client.open(PROCESS, kind=kind, end_stream=True)
    client.exchange()
    assert call.status == "HTTP 415"


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"])
def test_content_that_is_grpc(kind: str) -> None:
    client = Service().client()
    call = client.open(CHECK, kind=kind)
    call.send(framed(b""), end_stream=True)
    assert call.status == "OK"


@pytest.mark.parametrize("size", [0, 900, 967, 968, 5000])
def test_request_headers_have_a_limit(size: int) -> None:
    """As RFC 9113 counts them: each 32 bytes beyond its own. Those of every request make 1000 - `fits`."""
    client = Service(rules={"header_bytes": 1000}).client()
    plain = [(":method", "POST"), (":scheme", "http"), (":path", CHECK), (":authority", "test")]
    plain += [("content-type", "application/grpc"), ("te", "trailers")]
    fits = 1000 - sum(len(name) + len(value) + 32 for name, value in plain) - 32 - len("x")
    call = client.open(CHECK, ("x", "y" * size))
    call.send(framed(b""), end_stream=True)
    assert call.status == ("OK" if size <= fits else "RESOURCE_EXHAUSTED")
    for exact, status in ((fits, "OK"), (fits + 1, "RESOURCE_EXHAUSTED")):
        call = client.open(CHECK, ("x", "y" * exact))
        call.send(framed(b""), end_stream=True)
        assert call.status == status


def test_what_comes_after_a_refusal_is_let_be() -> None:
    service = Service()
    client = service.client()
    for how in ({"path": "/nobody"}, {"path": PROCESS, "method": "GET"}, {"path": PROCESS, "kind": "x"}):
        call = client.open(**how)
        client.exchange()
        assert call.is_over
        call.send(b"\2" + b"x" * 300_000, end_stream=True)
        assert not call.unsent  # it is taken and thrown away, or the connection's window would shrink for good
    assert client.protocol.outbound_flow_control_window > 15 << 20
    service.assert_idle()


# --- messages and frames ---


@pytest.mark.parametrize("cut", [1, 2, 9, 13, 100, 0])
@pytest.mark.parametrize("framing", [1, 3, 50, 10_000])
def test_messages_do_not_care_about_frames_or_reads(framing: int, cut: int) -> None:
    service = Service()
    client = service.client()
    client.cut = cut
    call = client.open(PROCESS)
    sent = REQUEST + framed(m.response_headers()) + framed(m.response_body(b"x", end_of_stream=True))
    for at in range(0, len(sent), framing):
        client.protocol.send_data(call.id, sent[at : at + framing])
    client.exchange()
    assert kinds(call) == ["request_headers", "request_body", "response_headers", "response_body"]
    assert service.server.counters()["messages"] == 4
    call.send(end_stream=True)
    assert call.status == "OK"
    service.assert_idle()


def test_padding_is_no_content() -> None:
    client = Service().client()
    call = client.open(CHECK)
    client.protocol.send_data(call.id, framed(b"")[:2], pad_length=200)
    client.protocol.send_data(call.id, framed(b"")[2:], pad_length=0, end_stream=True)
    client.exchange()
    assert call.status == "OK"


@pytest.mark.parametrize("encoding", ["gzip", "identity", ""])
def test_compressed_messages_are_refused(encoding: str) -> None:
    """Of an encoding we do not know: unimplemented. Of none, or of identity: an error of the client's."""
    extra = [("grpc-encoding", encoding)] if encoding else []
    client = Service().client()
    call = begun(client, *extra)
    call.send(framed(b"x", flag=1))
    expected = {"gzip": ("UNIMPLEMENTED", "messages must not be compressed")}
    assert (call.status, call.text) == expected.get(
        encoding, ("INTERNAL", "a compressed message without grpc-encoding")
    )
    assert kinds(call) == ["request_headers"]


@pytest.mark.parametrize("encoding", ["gzip", ""])
@pytest.mark.parametrize("flag", [2, 3, 0x80, 0xFF])
def test_flags_that_there_are_not(flag: int, encoding: str) -> None:
    client = Service().client()
    call = begun(client, *([("grpc-encoding", encoding)] if encoding else []))
    call.send(framed(b"x", flag=flag))
    assert (call.status, call.text) == ("INTERNAL", "not a gRPC message")


def test_a_message_that_is_too_large_is_refused_at_its_prefix() -> None:
    service = Service(rules={"message_bytes": 1000})
    client = service.client()
    fits = begun(client)
    body = next(b"x" * size for size in range(1000) if len(chunk(b"x" * size)) == 1005)
    fits.send(chunk(body))
    assert bodies(fits) == body
    call = begun(client)
    call.send(b"\0" + (1001).to_bytes(4, "big"))
    assert (call.status, call.text) == (
        "RESOURCE_EXHAUSTED",
        "the message is larger than --grpc-max-recv-msg-size",
    )
    fits.send(chunk(b"more"), end_stream=True)
    assert (bodies(fits), fits.status) == (b"more", "OK")


def test_replies_before_the_bad_message_are_sent() -> None:
    client = Service().client()
    call = client.open(PROCESS)
    call.send(BEGIN + chunk(b"one") + framed(b"x", flag=2) + chunk(b"two"))
    assert (bodies(call), call.status) == (b"one", "INTERNAL")


# --- the client ends ---

STEPS = [
    b"",
    BEGIN[:3],
    BEGIN[:-1],
    BEGIN,
    BEGIN + chunk(b"a")[:4],
    BEGIN + chunk(b"a"),
    REQUEST,
    REQUEST + framed(m.response_headers()),
    REQUEST + framed(m.response_headers()) + framed(m.response_body(b"x")),
]
CUT_OFF = (1, 2, 4)


@pytest.mark.parametrize("where", ["data", "last data", "trailers"])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_half_close_in_every_state(step: int, where: str) -> None:
    service = Service()
    client = service.client()
    call = client.open(PROCESS)
    call.send(STEPS[step], end_stream=where == "last data")
    if where == "data":
        call.send(end_stream=True)
    elif where == "trailers":
        client.protocol.send_headers(call.id, [("grpc-trailer", "x"), ("content-type", "text/plain")], end_stream=True)
        client.exchange()
    if step in CUT_OFF:
        assert (call.status, call.text) == ("INTERNAL", "the last message is cut off")
    else:
        assert call.status == "OK"
    service.assert_idle()


def test_headers_that_end_the_stream() -> None:
    service = Service()
    client = service.client()
    call = client.open(PROCESS, end_stream=True)
    client.exchange()
    assert call.status == "OK"
    assert call.headers["grpc-status"] == "0"  # response headers and trailers in one
    service.assert_idle()


@pytest.mark.parametrize("step", range(len(STEPS)))
@pytest.mark.parametrize("error", [0, 8, 0xFFFFFFFF])
def test_a_reset_in_every_state(step: int, error: int) -> None:
    service = Service()
    client = service.client()
    other = begun(client)
    call = client.open(PROCESS)
    call.send(STEPS[step])
    call.reset(error)
    other.send(chunk(b"goes on"), end_stream=True)
    assert (bodies(other), other.status) == (b"goes on", "OK")
    service.assert_idle()
    assert client.goaways == []


def test_a_reset_in_the_same_bytes_as_the_request() -> None:
    service = Service()
    client = service.client()
    for end_stream in (False, True):
        call = client.open(PROCESS)
        client.protocol.send_data(call.id, REQUEST, end_stream=end_stream)
        client.protocol.reset_stream(call.id)
        client.exchange()
    service.assert_idle()


# --- picker ends ---


def ended_early(client: Any) -> Any:
    call = client.open(PROCESS)
    call.send(framed(b"\xff\xff"))
    assert call.status == "INVALID_ARGUMENT"
    return call


def test_a_client_that_goes_on_after_the_end_is_stopped() -> None:
    service = Service()
    client = service.client()
    call = ended_early(client)
    assert service.engine.sessions == 0
    call.send(b"x" * 100_000)
    client.pass_time(999_999_999)
    assert (call.reset_by, service.server.open_calls) == (-1, 1)
    client.pass_time(1)
    assert (call.reset_by, call.status) == (0, "INVALID_ARGUMENT")
    service.assert_idle()


def test_a_client_that_ends_too_is_not_reset() -> None:
    service = Service()
    client = service.client()
    call = ended_early(client)
    call.send(end_stream=True)
    service.assert_idle()
    client.pass_time(10**10)
    assert call.reset_by == -1


def test_a_call_that_the_client_ended_first_does_not_linger() -> None:
    service = Service()
    client = service.client()
    call = client.open(PROCESS)
    call.send(framed(b"\xff\xff"), end_stream=True)
    assert call.status == "INVALID_ARGUMENT"
    service.assert_idle()


# --- streams ---


def test_streams_beyond_the_rule_are_refused() -> None:
    """Before the client has seen the settings, as an error of the stream: it may try again elsewhere."""
    service = Service(rules={"streams": 2})
    client = service.client(is_open=False)
    calls = [client.open(PROCESS) for _ in range(4)]
    client.exchange()
    assert [call.status for call in calls] == ["", "", "RESET 7", "RESET 7"]
    calls[0].send(BEGIN, end_stream=True)
    assert calls[0].status == "OK"
    again = begun(client)
    assert kinds(again) == ["request_headers"]
    client.close()
    service.assert_idle()


def test_streams_beyond_the_rule_of_a_client_that_knows_it_end_the_connection() -> None:
    service = Service(rules={"streams": 1})
    client = RawClient(service.server)
    client.begin()
    (goaway,) = client.feed(*(frame(HEADERS, END_HEADERS, number, plain_headers(POST)) for number in (1, 3)))
    assert (goaway[0], goaway[3][:8]) == (GOAWAY, b"\0\0\0\1\0\0\0\1")  # the first stream was dealt with
    assert client.connection.is_over
    assert service.server.counters()["faults"] == 1
    client.connection.close(START_NS)
    service.assert_idle()


@pytest.mark.parametrize("name", [":path", ":scheme", ":method", ":authority"])
def test_requests_without_what_http_demands_are_reset(name: str) -> None:
    service = Service()
    client = RawClient(service.server)
    client.begin()
    pairs = {key: value for key, value in POST.items() if key != name}
    assert client.feed(frame(HEADERS, END_HEADERS, 1, plain_headers(pairs))) == [(RST_STREAM, 0, 1, b"\0\0\0\1")]
    service.assert_idle()


MALFORMED: dict[str, list[tuple[str, str]]] = {
    "an unknown pseudo-header": [(":what", "x"), *POST.items()],
    "a pseudo-header of responses": [(":status", "200"), *POST.items()],
    "a pseudo-header twice": [*list(POST.items())[:4], (":path", "/x"), ("content-type", "application/grpc")],
    "a pseudo-header behind others": [("te", "trailers"), *POST.items()],
    "a name in upper case": [*POST.items(), ("X-a", "1")],
    "a name with a blank": [*POST.items(), ("x a", "1")],
    "a name with a colon": [*POST.items(), ("x:a", "1")],
    "no name": [*POST.items(), ("", "1")],
    "a value of two lines": [*POST.items(), ("x", "1\n2")],
    "a value with a zero byte": [*POST.items(), ("x", "1\0")],
    "te": [*POST.items(), ("te", "gzip")],
    **{name: [*POST.items(), (name, "x")] for name in ("connection", "transfer-encoding", "upgrade", "keep-alive")},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_requests_are_reset(what: str) -> None:
    """RFC 9113, 8.1.1."""
    service = Service()
    client = RawClient(service.server)
    client.begin()
    block = b"".join(plain_headers({name: value}) for name, value in MALFORMED[what])
    assert client.feed(frame(HEADERS, END_HEADERS, 1, block)) == [(RST_STREAM, 0, 1, b"\0\0\0\1")]
    assert client.feed(frame(HEADERS, END_HEADERS, 3, plain_headers(POST))) == []  # others go on
    client.connection.close(START_NS)
    service.assert_idle()


@pytest.mark.parametrize("authority", ["outbound|9002||picker.ml.svc.cluster.local", "{x}", "a b", "", "x" * 4000])
def test_gateways_call_picker_what_they_like(authority: str) -> None:
    """Envoy says the name of its cluster, and Istio's have what no authority may have."""
    client = Service().client()
    call = client.open(PROCESS, authority=authority)
    call.send(REQUEST)
    assert len(call.messages) == 2


def test_a_host_will_do_for_an_authority() -> None:
    service = Service()
    client = RawClient(service.server)
    client.begin()
    pairs = {**{key: value for key, value in POST.items() if key != ":authority"}, "host": "picker"}
    assert client.feed(frame(HEADERS, END_HEADERS, 1, plain_headers(pairs))) == []
    client.connection.close(START_NS)
    service.assert_idle()


def test_a_ping_is_answered() -> None:
    client = Service().client()
    client.protocol.ping(b"12345678")
    client.exchange()
    assert client.pings == 1
    assert (6, FLAG_ACK, 0, b"12345678") in client.frames()


def test_data_of_streams_that_are_gone_costs_no_window() -> None:
    service = Service(rules={"connection_window": 100_000})
    client = service.client()
    for _ in range(20):
        call = begun(client)
        for _ in range(4):
            client.protocol.send_data(call.id, b"\0" * 16_384)
        sent = client.protocol.data_to_send()
        client.connection.feed(sent[: len(sent) // 2], client.now_ns)
        client.protocol.reset_stream(call.id)
        client.connection.feed(frame(3, 0, call.id, b"\0\0\0\x08"), client.now_ns)
        client.protocol.data_to_send()
        client.send_raw(sent[len(sent) // 2 :])
    assert client.protocol.outbound_flow_control_window > 50_000
    service.assert_idle()


def test_plain_http_gets_an_answer_in_http2() -> None:
    """A browser, or a probe that is set up wrongly."""
    service = Service()
    connection = Connection(service.server, START_NS)
    connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", START_NS)
    written = connection.take()
    assert written
    assert bytes(written)[-8:-4] == b"\0\0\0\0" and bytes(written)[-4:] == b"\0\0\0\1"  # GOAWAY, PROTOCOL_ERROR
    assert connection.is_over
    assert connection.take() is None
    assert service.server.counters()["faults"] == 1


def test_counters() -> None:
    service = Service()
    client = service.client()
    first, _ = begun(client), client.open("/nobody", end_stream=True)
    first.send(framed(m.request_body(BODY)), end_stream=True)
    assert service.server.counters() == {"connections": 1, "calls": 1, "messages": 2, "refused": 1, "faults": 0}
    assert (service.extproc.opened, service.extproc.picked) == (1, 1)


def test_data_end_flag_values() -> None:
    """What raw frames of these tests are made of is what the `h2` library makes."""
    client = Service().client()
    call = client.open(CHECK)
    client.protocol.data_to_send()
    client.protocol.send_data(call.id, b"xy", end_stream=True)
    assert client.protocol.data_to_send() == frame(DATA, END_STREAM, call.id, b"xy")
