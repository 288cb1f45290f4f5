"""ext_proc as a method of gRPC connections: time limits, plugins between reads, what is told when something fails.

What streams say and get is the same on every shell: tests/extproc/test_streams.py.
"""

from typing import Any

import pytest

from picker._core import alloc
from picker._core.engine import Engine
from picker._core.extproc import ExtProc
from tests.support import messages as m
from tests.support.builds import debug_build_only
from tests.support.exchange import engine_with
from tests.support.h2memory import END_HEADERS, HEADERS, MemoryClient, frame, plain_headers
from tests.support.h2peer import framed
from tests.support.h2service import BODY, POST, PROCESS, REQUEST, SECOND, Service, begun, bodies, chunk
from tests.support.leaks import assert_flat, each_allocation_failing

SCORER, PICKER, MAX = (20, 2.0, (), 0), (33, 1.0, (), 0), (30, 1.0, (), 0)


def immediate(call: Any) -> int:
    """The status that picker answers itself with; it must be the last reply."""
    assert call.messages, call.status
    return int(m.parse(call.messages.pop()).immediate_response.status.code)


def test_arguments() -> None:
    for timeout_ns in (0, -1):
        with pytest.raises(ValueError, match=f"above 0, not {timeout_ns}"):
            ExtProc(engine_with(), timeout_ns=timeout_ns)
    with pytest.raises(TypeError):
        ExtProc("engine", timeout_ns=1)  # type: ignore[arg-type]
    assert ExtProc(engine_with(), timeout_ns=1).methods().paths == [PROCESS]


# --- time ---


@pytest.mark.parametrize(
    "sent",
    [b"", framed(m.request_headers())[:9], framed(m.request_headers()), framed(m.request_headers()) + chunk(b"{")],
)
def test_a_body_that_does_not_arrive_in_time_is_408(sent: bytes) -> None:
    service = Service(timeout_ns=5 * SECOND)
    client = service.client()
    call = client.open(PROCESS)
    call.send(sent)
    client.pass_time(5 * SECOND - 1)
    assert (call.status, list(call.messages)) == ("", [])
    client.pass_time(1)
    assert (immediate(call), call.status, list(call.messages)) == (408, "OK", [])
    assert service.engine.sessions == 0
    client.pass_time(SECOND)
    service.assert_idle()


def test_a_body_that_trickles_in_is_408_too() -> None:
    service = Service(timeout_ns=5 * SECOND)
    client = service.client()
    call = client.open(PROCESS)
    call.send(framed(m.request_headers()))
    for _ in range(4):
        client.pass_time(SECOND)
        call.send(chunk(b" "))
    assert call.status == ""
    client.pass_time(SECOND)
    assert (immediate(call), call.status) == (408, "OK")


def test_a_refusal_stands_behind_replies_that_wait() -> None:
    """In BUFFERED the headers are answered before the body has come."""
    service = Service(timeout_ns=SECOND)
    client = service.client(initial_window=0)
    call = client.open(PROCESS)
    call.send(framed(m.request_headers(modes=(m.BUFFERED, m.BUFFERED))))
    client.pass_time(SECOND)
    client.protocol.increment_flow_control_window(10_000, call.id)
    client.exchange()
    assert (len(call.messages), immediate(call), call.status) == (2, 408, "OK")
    assert m.parse(call.messages[0]).WhichOneof("response") == "request_headers"


def test_a_request_that_is_answered_has_all_the_time() -> None:
    service = Service(timeout_ns=5 * SECOND)
    client = service.client()
    call = client.open(PROCESS)
    call.send(REQUEST)
    client.pass_time(1000 * SECOND)
    call.send(framed(m.response_headers()) + framed(m.response_body(b"x", end_of_stream=True)), end_stream=True)
    assert (len(call.messages), call.status) == (4, "OK")
    service.assert_idle()


def test_the_client_may_have_less_patience_than_picker() -> None:
    service = Service(timeout_ns=5 * SECOND)
    client = service.client()
    calls = [client.open(PROCESS, ("grpc-timeout", f"{seconds}S")) for seconds in (3, 8)]
    client.exchange()
    client.pass_time(3 * SECOND)
    assert [call.status for call in calls] == ["DEADLINE_EXCEEDED", ""]
    client.pass_time(2 * SECOND)
    assert calls[1].status == "OK"
    assert immediate(calls[1]) == 408


def test_the_clients_time_goes_on_after_the_answer() -> None:
    service = Service(timeout_ns=5 * SECOND)
    client = service.client()
    call = client.open(PROCESS, ("grpc-timeout", "8S"))
    call.send(REQUEST)
    client.pass_time(8 * SECOND - 1)
    assert call.status == ""
    client.pass_time(1)
    assert call.status == "DEADLINE_EXCEEDED"
    assert service.engine.in_flight == 0


# --- limits ---


def test_too_many_streams_over_all_connections() -> None:
    service = Service(engine=engine_with(sessions=2, surplus=1))
    first, second = service.client(), service.client()
    calls = [begun(first), begun(second)]
    for client in (first, second, first):
        told = begun(client)
        assert m.parse(told.messages.popleft()).immediate_response.status.code == 429
        assert told.status == "OK"
    silent = first.open(PROCESS)
    silent.send(REQUEST[:3])
    refused = begun(second)
    assert (refused.status, refused.text) == (
        "RESOURCE_EXHAUSTED",
        "twice as many streams are open as may be: see --max-streams",
    )
    assert service.engine.sessions == 3
    calls[1].reset()
    assert begun(first).status == ""
    silent.reset()
    for client in (first, second):
        client.close()
    service.assert_idle()


def test_what_is_counted() -> None:
    service = Service()
    client = service.client()
    for sent in (
        REQUEST,
        framed(m.request_headers()),
        framed(b"\xff"),
        framed(m.request_headers()) + framed(m.request_body(b"{")),
    ):
        client.open(PROCESS).send(sent)
    assert (service.extproc.opened, service.extproc.picked) == (4, 1)


def test_replies_to_what_came_before_nonsense_are_sent() -> None:
    """And nothing of what the nonsense itself may have begun to say."""
    service = Service()
    client = service.client()
    call = begun(client)
    call.send(chunk(b"good") + framed(b"\xff\xff\xff") + chunk(b"never read"))
    assert (bodies(call), call.status) == (b"good", "INVALID_ARGUMENT")
    assert call.text == "not a ProcessingRequest, or out of order"


# --- plugins: in the middle of a read ---


def plugin_service(host: Any, steps: Any = (SCORER, MAX), **options: Any) -> tuple[Service, list[BaseException]]:
    engine = engine_with()
    engine.set_policy(steps, plugins=host)
    problems: list[BaseException] = []
    return Service(engine=engine, on_error=problems.append, **options), problems


def streams_of_a_read(client: MemoryClient, count: int, *, ends: bool) -> list[Any]:
    """Requests of several streams that the server reads at once, each whole in one frame."""
    calls = [client.open(PROCESS) for _ in range(count)]
    rest = framed(m.response_headers()) + framed(m.response_body(b"x", end_of_stream=True))
    for call in calls:
        client.protocol.send_data(call.id, REQUEST + rest, end_stream=ends)
    return calls


@pytest.mark.parametrize("cut", [0, 1, 7, 50])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("steps", [(SCORER, MAX), (SCORER, SCORER, PICKER)], ids=["one", "three"])
def test_plugins_run_between_messages_and_streams(steps: Any, ends: bool, cut: int) -> None:
    asked = []

    def host(step: int, request: Any, endpoints: Any) -> list[float]:
        asked.append(step)
        return [0, 1] if steps[step] != PICKER else [1]

    service, problems = plugin_service(host, steps)
    client = service.client()
    client.cut = cut
    calls = streams_of_a_read(client, 3, ends=ends)
    client.exchange()
    for call in calls:
        kinds = [m.parse(message).WhichOneof("response") for message in call.messages]
        assert kinds == ["request_headers", "request_body", "response_headers", "response_body"]
        (option,) = m.parse(call.messages[0]).request_headers.response.header_mutation.set_headers
        assert option.header.raw_value == b"10.0.0.2:8000"
        assert call.status == ("OK" if ends else "")
        if not ends:
            call.send(end_stream=True)
            assert call.status == "OK"
    assert (len(asked), problems) == (3 * (1 if len(steps) == 2 else 3), [])
    service.assert_idle()


@pytest.mark.parametrize("ends", [True, False])
def test_a_request_that_ends_with_what_the_plugin_is_asked_about(ends: bool) -> None:
    """Nothing comes behind it: the end must be seen all the same."""
    service, _ = plugin_service(lambda *_: [1, 0])
    client = service.client()
    call = client.open(PROCESS)
    call.send(REQUEST, end_stream=ends)
    assert (len(call.messages), call.status) == (2, "OK" if ends else "")
    if not ends:
        call.send(end_stream=True)
    service.assert_idle()


@pytest.mark.parametrize("ends", [True, False])
def test_a_plugin_host_that_raises(ends: bool) -> None:
    """A bug of ours: this request is answered 500, those behind it in the same read go on."""
    turns = iter((True, False, True))

    def host(*_: Any) -> list[float]:
        if next(turns):
            raise ZeroDivisionError("a bug")
        return [0, 1]

    service, problems = plugin_service(host)
    client = service.client()
    calls = streams_of_a_read(client, 3, ends=ends)
    client.exchange()
    assert [len(call.messages) for call in calls] == [1, 4, 1]
    assert [immediate(call) for call in (calls[0], calls[2])] == [500, 500]
    assert [call.status for call in calls] == ["OK", "OK" if ends else "", "OK"]
    assert list(map(repr, problems)) == ["ZeroDivisionError('a bug')"] * 2
    assert service.extproc.picked == 1
    for call in calls:
        call.send(end_stream=not ends)
    client.pass_time(SECOND)
    service.assert_idle()


def test_a_plugin_host_that_raises_where_nobody_listens() -> None:
    def host(*_: Any) -> list[float]:
        raise ZeroDivisionError("a bug")

    engine = engine_with()
    engine.set_policy((SCORER, MAX), plugins=host)
    service = Service(engine=engine)
    call = service.client().open(PROCESS)
    call.send(REQUEST)
    assert (immediate(call), call.status) == (500, "OK")


class Interrupt(BaseException):
    """As a KeyboardInterrupt, which pytest would take for itself."""


@pytest.mark.parametrize("where", ["host", "listener"])
def test_what_goes_wrong_beyond_that_is_the_end_of_the_connection(where: str) -> None:
    """Bytes of the read are lost then; going on would be to read nonsense."""

    def host(*_: Any) -> list[float]:
        raise Interrupt if where == "host" else ZeroDivisionError("a bug")

    def listen(_: Exception) -> None:
        raise Interrupt

    engine = engine_with()
    engine.set_policy((SCORER, MAX), plugins=host)
    service = Service(engine=engine, on_error=listen)
    client = service.client()
    streams_of_a_read(client, 3, ends=True)
    with pytest.raises(Interrupt):
        client.exchange()
    client.connection._check()
    while client.connection.take() is not None:
        pass
    assert client.connection.is_over
    before = service.server.counters()
    client.connection.feed(frame(HEADERS, END_HEADERS, 99, plain_headers(POST)), client.now_ns)
    assert service.server.counters() == before
    client.connection.tick(client.now_ns)
    client.close()
    service.assert_idle()


def test_plugins_see_whose_request_it_is() -> None:
    models = []

    def host(_: int, request: Any, endpoints: Any) -> list[float]:
        models.append(request["model"])
        return [0, 1]

    service, _ = plugin_service(host)
    client = service.client()
    for model in (b"a", b"b", b"c"):
        call = client.open(PROCESS)
        body = BODY.replace(b'"m"', b'"%s"' % model)
        client.protocol.send_data(call.id, framed(m.request_headers("/v1/completions")) + framed(m.request_body(body)))
    client.exchange()
    assert models == [b"a", b"b", b"c"]


def test_the_time_is_up_before_the_plugins_turn() -> None:
    """Deadlines are looked at between reads only: nothing expires under a plugin's hands."""
    service, _ = plugin_service(lambda *_: [0, 1], timeout_ns=SECOND)
    client = service.client()
    call = client.open(PROCESS)
    client.now_ns += 2 * SECOND
    call.send(REQUEST)
    assert len(call.messages) == 2
    client.pass_time(SECOND)
    assert call.status == ""


# --- memory ---


def busy(engine: Engine) -> None:
    service = Service(engine=engine, timeout_ns=SECOND)
    client = service.client()
    streams_of_a_read(client, 2, ends=True)
    client.exchange()
    begun(client).send(chunk(b"x" * 1000))
    client.open(PROCESS).send(framed(m.request_headers()))
    client.pass_time(SECOND)
    client.close()


def engine_of(answer: Any) -> Engine:
    engine = engine_with()

    def host(*_: Any) -> Any:
        if answer is None:
            raise ZeroDivisionError("a bug")
        return answer

    engine.set_policy((SCORER, MAX), plugins=host)
    return engine


@pytest.mark.parametrize("answer", [[0, 1], None])
def test_leaks_nothing(answer: Any) -> None:
    engine = engine_of(answer)
    busy(engine)
    assert_flat(lambda: busy(engine), calls=3)


@debug_build_only
@pytest.mark.parametrize("answer", [[0, 1], None])
def test_survives_failing_allocations(answer: Any) -> None:
    engine = engine_of(answer)
    busy(engine)
    assert each_allocation_failing(lambda: busy(engine)) > 50
    assert (engine.sessions, engine.in_flight) == (0, 0)


def told_with_failing(after: int, before: bytes, sent: bytes) -> tuple[Any, list[str], list[int]]:
    """A stream whose server fails to allocate once while it takes `sent`: the call, its replies, errors of GOAWAYs."""
    service = Service()
    client = service.client()
    call = client.open(PROCESS)
    if before:
        call.send(before)  # else the stream begins with the same bytes
        call.messages.clear()
    client.protocol.send_data(call.id, sent)
    data = client.protocol.data_to_send()
    alloc.fail_allocation(after)
    try:
        client.connection.feed(data, client.now_ns)
    finally:
        alloc.fail_allocation(-1)
    client.exchange()
    kinds = [m.parse(message).WhichOneof("response") for message in call.messages]
    errors = [goaway.error_code for goaway in client.goaways]
    client.close()
    service.assert_idle()
    return call, kinds, errors


@debug_build_only
@pytest.mark.parametrize("answered", [False, True])
def test_without_memory_nothing_half_is_said(answered: bool) -> None:
    """All, or a refusal, or an error; never an end as if all were well, nor one that is the client's fault."""
    if answered:
        before, sent = REQUEST, framed(m.response_headers()) + framed(m.response_body(b"x" * 5000))
        whole = ["response_headers", "response_body"]
    else:
        before, sent, whole = b"", REQUEST, ["request_headers", "request_body"]
    seen = set()
    for after in range(60):
        call, kinds, errors = told_with_failing(after, before, sent)
        if errors:
            assert errors == [2]
        elif call.status == "OK":
            assert (kinds, answered) == (["immediate_response"], False)
            assert immediate(call) == 429
        elif call.status:
            assert call.status in ("INTERNAL", "RESOURCE_EXHAUSTED", "RESET 2")
            assert kinds == whole[: len(kinds)] and kinds != whole
        else:
            assert kinds == whole
        seen.add(("GOAWAY",) if errors else (call.status, *kinds))
    assert ("", *whole) in seen
    if answered:
        assert ("INTERNAL", "response_headers") in seen
    else:
        assert {("OK", "immediate_response"), ("GOAWAY",)} <= seen
