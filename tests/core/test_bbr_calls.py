"""The body-based router as a method of gRPC connections: time limits, plugins between reads, how streams end."""

from typing import Any

import pytest

from picker._core.bbr import Router
from picker._core.view import View
from tests.support import messages as m
from tests.support.bodies import router, router_with
from tests.support.builds import debug_build_only
from tests.support.h2memory import MemoryClient, server
from tests.support.h2peer import framed
from tests.support.h2service import PROCESS, SECOND
from tests.support.leaks import assert_flat, each_allocation_failing

BODY = b'{"model": "llama"}'
HEADERS = framed(m.request_headers())
REQUEST = HEADERS + framed(m.request_body(BODY))


def client_of(made: Router, **options: Any) -> MemoryClient:
    return MemoryClient(server(made, **options))


def immediate(call: Any) -> int:
    """The status that picker answers itself with; it must be the last reply."""
    return int(m.parse(call.messages.pop()).immediate_response.status.code)


def test_paths() -> None:
    assert router().methods().paths == [PROCESS]


def test_without_plugins_for_responses_the_stream_is_over_with_the_request() -> None:
    made = router()
    call = client_of(made).open(PROCESS)
    call.send(REQUEST)
    assert (len(call.messages), call.status, made.sessions, made.answered) == (2, "OK", 0, 1)


def test_with_one_it_ends_when_the_gateway_ends_it() -> None:
    made = router_with((), [lambda view: None])
    call = client_of(made).open(PROCESS)
    call.send(REQUEST)
    assert (len(call.messages), call.status, made.sessions) == (2, "", 1)
    call.send(framed(m.response_headers()), end_stream=True)
    assert (call.status, made.sessions) == ("OK", 0)


@pytest.mark.parametrize("sent", [b"", HEADERS, HEADERS + framed(m.request_body(b"{", end_of_stream=False))])
def test_a_body_that_does_not_arrive_in_time_is_408(sent: bytes) -> None:
    made = router(timeout_ns=5 * SECOND)
    client = client_of(made)
    call = client.open(PROCESS)
    call.send(sent)
    client.pass_time(5 * SECOND - 1)
    assert (call.status, list(call.messages)) == ("", [])
    client.pass_time(1)
    assert (immediate(call), call.status, made.sessions, made.buffered_bytes) == (408, "OK", 0, 0)


def test_a_request_that_is_answered_has_all_the_time() -> None:
    made = router_with((), [lambda view: None], timeout_ns=SECOND)
    client = client_of(made)
    call = client.open(PROCESS)
    call.send(REQUEST)
    client.pass_time(1000 * SECOND)
    assert call.status == ""


def test_what_is_no_message_ends_the_stream_with_an_error() -> None:
    made = router()
    call = client_of(made).open(PROCESS)
    call.send(framed(b"\xff"))
    assert (call.status, made.sessions) == ("INVALID_ARGUMENT", 0)


def test_far_too_many_streams_are_refused() -> None:
    made = router(sessions=1)
    client = client_of(made)
    calls = [client.open(PROCESS) for _ in range(3)]
    for call in calls:
        call.send(HEADERS)
    assert (calls[0].status, calls[1].status, calls[2].status) == ("", "OK", "RESOURCE_EXHAUSTED")
    assert immediate(calls[1]) == 429


def test_a_plugin_is_asked_in_the_middle_of_a_read() -> None:
    """Two streams in one read: each gets its own answers, the one behind the plugin too."""
    seen: list[bytes] = []
    made = router_with([lambda view: seen.append(view.body)])
    client = client_of(made)
    calls = [client.open(PROCESS) for _ in range(2)]
    for number, call in enumerate(calls):
        call.send(HEADERS + framed(m.request_body(b'{"model":"%d"}' % number)))
    assert [(len(call.messages), call.status) for call in calls] == [(2, "OK"), (2, "OK")]
    assert seen == [b'{"model":"0"}', b'{"model":"1"}']


def test_a_host_that_raises_is_500_before_the_answer_and_an_error_behind_it() -> None:
    problems: list[Exception] = []

    def raises(view: View) -> None:
        raise ZeroDivisionError

    call = client_of(router_with([raises]), on_error=problems.append).open(PROCESS)
    call.send(REQUEST)
    assert (immediate(call), call.status) == (500, "OK")

    def later(view: View) -> None:
        if b"bad" in view.body:
            raise ZeroDivisionError

    made = router_with((), [later])
    call = client_of(made, on_error=problems.append).open(PROCESS)
    call.send(REQUEST + framed(m.response_headers()) + framed(m.response_body(b"data: 1\n\n")))
    assert call.status == ""
    call.send(framed(m.response_body(b"data: bad\n\n")))
    assert (call.status, made.sessions) == ("INTERNAL", 0)
    assert [type(problem) for problem in problems] == [ZeroDivisionError] * 2


def test_a_response_that_is_cut_ends_with_an_error() -> None:
    def act(view: View) -> None:
        if b"bad" in view.body:
            view.reject(403, b"{}")

    made = router_with((), [act])
    call = client_of(made).open(PROCESS)
    call.send(REQUEST + framed(m.response_headers()) + framed(m.response_body(b"data: 1\n\n")))
    replies = len(call.messages)
    call.send(framed(m.response_body(b"data: 2\n\ndata: bad\n\n")))
    assert (call.status, len(call.messages)) == ("INTERNAL", replies)


def test_a_large_body_is_lent_not_copied() -> None:
    body = b'{"model":"llama","x":"' + b"y" * 300_000 + b'"}'
    made = router()
    call = client_of(made).open(PROCESS)
    call.send(HEADERS)
    for at in range(0, len(body), 60_000):
        call.send(framed(m.request_body(body[at : at + 60_000], end_of_stream=False)))
    call.send(framed(m.request_body(b"")))
    chunks = [m.parse(reply).request_body.response.body_mutation.streamed_response for reply in list(call.messages)[1:]]
    assert b"".join(chunk.body for chunk in chunks) == body
    assert (call.status, made.buffered_bytes) == ("OK", 0)


def one_stream() -> None:
    made = router_with([lambda view: view.edit(b"x", b"1")])
    call = client_of(made).open(PROCESS)
    call.send(REQUEST)


def test_leaves_nothing_behind() -> None:
    assert_flat(one_stream, calls=20)


@debug_build_only
def test_memory_that_is_not_there() -> None:
    assert each_allocation_failing(one_stream) > 10
