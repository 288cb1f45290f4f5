"""The data plane does as it is told and answers what it is asked."""

from typing import Any

import pytest

from picker._core.copies import read_endpoints, read_series, read_totals
from picker._core.flowcopies import read_flow
from picker.control import answers
from picker.control.answers import Answers
from picker.control.messages import (
    Ask,
    Change,
    End,
    EndpointFigures,
    FlowFigures,
    FromData,
    Observed,
    PoolFigures,
    RewriteFigures,
    Rewriting,
    Rows,
    SeriesFigures,
    Text,
    Vitals,
)
from picker.control.orders import Orders
from picker.extproc.readiness import Readiness
from picker.standing import Standing
from picker.types import ScrapedLoad
from tests.support.config_samples import HEAD
from tests.support.rig import POOL, Rig, chat, endpoint, target

SCORED = HEAD + "plugins: [{type: queue-scorer, name: q}]"


class Told:
    """Answers over an engine, and what they answer."""

    def __init__(self, count: int = 2) -> None:
        self.rig = Rig(SCORED, [endpoint(number + 1) for number in range(count)])
        self.is_ready = False
        pools = self.rig.served()
        self.orders = Orders(pools, Standing(Readiness()))
        self.answers = Answers(pools, self.orders, is_ready=lambda: self.is_ready)

    def ask(self, what: Any, limit: int = 0) -> list[FromData]:
        *messages, end = self.answers.take(Ask(what, limit))
        assert end == End()
        return messages

    def view(self, number: int) -> dict[str, Any]:
        return next(view for view in self.rig.engine.endpoints(self.rig.now_ns) if view["target"] == target(number))


def test_orders_are_obeyed_and_not_answered() -> None:
    told = Told()
    assert list(told.answers.take(Change(POOL, (target(1),), (endpoint(3),)))) == []
    assert [each.target for each in told.rig.pool.endpoints] == [target(2), target(3)]
    loads = ((endpoint(3).key, ScrapedLoad(waiting=4)), (endpoint(1).key, ScrapedLoad(waiting=5)))
    assert list(told.answers.take(Observed(POOL, loads))) == []
    assert told.view(3)["waiting"] == 4.0


def test_whoever_speaks_is_heard() -> None:
    told = Told()
    before = told.answers.confirmed_ns
    told.ask("busy")
    assert told.answers.confirmed_ns > before


def test_ready_and_busy() -> None:
    told = Told()
    assert told.ask("ready") == [Text(b"")]
    told.is_ready = True
    assert told.ask("ready") == [Text(b"ready")]
    assert told.ask("busy") == [Text(b"\n")]
    session, _ = told.rig.send()
    assert told.ask("busy") == [Text(f"{session.destination}\n\n".encode())]
    told.rig.finish(session)


def test_a_snapshot_comes_in_pieces_and_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SERIES", 2)
    monkeypatch.setattr(answers, "ENDPOINTS", 2)
    told = Told(5)
    for number in range(7):
        told.rig.pick(chat(model=f"model-{number}"))
    vitals, pool, *pieces = told.ask("snapshot")
    assert isinstance(vitals, Vitals)
    assert isinstance(pool, PoolFigures)
    assert (pool.pool, pool.sessions, pool.plugins) == (POOL, 0, [])
    assert read_totals(pool.totals)["picked"] == 7
    series = [row for piece in pieces if isinstance(piece, SeriesFigures) for row in read_series(piece.copies)]
    figures = [piece for piece in pieces if isinstance(piece, EndpointFigures)]
    assert series == told.rig.engine.stats()["series"]
    assert [len(read_endpoints(piece.copies, vitals.now_ns)) for piece in figures] == [2, 2, 1]
    (flow,) = [piece for piece in pieces if isinstance(piece, FlowFigures)]
    assert read_flow(flow.copies, vitals.now_ns)["waiting"] == 0


def test_rewrite_rules_come_in_pieces_and_are_in_force_with_the_last() -> None:
    told = Told()

    def send(name: str, *, first: bool, last: bool) -> None:
        rules = ((name, name, (("x", None), ("y", None))),)
        assert list(told.answers.take(Rewriting(POOL, rules, is_first=first, is_last=last))) == []

    def counters() -> int:
        """Two for each rule in force."""
        return sum(told.rig.engine.rewrite_counts(first, 1) is not None for first in range(9))

    send("lost", first=True, last=False)  # whoever sent this ended there
    send("a", first=True, last=False)
    send("b", first=False, last=False)
    assert counters() == 0
    send("c", first=False, last=True)
    assert counters() == 6
    send("d", first=True, last=True)
    assert counters() == 2
    assert list(told.answers.take(Rewriting(POOL, (), is_first=True, is_last=True))) == []
    assert counters() == 0
    assert not [piece for piece in told.ask("snapshot") if isinstance(piece, RewriteFigures)]


@pytest.mark.parametrize(("limit", "found"), [(0, 0), (1, 1), (3, 3), (8, 8), (11, 11), (1000, 20)])
def test_as_many_decisions_as_asked_for(limit: int, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "DECISIONS", 3)
    told = Told()
    for number in range(20):
        told.rig.pick(chat(model=f"model-{number}"))
    pieces = [piece for piece in told.ask("decisions", limit) if isinstance(piece, Rows)]
    assert all(len(piece.rows) <= 3 for piece in pieces)
    rows = [row for piece in pieces for row in piece.rows]
    assert [row["number"] for row in rows] == list(range(20, 20 - found, -1))
    assert all(row["scores"].keys() == {"q"} and "at_ns" not in row for row in rows)


def test_an_order_that_fails_is_told_of_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    too_long = "x" * 300
    told.answers.take(Rewriting(POOL, (("a", too_long, (("x", 1),)),), is_first=True, is_last=True))
    assert told.orders.failed == 1
    assert "an order of the control process could not be carried out: Rewriting" in caplog.text
    told.answers.take(Change(POOL, (target(1),), ()))
    assert [each.target for each in told.rig.pool.endpoints] == [target(2)]
