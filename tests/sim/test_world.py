"""The lab's world: every request ends once, tokens are conserved, caches hold no more than they can."""

from collections import Counter
from collections.abc import Callable

import pytest

from picker.sim.asked import Asked, Load
from picker.sim.core import CoreGateway
from picker.sim.gateway import FAILED, SERVED, Gateway, PolicyGateway
from picker.sim.policies.base import Cluster, Plain
from picker.sim.policies.round_robin import RoundRobin
from picker.sim.world import Fault, Outcome, Setting, World
from tests.sim.loads import KEY_TOKENS, chats, conversation, setting

LOAD = chats(40, 6)
GATEWAYS: dict[str, Callable[[], Gateway]] = {
    "picker": CoreGateway,
    "round robin": lambda: PolicyGateway(RoundRobin()),
}
FAULTS = (Fault("dead", 3.0, 6.0, (1,)), Fault("slow", 4.0, 4.0, (0,), 3.0), Fault("metrics", 2.0, 5.0))


class Checked(World):
    """Validates every engine after every event."""

    def step(self) -> None:
        super().step()
        for engine in self.engines:
            engine._check()
            assert engine.blocks.used <= engine.blocks.capacity >= engine.blocks.published


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("clients", [0, 7])
def test_tokens_are_conserved_and_caches_hold_what_they_can(gateway: str, clients: int) -> None:
    world = Checked(setting(blocks=60, clients=clients), LOAD, GATEWAYS[gateway]())
    outcome = world.run()
    told = [engine.metrics() for engine in world.engines]
    assert all(story.outcome == SERVED and story.ends == story.sends == 1 for story in outcome.stories)
    assert sum(one.prompt_tokens for one in told) == sum(asked.prompt_tokens for asked in LOAD.asked)
    assert sum(one.generation_tokens for one in told) == sum(asked.output_tokens for asked in LOAD.asked)
    assert sum(one.prefix_hits for one in told) == sum(story.cached_tokens for story in outcome.stories) > 0
    assert sum(one.finished_requests for one in told) == len(LOAD.asked)
    assert sum(engine.blocks.evictions for engine in world.engines) > 0, "the caches were too large to show anything"
    assert all(engine.blocks.used == 0 for engine in world.engines)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_times_come_in_their_order(gateway: str) -> None:
    for story in World(setting(), LOAD, GATEWAYS[gateway]()).run().stories:
        assert story.asked.at_s <= story.at_s <= story.sent_s < story.first_s <= story.end_s
        assert story.held_tokens <= story.there_tokens < story.asked.prompt_tokens


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_everybody_ends_once_whatever_fails(gateway: str) -> None:
    outcome = Checked(setting(faults=FAULTS), LOAD, GATEWAYS[gateway]()).run()
    assert all(story.ends == 1 and story.sends <= 1 for story in outcome.stories)
    counts = Counter((story.outcome, story.slot) for story in outcome.stories)
    assert counts[FAILED, 1] > 0 == counts[FAILED, 0] + counts[FAILED, 2]
    assert any(story.slot == 1 and story.at_s > 9.0 and story.outcome == SERVED for story in outcome.stories)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_run_repeats_exactly(gateway: str) -> None:
    def once() -> Outcome:
        return World(setting(faults=FAULTS), LOAD, GATEWAYS[gateway]()).run()

    assert once().stories == once().stories
    assert once().samples == once().samples


def test_a_gateway_leaves_nothing_behind() -> None:
    gateway = CoreGateway()
    World(setting(faults=FAULTS), LOAD, gateway).run()
    assert (gateway.engine.in_flight, gateway.engine.sessions, gateway.waiting) == (0, 0, 0)
    assert all(entry["resident_tokens"] == 0 for entry in gateway.engine.endpoints(0))


def test_a_conversation_on_one_replica_hits_all_but_its_new_block() -> None:
    outcome = World(setting(1), conversation(10, 5.0), PolicyGateway(RoundRobin())).run()
    assert [story.cached_tokens for story in outcome.stories] == [KEY_TOKENS * turn for turn in range(10)]
    assert [story.held_tokens for story in outcome.stories] == [KEY_TOKENS * turn for turn in range(10)]


def test_over_two_replicas_each_sees_every_other_turn() -> None:
    outcome = World(setting(2), conversation(10, 5.0), PolicyGateway(RoundRobin())).run()
    assert [story.cached_tokens // KEY_TOKENS for story in outcome.stories] == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [story.there_tokens // KEY_TOKENS for story in outcome.stories] == list(range(10))


def test_an_answer_is_found_by_the_next_turn() -> None:
    first = Asked(0, 0.0, 100, 60, (1, 2), (2,))
    load = Load("two", (first, Asked(1, 9.0, 200, 5, (1, 2, 3, 4), after=0)), KEY_TOKENS)
    stories = World(setting(1), load, PolicyGateway(RoundRobin())).run().stories
    assert stories[1].cached_tokens == 2 * KEY_TOKENS, "the second block is the prompt's end and the answer"


def test_adapters_share_no_blocks() -> None:
    asked = [Asked(index, 9.0 * index, 100, 5, (1,), lora=lora) for index, lora in enumerate(("", "a", "b", "a"))]
    one = setting(1)
    with_lora = Setting(tuple(_with_lora(config) for config in one.engines), looks=True)
    stories = World(with_lora, Load("loras", tuple(asked), KEY_TOKENS), CoreGateway()).run().stories
    assert [story.cached_tokens for story in stories] == [0, 0, 0, KEY_TOKENS]


def _with_lora(config: object) -> object:
    from dataclasses import replace

    return replace(config, max_lora=1)  # type: ignore[type-var]


class Recorder(RoundRobin):
    """Round robin that remembers what it was told, and rejects every tenth."""

    scrape_s = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[float, str, int]] = []

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.seen = cluster

    def choose(self, asked: Asked, now_s: float) -> int | None:
        self.log.append((now_s, "choose", asked.index))
        return None if asked.index % 10 == 9 else super().choose(asked, now_s)

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        self.log.append((now_s, "first", asked.index))

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None:
        self.log.append((now_s, "finished", asked.index))

    def scraped(self, slot: int, metrics: object, now_s: float) -> None:
        self.log.append((now_s, "scraped", -1))

    def removed(self, slot: int, now_s: float) -> None:
        super().removed(slot, now_s)
        self.log.append((now_s, "removed", -1))

    def added(self, slot: int, now_s: float) -> None:
        super().added(slot, now_s)
        self.log.append((now_s, "added", -1))


def test_a_policy_is_told_in_order_and_once() -> None:
    policy = Recorder()
    outcome = World(setting(), LOAD, PolicyGateway(policy)).run()
    assert [at_s for at_s, _, _ in policy.log] == sorted(at_s for at_s, _, _ in policy.log)
    for asked in LOAD.asked:
        told = [what for _, what, index in policy.log if index == asked.index]
        assert told == (["choose"] if asked.index % 10 == 9 else ["choose", "first", "finished"])
    assert sum(story.outcome == "refused" for story in outcome.stories) == len(LOAD.asked) // 10
    assert sum(what == "scraped" for _, what, _ in policy.log) >= 3 * int(outcome.end_s / 0.5 - 1)
    assert [replica.cache_tokens for replica in policy.seen.replicas] == [200 * KEY_TOKENS] * 3


def test_discovery_takes_a_while_and_sees_no_short_absence() -> None:
    long, short = Recorder(), Recorder()
    World(setting(faults=(Fault("dead", 3.0, 6.0, (1,)),)), LOAD, PolicyGateway(long)).run()
    World(setting(faults=(Fault("dead", 3.0, 2.0, (1,)),)), LOAD, PolicyGateway(short)).run()
    assert [(at_s, what) for at_s, what, index in long.log if index == -1 and what != "scraped"] == [
        (8.0, "removed"),
        (9.0, "added"),
    ]
    assert not any(what in ("removed", "added") for _, what, _ in short.log)


def test_who_was_slow_when_it_died_is_as_fast_as_ever_when_all_is_over() -> None:
    faults = (Fault("slow", 0.0, 6.0, (0,), 3.0), Fault("dead", 2.0, 2.0, (0,)))
    world = World(setting(faults=faults), chats(40, 6), PolicyGateway(RoundRobin()))
    speeds = {}
    for at_s in (1.0, 5.0, 7.0):
        world.at(at_s, lambda at_s=at_s: speeds.update({at_s: world.engines[0].timing.speedup}))  # type: ignore[misc]
    world.run()
    assert speeds == {1.0: pytest.approx(1 / 3), 5.0: pytest.approx(1 / 3), 7.0: pytest.approx(1.0)}


def test_a_short_death_leaves_the_pace_of_scraping_as_it_was() -> None:
    policy = Recorder()
    faults = tuple(Fault("dead", at_s, 0.1, (0,)) for at_s in (1.1, 2.1, 3.1))
    outcome = World(setting(1, faults=faults), LOAD, PolicyGateway(policy)).run()
    assert sum(what == "scraped" for _, what, _ in policy.log) <= outcome.end_s / policy.scrape_s + 1


def test_failures_of_metrics_that_overlap_last_to_the_end_of_the_last() -> None:
    policy = Recorder()
    faults = (Fault("metrics", 1.0, 2.0), Fault("metrics", 2.0, 3.0, (0, 1, 2)))
    World(setting(faults=faults), LOAD, PolicyGateway(policy)).run()
    scraped = [at_s for at_s, what, _ in policy.log if what == "scraped"]
    assert max(scraped) > 5.0 > 1.0 > min(scraped) and not any(1.1 < at_s < 5.0 for at_s in scraped)


def test_a_slot_that_is_not_there_is_an_error() -> None:
    class Lost(Plain):
        def choose(self, asked: Asked, now_s: float) -> int | None:
            return 3

    with pytest.raises(ValueError, match="Lost chose slot 3 of 3"):
        World(setting(), LOAD, PolicyGateway(Lost())).run()


def test_an_unknown_fault_is_an_error() -> None:
    with pytest.raises(ValueError, match="flood"):
        World(setting(faults=(Fault("flood", 1.0, 1.0),)), LOAD, PolicyGateway(RoundRobin())).run()
