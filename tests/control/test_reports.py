"""What discovery finds reaches the data plane and the scraper, and no more than what changed."""

from collections.abc import Iterable
from typing import Any

import pytest

from picker.config.document import drain
from picker.control.messages import Change, Close, Naming, Open, Prioritising, Rewriting, Synced
from picker.control.reports import NAMES, PIECE, Reports
from picker.resources.objects import InferenceObjective, Metadata, ObjectiveSpec, PoolRef
from picker.resources.parse import parse_resources
from picker.types import Endpoint
from tests.support.rig import endpoint

A, B = "default/a", "default/b"


class Scraper:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.scraped: set[tuple[str, ...]] = set()
        self.changes = 0

    def set_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        self.scraped = {each.key for each in endpoints}

    def change(self, *, gone: Iterable[tuple[str, ...]] = (), come: Iterable[Endpoint] = ()) -> None:
        self.changes += 1
        self.scraped -= set(gone)
        self.scraped |= {each.key for each in come}


class Reported:
    def __init__(self, known: dict[str, list[Endpoint]] | None = None) -> None:
        self.scraper = Scraper()
        self.sent: list[Any] = []
        self.reports = Reports(self.send, self.scraper, known or {})  # type: ignore[arg-type]

    def send(self, messages: Iterable[Any]) -> None:
        self.sent += messages

    def taken(self) -> list[Any]:
        sent, self.sent = self.sent, []
        return sent


def born_again(of: Endpoint) -> Endpoint:
    return Endpoint(name=of.name, address=of.address, port=of.port, incarnation="2")


def test_only_what_changes_is_told() -> None:
    told = Reported({A: [endpoint(1), endpoint(2)]})
    told.reports.set_endpoints(A, [endpoint(1), endpoint(2)])
    assert told.taken() == []
    told.reports.set_endpoints(A, [endpoint(2, {"x": "y"}), endpoint(3)])
    gone, come = told.taken()
    assert gone == Change(A, (endpoint(1).target,), ())
    assert come == Change(A, (), (endpoint(2, {"x": "y"}), endpoint(3)))
    assert told.reports.changes == 3
    assert told.scraper.scraped == {endpoint(2).key, endpoint(3).key}


def test_a_pool_that_runs_empty_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    told = Reported({A: [endpoint(1), endpoint(2)]})
    told.reports.set_endpoints(A, [endpoint(2)])
    assert "endpoints, after" not in caplog.text
    told.reports.set_endpoints(A, [])
    assert f"pool {A} has 0 endpoints, after 1" in caplog.text


def test_one_that_is_born_again_is_scraped_in_its_own_right() -> None:
    told = Reported({A: [endpoint(1)]})
    told.reports.change_endpoints(A, (), [born_again(endpoint(1))])
    assert told.taken() == [Change(A, (), (born_again(endpoint(1)),))]
    assert told.scraper.scraped == {born_again(endpoint(1)).key}


def test_what_two_pools_share_is_scraped_until_both_let_go() -> None:
    told = Reported()
    for pool in (A, B):
        told.reports.open_pool(pool, (f"{pool}.svc",))
        told.reports.change_endpoints(pool, (), [endpoint(1)])
    assert set(told.reports.pools_of(endpoint(1).key)) == {A, B}
    told.reports.close_pool(A)
    assert told.scraper.scraped == {endpoint(1).key}
    told.reports.change_endpoints(B, [endpoint(1)], ())
    assert told.scraper.scraped == set()
    assert list(told.reports.pools_of(endpoint(1).key)) == []
    kinds = [type(message) for message in told.taken()]
    assert kinds == [Open, Change, Open, Change, Close, Change]


def test_many_come_in_pieces() -> None:
    told = Reported()
    many = [Endpoint(name=f"pod-{at}", address=f"10.0.{at // 250}.{at % 250 + 1}", port=80) for at in range(1000)]
    told.reports.set_endpoints(A, many)
    sent = told.taken()
    assert [each for change in sent for each in change.come] == many
    assert max(len(change.come) for change in sent) == PIECE


OBJECTS = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {{name: canary}}
spec: {{poolRef: {{name: a}}, rules: [{rules}]}}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {{name: chat}}
spec: {{poolRef: {{name: a}}, priority: 10}}
"""


def objects(count: int) -> tuple[Any, ...]:
    rules = ", ".join(
        f"{{matches: [{{model: {{value: m{at}}}}}], targets: [{{modelRewrite: x}}]}}" for at in range(count)
    )
    return drain(parse_resources(OBJECTS.format(rules=rules).encode(), source="objects.yaml"))


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1])
def test_objects_are_told_as_what_they_come_to(count: int) -> None:
    told = Reported()
    told.reports.set_objects(A, objects(count))
    sent = told.taken()
    rules = [message for message in sent if isinstance(message, Rewriting)]
    assert sum(len(message.rules) for message in rules) == count
    assert [message.is_first for message in rules] == [True] + [False] * (len(rules) - 1)
    assert [message.is_last for message in rules] == [False] * (len(rules) - 1) + [True]
    assert sent[len(rules) :] == [Prioritising(A, (("chat", 10),), is_first=True, is_last=True)]


def test_too_many_rules_are_refused_before_anything_is_told() -> None:
    told = Reported()
    with pytest.raises(OverflowError):
        told.reports.set_objects(A, objects(5000))
    assert told.taken() == []


def test_too_many_objectives_are_refused_before_anything_is_told() -> None:
    told = Reported()
    ref = PoolRef(name="a")
    many = [InferenceObjective(metadata=Metadata(name=f"o{at}"), spec=ObjectiveSpec(poolRef=ref)) for at in range(4097)]
    with pytest.raises(OverflowError, match="4096 objectives"):
        told.reports.set_objects(A, tuple(many))
    assert told.taken() == []


def test_base_models_and_readiness_are_told() -> None:
    told = Reported()
    models = {f"adapter-{at}": "base" for at in range(NAMES + 1)}
    told.reports.set_base_models(models)
    first, last = told.taken()
    assert isinstance(first, Naming)
    assert {**dict(first.models), **dict(last.models)} == models
    assert (first.is_first, first.is_last, last.is_first, last.is_last) == (True, False, False, True)
    told.reports.set_synced(True)
    assert told.taken() == [Synced(True)]
