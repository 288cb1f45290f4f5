"""Runs a scenario: traffic, a gateway that decides, and a pool of simulated engines, event by event in virtual time."""

import heapq
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

from picker.sim.engine import Engine, EngineMetrics, Progress, Request
from picker.sim.overload.traffic import Asked, Fault, Phase, Scenario, keys, traffic

SERVED, REFUSED, EXPIRED, FAILED = "served", "refused", "expired", "failed"


@dataclass(slots=True)
class Story:
    """What became of one request. Times in seconds; the client's, so with the network between."""

    asked: Asked
    outcome: str = ""
    slot: int = -1
    sends: int = 0
    ends: int = 0  # must be one when all is over
    sent_s: float = -1.0
    first_s: float = -1.0
    end_s: float = -1.0

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.asked.at_s


class World(Protocol):
    """What a gateway can do."""

    def send(self, asked: Asked, slot: int) -> None: ...

    def refuse(self, asked: Asked, outcome: str) -> None: ...


class Gateway(Protocol):
    """Decides who goes where and when. Called in order of time; it may answer any call by sends and refusals."""

    scrape_s: float  # how often it reads the metrics of an endpoint
    tick_s: float  # how often `tick` is called while somebody waits

    @property
    def waiting(self) -> int:
        """Requests that it holds."""

    def start(self, world: World, scenario: Scenario) -> None: ...

    def arrive(self, asked: Asked, now_s: float) -> None: ...

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None: ...

    def finished(self, asked: Asked, slot: int, now_s: float) -> None: ...

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        """The endpoint refused the connection, or broke it before the answer."""

    def broken(self, asked: Asked, slot: int, now_s: float) -> None:
        """The endpoint broke the connection amid the answer."""

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None: ...

    def tick(self, now_s: float) -> None: ...

    def removed(self, slot: int, now_s: float) -> None:
        """Discovery says that the endpoint has gone."""


@dataclass
class Trace:
    """What a run left behind."""

    scenario: Scenario
    stories: list[Story]
    busy: list[tuple[float, float]] = field(default_factory=list)  # (second, share of engines that run something)
    longest_stall_s: float = 0.0  # somebody waited at the gateway, and nobody was sent
    end_s: float = 0.0


GONE_AFTER_S = 5.0  # until discovery knows that an endpoint is dead
SAMPLE_S = 0.5


class Run:
    """One run of one gateway. `run` once."""

    def __init__(self, scenario: Scenario, asked: Iterable[Asked], gateway: Gateway) -> None:
        self.scenario = scenario
        self.gateway = gateway
        self.stories = {one.index: Story(one) for one in asked}
        speeds = scenario.speeds or (1.0,) * scenario.replicas
        timing = scenario.engine.timing
        configs = [replace(scenario.engine, timing=replace(timing, speedup=timing.speedup * one)) for one in speeds]
        self.engines = [Engine(config, terse=True) for config in configs]
        self.wakes: list[float | None] = [None] * len(self.engines)
        self.dead: set[int] = set()
        self.mute: set[int] = set()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.now_s = 0.0
        self.left = len(self.stories)
        self.ticking = False
        self.stalled_since: float | None = None
        self.trace = Trace(scenario, list(self.stories.values()))

    def run(self) -> Trace:
        """To the last answer."""
        self.gateway.start(self, self.scenario)
        for story in self.stories.values():
            self.at(story.asked.at_s, lambda one=story.asked: self.arrive(one))  # type: ignore[misc]
        for slot in range(len(self.engines)):
            self.at(self.gateway.scrape_s * slot / len(self.engines), lambda slot=slot: self.scrape(slot))  # type: ignore[misc]
        for fault in self.scenario.faults:
            self.at(fault.at_s, lambda fault=fault: self.strike(fault))  # type: ignore[misc]
        self.sample()
        while self.left:
            self.step()
        self.trace.end_s = self.now_s
        return self.trace

    def step(self) -> None:
        """The next event: an engine's, or one that was planned."""
        due = [(at_s, slot) for slot, at_s in enumerate(self.wakes) if at_s is not None]
        at_s, slot = min(due, default=(float("inf"), -1))
        if self.events and self.events[0][0] <= at_s:
            self.now_s, _, action = heapq.heappop(self.events)
            action()
        else:
            self.now_s = at_s
            self.advance(slot)
        self.watch()

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (at_s, next(self.numbers), action))

    def watch(self) -> None:
        """Keeps ticking while somebody waits, and looks for stalls."""
        if not self.gateway.waiting:
            self.stalled_since = None
        elif self.stalled_since is None:
            self.stalled_since = self.now_s
        if self.stalled_since is not None:
            self.trace.longest_stall_s = max(self.trace.longest_stall_s, self.now_s - self.stalled_since)
        if self.gateway.waiting and not self.ticking:
            self.ticking = True
            self.at(self.now_s + self.gateway.tick_s, self.tick)

    def tick(self) -> None:
        self.ticking = False
        self.gateway.tick(self.now_s)

    # --- the gateway's side ---

    def arrive(self, asked: Asked) -> None:
        self.gateway.arrive(asked, self.now_s)

    def send(self, asked: Asked, slot: int) -> None:
        story = self.stories[asked.index]
        story.slot, story.sent_s = slot, self.now_s
        story.sends += 1
        self.stalled_since = None
        self.at(self.now_s + self.scenario.network_s, lambda: self.receive(story))

    def refuse(self, asked: Asked, outcome: str) -> None:
        self.end(self.stories[asked.index], outcome)

    def end(self, story: Story, outcome: str) -> None:
        story.outcome, story.end_s = outcome, self.now_s
        story.ends += 1
        self.left -= 1

    # --- the engines' side ---

    def receive(self, story: Story) -> None:
        slot, asked = story.slot, story.asked
        if slot in self.dead:
            self.at(self.now_s + self.scenario.network_s, lambda: self.fail(story))
            return
        self.advance(slot)
        request = Request(asked.index, asked.prompt_tokens, asked.answer_tokens, keys(asked))
        self.engines[slot].submit(request, self.now_s)
        self.wakes[slot] = self.engines[slot].next_change_at()

    def advance(self, slot: int) -> None:
        """Lets an engine do what it has done by now; first and last tokens travel back."""
        for event in self.engines[slot].step(self.now_s):
            if event.first or event.finished:
                arrives_s = event.at_s + self.scenario.network_s
                self.at(max(arrives_s, self.now_s), lambda event=event: self.report(event))  # type: ignore[misc]
        self.wakes[slot] = self.engines[slot].next_change_at()

    def report(self, event: Progress) -> None:
        story = self.stories[self.index(event.request_id)]
        if story.outcome:
            return  # the connection broke meanwhile
        if event.first:
            story.first_s = self.now_s
            self.gateway.first_token(story.asked, story.slot, self.now_s)
        if event.finished:
            self.end(story, SERVED)
            self.gateway.finished(story.asked, story.slot, self.now_s)

    @staticmethod
    def index(request_id: Hashable) -> int:
        if not isinstance(request_id, int):
            raise TypeError(request_id)
        return request_id

    def fail(self, story: Story) -> None:
        if story.outcome:
            return  # it was under way when the endpoint died, and has failed by now
        begun = story.first_s >= 0
        self.end(story, FAILED)
        (self.gateway.broken if begun else self.gateway.failed)(story.asked, story.slot, self.now_s)

    def scrape(self, slot: int) -> None:
        if slot in self.dead:
            return
        if slot not in self.mute:
            self.advance(slot)
            metrics = self.engines[slot].metrics()
            self.at(self.now_s + self.scenario.scrape_delay_s, lambda: self.gateway.scraped(slot, metrics, self.now_s))
        self.at(self.now_s + self.gateway.scrape_s, lambda: self.scrape(slot))

    def sample(self) -> None:
        running = sum(engine.metrics().running > 0 for engine in self.engines)
        self.trace.busy.append((self.now_s, running / len(self.engines)))
        self.at(self.now_s + SAMPLE_S, self.sample)

    # --- faults ---

    def strike(self, fault: Fault) -> None:
        slots = fault.slots or tuple(range(len(self.engines)))
        if fault.kind == "metrics":
            self.mute.update(slots)
            self.at(self.now_s + fault.seconds, lambda: self.mute.difference_update(slots))
        elif fault.kind == "slow":
            self.retime(slots, 1.0 / fault.factor)
            self.at(self.now_s + fault.seconds, lambda: self.retime(slots, fault.factor))
        elif fault.kind == "dead":
            for slot in slots:
                self.kill(slot)
        else:
            raise ValueError(f"no fault is {fault.kind!r}")

    def retime(self, slots: Iterable[int], factor: float) -> None:
        for slot in slots:
            self.advance(slot)
            timing = self.engines[slot].timing
            self.engines[slot].retime(replace(timing, speedup=timing.speedup * factor), self.now_s)
            self.wakes[slot] = self.engines[slot].next_change_at()

    def kill(self, slot: int) -> None:
        """Its connections break, new ones are refused; a while later discovery takes it out."""
        self.advance(slot)
        self.dead.add(slot)
        self.wakes[slot] = None
        for story in self.stories.values():
            if story.slot == slot and not story.outcome:
                self.at(self.now_s + self.scenario.network_s, lambda story=story: self.fail(story))  # type: ignore[misc]
        self.at(self.now_s + GONE_AFTER_S, lambda: self.gateway.removed(slot, self.now_s))


def capacity_tokens(scenario: Scenario, *, warm_s: float = 60.0, seconds: float = 300.0) -> float:
    """Tokens of prompts and answers per second that the pool serves when every replica is always full.

    Measured on one replica of each speed with more requests waiting than it can take in.
    """
    speeds = scenario.speeds or (1.0,) * scenario.replicas
    known = {speed: _full_tokens(scenario, speed, warm_s, seconds) for speed in set(speeds)}
    return sum(known[speed] for speed in speeds)


PLENTY = (Phase(80.0, 1.0),)


def _full_tokens(scenario: Scenario, speed: float, warm_s: float, seconds: float) -> float:
    timing = scenario.engine.timing
    config = replace(scenario.engine, timing=replace(timing, speedup=timing.speedup * speed))
    engine = Engine(config, terse=True)
    plenty = traffic(replace(scenario, seed=scenario.seed + 1_000, phases=PLENTY), 400.0)
    now_s, done_s, at_start = 0.0, warm_s + seconds, 0
    for one in plenty:
        while engine.metrics().waiting >= 8:
            now_s = engine.next_step_at() or now_s
            engine.step(now_s)
            if now_s <= warm_s:
                at_start = _work(engine)
            if now_s >= done_s:
                return (_work(engine) - at_start) / seconds
        engine.submit(Request(one.index, one.prompt_tokens, one.answer_tokens, keys(one)), now_s)
    raise ValueError("too few requests to fill an engine for so long")


def _work(engine: Engine) -> int:
    metrics = engine.metrics()
    return metrics.prompt_tokens + metrics.generation_tokens
