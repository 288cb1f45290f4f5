"""The engine against its model: whole lives of requests, endpoints coming and going, time passing."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from picker._core.engine import Engine
from tests.model import endpoints as table
from tests.model import engine as model
from tests.model import prompt
from tests.support.gateway import Gateway

SEED = 99
PATH = "/v1/completions"
POOL = {f"10.0.0.{address}:{port}": f"10.0.0.{address}" for address in (1, 2) for port in (80, 81)}
TARGETS = st.sampled_from(sorted(POOL))
TEXTS = st.lists(st.sampled_from(["a", "b"]), max_size=4).map(lambda blocks: "".join(c * 256 for c in blocks) + "end")
HINTS = st.none() | st.lists(st.sampled_from([*POOL, "10.0.0.1", "10.9.9.9"]), max_size=2)
STEPS = st.sampled_from([0, 1, 100_000_000, 300_000_000, 1_000_000_000, 11_000_000_000])


@dataclass(eq=False)
class Life:
    gateway: Gateway
    model: str
    request: model.Request
    status: int = 0
    stream: bool = False
    first: bool = False
    ended: bool = False
    output: int = -1


class Lives(RuleBasedStateMachine):
    @initialize(blocks=st.sampled_from([3, 100]), endpoints=st.integers(0, 3))
    def start(self, blocks: int, endpoints: int) -> None:
        limits = {"endpoint_blocks": blocks, "index_blocks": 8}
        self.core = Engine(hash_seed=SEED, prior_rate=1000.0, limits=limits)
        self.slow = model.Engine(prior_rate=1000.0, endpoint_blocks=blocks, index_blocks=8)
        self.pool: dict[str, tuple[int, int]] = {}
        self.lives: list[Life] = []
        self.now_ns = 1
        for where in sorted(POOL)[:endpoints]:
            self.add_or_remove(where)

    @rule(where=TARGETS)
    def add_or_remove(self, where: str) -> None:
        if where in self.pool:
            self.core.remove_endpoint(*self.pool[where])
            self.slow.remove(*self.pool.pop(where))
        else:
            self.pool[where] = self.core.add_endpoint(where, POOL[where])
            assert self.slow.add(where, POOL[where]) == self.pool[where]

    @rule(where=TARGETS, waiting=st.sampled_from([-1.0, 0.0, 3.0]), cache=st.sampled_from([-1, 64, 1000]))
    def scrape(self, where: str, waiting: float, cache: int) -> None:
        slot, generation = self.pool.get(where, (7, 7))
        known = self.core.observe(slot, generation, now_ns=self.now_ns, waiting=waiting, cache_tokens=cache)
        assert known == (where in self.pool)
        if known:
            self.slow.table.scraped(slot, generation, table.Load(waiting=waiting), self.now_ns)
            if cache > 0:
                self.slow.radix.set_capacity(slot, cache // 64 + 1)

    @rule(step=STEPS)
    def pass_time(self, step: int) -> None:
        self.now_ns += step

    @rule(name=st.sampled_from(["m", "n"]), text=TEXTS, hint=HINTS, max_tokens=st.sampled_from([None, 0, 5, 1000]))
    def ask(self, name: str, text: str, hint: list[str] | None, max_tokens: int | None) -> None:
        body = json.dumps({"model": name, "prompt": text, "max_tokens": max_tokens}).encode()
        candidates = self.slow.candidates(hint, self.now_ns)
        gateway = Gateway(self.core, now_ns=self.now_ns)
        gateway.send_headers(PATH, subset=hint)
        gateway.send_body([body], ending="chunk")
        if not candidates:
            assert gateway.immediate.status.code == 503
            gateway.close()
            self.slow.counts["not_picked"] += 1
            self.slow.requests[self.series_of(name)] += 1
            self.slow.failures[self.series_of(name), "ServiceUnavailable"] += 1
            return
        assert gateway.destination in candidates
        read = prompt.read(PATH.encode(), body, SEED)
        tokens, limit = read["tokens"], read["max_tokens"]
        request = self.slow.pick(gateway.destination, name, read["hashes"], tokens, limit, self.now_ns)
        self.lives.append(Life(gateway, name, request))
        (decision,) = self.core.decisions(1)
        assert decision["candidates"] == len(candidates)
        assert (decision["prompt_tokens"], decision["cached_tokens"]) == (tokens, request.cached)

    def series_of(self, name: str) -> str:
        return name if name in self.slow.series else "other"

    def draw(self, data: st.DataObject, fits: Callable[[Life], bool]) -> Life:
        life = data.draw(st.sampled_from([life for life in self.lives if fits(life)]))
        life.gateway.now_ns = self.now_ns
        return life

    @precondition(lambda self: any(not life.status for life in self.lives))
    @rule(data=st.data(), status=st.sampled_from([200, 200, 404, 500, 503]), stream=st.booleans())
    def answer(self, data: st.DataObject, status: int, stream: bool) -> None:
        life = self.draw(data, lambda life: not life.status)
        life.status, life.stream = status, stream
        served = data.draw(st.sampled_from(["", "", life.gateway.destination, *POOL, "10.9.9.9:1"]))
        life.gateway.answer_headers(status, "text/event-stream" if stream else "application/json", served=served)
        if served:
            self.slow.served(life.request, served, self.now_ns)
        self.slow.answered(life.request, status, self.now_ns)

    def first_byte(self, life: Life) -> None:
        if not life.first:
            life.first = True
            self.slow.first_byte(life.request, life.stream and life.status == 200, self.now_ns)

    @precondition(lambda self: any(life.stream and not life.ended for life in self.lives))
    @rule(data=st.data())
    def stream_on(self, data: st.DataObject) -> None:
        life = self.draw(data, lambda life: life.stream and not life.ended)
        life.gateway.answer_body([b"data: {}\n\n"], ending="open")
        self.first_byte(life)

    @precondition(lambda self: any(life.status and not life.ended for life in self.lives))
    @rule(data=st.data(), output=st.sampled_from([0, 10, 2**30, 2**30 + 1, 2**63 - 1, 2**70]))
    def finish(self, data: st.DataObject, output: int) -> None:
        life = self.draw(data, lambda life: life.status != 0 and not life.ended)
        usage = json.dumps({"usage": {"completion_tokens": output}}).encode()
        life.gateway.answer_body([b"data: " + usage + b"\n\n" if life.stream else usage])
        self.first_byte(life)
        life.ended, life.output = True, output
        life.gateway.complete()

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.end(self.draw(data, lambda life: True))

    def end(self, life: Life) -> None:
        life.gateway.now_ns = self.now_ns
        life.gateway.close()
        self.lives.remove(life)
        if not life.status:
            failure = "NoAnswer" if self.slow.unanswered(life.request, self.now_ns) else ""
        elif life.status >= 400:
            failure = "ModelServerError"
        else:
            failure = "" if life.ended else "Canceled"
        self.slow.settle(life.request, life.model, failure, life.output)

    @invariant()
    def equals_the_model(self) -> None:
        if not hasattr(self, "core"):
            return
        self.core._check()
        views = [
            self.slow.table.view(s, e.generation, self.now_ns) for s, e in sorted(self.slow.table.endpoints.items())
        ]
        assert [_rounded(view) for view in self.core.endpoints(self.now_ns)] == [_rounded(view) for view in views]
        assert self.core.in_flight == sum(endpoint.requests for endpoint in self.slow.table.endpoints.values())
        assert self.core.sessions == len(self.lives)
        assert self.core.index_blocks == len(self.slow.radix)
        stats = self.core.stats()
        assert {name: stats[name] for name in ("picked", "not_picked", "ejected")} == {
            name: self.slow.counts[name] for name in ("picked", "not_picked", "ejected")
        }
        series = {one["model"]: (one["requests"], one["running"]) for one in stats["series"]}
        names = {name for name in (self.slow.requests | self.slow.running) if name}
        assert series == {name: (self.slow.requests[name], self.slow.running[name]) for name in names}
        failures = {(one["model"], code): count for one in stats["series"] for code, count in one["failures"].items()}
        assert failures == self.slow.failures

    def teardown(self) -> None:
        for life in list(getattr(self, "lives", [])):
            self.end(life)
        if hasattr(self, "core"):
            self.equals_the_model()
            assert (self.core.in_flight, self.core.sessions) == (0, 0)


def _rounded(view: dict[str, Any]) -> dict[str, Any]:
    return {**view, "prefill_rate": pytest.approx(view["prefill_rate"], rel=1e-9)}


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
