"""Plugins in Python: what a message offers them, and what becomes of those that fail."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from picker._core.bbr import STEP_PYTHON, Router
from picker.bbr.host import REST_AFTER, REST_S, PluginHost, Record
from picker.bbr.plugins import Message, Plugin, RequestPlugin, ResponsePlugin
from tests.support import messages as m
from tests.support.bodies import BodyGateway

BODY = b'{"model": "llama", "messages": [{"content": "hi"}], "n": null}'


class Asks:
    """A plugin that does what a test says."""

    def __init__(self, act: Callable[[Message], object]) -> None:
        self.act = act

    def on_request(self, message: Message) -> None:
        self.act(message)

    on_response = on_request


class Clock:
    """Time that a plugin takes by saying so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(act: Callable[[Message], object], **more: Any) -> Record:
    return Record(Asks(act), "asks", "it", **more)


def gateway_of(
    *records: Record, responses: bool = False, clock: Clock | None = None, modes: tuple[int, int] = (4, 4), **more: Any
) -> BodyGateway:
    """A gateway whose requests, or responses, these plugins see."""
    host = PluginHost([] if responses else records, records if responses else [], clock=clock or Clock())
    steps = [(STEP_PYTHON, True, each.is_closed) for each in records]
    return BodyGateway(Router([] if responses else steps, steps if responses else [], host=host), modes=modes, **more)


def seen(act: Callable[[Message], object], body: bytes = BODY, **more: Any) -> BodyGateway:
    """The gateway behind a request that `act` has seen; what it raises is raised."""
    problems: list[BaseException] = []

    def careful(message: Message) -> None:
        try:
            act(message)
        except BaseException as problem:
            problems.append(problem)
            raise

    gateway = gateway_of(record(careful), **more)
    gateway.post(body, headers={"x-A": "1", "x-b": "é"})
    if problems:
        raise problems[0]
    return gateway


# --- messages ---


def test_what_a_message_shows() -> None:
    found: dict[str, Any] = {}

    def look(message: Message) -> None:
        found.update(part=message.part, body=message.body, model=message.field("model"), path=message.header(":PATH"))
        found.update(content=message.field(("messages", 0, "content")), n=message.field("n"), none=message.field("x"))
        found.update(has_n=message.has_field("n"), has_x=message.has_field("x"), b=message.headers["x-b"])

    seen(look)
    assert found == {
        "part": "body",
        "body": BODY,
        "model": "llama",
        "path": "/v1/chat/completions",
        "content": "hi",
        "n": None,
        "none": None,
        "has_n": True,
        "has_x": False,
        "b": "é",
    }


def test_headers_that_come_twice_are_joined_and_those_that_are_no_text_show() -> None:
    found: list[Any] = []
    gateway = gateway_of(record(lambda message: found.append((message.header("x"), message.header("y")))))
    message = m.ext_proc.ProcessingRequest.FromString(m.request_headers(end_of_stream=True))
    for key, value in (("x", b"1"), ("x", b"2"), ("y", b"\xff")):
        message.request_headers.headers.headers.add(key=key, raw_value=value)
    gateway.exchange.feed(message.SerializeToString())
    assert found == [("1, 2", "\udcff")]


def test_changes_are_seen_by_those_who_come_later() -> None:
    found: list[Any] = []

    def first(message: Message) -> None:
        message.set_header("X-New", "é")
        message.remove_header("x-b")
        message.set_field("model", "töst")
        message.set_field(("messages", 0, "content"), {"a": [1.5, None]})
        message.remove_field("n")

    def second(message: Message) -> None:
        found.extend([message.header("x-new"), message.header("x-b"), message.field("model"), message.has_field("n")])

    wanted = b'{"model": "t\\u00f6st", "messages": [{"content": {"a": [1.5, null]}}]}'
    gateway = gateway_of(record(first), record(second), change_request=lambda _: wanted)
    gateway.post(BODY, headers={"x-b": "1"})
    gateway.request.demand_complete()
    assert (found, gateway.headers) == (["é", None, "töst", False], {"x-new": "é"})


@pytest.mark.parametrize("name", ["", "a b", ":path", "Host", "content-length", "transfer-encoding", "é", "a\n"])
def test_headers_that_are_not_a_plugins(name: str) -> None:
    with pytest.raises(ValueError, match="not a header"):
        seen(lambda message: message.set_header(name, "1"))
    with pytest.raises(ValueError, match="not a header"):
        seen(lambda message: message.remove_header(name))


@pytest.mark.parametrize("value", ["a\nb", "\0", "\x7f", "\ud800"])
def test_values_that_no_header_has(value: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        seen(lambda message: message.set_header("x", value))


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (lambda message: message.set_field("x", float("nan")), ValueError),
        (lambda message: message.set_field("x", object()), TypeError),
        (lambda message: message.set_field(("model", "x"), 1), LookupError),
        (lambda message: message.set_field((), 1), LookupError),
        (lambda message: message.remove_field(("messages", 0)), LookupError),
        (lambda message: message.reject(200, "fine"), ValueError),
    ],
)
def test_what_cannot_be_done(act: Callable[[Message], object], problem: type[Exception]) -> None:
    with pytest.raises(problem):
        seen(act)


def test_a_rejection_is_an_error_as_the_api_has_it() -> None:
    error = seen(lambda message: message.reject(403, 'no "evil"', code="guardrail")).error()
    assert error == (
        403,
        {"error": {"message": 'no "evil"', "type": "invalid_request_error", "param": None, "code": "guardrail"}},
    )
    assert seen(lambda message: message.reject(503, "later")).error()[1]["error"]["type"] == "internal_error"


def test_responses_and_their_requests() -> None:
    found: list[Any] = []

    def look(message: Message) -> None:
        found.append((message.part, message.header(":status"), message.request_headers["x-a"], message.may_reject))
        found.append(message.field("a"))

    gateway = gateway_of(record(look), responses=True)
    gateway.send_headers(headers={"x-a": "1"}, end=True)
    gateway.respond([b'data: {"a": 1}\n\n', b"data: 2\n\n"], kind="text/event-stream")
    assert found == [("event", "200", "1", True), 1, ("event", "200", "1", False), None]


def test_what_counts_as_a_plugin() -> None:
    assert isinstance(Asks(print), RequestPlugin)
    assert isinstance(Asks(print), ResponsePlugin)
    assert not isinstance(Plugin({}), RequestPlugin | ResponsePlugin)


# --- plugins that fail ---


def fails(message: Message) -> None:
    message.set_header("x-half", "done")
    message.set_field("model", "half")
    raise SystemExit("bug")


def test_a_plugin_that_raises_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    failing = record(fails)
    gateway = gateway_of(failing, record(lambda message: message.set_header("x-next", "1")))
    gateway.post(BODY)
    gateway.request.demand_complete()
    assert (gateway.headers, failing.errors) == ({"x-next": "1"}, 1)
    assert failing.durations.count == 1
    assert "plugin it (asks) failed, left out once: SystemExit: bug" in caplog.text


def test_a_plugin_that_takes_too_long_is_left_out() -> None:
    clock = Clock()

    def slow(message: Message) -> None:
        message.set_header("x-late", "1")
        message.reject(403, "late")
        clock.now += 0.011

    late = record(slow)
    gateway = gateway_of(late, clock=clock)
    gateway.post(BODY)
    gateway.request.demand_complete()
    assert (gateway.headers, gateway.immediate, late.overruns, late.errors) == ({}, None, 1, 0)
    patient = record(slow, budget_s=0.02)
    gateway = gateway_of(patient, clock=clock)
    gateway.post(BODY)
    assert (gateway.error()[0], patient.overruns) == (403, 0)


def test_a_guardrail_that_fails_stops_the_request() -> None:
    gateway = gateway_of(record(fails, is_closed=True))
    gateway.post(BODY)
    status, error = gateway.error()
    assert (status, error["error"]["code"]) == (500, "guardrail_failed")
    assert error["error"]["message"] == "it could not look at this request"


def test_a_guardrail_that_fails_in_a_stream_cuts_it() -> None:
    def act(message: Message) -> None:
        if b"2" in message.body:
            raise ValueError

    gateway = gateway_of(record(act, is_closed=True), responses=True)
    gateway.send_headers(end=True)
    gateway.answer_headers()
    gateway.answer_body([b"data: 1\n\n"], ending="open")
    gateway.feed(m.response_body(b"data: 2\n\n"), 0)
    assert gateway.exchange.is_cut


def test_a_plugin_that_keeps_failing_rests_but_no_guardrail_does(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    for is_closed in (False, True):
        failing = record(fails, is_closed=is_closed)
        for _ in range(REST_AFTER + 3):
            gateway_of(failing, clock=clock).post(BODY)
        assert (failing.errors, failing.skipped) == ((REST_AFTER + 3, 0) if is_closed else (REST_AFTER, 3))
        clock.now += REST_S
        gateway_of(failing, clock=clock).post(BODY)
        assert failing.errors == REST_AFTER + (4 if is_closed else 1)
    assert len([line for line in caplog.records if line.levelno >= logging.ERROR]) < 8


def test_an_interrupt_is_nobodys_bug() -> None:
    def interrupted(message: Message) -> None:
        raise KeyboardInterrupt

    gateway = gateway_of(record(interrupted))
    gateway.send_headers()
    with pytest.raises(KeyboardInterrupt):
        gateway.send_body([BODY], ending="chunk")


def test_durations() -> None:
    one = record(print).durations
    one.observe(0.0015)
    one.observe(3.0, 2)
    assert (one.count, one.total) == (3, 6.0015)
    assert one.buckets()[-1] == (float("inf"), 3)
    assert dict(one.buckets())[0.002] == 1
    assert json.dumps(one.buckets()[:-1])
