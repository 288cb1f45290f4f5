"""The lab's cluster: a load, a gateway that decides, and simulated engines, event by event in virtual time.

Deterministic if the gateway is: events of the same moment happen in the order in which they were planned, then
engines by slot.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count

from picker.sim.arrivals import Arrivals
from picker.sim.asked import Asked, Load
from picker.sim.engine import Engine, EngineConfig, Progress, Request
from picker.sim.gateway import FAILED, SERVED, Gateway
from picker.sim.policies.base import Cluster, Replica
from picker.sim.timing import TimingModel

GONE_AFTER_S = 5.0  # until discovery knows that a replica is dead


@dataclass(frozen=True)
class Fault:
    """From `at_s` on, for `seconds`: "metrics" (cannot be read), "slow" (`factor` times slower), "dead" (refuses).

    `slots`: whom it strikes; empty for all. The dead come back with nothing in their caches; never if `seconds` is 0.
    """

    kind: str
    at_s: float
    seconds: float
    slots: tuple[int, ...] = ()
    factor: float = 2.0


@dataclass(frozen=True)
class Setting:
    """What a run takes place in. Times in seconds."""

    engines: tuple[EngineConfig, ...]
    gpus: tuple[str, ...] = ()  # by replica; empty: nobody knows
    faults: tuple[Fault, ...] = ()
    clients: int = 0  # of a closed loop; 0: requests come at their times
    priorities: tuple[tuple[str, int], ...] = ()  # of the load's bands
    seed: int = 1  # of the gateway
    network_s: float = 0.0005  # one way, to and from a replica
    scrape_delay_s: float = 0.005
    sample_s: float = 0.5
    looks: bool = False  # into caches, at each pick: for `Story.held_tokens` and `Story.there_tokens`


@dataclass(slots=True)
class Story:
    """What became of one request. Times in seconds; the client's, so with the network between."""

    asked: Asked
    outcome: str = ""
    slot: int = -1
    sends: int = 0
    ends: int = 0  # must be one when all is over
    at_s: float = -1.0  # when it came
    sent_s: float = -1.0
    first_s: float = -1.0
    end_s: float = -1.0
    there_tokens: int = 0  # of its prompt, in the cache of some replica when it was sent
    held_tokens: int = 0  # in that of the replica it was sent to
    cached_tokens: int = 0  # found there when its turn came

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.at_s


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests in each engine at a moment."""

    at_s: float
    running: tuple[int, ...]
    waiting: tuple[int, ...]

    @property
    def busy(self) -> float:
        """Share of engines that run something."""
        return sum(running > 0 for running in self.running) / len(self.running)


@dataclass
class Outcome:
    """What a run left behind."""

    setting: Setting
    stories: list[Story]
    samples: list[Sample] = field(default_factory=list)
    longest_stall_s: float = 0.0  # somebody waited at the gateway, and nobody was sent
    end_s: float = 0.0


def replica(slot: int, config: EngineConfig, gpu: str) -> Replica:
    """What is known of a replica from outside."""
    return Replica(
        slot,
        gpu,
        config.block_size,
        config.num_blocks,
        config.timing.speedup / config.timing.prefill_s_per_token,
        config.max_num_batched_tokens,
        config.max_num_seqs,
        config.max_lora,
    )


class World:
    """One run of one gateway. `run` once.

    Raises ValueError for a load that asks what cannot be (`Arrivals`, `Engine.submit`), and for an unknown fault.
    """

    def __init__(self, setting: Setting, load: Load, gateway: Gateway) -> None:
        self.setting = setting
        self.key_tokens = load.key_tokens
        self.gateway = gateway
        self.arrivals = Arrivals(load, setting.clients)
        self.stories = [Story(one) for one in load.asked]
        self.engines = [Engine(config, terse=True) for config in setting.engines]
        gpus = setting.gpus or ("",) * len(self.engines)
        replicas = tuple(replica(slot, *given) for slot, given in enumerate(zip(setting.engines, gpus, strict=True)))
        self.cluster = Cluster(replicas, load.key_tokens, setting.seed, self.engines, setting.priorities)
        self.wakes: list[float | None] = [None] * len(self.engines)
        self.due: list[tuple[float, int]] = []  # of engines; entries that are not in `wakes` any more are void
        self.dead: set[int] = set()
        self.mute: Counter[int] = Counter()  # failures that keep metrics from being read
        self.scraping: set[int] = set()  # whose next scrape is planned
        self.paces = [1.0] * len(self.engines)  # by what slow replicas are slow
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.now_s = 0.0
        self.left = len(self.stories)
        self.ticking = False
        self.stalled_since: float | None = None
        self.outcome = Outcome(setting, self.stories)

    def run(self) -> Outcome:
        """To the last answer."""
        self.gateway.start(self, self.cluster)
        self.plan(self.arrivals.first())
        if self.gateway.scrape_s < float("inf"):
            for slot in range(len(self.engines)):
                self.scraping.add(slot)
                self.at(self.gateway.scrape_s * slot / len(self.engines), lambda slot=slot: self.scrape(slot))  # type: ignore[misc]
        for fault in self.setting.faults:
            self.at(fault.at_s, lambda fault=fault: self.strike(fault))  # type: ignore[misc]
        self.sample()
        while self.left:
            self.step()
        self.outcome.end_s = self.now_s
        return self.outcome

    def step(self) -> None:
        """The next event: one that was planned, or an engine's."""
        due = self.due
        while due and self.wakes[due[0][1]] != due[0][0]:
            heapq.heappop(due)
        if not due or self.events[0][0] <= due[0][0]:
            self.now_s, _, action = heapq.heappop(self.events)
            action()
        else:
            self.now_s, slot = heapq.heappop(due)
            self.advance(slot)
        self.watch()

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (at_s, next(self.numbers), action))

    def watch(self) -> None:
        """Keeps ticking while somebody waits, and looks for stalls."""
        if not self.gateway.waiting:
            self.stalled_since = None
            return
        if self.stalled_since is None:
            self.stalled_since = self.now_s
        self.outcome.longest_stall_s = max(self.outcome.longest_stall_s, self.now_s - self.stalled_since)
        if not self.ticking:
            self.ticking = True
            self.at(self.now_s + self.gateway.tick_s, self.tick)

    def tick(self) -> None:
        self.ticking = False
        self.gateway.tick(self.now_s)

    def plan(self, coming: Iterable[tuple[float, Asked]]) -> None:
        for at_s, asked in coming:
            self.at(at_s, lambda asked=asked: self.arrive(asked))  # type: ignore[misc]

    # --- the gateway's side ---

    def arrive(self, asked: Asked) -> None:
        self.stories[asked.index].at_s = self.now_s
        self.gateway.arrive(asked, self.now_s)

    def send(self, asked: Asked, slot: int) -> None:
        story = self.stories[asked.index]
        story.slot, story.sent_s = slot, self.now_s
        story.sends += 1
        self.stalled_since = None
        if self.setting.looks:
            self.look(story)
        self.at(self.now_s + self.setting.network_s, lambda: self.receive(story))

    def look(self, story: Story) -> None:
        names, dead = self.cluster.names(story.asked), self.dead
        most = len(names)
        held = [0 if slot in dead else engine.blocks.match(names, most) for slot, engine in enumerate(self.engines)]
        story.there_tokens = max(held) * self.key_tokens
        story.held_tokens = held[story.slot] * self.key_tokens

    def refuse(self, asked: Asked, outcome: str) -> None:
        self.end(self.stories[asked.index], outcome)

    def end(self, story: Story, outcome: str) -> None:
        story.outcome, story.end_s = outcome, self.now_s
        story.ends += 1
        self.left -= 1
        self.plan(self.arrivals.then(story.asked, self.now_s))

    # --- the engines' side ---

    def wake(self, slot: int) -> None:
        at_s = self.wakes[slot] = self.engines[slot].next_change_at()
        if at_s is not None:
            heapq.heappush(self.due, (at_s, slot))

    def receive(self, story: Story) -> None:
        slot, asked = story.slot, story.asked
        if slot in self.dead:
            self.at(self.now_s + self.setting.network_s, lambda: self.fail(story))
            return
        self.advance(slot)
        names = asked.cacheable(self.key_tokens)
        request = Request(asked.index, asked.prompt_tokens, asked.output_tokens, names, asked.lora or None)
        self.engines[slot].submit(request, self.now_s)
        self.wake(slot)

    def advance(self, slot: int) -> None:
        """Lets an engine do what it has done by now; first and last tokens travel back."""
        for event in self.engines[slot].step(self.now_s):
            if event.first or event.finished:
                arrives_s = event.at_s + self.setting.network_s
                self.at(max(arrives_s, self.now_s), lambda event=event: self.report(event))  # type: ignore[misc]
        self.wake(slot)

    def report(self, event: Progress) -> None:
        story = self.stories[_index(event.request_id)]
        if story.outcome:
            return  # the connection broke meanwhile
        if event.first:
            story.first_s, story.cached_tokens = self.now_s, event.cached_tokens
            self.gateway.first_token(story.asked, story.slot, self.now_s)
        if event.finished:
            self.end(story, SERVED)
            self.gateway.finished(story.asked, story.slot, self.now_s, event.cached_tokens)

    def fail(self, story: Story) -> None:
        if story.outcome:
            return  # it was under way when the replica died, and has failed by now
        begun = story.first_s >= 0
        self.end(story, FAILED)
        (self.gateway.broken if begun else self.gateway.failed)(story.asked, story.slot, self.now_s)

    def scrape(self, slot: int) -> None:
        """What is told does not change while an engine only decodes, so it need not be stopped for it."""
        if slot in self.dead:
            self.scraping.discard(slot)
            return
        self.scraping.add(slot)
        if not self.mute[slot]:
            metrics = self.engines[slot].metrics()
            self.at(self.now_s + self.setting.scrape_delay_s, lambda: self.gateway.scraped(slot, metrics, self.now_s))
        self.at(self.now_s + self.gateway.scrape_s, lambda: self.scrape(slot))

    def sample(self) -> None:
        live = [(engine, slot not in self.dead) for slot, engine in enumerate(self.engines)]
        running = tuple(engine.running if lives else 0 for engine, lives in live)
        waiting = tuple(engine.waiting if lives else 0 for engine, lives in live)
        self.outcome.samples.append(Sample(self.now_s, running, waiting))
        self.at(self.now_s + self.setting.sample_s, self.sample)

    # --- faults ---

    def strike(self, fault: Fault) -> None:
        slots = fault.slots or tuple(range(len(self.engines)))
        if fault.kind == "metrics":
            self.mute.update(slots)
            self.at(self.now_s + fault.seconds, lambda: self.mute.subtract(slots))
        elif fault.kind == "slow":
            self.retime(slots, 1.0 / fault.factor)
            self.at(self.now_s + fault.seconds, lambda: self.retime(slots, fault.factor))
        elif fault.kind == "dead":
            for slot in slots:
                self.kill(slot, fault.seconds)
        else:
            raise ValueError(f"no fault is {fault.kind!r}")

    def retime(self, slots: Iterable[int], factor: float) -> None:
        """A dead replica is as slow when it comes back, if it still is by then."""
        for slot in slots:
            self.paces[slot] *= factor
            if slot not in self.dead:
                self.advance(slot)
                self.engines[slot].retime(self.paced(slot), self.now_s)
                self.wake(slot)

    def paced(self, slot: int) -> TimingModel:
        timing = self.setting.engines[slot].timing
        return replace(timing, speedup=timing.speedup * self.paces[slot])

    def kill(self, slot: int, seconds: float) -> None:
        """Its connections break, new ones are refused; a while later discovery takes it out, if it is not back."""
        self.advance(slot)
        self.dead.add(slot)
        self.wakes[slot] = None
        for story in self.stories:
            if story.slot == slot and not story.outcome:
                self.at(self.now_s + self.setting.network_s, lambda story=story: self.fail(story))  # type: ignore[misc]
        is_seen = not 0 < seconds <= GONE_AFTER_S
        if is_seen:
            self.at(self.now_s + GONE_AFTER_S, lambda: self.gateway.removed(slot, self.now_s))
        if seconds > 0:
            self.at(self.now_s + seconds, lambda: self.revive(slot, is_seen))

    def revive(self, slot: int, is_new: bool) -> None:
        self.engines[slot] = Engine(replace(self.setting.engines[slot], timing=self.paced(slot)), terse=True)
        self.dead.discard(slot)
        if is_new:
            self.gateway.added(slot, self.now_s)
        if self.gateway.scrape_s < float("inf") and slot not in self.scraping:
            self.scrape(slot)


def _index(request_id: Hashable) -> int:
    if not isinstance(request_id, int):
        raise TypeError(request_id)
    return request_id
