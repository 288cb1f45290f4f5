"""Replays a request trace through N engines in virtual time under a routing policy.

A policy is never judged by hit rate alone: in the Mooncake conversation trace all requests share their first block, so
"longest prefix" reaches the best possible hit rate by sending everything to one engine. `ReplayResult.balance` says so.
"""

import json
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from picker.sim.engine import Engine, EngineConfig, Progress, Request
from picker.sim.timing import TimingModel

MAX_REQUESTS = 1_000_000
TRACE_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace; `keys` names its prompt's blocks of `TRACE_BLOCK_TOKENS` tokens, chained."""

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    keys: tuple[int, ...]


class Policy(Protocol):
    """Chooses a slot for each request. The callbacks come in order of time, before any later `choose`."""

    def choose(self, request: TraceRequest, now_s: float) -> int: ...

    def first_token(self, request: TraceRequest, slot: int, now_s: float, cached_tokens: int) -> None: ...

    def finished(self, request: TraceRequest, slot: int, now_s: float) -> None: ...


@dataclass(frozen=True)
class ReplayResult:
    """What a policy achieved. Work is uncached prompt tokens plus output tokens."""

    requests: int
    hit_rate: float  # cached prompt tokens / prompt tokens
    balance: float  # work of the busiest engine / mean work; 1.0 is even, the number of engines is all on one
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    work_tokens: tuple[int, ...]
    end_s: float

    def __str__(self) -> str:
        return (
            f"{self.requests} requests: hit rate {self.hit_rate:.3f}, balance {self.balance:.2f}, TTFT mean"
            f" {self.ttft_mean_s * 1e3:.0f} ms, p50 {self.ttft_p50_s * 1e3:.0f} ms, p99 {self.ttft_p99_s * 1e3:.0f} ms"
        )


def load_trace(path: Path, limit: int = MAX_REQUESTS) -> list[TraceRequest]:
    """Reads at most `limit` requests of a Mooncake-style JSON-lines trace (timestamps in ms), sorted by arrival.

    Raises ValueError or KeyError for a line that is not such a request.
    """
    requests = []
    with path.open(encoding="utf-8") as lines:
        for index, line in zip(range(limit), lines, strict=False):
            entry = json.loads(line)
            keys = tuple(entry["hash_ids"])
            # Real traces hold a few requests without output; an engine always yields a token.
            output_tokens = max(int(entry["output_length"]), 1)
            requests.append(
                TraceRequest(index, entry["timestamp"] / 1e3, int(entry["input_length"]), output_tokens, keys)
            )
    return sorted(requests, key=lambda request: request.arrival_s)


def engine_config(cache_tokens: int, *, max_num_batched_tokens: int = 8192, speedup: float = 4.0) -> EngineConfig:
    """An engine whose blocks are the trace's, with room for `cache_tokens` tokens.

    Eight A100s could not carry the Mooncake conversation trace (their queues would hide what a policy does), hence
    `speedup`: with 4, round robin's TTFT comes near that of the mock workers of PEERS.md's replay block.
    """
    return EngineConfig(
        num_blocks=cache_tokens // TRACE_BLOCK_TOKENS,
        block_size=TRACE_BLOCK_TOKENS,
        max_num_batched_tokens=max_num_batched_tokens,
        timing=TimingModel(speedup=speedup),
    )


def replay(
    trace: Sequence[TraceRequest], policy: Policy, *, engines: int, config: EngineConfig, arrival_speedup: float = 1.0
) -> ReplayResult:
    """Runs the whole trace to its last token. `arrival_speedup` compresses the arrivals, not the engines.

    Deterministic if the policy is. Raises ValueError if the policy names no engine or a request cannot ever fit.
    """
    scaled = [replace(request, arrival_s=request.arrival_s / arrival_speedup) for request in trace]
    return _Replay(scaled, policy, [Engine(config) for _ in range(engines)]).run()


class _Replay:
    def __init__(self, trace: Sequence[TraceRequest], policy: Policy, engines: list[Engine]) -> None:
        self.trace = trace
        self.policy = policy
        self.engines = engines
        self.in_flight: dict[Hashable, TraceRequest] = {}
        self.ttft_s: list[float] = []
        self.work_tokens = [0] * len(engines)
        self.cached_tokens = 0
        self.now_s = 0.0

    def run(self) -> ReplayResult:
        for request in self.trace:
            self.arrive(request, request.arrival_s)
        self.advance(float("inf"))
        return self.result()

    def arrive(self, request: TraceRequest, now_s: float) -> None:
        self.advance(now_s)
        self.now_s = now_s
        slot = self.policy.choose(request, now_s)
        if not 0 <= slot < len(self.engines):
            raise ValueError(f"the policy chose slot {slot} of {len(self.engines)}")
        self.in_flight[request.index] = request
        self.report(slot, self.engines[slot].step(now_s))  # tokens of a run under way: no first or last among them
        full_blocks = request.prompt_tokens // TRACE_BLOCK_TOKENS  # a trailing partial block is never shared
        wanted = Request(request.index, request.prompt_tokens, request.output_tokens, request.keys[:full_blocks])
        self.engines[slot].submit(wanted, now_s)

    def advance(self, until_s: float) -> None:
        """Lets everything happen that does by `until_s`, over all engines in order of time."""
        changes = [engine.next_change_at() for engine in self.engines]
        while True:
            due = [(at_s, slot) for slot, at_s in enumerate(changes) if at_s is not None and at_s <= until_s]
            if not due:
                return
            self.now_s, slot = min(due)
            self.report(slot, self.engines[slot].step(self.now_s))
            changes[slot] = self.engines[slot].next_change_at()

    def report(self, slot: int, events: Iterable[Progress]) -> None:
        for event in events:
            if not event.first and not event.finished:
                continue
            request = self.in_flight[event.request_id]
            if event.first:
                self.ttft_s.append(event.at_s - event.submitted_s)
                self.cached_tokens += event.cached_tokens
                self.work_tokens[slot] += request.prompt_tokens - event.cached_tokens + request.output_tokens
                self.policy.first_token(request, slot, event.at_s, event.cached_tokens)
            if event.finished:
                del self.in_flight[event.request_id]
                self.policy.finished(request, slot, event.at_s)

    def result(self) -> ReplayResult:
        ttft_s = sorted(self.ttft_s) or [0.0]
        work = sum(self.work_tokens)
        return ReplayResult(
            requests=len(self.ttft_s),
            hit_rate=self.cached_tokens / max(sum(request.prompt_tokens for request in self.trace), 1),
            balance=max(self.work_tokens) * len(self.engines) / max(work, 1),
            ttft_mean_s=sum(ttft_s) / len(ttft_s),
            ttft_p50_s=ttft_s[len(ttft_s) // 2],
            ttft_p99_s=ttft_s[len(ttft_s) * 99 // 100],
            work_tokens=tuple(self.work_tokens),
            end_s=self.now_s,
        )


class _Forgetful:
    """A policy that needs no callbacks."""

    def first_token(self, request: TraceRequest, slot: int, now_s: float, cached_tokens: int) -> None:
        pass

    def finished(self, request: TraceRequest, slot: int, now_s: float) -> None:
        pass


class RoundRobin(_Forgetful):
    """Each engine in turn."""

    def __init__(self, engines: int) -> None:
        self.engines = engines
        self.next = 0

    def choose(self, request: TraceRequest, now_s: float) -> int:
        slot = self.next
        self.next = (slot + 1) % self.engines
        return slot


class Random(_Forgetful):
    """Any engine, by a seeded generator."""

    def __init__(self, engines: int, seed: int = 0) -> None:
        self.engines = engines
        self.random = random.Random(seed)

    def choose(self, request: TraceRequest, now_s: float) -> int:
        return self.random.randrange(self.engines)


class LongestPrefix:
    """The naive affinity policy, here as a warning: longest known prefix wins, ties go to the fewest in flight."""

    def __init__(self, engines: int) -> None:
        self.known: list[set[int]] = [set() for _ in range(engines)]
        self.in_flight = [0] * engines

    def choose(self, request: TraceRequest, now_s: float) -> int:
        slot = max(range(len(self.known)), key=lambda slot: (self.match(slot, request), -self.in_flight[slot]))
        self.known[slot].update(request.keys)
        self.in_flight[slot] += 1
        return slot

    def match(self, slot: int, request: TraceRequest) -> int:
        known = self.known[slot]
        return next((depth for depth, key in enumerate(request.keys) if key not in known), len(request.keys))

    def first_token(self, request: TraceRequest, slot: int, now_s: float, cached_tokens: int) -> None:
        pass

    def finished(self, request: TraceRequest, slot: int, now_s: float) -> None:
        self.in_flight[slot] -= 1
