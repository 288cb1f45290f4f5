"""Flow control under everything that may happen at once, against what must hold at every moment.

Each endpoint takes a fixed number of requests, so that who could go is known: whoever may go to an endpoint with fewer.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from picker._core.engine import Engine
from picker._core.score import PICK_PLUGIN
from picker._core.session import FAIL_STOPPING
from tests.support.exchange import BODY, BUFFERED, DUPLEX, SSE, assert_idle, error_of
from tests.support.gateway import Gateway

S = 1_000_000_000
PRIORITIES = {"low": -1, "": 0, "high": 7}
TARGETS = [f"10.0.0.{number}:80" for number in range(3)]
TTL_S = 5.0
FAIRNESS = ["strict", "round-robin", "tokens"]
ORDERS = ["fcfs", "edf", "slo-deadline"]


@dataclass(eq=False)
class Request:
    """What a client asked for, and what has become of it."""

    number: int
    gateway: Gateway
    priority: int
    flow: str
    subset: frozenset[str] | None
    asked_ns: int
    state: str = ""  # waiting, called, running, refused, closed
    counts: bool = field(default=False)  # it was let in by credit

    def may_go_to(self, target: str) -> bool:
        return self.subset is None or target in self.subset

    @property
    def lane(self) -> tuple[int, str, frozenset[str] | None]:
        return self.priority, self.flow, self.subset


class FlowMachine(RuleBasedStateMachine):
    has_plugin = False

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = S
        self.engine = Engine(hash_seed=1)
        self.engine.set_objectives({name: value for name, value in PRIORITIES.items() if name})
        if self.has_plugin:
            self.engine.set_policy([(PICK_PLUGIN, 1.0, (), 0)], plugins=self._plugin)
        self.slots: dict[str, tuple[int, int]] = {}
        self.requests: list[Request] = []
        self.room = 1
        self.is_on = self.queues = True
        self.evicts = False

    def _plugin(self, step: int, request: dict[str, Any], endpoints: list[dict[str, Any]]) -> list[int]:
        return [endpoint["slot"] for endpoint in endpoints]

    @initialize()
    def begin(self) -> None:
        self.add(TARGETS[0])
        self.add(TARGETS[1])
        self.rules_change("tokens", "fcfs", 1, 10, False)

    # --- what is known ---

    def of(self, *states: str) -> list[Request]:
        return [one for one in self.requests if one.state in states]

    def booked(self) -> dict[str, int]:
        return {view["target"]: view["requests"] for view in self.engine.endpoints(self.now_ns)}

    def can_go(self, request: Request) -> bool:
        return any(count < self.room and request.may_go_to(target) for target, count in self.booked().items())

    def matches(self, request: Request) -> bool:
        return any(map(request.may_go_to, self.slots))

    def settle(self, request: Request) -> None:
        """It was answered, or waits."""
        gateway = request.gateway
        gateway.session._check()
        if gateway.immediate is not None:
            request.state = "refused"
            assert error_of(gateway)["status"] in (429, 503)
        elif gateway.session.is_waiting:
            request.state = "waiting"
            assert not gateway.metadata
        else:
            request.state = "running"
            assert gateway.destination in TARGETS and request.may_go_to(gateway.destination)

    # --- what clients do ---

    @rule(
        objective=st.sampled_from(list(PRIORITIES)),
        flow=st.sampled_from("ab"),
        subset=st.none() | st.frozensets(st.sampled_from(TARGETS), min_size=0, max_size=2),
        mode=st.sampled_from([DUPLEX, BUFFERED]),
        slo_ms=st.none() | st.integers(0, 9),
    )
    def ask(self, objective: str, flow: str, subset: frozenset[str] | None, mode: int, slo_ms: int | None) -> None:
        gateway = Gateway(self.engine, modes=(mode, DUPLEX), now_ns=self.now_ns)
        headers = {"x-llm-d-inference-objective": objective, "x-llm-d-inference-fairness-id": flow}
        if slo_ms is not None:
            headers["x-slo-ttft-ms"] = f"{slo_ms}.5"
        request = Request(len(self.requests), gateway, PRIORITIES[objective], flow, subset, self.now_ns)
        # Those before it are looked at before it is, in any case; behind a turn that is not taken yet nobody is.
        while self.engine.is_due and self.engine.waiting and self.call(64):
            pass
        may_go = self.can_go(request) and self.is_before(request, self.of("waiting"))
        gateway.send_headers(headers=headers, subset=None if subset is None else sorted(subset))
        gateway.send_body([BODY])
        self.requests.append(request)
        self.settle(request)
        self.judge_admission(request, may_go)

    def is_before(self, request: Request, others: list[Request]) -> bool:
        """Nobody who waits could want its place: they are below it, or could not go when they were looked at.

        While a turn is not taken they cannot be looked at, so nobody goes before them.
        """
        others = [other for other in others if other.priority >= request.priority]
        if any(other.subset == request.subset for other in others):
            return False
        return not others or not self.engine.is_due

    def judge_admission(self, request: Request, may_go: bool) -> None:
        if not self.matches(request):
            expected = {"refused"}
        elif not self.is_on:
            expected = {"running"}
        elif may_go:
            expected = {"running"}
        elif request.priority < 0:
            expected = {"refused"}
        elif not self.queues:
            expected = {"running"}
        else:
            expected = {"waiting", "refused"}  # refused: caps
        assert request.state in expected

    @precondition(lambda self: self.of("running"))
    @rule(data=st.data(), status=st.sampled_from([200, 429]))
    def finish(self, data: st.DataObject, status: int) -> None:
        request = data.draw(st.sampled_from(self.of("running")))
        gateway = request.gateway
        gateway.now_ns = self.now_ns
        gateway.answer_headers(status)
        gateway.answer_body(SSE)
        gateway.complete()
        self.close(request)

    @precondition(lambda self: self.of("running", "waiting", "called", "refused"))
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        self.close(data.draw(st.sampled_from(self.of("running", "waiting", "called", "refused"))))

    def close(self, request: Request) -> None:
        request.gateway.now_ns = self.now_ns
        request.gateway.close()
        request.state = "closed"
        assert request.gateway.session.resume(self.now_ns) == []

    # --- what picker does ---

    @rule(most=st.integers(1, 4))
    def dispatch(self, most: int) -> None:
        self.call(most)

    def call(self, most: int) -> int:
        """How many were called."""
        by_session = {one.gateway.session: one for one in self.of("waiting", "running")}
        most += self.engine.flow(self.now_ns)["woken"]
        called = [by_session[session] for session in self.engine.dispatch(self.now_ns, most)]
        assert len(called) <= most and len(set(map(id, called))) == len(called)
        for request in called:
            assert request.state == "waiting" or (request.priority < 0 and self.evicts)
            request.state = "called"
        return len(called)

    @precondition(lambda self: self.of("called"))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Sessions are resumed in any order, and late."""
        request = data.draw(st.sampled_from(self.of("called")))
        request.gateway.now_ns = self.now_ns
        request.gateway.take(request.gateway.session.resume(self.now_ns))
        self.settle(request)
        assert request.state in ("running", "refused")

    @rule()
    def dispatch_all(self) -> None:
        """Until nobody else can go: then each turn was in order, and nobody is left who could."""
        while True:
            waiting = self.of("waiting")
            self.dispatch(1)
            called = self.of("called")
            for request in called:
                request.gateway.take(request.gateway.session.resume(self.now_ns))
                self.settle(request)
                if request in waiting and request.state == "running" and self.is_on and self.queues:
                    self.judge_turn(request, [one for one in waiting if one is not request])
            if not called:
                break
        assert not self.engine.is_due
        assert not any(map(self.can_go, self.of("waiting")))

    def judge_turn(self, request: Request, others: list[Request]) -> None:
        """Nobody of a higher priority could have gone there; in first come, first served nobody before it waits."""
        target = request.gateway.destination
        for other in others:
            assert not (other.priority > request.priority and other.may_go_to(target))
            if self.order == "fcfs":
                assert not (other.lane == request.lane and other.number < request.number)

    @rule(seconds=st.sampled_from([0.0, 0.005, 1.0, TTL_S, 2 * TTL_S]))
    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * S)

    @rule()
    def expire(self) -> None:
        """Whoever has waited as long as it may is told, and nobody is told before."""
        self.dispatch_all()
        for one in self.of("waiting"):
            assert self.now_ns - one.asked_ns < TTL_S * S + 11_000_000

    @rule()
    def turn_out(self) -> None:
        self.engine.turn_out(FAIL_STOPPING, self.now_ns)
        self.dispatch_all()
        assert not self.of("waiting")

    # --- what changes ---

    @rule(
        fairness=st.sampled_from(FAIRNESS),
        order=st.sampled_from(ORDERS),
        room=st.integers(1, 3),
        cap=st.sampled_from([0, 1, 10]),
        evicts=st.booleans(),
    )
    def rules_change(self, fairness: str, order: str, room: int, cap: int, evicts: bool) -> None:
        detector, band = ("concurrency", "requests", room, 1e12, 0.0), (order, fairness, cap, 0, TTL_S)
        self.engine.set_flow({"detector": detector, "default_band": band, "evicts": evicts})
        self.evicts = self.evicts or evicts  # those that run keep what they were let in by
        self.is_on = self.queues = True
        self.room, self.order = room, order

    @rule()
    def switch_off(self) -> None:
        self.engine.set_flow(None)
        self.is_on = False

    @rule(room=st.integers(1, 3))
    def let_nobody_wait(self, room: int) -> None:
        self.engine.set_flow({"detector": ("concurrency", "requests", room, 1e12, 0.0), "queues": False})
        self.is_on, self.queues, self.room = True, False, room

    @rule(at=st.sampled_from(TARGETS))
    def add(self, at: str) -> None:
        if at not in self.slots:
            self.slots[at] = self.engine.add_endpoint(at, at.rpartition(":")[0])

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(sorted(self.slots)))
        self.engine.remove_endpoint(*self.slots.pop(target))

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), running=st.integers(0, 3))
    def scrape(self, data: st.DataObject, running: int) -> None:
        slot, generation = self.slots[data.draw(st.sampled_from(sorted(self.slots)))]
        self.engine.observe(slot, generation, now_ns=self.now_ns, running=running, waiting=0, kv_usage=0.5)

    # --- what must hold ---

    @invariant()
    def nothing_is_lost(self) -> None:
        self.engine._check()
        assert self.engine.waiting == len(self.of("waiting"))
        assert self.engine.sessions == len(self.requests) - len(self.of("closed"))
        if any(map(self.can_go, self.of("waiting"))):
            assert self.engine.is_due

    @invariant()
    def credit_is_not_overdrawn(self) -> None:
        assert all(count >= 0 for count in self.booked().values())

    def teardown(self) -> None:
        for request in self.requests:
            if request.state != "closed":
                self.close(request)
        assert_idle(self.engine)
        assert self.engine.waiting == 0


class PluginMachine(FlowMachine):
    """The same with a picker in Python, which is asked when its request's turn has come."""

    has_plugin = True


BUDGET = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("machine", [FlowMachine, PluginMachine])
def test_whatever_happens(machine: type[FlowMachine]) -> None:
    case = machine.TestCase
    case.settings = BUDGET
    case().runTest()
