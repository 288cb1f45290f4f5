"""Objectives: a request has the priority of the one it names, and its decision says so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core.engine import Engine
from picker._core.session import Session
from tests.support import messages as m
from tests.support.builds import debug_build_only
from tests.support.exchange import engine_with
from tests.support.leaks import assert_flat, failing_allocations

NEW, OLD = "x-llm-d-inference-objective", "x-gateway-inference-objective"
PRIORITIES = {"chat": 10, "batch": -1, "most": 2**31 - 1, "least": -(2**31), "none": 0}


def decided(engine: Engine, *headers: tuple[str, str]) -> tuple[str, int]:
    """What the decision of a request with these headers says: objective and priority."""
    message = m.ext_proc.ProcessingRequest.FromString(m.request_headers("/v1/models", end_of_stream=True))
    for key, value in headers:
        message.request_headers.headers.headers.add(key=key, raw_value=value.encode("latin-1"))
    session = Session(engine, 1)
    (reply,) = session.feed(message.SerializeToString(), 1)
    session.close(1)
    mutation = m.parse(reply).request_headers.response.header_mutation
    assert {key for key, _ in headers} == set(mutation.remove_headers)  # none of them goes further
    (decision,) = engine.decisions(1)
    return decision["objective"], decision["priority"]


@pytest.fixture
def engine() -> Engine:
    made = engine_with()
    made.set_objectives(PRIORITIES)
    return made


@pytest.mark.parametrize("header", [NEW, OLD])
@pytest.mark.parametrize("name", PRIORITIES)
def test_a_request_has_the_priority_of_its_objective(engine: Engine, header: str, name: str) -> None:
    assert decided(engine, (header, name)) == (name, PRIORITIES[name])


def test_without_one_it_is_0(engine: Engine) -> None:
    assert decided(engine) == ("", 0)
    assert decided(engine, (NEW, "unknown")) == ("unknown", 0)
    assert decided(engine, (NEW, "")) == ("", 0)
    assert decided(engine, (NEW, "chat2")) == ("chat2", 0)
    assert decided(engine_with(), (NEW, "chat")) == ("chat", 0)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([(NEW, "chat"), (OLD, "batch")], "chat"),
        ([(OLD, "batch"), (NEW, "chat")], "chat"),
        ([(OLD, "batch"), (OLD, "chat")], "batch"),
        ([(NEW, "batch"), (NEW, "chat")], "batch"),
        ([(OLD, "most"), (NEW, "batch"), (OLD, "chat")], "batch"),
    ],
)
def test_the_first_counts_and_the_new_name_before_the_old(
    engine: Engine, headers: list[tuple[str, str]], wanted: str
) -> None:
    assert decided(engine, *headers) == (wanted, PRIORITIES[wanted])


def test_names_are_shown_as_far_as_they_can_be(engine: Engine) -> None:
    engine.set_objectives({"x" * 253: 7})
    assert decided(engine, (NEW, "x" * 253)) == ("x" * 64, 7)
    assert decided(engine, (NEW, "a\xff\0\nb\x7f")) == ("a???b?", 0)


def test_objectives_are_replaced_all_at_once(engine: Engine) -> None:
    waiting = Session(engine, 1)
    message = m.request_headers(headers={NEW: "chat"})
    waiting.feed(message, 1)  # its body is on its way: what it is for is settled
    engine.set_objectives({"batch": -5})
    assert decided(engine, (NEW, "chat")) == ("chat", 0)
    assert decided(engine, (NEW, "batch")) == ("batch", -5)
    waiting.feed(m.request_body(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'), 2)
    waiting.close(2)
    (decision,) = engine.decisions(1)
    assert (decision["objective"], decision["priority"]) == ("chat", 10)
    engine.set_objectives({})
    assert decided(engine, (NEW, "batch")) == ("batch", 0)


@pytest.mark.parametrize(
    ("objectives", "error"),
    [
        ({f"o{number}": 0 for number in range(4097)}, OverflowError),
        ({"x" * 254: 1}, OverflowError),
        ({"x": 2**31}, OverflowError),
        ({"x": -(2**31) - 1}, OverflowError),
        ({"x": "1"}, TypeError),
        ({"x": None}, TypeError),
        ({b"x": 1}, TypeError),
        (None, TypeError),
    ],
)
def test_what_cannot_be_leaves_the_old_ones(engine: Engine, objectives: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        engine.set_objectives(objectives)
    assert decided(engine, (NEW, "chat")) == ("chat", 10)


def test_as_many_as_there_may_be(engine: Engine) -> None:
    engine.set_objectives({f"o{number}": number for number in range(4096)})
    assert decided(engine, (NEW, "o4095")) == ("o4095", 4095)


@given(st.dictionaries(st.text("ab", max_size=2), st.integers(-3, 3)), st.lists(st.text("ab", max_size=2), max_size=6))
def test_is_a_dict(objectives: dict[str, int], asked: list[str]) -> None:
    engine = engine_with(1)
    engine.set_objectives(objectives)
    for name in asked:
        assert decided(engine, (NEW, name)) == (name, objectives.get(name, 0))


def test_leaves_nothing_behind(engine: Engine) -> None:
    def churn() -> None:
        engine.set_objectives(PRIORITIES)
        with pytest.raises(OverflowError):
            engine.set_objectives({"x": 2**31})

    assert_flat(churn)


@debug_build_only
def test_memory_that_is_not_there(engine: Engine) -> None:
    assert failing_allocations(lambda: engine.set_objectives(PRIORITIES)) > 1
    assert decided(engine, (NEW, "chat")) == ("chat", 10)
