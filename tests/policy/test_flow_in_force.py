"""Flow control of a configuration, in force in the engines of its pools: what its file says is what requests meet."""

from collections.abc import Mapping
from typing import Any

import pytest

from picker._core.session import Session
from picker.config import load_config
from picker.config.settings import ServeSettings
from picker.pools import Pools, Recipe, ServedPool
from picker.recipe import make_recipe
from tests.support import messages
from tests.support.config_samples import HEAD
from tests.support.rig import SECOND, chat, endpoint, target

NAMED = "flowControl:\n  saturationDetector: {pluginRef: concurrency-detector}\n"
ONE = HEAD + "plugins: [{type: concurrency-detector, parameters: {maxConcurrency: 1}}]\n" + NAMED
"""Each endpoint takes one request; more of the section follows."""

OBJECTIVES = {"interactive": 10, "batch": -10}
OBJECTIVE, FAIRNESS = "x-llm-d-inference-objective", "x-llm-d-inference-fairness-id"


def recipe(text: str) -> Recipe:
    config = load_config(text, source="epp.yaml")
    return make_recipe(ServeSettings(config=config), {"": config}, hash_seed=1, random_seed=7)


class Served:
    """A pool under a configuration; `now_ns` is the time of everything that happens."""

    def __init__(self, text: str, endpoints: int = 1) -> None:
        self.now_ns = SECOND
        self.pools = Pools(recipe(text))
        self.pool: ServedPool = self.pools.open("default/chat")
        self.engine = self.pool.engine
        self.engine.set_objectives(OBJECTIVES)
        self.set_endpoints(endpoints)
        self.sessions: list[Session] = []  # one that is dropped leaves the queue

    def set_endpoints(self, count: int) -> None:
        self.pool.pool.set_endpoints([endpoint(number) for number in range(1, count + 1)])

    def ask(self, objective: str = "", headers: Mapping[str, str] | None = None) -> tuple[Session, list[Any]]:
        """A request, and what was answered so far."""
        session = Session(self.engine, self.now_ns)
        self.sessions.append(session)
        said = {**({OBJECTIVE: objective} if objective else {}), **(headers or {})}
        replies = session.feed(messages.request_headers("/v1/chat/completions", headers=said), self.now_ns)
        replies += session.feed(messages.request_body(chat()), self.now_ns)
        return session, list(map(messages.parse, replies))

    def after(self, seconds: float) -> dict[Session, list[Any]]:
        """Whose wait ends as that time passes, and what they are answered."""
        self.now_ns += int(seconds * SECOND)
        told: dict[Session, list[Any]] = {}
        while called := self.engine.dispatch(self.now_ns):
            told |= {one: list(map(messages.parse, one.resume(self.now_ns))) for one in called}
        return told


def refusal(replies: list[Any]) -> tuple[int, str]:
    """Status and the reason that is told."""
    told = replies[-1].immediate_response
    headers = {option.header.key: option.header.raw_value.decode() for option in told.headers.set_headers}
    assert int(headers["retry-after"]) >= 1
    return told.status.code, headers["x-llm-d-request-dropped-reason"]


def test_a_file_that_says_nothing_has_flow_control_on() -> None:
    served = Served(HEAD)
    assert served.engine.flow(served.now_ns)["queues"]
    assert served.ask()[0].destination == target(1)
    served.set_endpoints(0)
    assert refusal(served.ask()[1]) == (503, "rejected-no-endpoints")


def test_who_finds_no_room_waits_and_who_may_be_shed_is_told_at_once() -> None:
    served = Served(ONE)
    first, _ = served.ask()
    waits, nothing = served.ask("interactive")
    assert (waits.is_waiting, nothing) == (True, [])
    assert refusal(served.ask("batch")[1]) == (429, "rejected-saturated")
    first.close(served.now_ns)
    assert list(served.after(0)) == [waits]
    assert waits.destination == target(1)


def test_each_band_has_its_time() -> None:
    served = Served(ONE + "  defaultRequestTTL: 30s\n  priorityBands: [{priority: 10, defaultRequestTTL: 5s}]")
    served.ask()
    soon, later = served.ask("interactive")[0], served.ask()[0]
    assert served.after(4.9) == {}
    told = {one: refusal(replies) for one, replies in served.after(0.2).items()}
    assert told == {soon: (429, "rejected-ttl-expired")}
    assert list(served.after(25)) == [later]


def test_a_full_band_is_told() -> None:
    served = Served(ONE + "  priorityBands: [{priority: 0, maxRequests: 1}]")
    served.ask()
    assert served.ask()[0].is_waiting
    assert refusal(served.ask()[1]) == (429, "rejected-saturated")
    assert served.ask("interactive")[0].is_waiting


def test_a_header_of_the_gateway_tells_tenants_apart() -> None:
    served = Served(ONE + "  fairnessIdHeader: X-Tenant")
    served.ask()
    waiting = [served.ask(headers={"x-tenant": name, FAIRNESS: "me"})[0] for name in ("a", "b", "a")]
    assert all(one.is_waiting for one in waiting)
    assert {flow["fairness_id"] for flow in served.engine.flow(served.now_ns)["flows"]} == {"a", "b"}


def test_agents_are_told_apart_where_nobody_says_who_they_are() -> None:
    text = ONE.replace("[{type:", "[{type: agent-identity}, {type:", 1)
    served = Served(text)
    served.ask()
    asked = [{"session-id": "s"}, {"session-id": "s", FAIRNESS: "f"}, {"x-claude-code-session-id": "c"}]
    assert all(served.ask(headers=headers)[0].is_waiting for headers in asked)
    assert {flow["fairness_id"] for flow in served.engine.flow(served.now_ns)["flows"]} == {"s", "f", "c"}


@pytest.mark.parametrize("objective", ["", "batch"])
def test_requests_wait_for_the_first_endpoint(objective: str) -> None:
    served = Served(HEAD + "flowControl: {noEndpointRequestTTL: 10m}", endpoints=0)
    first, second = served.ask(objective)[0], served.ask(objective)[0]
    assert (first.is_waiting, second.is_waiting) == (True, True)
    assert served.after(500) == {}
    served.set_endpoints(1)
    assert first in served.after(0.01)
    assert first.destination == target(1)


def test_requests_that_no_endpoint_came_for_are_told() -> None:
    served = Served(HEAD + "flowControl: {noEndpointRequestTTL: 10m}", endpoints=0)
    waits, _ = served.ask()
    told = {one: refusal(replies) for one, replies in served.after(601).items()}
    assert told == {waits: (503, "rejected-no-endpoints")}


def test_switched_off_nobody_waits() -> None:
    text = ONE.replace("flowControl:", "featureGates: [flowControl=false]\nflowControl:", 1)
    served = Served(text)
    assert [served.ask()[0].destination for _ in range(3)] == [target(1)] * 3
    assert refusal(served.ask("batch")[1]) == (429, "rejected-saturated")


def test_an_edit_counts_for_those_who_wait() -> None:
    served = Served(ONE)
    served.ask()
    waiting = [served.ask()[0] for _ in range(3)]
    served.pools.reconfigure(recipe(ONE.replace("maxConcurrency: 1", "maxConcurrency: 3")))
    assert list(served.after(0)) == waiting[:2]
    served.pools.reconfigure(recipe(ONE.replace("flowControl:", "featureGates: [flowControl=false]\nflowControl:", 1)))
    assert list(served.after(0)) == waiting[2:]
    assert waiting[2].destination == target(1)


def test_an_edit_that_no_engine_takes_changes_nothing() -> None:
    served = Served(ONE)
    served.ask()
    broken = recipe(ONE)

    def install(engine: Any, policy: Any) -> None:
        broken.install(engine, policy)
        engine.set_flow({"bands": [(0, "by-name", "tokens", 1, 1, 1.0)]})

    with pytest.raises(ValueError, match="by-name"):
        served.pools.reconfigure(Recipe(policy=broken.policy, engine=broken.engine, install=install))
    assert served.ask()[0].is_waiting
