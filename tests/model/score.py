"""Slow model of `picker._core.score`: the formulas written down one by one, over plain Python objects."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from tests.model import endpoints as table

Step = tuple[int, float, Sequence[float], int]
Plugin = Callable[[int, list[int]], Sequence[float] | None]


class Kind(IntEnum):
    FILTER_LABELS = 1
    FILTER_PREFIX = 2
    FILTER_PLUGIN = 3
    FILTER_LOAD = 4
    QUEUE = 10
    RUNNING = 11
    KV = 12
    PREFIX = 13
    LORA = 14
    LOAD_AWARE = 15
    TOKEN_LOAD = 16
    ACTIVE = 17
    SESSION = 18
    TTFT = 19
    SCORE_PLUGIN = 20
    PICK_MAX = 30
    PICK_WEIGHTED = 31
    PICK_RANDOM = 32
    PICK_PLUGIN = 33


@dataclass
class Endpoint:
    waiting: float = -1.0
    running: float = -1.0
    kv_usage: float = -1.0
    max_lora: float = -1.0
    running_adapters: Sequence[str] = ()
    waiting_adapters: Sequence[str] = ()
    scraped_ns: int = 0
    requests: int = 0
    prefill_tokens: int = 0
    progress_ns: int = 1 << 62
    resident_tokens: int = 0
    prefill_rate: float = 15000.0
    rate_ns: int = 0
    labels: int = 0
    session: bytes = b""

    def __post_init__(self) -> None:
        """What was never scraped counts as none, but no number of adapters is no free slot either."""
        load = table.Load(self.waiting, self.running, self.kv_usage, self.max_lora).known()
        self.waiting, self.running, self.kv_usage = max(0, load.waiting), max(0, load.running), max(0, load.kv_usage)
        self.max_lora = load.max_lora
        self.running_adapters = self.running_adapters[: table.ADAPTERS]
        self.waiting_adapters = self.waiting_adapters[: table.ADAPTERS]


@dataclass
class Request:
    match: Sequence[int] | None = None
    prompt_tokens: int = 0
    block_tokens: int = 64
    model: str = ""
    session: bytes = b""
    now_ns: int = 0

    def cached(self, slot: int) -> int:
        return 0 if self.match is None else min(self.match[slot] * self.block_tokens, self.prompt_tokens)

    def ratio(self, slot: int) -> float:
        return self.cached(slot) / self.prompt_tokens if self.prompt_tokens > 0 else 0.0


@dataclass
class Random:
    """splitmix64."""

    state: int

    def next(self) -> int:
        mask = 2**64 - 1
        self.state = self.state + 0x9E3779B97F4A7C15 & mask
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    def unit(self) -> float:
        return (self.next() >> 11) / 2**53


@dataclass
class Answer:
    chosen: list[int] = field(default_factory=list)
    scores: list[tuple[int, float, list[float]]] = field(default_factory=list)
    margin: tuple[float, float] = (0.0, -1.0)


def unit(score: float) -> float:
    return 0.0 if math.isnan(score) else min(max(score, 0.0), 1.0)


def least_is_best(values: list[float]) -> list[float]:
    least, most = min(values), max(values)
    return [(most - value) / (most - least) if most > least else 1.0 for value in values]


class Pipeline:
    def __init__(
        self, steps: Sequence[Step], endpoints: list[Endpoint], wanted: int, seed: int, fleet_rate: float = 15000.0
    ) -> None:
        self.steps = steps
        self.endpoints = endpoints
        self.wanted = wanted
        self.random = Random(seed)
        self.fleet_rate = fleet_rate

    def run(self, request: Request, plugin: Plugin) -> Answer:
        slots = list(range(len(self.endpoints)))
        totals = dict.fromkeys(slots, 0.0)
        rows: list[dict[int, float]] = []
        answer = Answer()
        for number, (kind, weight, params, bits) in enumerate(self.steps):
            if not slots:
                return answer
            if kind < Kind.QUEUE:
                slots = self.filter(kind, params, bits, slots, request, lambda s, n=number: plugin(n, s))
            elif kind < Kind.PICK_MAX:
                row = self.score(kind, params, slots, request, lambda s, n=number: plugin(n, s))
                rows.append(row)
                totals = {slot: totals[slot] + weight * row[slot] for slot in slots}
            else:
                answer.chosen = self.pick(kind, slots, totals, lambda s, n=number: plugin(n, s))
        answer.scores = [(slot, totals[slot], [row[slot] for row in rows]) for slot in slots]
        if answer.chosen:
            others = [totals[slot] for slot in slots if slot != answer.chosen[0]]
            answer.margin = (totals[answer.chosen[0]], max(others, default=-1.0))
        return answer

    def filter(
        self,
        kind: int,
        params: Sequence[float],
        bits: int,
        slots: list[int],
        request: Request,
        ask: Callable[[list[int]], Sequence[float] | None],
    ) -> list[int]:
        if kind == Kind.FILTER_LABELS:
            return [slot for slot in slots if self.endpoints[slot].labels & bits == bits]
        if kind == Kind.FILTER_LOAD:
            return [slot for slot in slots if not self.is_loaded(self.endpoints[slot], params)] or slots
        if kind == Kind.FILTER_PLUGIN:
            kept = ask(slots)
            return slots if kept is None else [slot for slot in slots if slot in kept]
        threshold, explore, penalty_s, tokens_per_second = params
        if explore > 0 and self.random.unit() < explore:
            return slots
        warm = [slot for slot in slots if request.ratio(slot) >= threshold]
        cold = [slot for slot in slots if slot not in warm]
        waits = {slot: self.endpoints[slot].prefill_tokens / tokens_per_second for slot in slots}
        if not warm or (cold and min(waits[slot] for slot in warm) - min(waits[slot] for slot in cold) > penalty_s):
            return slots
        return warm

    @staticmethod
    def is_loaded(endpoint: Endpoint, params: Sequence[float]) -> bool:
        """0 bounds nothing."""
        loads = (endpoint.waiting, endpoint.kv_usage, endpoint.requests, endpoint.prefill_tokens)
        return any(most > 0 and load > most for load, most in zip(loads, params, strict=True))

    def score(
        self,
        kind: int,
        params: Sequence[float],
        slots: list[int],
        request: Request,
        ask: Callable[[list[int]], Sequence[float] | None],
    ) -> dict[int, float]:
        if kind == Kind.SCORE_PLUGIN:
            row = list(ask(slots) or [0.0] * len(slots))
        elif kind == Kind.QUEUE:
            row = least_is_best([self.endpoints[slot].waiting for slot in slots])
        elif kind == Kind.RUNNING:
            row = least_is_best([self.endpoints[slot].running for slot in slots])
        elif kind == Kind.ACTIVE:
            most = max(self.endpoints[slot].requests for slot in slots)
            row = [self.active(self.endpoints[slot], params, most) for slot in slots]
        elif kind == Kind.TTFT:
            seconds = [self.seconds_to_first_token(slot, params, request) for slot in slots]
            row = [min(seconds) / value for value in seconds]
        else:
            row = [self.score_one(kind, params, slot, request) for slot in slots]
        return {slot: unit(score) for slot, score in zip(slots, row, strict=True)}

    @staticmethod
    def active(endpoint: Endpoint, params: Sequence[float], most: int) -> float:
        idle, greatest = params
        return 1.0 if endpoint.requests <= idle else (most - endpoint.requests) / most * greatest

    def score_one(self, kind: int, params: Sequence[float], slot: int, request: Request) -> float:
        endpoint = self.endpoints[slot]
        if kind == Kind.KV:
            return 1.0 - unit(endpoint.kv_usage)
        if kind == Kind.PREFIX:
            weight, scale = params
            length = min(1.0, request.ratio(slot) * (request.prompt_tokens / scale))
            return (1.0 - weight) * request.ratio(slot) + weight * length * length
        if kind == Kind.LORA:
            return self.lora(endpoint, request.model)
        if kind == Kind.LOAD_AWARE:
            return 0.5 * (1.0 - unit(endpoint.waiting / params[0]))
        if kind == Kind.TOKEN_LOAD:
            tokens = endpoint.prefill_tokens + request.prompt_tokens - request.cached(slot)
            return 1.0 - unit(tokens / params[0])
        assert kind == Kind.SESSION
        return 1.0 if request.session and endpoint.session == request.session else 0.0

    @staticmethod
    def lora(endpoint: Endpoint, model: str) -> float:
        if model in endpoint.running_adapters:
            return 1.0
        if len(endpoint.running_adapters) + len(endpoint.waiting_adapters) < endpoint.max_lora:
            return 0.8
        return 0.6 if model in endpoint.waiting_adapters else 0.0

    def seconds_to_first_token(self, slot: int, params: Sequence[float], request: Request) -> float:
        """Tokens ahead and own over the rate. What was scraped (others' requests, a full cache) fades with its age."""
        resident_weight, tokens_per_unknown, uncached_weight = params
        endpoint = self.endpoints[slot]
        fresh = table.freshness(endpoint.scraped_ns, request.now_ns)
        unknown = max(0.0, endpoint.waiting + endpoint.running - endpoint.requests)
        pressure = max(0.0, (endpoint.kv_usage - 0.9) * 10.0)
        rate = table.rate(endpoint.prefill_rate, endpoint.rate_ns, self.fleet_rate, request.now_ns)
        work = table.ahead(endpoint.prefill_tokens, endpoint.progress_ns, rate, request.now_ns)
        work += uncached_weight * (request.prompt_tokens - request.cached(slot))
        work += resident_weight * endpoint.resident_tokens + fresh * unknown * tokens_per_unknown
        work *= 1.0 + fresh * pressure
        return (work + 1.0) / rate

    def pick(
        self,
        kind: int,
        slots: list[int],
        totals: dict[int, float],
        ask: Callable[[list[int]], Sequence[float] | None],
    ) -> list[int]:
        if kind == Kind.PICK_PLUGIN:
            answer = ask(slots)
            if answer is not None:
                return [int(slot) for slot in answer[: self.wanted]]
        keys = {slot: self.key(kind, totals[slot]) for slot in slots}
        chosen: list[int] = []
        while keys and len(chosen) < self.wanted:
            best = [slot for slot in keys if keys[slot] == max(keys.values())]
            chosen.append(best[self.random.next() % len(best)] if len(best) > 1 else best[0])
            del keys[chosen[-1]]
        return chosen

    def key(self, kind: int, total: float) -> float:
        if kind == Kind.PICK_WEIGHTED:
            draw = self.random.unit()
            return total / -math.log(draw) if draw > 0 else 0.0
        return self.random.unit() if kind == Kind.PICK_RANDOM else total
