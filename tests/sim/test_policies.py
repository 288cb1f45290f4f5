"""The policies of other routers, against examples worked by hand, and Dynamo's against what Dynamo itself logs."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from picker.sim.asked import Asked, Load
from picker.sim.engine import Engine, EngineConfig, EngineMetrics, Request
from picker.sim.gateway import PolicyGateway
from picker.sim.policies import POLICIES
from picker.sim.policies.aibrix import AibrixPrefixCache, PrefixTable
from picker.sim.policies.base import Cluster, Policy, Replica
from picker.sim.policies.dynamo import Dynamo, tuned
from picker.sim.policies.llmd import LlmDBlend, LlmDSticky, LlmDStickyRequests
from picker.sim.policies.longest_prefix import LongestPrefix
from picker.sim.policies.oracle import Oracle
from picker.sim.policies.sglang import SglangCacheAware, TextTree
from picker.sim.policies.simple import LeastRequest, PowerOfTwo
from picker.sim.timing import TimingModel
from picker.sim.world import Fault, Setting, World

KEY_TOKENS = 512


def cluster(replicas: int, *, key_tokens: int = KEY_TOKENS, cache_blocks: int = 1_000) -> Cluster:
    config = EngineConfig(num_blocks=cache_blocks, block_size=key_tokens)
    engines = [Engine(config) for _ in range(replicas)]
    known = tuple(Replica(slot, "", key_tokens, cache_blocks, 10_000.0) for slot in range(replicas))
    return Cluster(known, key_tokens, 1, engines)


def ask(index: int, prompt_tokens: int, keys: Sequence[int] = (), *, lora: str = "") -> Asked:
    return Asked(index, 0.0, prompt_tokens, 100, keys, lora=lora)


def cache(there: Cluster, slot: int, keys: Sequence[int]) -> None:
    """Lets an engine compute a prompt of these blocks, to the end."""
    engine = there.engines[slot]
    engine.submit(Request(("seed", *keys), there.key_tokens * len(keys) + 1, 1, tuple(keys)), 0.0)
    while (at_s := engine.next_step_at()) is not None:
        engine.step(at_s)


def metrics(*, waiting: int = 0, kv_usage: float = 0.0) -> EngineMetrics:
    return EngineMetrics(0, waiting, kv_usage, (), (), 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_serves_a_load_and_keeps_its_books_straight(name: str) -> None:
    """Also while a replica dies and comes back, with nothing left on the books when all is over."""
    asked = tuple(
        Asked(index, index * 0.1, 2_000, 20, (index % 7, 100 + index % 7, 200 + index, 300 + index))
        for index in range(200)
    )
    config = EngineConfig(num_blocks=200, block_size=KEY_TOKENS)
    setting = Setting((config,) * 3, faults=(Fault("dead", 4.0, 10.0, (1,)),))
    policy = POLICIES[name](3)
    outcome = World(setting, Load("made up", asked, KEY_TOKENS), PolicyGateway(policy)).run()
    assert {story.outcome for story in outcome.stories} <= {"served", "failed"}
    assert all(story.outcome == "served" for story in outcome.stories[-30:])
    assert not any(getattr(policy, "requests", ())) and not any(getattr(policy, "prefill_tokens", ()))


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_rejects_when_nobody_is_left(name: str) -> None:
    policy = POLICIES[name](3)
    policy.start(cluster(1))
    policy.removed(0, 1.0)
    assert policy.choose(ask(0, 1_000, (1, 2)), 1.0) is None
    policy.added(0, 2.0)
    assert policy.choose(ask(1, 1_000, (1, 2)), 2.0) == 0


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_chooses_alike_for_a_seed(name: str) -> None:
    def choices() -> list[int | None]:
        policy = POLICIES[name](5)
        policy.start(cluster(4))
        return [policy.choose(ask(index, 1_000, (index % 3, 10 + index)), 0.0) for index in range(50)]

    assert choices() == choices()


def test_least_request_takes_the_fewest_in_flight() -> None:
    policy = LeastRequest(1)
    policy.start(cluster(3))
    asked = [ask(index, 100) for index in range(4)]
    first = [policy.choose(one, 0.0) for one in asked[:3]]
    assert sorted(slot for slot in first if slot is not None) == [0, 1, 2]
    policy.finished(asked[1], first[1] or 0, 1.0, 0)
    assert policy.choose(asked[3], 1.0) == first[1]


def test_power_of_two_never_takes_the_busiest_of_three() -> None:
    policy = PowerOfTwo(1)
    policy.start(cluster(3))
    policy.requests[2] = 100
    assert {policy.choose(ask(index, 100), 0.0) for index in range(40)} == {0, 1}


def test_longest_prefix_follows_the_prompt_whatever_the_load() -> None:
    policy = LongestPrefix()
    policy.start(cluster(2))
    chosen = [policy.choose(ask(index, 2_000, (1, 10 + index)), 0.0) for index in range(5)]
    assert chosen == [0] * 5
    assert policy.choose(ask(5, 2_000, (2, 3)), 0.0) == 1


# --- Dynamo ---

# Prompt tokens, worker and logit of the first ten requests of the conversation trace, by `ai-dynamo-runtime` 1.6.1.
LOGGED = [
    (6758, 1, 210.59375),
    (7322, 6, 228.40625),
    (7236, 5, 226.0625),
    (2290, 3, 70.78125),
    (6760, 2, 210.625),
    (4834, 0, 150.53125),
    (23141, 4, 722.578125),
    (26888, 7, 840.125),
    (10498, 3, 390.8125),
    (17450, 0, 687.1875),
]


def test_dynamo_costs_what_dynamo_logged() -> None:
    """All share block 0, which is active where one of them is, but not cached yet."""
    policy = Dynamo(1)
    policy.start(cluster(8))
    for index, (tokens, worker, logit) in enumerate(LOGGED):
        own = range(1_000 * (index + 1), 1_000 * (index + 1) + (tokens - 1) // KEY_TOKENS)
        asked = ask(index, tokens, (0, *own))
        keys, private = policy.split(asked)
        costs = [policy.cost(asked, slot, 0, keys, private) for slot in range(8)]
        assert costs[worker] == logit == min(costs)
        policy.slots = [worker]
        assert policy.choose(asked, 0.0) == worker
        policy.slots = list(range(8))


def test_dynamo_credits_what_is_cached() -> None:
    """Logged for 13,544 tokens, 512 of them cached, on an idle worker: 414.625."""
    policy = Dynamo(1)
    there = cluster(2)
    policy.start(there)
    cache(there, 1, (0,))
    asked = ask(0, 13_544, (0, *range(100, 126)))
    keys, private = policy.split(asked)
    assert there.cached_tokens(1, asked) == 512
    assert policy.cost(asked, 1, 512, keys, private) == 414.625
    assert policy.choose(asked, 0.0) == 1


def test_dynamo_releases_prefill_at_the_first_token_and_blocks_at_the_end() -> None:
    policy = Dynamo(1)
    policy.start(cluster(1))
    asked = ask(0, 1_024, (1, 2))
    assert policy.choose(asked, 0.0) == 0
    assert (policy.prefill_tokens[0], policy.active[0].blocks) == (1_024, 16.0)
    policy.first_token(asked, 0, 1.0)
    assert (policy.prefill_tokens[0], policy.active[0].blocks) == (0, 16.0)
    policy.finished(asked, 0, 2.0, 0)
    assert (policy.prefill_tokens[0], policy.active[0].blocks) == (0, 0.0)


def test_tuned_dynamo_takes_the_cache_where_the_default_takes_the_idle() -> None:
    """Worker 1 has 8 of 16 blocks cached and 24 active; default: 16 + 16 against 8 + 24 + 8, tuned 8 * 16 + 16 against
    8 * 4 + 24 + 8."""
    for policy, expected in ((Dynamo(1), 0), (tuned(1), 1)):
        there = cluster(2)
        policy.start(there)
        cache(there, 1, (7,))
        decoding = ask(9, 1_536, (1, 2, 3))
        policy.slots = [1]
        policy.choose(decoding, 0.0)
        policy.first_token(decoding, 1, 0.0)
        policy.slots = [0, 1]
        assert policy.choose(ask(0, 1_025, (7, 8)), 0.0) == expected


# --- sglang-router ---


def test_sglang_sends_to_whoever_was_sent_the_prefix_first() -> None:
    policy = SglangCacheAware()
    policy.start(cluster(3))
    assert policy.choose(ask(0, 2_048, (1, 2, 3, 4)), 0.0) == 0
    assert policy.choose(ask(1, 2_048, (5, 6, 7, 8)), 0.0) == 1
    assert policy.choose(ask(2, 2_048, (5, 6, 9, 10)), 0.0) == 1  # half is known there
    assert policy.choose(ask(3, 4_096, (1, 11, 12, 13, 14, 15, 16, 17)), 0.0) == 2  # an eighth is not enough
    assert policy.choose(ask(4, 1_024, (1, 18)), 0.0) == 0  # block 1 is with 0 and 2 now; 0 had it first


def test_sglang_forgets_affinity_while_loads_differ() -> None:
    policy = SglangCacheAware()
    policy.start(cluster(2))
    asked = [ask(index, 1_024, (1, 2)) for index in range(100)]
    assert [policy.choose(one, 0.0) for one in asked[:65]] == [0] * 65
    assert policy.choose(asked[65], 0.0) == 1  # 65 to none: more than 64, and more than half as many again
    assert policy.choose(asked[66], 0.0) == 0  # 65 to 1 is a difference of 64


def test_sglang_drops_leaves_used_longest_ago() -> None:
    tree = TextTree()
    tree.insert((1, 2), (10, 10), 0)
    tree.insert((1, 3), (10, 10), 0)
    tree.insert((1, 2), (10, 10), 1)
    tree.insert((1, 2), (10, 10), 0)  # used again
    assert tree.tokens == {0: 30, 1: 20}
    tree.evict(20)
    assert tree.tokens == {0: 20, 1: 20}
    assert tree.match((1, 3)) == (10, 0)
    assert tree.match((1, 2)) == (20, 0)
    tree.forget(0)
    assert tree.match((1, 2)) == (20, 1)
    tree.forget(1)
    assert not tree.nodes


# --- llm-d ---


def sticky(replicas: int = 2, **given: int) -> LlmDSticky:
    policy = LlmDSticky(1, prefill_tokens_per_s=1_000.0)
    policy.start(cluster(replicas, **given))
    return policy


def test_llmd_sticks_to_who_has_most_of_it_until_that_one_is_late() -> None:
    policy = sticky()
    first = policy.choose(ask(0, 5_120, tuple(range(10))), 0.0)
    assert first is not None
    policy.first_token(ask(0, 5_120), first, 1.0)
    policy.prefill_tokens[first] = 17_999
    again = ask(1, 5_120, (*range(8), 20, 21))
    assert policy.choose(again, 1.0) == first  # 0.8 of it, and no more than 18 s late
    policy.prefill_tokens[first] = 18_001
    assert policy.choose(ask(2, 5_120, (*range(8), 30, 31)), 1.0) == 1 - first


def test_llmd_does_not_stick_to_less() -> None:
    """7 of 10 blocks: all are kept, and uncached tokens in flight decide: 3 * 512 behind 2,000 against 5,120."""
    policy = sticky()
    first = policy.choose(ask(0, 5_120, tuple(range(10))), 0.0)
    assert first is not None
    policy.first_token(ask(0, 5_120), first, 1.0)
    policy.prefill_tokens[first] = 2_000
    assert policy.choose(ask(1, 5_120, (*range(7), 20, 21, 22)), 1.0) == first
    policy.prefill_tokens[first] = 6_000
    assert policy.choose(ask(2, 5_120, (*range(7), 30, 31, 32)), 1.0) == 1 - first


def test_llmd_counts_requests_among_the_sticky_where_answers_are_the_load() -> None:
    policy = LlmDStickyRequests(1)
    policy.start(cluster(3))
    for slot in (0, 1):
        policy.slots = [slot]
        policy.choose(ask(slot, 5_120, tuple(range(10))), 0.0)
    policy.slots = [0, 1, 2]
    policy.requests = [5, 3, 0]
    assert policy.choose(ask(2, 5_120, tuple(range(10))), 0.0) == 1
    assert policy.choose(ask(3, 5_120, tuple(range(50, 60))), 0.0) == 2


def test_llmd_forgets_what_no_cache_could_hold() -> None:
    policy = sticky(replicas=1, cache_blocks=4)
    for index, keys in enumerate(((1, 2), (3, 4), (5, 6))):
        policy.choose(ask(index, 1_024, keys), 0.0)
    assert policy.index.match(ask(9, 1_024, (1, 2))) == [0.0]
    assert policy.index.match(ask(9, 1_024, (3, 4))) == [16.0]


def test_llmd_looks_at_131072_tokens_of_a_prompt() -> None:
    policy = sticky(replicas=1)
    asked = ask(0, 200_000, tuple(range(390)))
    policy.choose(asked, 0.0)
    assert policy.index.total_blocks(asked) == 2_048
    assert policy.index.match(asked) == [2_048.0]
    assert policy.uncached(asked, 2_048.0) == 200_000 - 131_072


def test_llmd_blend_weighs_prefix_queue_and_cache() -> None:
    """3 * 1/2 + 2 * (1 - 0.5) + 2 * 0 = 2.5 against 3 * 0 + 2 * (1 - 0.25) + 2 * 1 = 3.5, and 1.5 with queues alike."""
    policy = LlmDBlend(1)
    policy.start(cluster(2))
    policy.slots = [0]
    policy.choose(ask(0, 1_024, (1, 2)), 0.0)
    policy.slots = [0, 1]
    policy.scraped(0, metrics(waiting=4, kv_usage=0.5), 0.1)
    policy.scraped(1, metrics(waiting=2, kv_usage=0.25), 0.1)
    asked = ask(1, 1_024, (1, 3))
    assert policy.scores(asked) == {0: 2.5, 1: 3.5}
    policy.scraped(0, metrics(waiting=2, kv_usage=0.5), 0.2)
    assert policy.scores(asked) == {0: 4.5, 1: 3.5}
    assert policy.choose(asked, 0.2) == 0


def test_an_adapter_has_a_cache_of_its_own() -> None:
    chosen: list[Policy] = [LongestPrefix(), SglangCacheAware(), sticky()]
    for policy in chosen:
        policy.start(cluster(2))
        first = policy.choose(ask(0, 1_024, (1, 2), lora="a"), 0.0)
        assert policy.choose(ask(1, 1_024, (1, 2), lora="b"), 0.0) != first
        assert policy.choose(ask(2, 1_024, (1, 2), lora="a"), 0.0) == first


# --- AIBrix ---


def test_aibrix_takes_most_of_the_prompt_unless_that_one_is_busy() -> None:
    """Up to 1.24 requests in flight of 1, 1 and 0 (mean 0.67, deviation 0.58), up to 3.64 of 4, 0 and 0."""
    policy = AibrixPrefixCache(1)
    policy.start(cluster(3))
    policy.slots = [0]
    policy.choose(ask(0, 2_048, (1, 2, 3, 4)), 0.0)
    policy.slots = [1]
    policy.choose(ask(1, 2_048, (1, 2, 7, 8)), 0.0)
    policy.slots = [0, 1, 2]
    policy.requests = [1, 1, 0]
    assert policy.choose(ask(2, 2_048, (1, 2, 3, 9)), 0.0) == 0
    policy.requests = [4, 0, 0]
    assert policy.choose(ask(3, 2_048, (1, 2, 3, 10)), 0.0) == 1


def test_aibrix_looks_at_the_idlest_alone_while_loads_differ_much() -> None:
    policy = AibrixPrefixCache(1)
    policy.start(cluster(4))
    policy.requests = [8, 2, 0, 1]  # 8 > 2 * (2.75 + 1), and 8 more than none
    assert policy.looked_at() == [2]
    policy.requests = [7, 2, 0, 1]
    assert policy.looked_at() == [0, 1, 2, 3]


def test_aibrix_forgets_after_20_minutes_and_more_than_200000_blocks() -> None:
    table = PrefixTable(key_blocks=50_000.0)
    table.add((1, 2), 0, 0.0)
    assert table.match((1, 2), (0, 1), 1_199.0) == {0: 100}
    assert table.match((1, 2), (0, 1), 1_200.0) == {}
    table.add((3, 4, 5), 0, 1.0)
    assert table.match((1, 2), (0,), 2.0) == {}
    assert table.match((2, 9), (0,), 2.0) == {0: 50}


# --- the oracle ---


def test_the_oracle_knows_what_is_cached_and_what_will_be() -> None:
    there = cluster(3)
    policy = Oracle(1)
    policy.start(there)
    cache(there, 2, (1, 2, 3))
    first = ask(0, 3_072, (1, 2, 3, 4, 5, 6))
    assert policy.choose(first, 0.0) == 2
    assert policy.prefill_tokens[2] == 3_072 - 3 * 512
    second = ask(1, 3_072, (1, 2, 3, 4, 5, 7))
    assert policy.found_tokens(2, second, second.keys) == 5 * 512  # two blocks of the first one's will be there by then
    policy.finished(first, 2, 1.0, 0)
    assert policy.found_tokens(2, second, second.keys) == 3 * 512


def test_the_oracle_counts_the_step_in_progress_and_the_prompts_before() -> None:
    """With 2,048 tokens a step: what is left of 1,000 tokens' step, then 3,000 tokens in two steps."""
    there = cluster(1)
    policy = Oracle(1)
    policy.start(there)
    engine = there.engines[0]
    running, queued, asked = ask(0, 1_000), ask(1, 2_000), ask(2, 1_000)
    for one in (running, queued):
        policy.choose(one, 0.0)
        engine.submit(Request(one.index, one.prompt_tokens, one.output_tokens), 0.0)
    ends_s = engine.next_step_at()
    assert ends_s is not None and engine.prefilled_tokens == 1_000
    timing = engine.timing
    expected_s = ends_s - 0.01 + timing.step_s(1_500, 0, 0) + timing.step_s(1_500, 0, 0)
    replica = replace(there.replicas[0], max_batched_tokens=2_048)
    policy.cluster = replace(there, replicas=(replica,))
    assert policy.ttft_s(0, asked, 1_000, 0.01) == pytest.approx(expected_s)


def test_the_oracle_avoids_a_replica_without_room() -> None:
    there = cluster(2, cache_blocks=8)
    policy = Oracle(1)
    policy.start(there)
    cache(there, 0, (1, 2))
    full = ask(0, 4_000)
    policy.slots = [0]
    policy.choose(full, 0.0)
    policy.first_token(full, 0, 0.1)
    policy.slots = [0, 1]
    assert policy.room_s(0, ask(1, 1_024, (1, 2))) > 0.0
    assert policy.choose(ask(1, 1_025, (1, 2)), 0.2) == 1


def test_the_oracle_knows_what_an_answer_costs_those_who_come_meanwhile() -> None:
    """Steps of 1 s, and 0.5 s more for each answer. With two answers of 100 tokens they take 2 s, so that 0.01 requests
    a second come; 10 tokens more cost them 0.01 * 10 * 0.5 s * 2 * 2 / 1."""
    there = cluster(2)
    policy = Oracle(1)
    policy.start(there)
    timing = TimingModel(decode_base_s=1.0, decode_s_per_kv_token=0.0, decode_s_per_sequence=0.5)
    there.engines[0].retime(timing, 0.0)
    policy.slots = [0]
    for index in range(2):
        policy.choose(ask(index, 500), 0.0)
    assert policy.crowd_s(0, replace(ask(2, 500), output_tokens=10)) == pytest.approx(0.2)
    assert policy.crowd_s(1, ask(2, 500)) == 0.0
