import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core.score import Pipeline
from tests.model import score as model
from tests.model.score import Kind, Step
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

SECOND = 1_000_000_000
BEST: Step = (Kind.PICK_MAX, 0.0, (), 0)


def scorer(kind: Kind, *params: float, weight: float = 1.0) -> Step:
    return (kind, weight, params, 0)


def scores(step: Step, endpoints: Sequence[dict[str, Any]], match: Sequence[int] | None = None, **request: Any) -> Any:
    """What one scorer says of each endpoint."""
    pipeline = Pipeline([step, BEST], endpoints)
    pipeline.run([0] * len(endpoints) if match is None else match, **request)
    pipeline._check()
    return [row[0] for _, _, row in pipeline.scores()]


def kept(step: Step, endpoints: Sequence[dict[str, Any]], match: Sequence[int] | None, **request: Any) -> list[int]:
    """The candidates one filter leaves."""
    pipeline = Pipeline([step, BEST], endpoints, wanted=8)
    return sorted(pipeline.run(match, **request))


# --- scorers ---


@pytest.mark.parametrize(("kind", "figure"), [(Kind.QUEUE, "waiting"), (Kind.RUNNING, "running")])
def test_queue_and_running_requests(kind: Kind, figure: str) -> None:
    assert scores(scorer(kind), [{figure: n} for n in (3.0, 0.0, 10.0)]) == [0.7, 1.0, 0.0]
    assert scores(scorer(kind), [{figure: 4.0}] * 3) == [1.0] * 3
    assert scores(scorer(kind), [{}, {figure: math.nan}, {figure: -3.0}, {figure: 2.0}]) == [1.0, 1.0, 1.0, 0.0]


def test_kv_cache() -> None:
    values = [0.0, 0.25, 1.0, 1.5, math.nan, -1.0, math.inf]
    assert scores(scorer(Kind.KV), [{"kv_usage": value} for value in values]) == [1, 0.75, 0, 0, 1, 1, 1]


def test_prefix() -> None:
    ratio_only = scorer(Kind.PREFIX, 0.0, 8192.0)
    with_length = scorer(Kind.PREFIX, 0.5, 400.0)
    request: dict[str, Any] = {"match": [0, 1, 4, 9], "prompt_tokens": 400, "block_tokens": 100}
    assert scores(ratio_only, [{}] * 4, **request) == [0.0, 0.25, 1.0, 1.0]
    assert scores(with_length, [{}] * 4, **request) == [0.0, 0.125 + 0.5 * 0.25**2, 1.0, 1.0]
    assert scores(ratio_only, [{}], [3], prompt_tokens=0) == [0.0]
    pipeline = Pipeline([ratio_only, BEST], [{}])
    pipeline.run(None, prompt_tokens=100)
    assert pipeline.scores() == [(0, 0.0, [0.0])]


def test_lora() -> None:
    endpoints: list[dict[str, Any]] = [
        {"max_lora": 4, "running_adapters": ["x", "tuned"], "waiting_adapters": []},
        {"max_lora": 4, "running_adapters": ["x"], "waiting_adapters": ["tuned"]},
        {"max_lora": 2, "running_adapters": ["x"], "waiting_adapters": ["tuned"]},
        {"max_lora": 2, "running_adapters": ["x"], "waiting_adapters": ["y"]},
        {},
        {"max_lora": 0},
    ]
    assert scores(scorer(Kind.LORA), endpoints, model="tuned") == [1.0, 0.8, 0.6, 0.0, 0.0, 0.0]


def test_lora_tells_adapters_apart_that_share_a_bit() -> None:
    """With 64 adapters listed, every bit of the summary is likely taken; only the listed ones may score."""
    names = [f"adapter-{i}" for i in range(64)]
    endpoints = [{"running_adapters": names, "waiting_adapters": ["last"]}]
    assert all(scores(scorer(Kind.LORA), endpoints, model=name) == [1.0] for name in names)
    assert scores(scorer(Kind.LORA), endpoints, model="last") == [0.6]
    assert all(scores(scorer(Kind.LORA), endpoints, model=f"other-{i}") == [0.0] for i in range(64))


def test_adapters_beyond_the_sixty_fourth_are_left_out() -> None:
    endpoints = [{"running_adapters": [f"adapter-{i}" for i in range(65)]}]
    assert scores(scorer(Kind.LORA), endpoints, model="adapter-63") == [1.0]
    assert scores(scorer(Kind.LORA), endpoints, model="adapter-64") == [0.0]


def test_load_aware() -> None:
    endpoints = [{"waiting": n} for n in (0, 32, 128, 500, math.nan)]
    assert scores(scorer(Kind.LOAD_AWARE, 128.0), endpoints) == [0.5, 0.375, 0.0, 0.0, 0.5]


def test_token_load() -> None:
    endpoints = [{"prefill_tokens": n} for n in (0, 500, 900, 5000)]
    step = scorer(Kind.TOKEN_LOAD, 1000.0)
    assert scores(step, endpoints, prompt_tokens=0) == [1.0, 0.5, pytest.approx(0.1), 0.0]
    assert scores(step, endpoints, [2, 2, 0, 0], prompt_tokens=250, block_tokens=100) == pytest.approx(
        [0.95, 0.45, 0.0, 0.0]
    )


def test_active_requests() -> None:
    endpoints = [{"requests": n} for n in (0, 2, 5, 10)]
    assert scores(scorer(Kind.ACTIVE, 0.0, 1.0), endpoints) == [1.0, 0.8, 0.5, 0.0]
    assert scores(scorer(Kind.ACTIVE, 2.0, 0.5), endpoints) == [1.0, 1.0, 0.25, 0.0]
    assert scores(scorer(Kind.ACTIVE, 0.0, 1.0), [{}, {}]) == [1.0, 1.0]


def test_session() -> None:
    endpoints = [{"session": b"one"}, {"session": b"two"}, {}]
    assert scores(scorer(Kind.SESSION), endpoints, session=b"two") == [0.0, 1.0, 0.0]
    assert scores(scorer(Kind.SESSION), endpoints) == [0.0, 0.0, 0.0]
    assert scores(scorer(Kind.SESSION), endpoints, session=b"three") == [0.0, 0.0, 0.0]


def test_ttft_prefers_the_least_time_to_first_token() -> None:
    step = scorer(Kind.TTFT, 0.0, 0.0, 1.0)
    endpoints = [{"prefill_tokens": 999}, {"prefill_tokens": 1999}, {"prefill_tokens": 3999}]
    assert scores(step, endpoints) == [1.0, 0.5, 0.25]


def test_ttft_is_sticky_until_the_warm_endpoint_is_slower() -> None:
    step = scorer(Kind.TTFT, 0.0, 0.0, 1.0)
    for booked, winner in [(0, 0), (6399, 0), (6401, 1)]:
        pipeline = Pipeline([step, BEST], [{"prefill_tokens": booked}, {}])
        assert pipeline.run([100, 0], prompt_tokens=6400) == [winner]


def test_ttft_weighs_what_the_request_has_to_compute_for_those_behind_it() -> None:
    step = scorer(Kind.TTFT, 0.0, 0.0, 3.0)
    for booked, winner in [(19199, 0), (19201, 1)]:
        pipeline = Pipeline([step, BEST], [{"prefill_tokens": booked}, {}])
        assert pipeline.run([100, 0], prompt_tokens=6400) == [winner]


def test_ttft_counts_the_prefill_work_that_is_done_by_now() -> None:
    step = scorer(Kind.TTFT, 0.0, 0.0, 1.0)
    begun = {"prefill_tokens": 60_000, "progress_ns": SECOND}  # 4 s of work
    for now_s, left in [(0, 60_000), (1, 60_000), (3, 30_000), (5, 0), (6, 15_000), (9, 60_000), (99, 60_000)]:
        got = scores(step, [begun, {"prefill_tokens": left}], now_ns=now_s * SECOND)
        assert got == pytest.approx([1.0, 1.0]), "what is overdue takes as long again, but no longer than all of it"


def test_ttft_knows_that_replicas_differ_in_speed() -> None:
    fast = {"prefill_tokens": 999, "prefill_rate": 30000.0, "rate_ns": SECOND}
    slow = {"prefill_tokens": 999, "prefill_rate": 7500.0, "rate_ns": SECOND}
    got = scores(scorer(Kind.TTFT, 0.0, 0.0, 1.0), [fast, slow, {"prefill_tokens": 999}], now_ns=SECOND)
    assert got == [1.0, 0.25, 0.5]
    faded = scores(scorer(Kind.TTFT, 0.0, 0.0, 1.0), [fast, slow], now_ns=61 * SECOND)
    assert faded == [1.0, 0.5]  # (7500 + 15000) / (30000 + 15000)


def test_ttft_counts_resident_tokens_unknown_requests_and_a_full_cache() -> None:
    idle = {"prefill_tokens": 999}
    resident = {"prefill_tokens": 999, "resident_tokens": 10_000}
    others = {"prefill_tokens": 999, "waiting": 2, "running": 3, "requests": 1, "scraped_ns": SECOND}
    own = {"prefill_tokens": 999, "waiting": 2, "running": 3, "requests": 9, "scraped_ns": SECOND}
    full = {"prefill_tokens": 1000, "kv_usage": 1.0, "scraped_ns": SECOND}
    step = scorer(Kind.TTFT, 0.1, 250.0, 1.0)
    assert scores(step, [idle, resident, others, own], now_ns=SECOND) == [1.0, 0.5, 0.5, 1.0]
    assert scores(step, [idle, full], now_ns=SECOND)[1] == pytest.approx(0.5, rel=0.001)
    assert scores(step, [idle, others], now_ns=3 * SECOND)[1] == pytest.approx(1 / 1.5)  # half as fresh
    assert scores(step, [idle, {**others, "scraped_ns": 0}], now_ns=SECOND) == [1.0, 1.0]
    assert scores(step, [idle, others], now_ns=0) == [1.0, 0.5]  # the clock went back


# --- filters ---


def test_labels_must_all_match() -> None:
    endpoints = [{"labels": bits} for bits in (0b00, 0b01, 0b11, 0b111)]
    assert kept((Kind.FILTER_LABELS, 0.0, (), 0b11), endpoints, None) == [2, 3]
    assert kept((Kind.FILTER_LABELS, 0.0, (), 0), endpoints, None) == [0, 1, 2, 3]
    assert kept((Kind.FILTER_LABELS, 0.0, (), 1 << 63), [{"labels": 1 << 63}, {}], None) == [0]


def test_filters_leaving_none_choose_none() -> None:
    nobody: Step = (Kind.FILTER_LABELS, 0.0, (), 1)
    for steps in (
        [nobody, BEST],
        [nobody, scorer(Kind.QUEUE), BEST],
        [nobody, (Kind.FILTER_PREFIX, 0, (0.5, 0, 1, 1), 0), BEST],
    ):
        pipeline = Pipeline(steps, [{}, {}])
        assert pipeline.run(None) == [] and pipeline.scores() == [] and pipeline.margin() == (0.0, -1.0)
        pipeline._check()
    assert Pipeline([BEST], []).run([]) == []


def test_the_prefix_filter_keeps_the_warm_unless_they_are_too_far_behind() -> None:
    step: Step = (Kind.FILTER_PREFIX, 0.0, (0.8, 0.0, 18.0, 1000.0), 0)
    request: dict[str, Any] = {"prompt_tokens": 100, "block_tokens": 10}

    def left(booked: Sequence[int], match: Sequence[int]) -> list[int]:
        return kept(step, [{"prefill_tokens": n} for n in booked], match, **request)

    assert left([0, 0, 0], [8, 7, 10]) == [0, 2]
    assert left([0, 0, 0], [7, 7, 7]) == [0, 1, 2]
    assert left([18_000, 0], [8, 0]) == [0]
    assert left([18_001, 0], [8, 0]) == [0, 1]
    assert left([90_000, 18_000, 0], [8, 9, 0]) == [0, 1]  # the best of the warm counts
    assert left([90_000, 90_000], [8, 9]) == [0, 1]
    assert kept(step, [{}, {}], None, **request) == [0, 1]


def test_the_prefix_filter_explores_by_chance() -> None:
    step: Step = (Kind.FILTER_PREFIX, 0.0, (0.8, 0.25, 18.0, 1000.0), 0)
    pipeline = Pipeline([step, BEST], [{}, {}], seed=1, wanted=2)
    explored = sum(len(pipeline.run([10, 0], prompt_tokens=100, block_tokens=10)) == 2 for _ in range(2000))
    assert 400 < explored < 600


def test_the_load_filter_keeps_whoever_has_room() -> None:
    endpoints = [
        {"waiting": 5, "kv_usage": 0.8, "requests": 100, "prefill_tokens": 9000},
        {"waiting": 6},
        {"kv_usage": 0.81},
        {"requests": 101},
        {"prefill_tokens": 9001},
        {},  # never scraped
    ]

    def left(*params: float) -> list[int]:
        return kept((Kind.FILTER_LOAD, 0.0, params, 0), endpoints, None)

    assert left(5.0, 0.8, 100.0, 9000.0) == [0, 5]
    assert left(5.0, 0.0, 0.0, 0.0) == [0, 2, 3, 4, 5]  # 0 bounds nothing
    assert left(0.0, 0.8, 0.0, 0.0) == [0, 1, 3, 4, 5]
    assert left(0.0, 0.0, 100.0, 0.0) == [0, 1, 2, 4, 5]
    assert left(0.0, 0.0, 0.0, 9000.0) == [0, 1, 2, 3, 5]
    assert left(0.0, 0.0, 0.0, 0.0) == [0, 1, 2, 3, 4, 5]


def test_the_load_filter_keeps_all_where_none_has_room() -> None:
    step: Step = (Kind.FILTER_LOAD, 0.0, (5.0, 0.0, 0.0, 0.0), 0)
    assert kept(step, [{"waiting": 6}, {"waiting": 7}], None) == [0, 1]
    assert kept(step, [{"waiting": 6}, {"waiting": 5}], None) == [1]


# --- pickers ---


def test_scores_are_weighted_and_summed() -> None:
    steps = [scorer(Kind.QUEUE, weight=2.0), scorer(Kind.KV, weight=0.5), BEST]
    pipeline = Pipeline(steps, [{"waiting": 0, "kv_usage": 1.0}, {"waiting": 9, "kv_usage": 0.0}])
    assert pipeline.run(None) == [0]
    assert pipeline.scores() == [(0, 2.0, [1.0, 0.0]), (1, 0.5, [0.0, 1.0])]
    assert pipeline.margin() == (2.0, 0.5)


def test_the_best_come_first() -> None:
    endpoints = [{"waiting": n} for n in (5, 1, 9, 3, 7)]
    pipeline = Pipeline([scorer(Kind.QUEUE), BEST], endpoints, wanted=3)
    assert pipeline.run(None) == [1, 3, 0]
    assert Pipeline([scorer(Kind.QUEUE), BEST], endpoints, wanted=8).run(None) == [1, 3, 0, 4, 2]


def test_ties_are_drawn_with_equal_chance() -> None:
    pipeline = Pipeline([scorer(Kind.QUEUE), BEST], [{"waiting": n} for n in (0, 1, 0, 0)], seed=7)
    counts = Counter(pipeline.run(None)[0] for _ in range(3000))
    assert set(counts) == {0, 2, 3} and all(900 < count < 1100 for count in counts.values())
    assert pipeline.margin() == (1.0, 1.0)


def test_a_single_candidate_has_no_runner_up() -> None:
    pipeline = Pipeline([scorer(Kind.QUEUE), BEST], [{}])
    assert pipeline.run(None) == [0] and pipeline.margin() == (1.0, -1.0)


def test_weighted_random_follows_the_totals() -> None:
    steps = [scorer(Kind.KV), (Kind.PICK_WEIGHTED, 0.0, (), 0)]
    pipeline = Pipeline(steps, [{"kv_usage": 0.2}, {"kv_usage": 0.8}, {"kv_usage": 1.0}], seed=3)
    counts = Counter(pipeline.run(None)[0] for _ in range(4000))
    assert 3100 < counts[0] < 3300 and counts[2] == 0
    all_zero = Pipeline(steps, [{"kv_usage": 1.0}] * 2, seed=3)
    assert {all_zero.run(None)[0] for _ in range(50)} == {0, 1}


def test_random_does_not_look_at_totals() -> None:
    steps = [scorer(Kind.KV), (Kind.PICK_RANDOM, 0.0, (), 0)]
    pipeline = Pipeline(steps, [{"kv_usage": 0.0}, {"kv_usage": 1.0}], seed=3)
    assert 900 < Counter(pipeline.run(None)[0] for _ in range(2000))[1] < 1100


def test_equal_seeds_choose_equally() -> None:
    def choices(seed: int) -> list[int]:
        pipeline = Pipeline([BEST], [{}] * 10, seed=seed)
        return [pipeline.run(None)[0] for _ in range(50)]

    assert choices(5) == choices(5) != choices(6)


# --- plugins ---

PLUGINS: list[Step] = [
    (Kind.FILTER_PLUGIN, 0.0, (), 0),
    (Kind.SCORE_PLUGIN, 2.0, (), 0),
    scorer(Kind.QUEUE),
    (Kind.PICK_PLUGIN, 0.0, (), 0),
]


def test_plugins_filter_score_and_pick() -> None:
    asked = []

    answers: dict[int, list[float]] = {0: [3, 1], 1: [math.nan, 7.0], 3: [3, 1]}

    def plugin(step: int, slots: list[int]) -> Sequence[float]:
        asked.append((step, slots))
        return answers[step]

    pipeline = Pipeline(PLUGINS, [{"waiting": n} for n in range(4)], wanted=1)
    assert pipeline.run(None, plugin=plugin) == [3]
    assert asked == [(0, [0, 1, 2, 3]), (1, [1, 3]), (3, [1, 3])]
    assert pipeline.scores() == [(1, 1.0, [0.0, 1.0]), (3, 2.0, [1.0, 0.0])]
    assert pipeline.margin() == (2.0, 1.0)


def test_a_plugin_without_an_answer_is_skipped() -> None:
    pipeline = Pipeline(PLUGINS, [{"waiting": n} for n in (4, 2, 6)], wanted=2)
    assert pipeline.run(None) == pipeline.run(None, plugin=lambda step, slots: None) == [1, 0]
    assert pipeline.rerun() == 2
    pipeline._check()


@pytest.mark.parametrize(
    ("step", "answer", "error"),
    [
        (0, [9], ValueError),
        (0, [1, 1], ValueError),
        (0, 5, TypeError),
        (1, [1.0], ValueError),
        (1, ["x", "y"], TypeError),
        (3, [2], ValueError),
        (3, [0, 0], ValueError),
    ],
)
def test_refuses_answers_that_are_none(step: int, answer: Any, error: type[Exception]) -> None:
    pipeline = Pipeline(PLUGINS, [{}, {}], wanted=2)
    with pytest.raises(error):
        pipeline.run(None, plugin=lambda number, slots: answer if number == step else None)
    assert len(pipeline.run(None)) == 2
    pipeline._check()


def test_a_picker_plugin_may_choose_none() -> None:
    assert Pipeline(PLUGINS, [{}], wanted=2).run(None, plugin=lambda step, slots: [] if step == 3 else None) == []


def test_a_plugin_that_raises_is_heard() -> None:
    with pytest.raises(ZeroDivisionError):
        Pipeline(PLUGINS, [{}]).run(None, plugin=lambda step, slots: [1 / 0])


# --- what no pipeline can be ---


@pytest.mark.parametrize(
    ("steps", "error", "text"),
    [
        ([], ValueError, "the last step must be a picker"),
        ([scorer(Kind.QUEUE)], ValueError, "the last step must be a picker"),
        ([BEST, BEST], ValueError, "step 1: filters come first"),
        ([BEST, scorer(Kind.QUEUE)], ValueError, "step 1: filters come first"),
        ([scorer(Kind.QUEUE), (Kind.FILTER_LABELS, 0.0, (), 1), BEST], ValueError, "step 1: filters come first"),
        ([(9, 1.0, (), 0), BEST], ValueError, "step 0: no kind 9 with 0 parameters"),
        ([(Kind.QUEUE, 1.0, (1.0,), 0), BEST], ValueError, "with 1 parameters"),
        ([(Kind.TTFT, 1.0, (1.0,), 0), BEST], ValueError, "with 1 parameters"),
        ([scorer(Kind.QUEUE, weight=-1.0), BEST], ValueError, "step 0: a weight is 0 to 1e[+]09, not -1"),
        ([scorer(Kind.QUEUE, weight=math.nan), BEST], ValueError, "not nan"),
        ([scorer(Kind.QUEUE, weight=math.inf), BEST], ValueError, "not inf"),
        ([scorer(Kind.LOAD_AWARE, 0.0), BEST], ValueError, "step 0: parameter 0 must be above zero"),
        ([scorer(Kind.TOKEN_LOAD, 0.0), BEST], ValueError, "parameter 0 must be above zero"),
        ([scorer(Kind.PREFIX, 0.0, 0.0), BEST], ValueError, "parameter 1 must be above zero"),
        ([(Kind.FILTER_PREFIX, 0.0, (0.8, 0.0, 1.0, 0.0), 0), BEST], ValueError, "parameter 3 must be above zero"),
        ([scorer(Kind.TTFT, -1.0, 1.0, 1.0), BEST], ValueError, "step 0: a parameter is 0 to 1e[+]12, not -1"),
        ([scorer(Kind.TTFT, 1.0, math.nan, 1.0), BEST], ValueError, "not nan"),
        ([(Kind.FILTER_LABELS, 0.0, (), -1), BEST], OverflowError, None),
        ([(Kind.FILTER_LABELS, 0.0, (), 1 << 64), BEST], OverflowError, None),
        ([scorer(Kind.QUEUE)] * 32 + [BEST], OverflowError, "at most 32 steps, not 33"),
        ([("queue", 1.0, (), 0), BEST], ValueError, "no kind queue"),
        ([(Kind.QUEUE, "heavy", (), 0), BEST], TypeError, None),
    ],
)
def test_refuses_what_no_pipeline_can_be(steps: list[Step], error: type[Exception], text: str | None) -> None:
    with pytest.raises(error, match=text):
        Pipeline(steps, [{}])


@pytest.mark.parametrize("wanted", [0, 9])
def test_refuses_to_choose_none_or_too_many(wanted: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 8 endpoints can be chosen, not {wanted}"):
        Pipeline([BEST], [{}], wanted=wanted)


def test_scorers_may_follow_a_plugin() -> None:
    Pipeline([(Kind.SCORE_PLUGIN, 1.0, (), 0), scorer(Kind.QUEUE), BEST], [{}])
    Pipeline([scorer(Kind.QUEUE)] * 31 + [BEST], [{}])


def test_refuses_what_no_run_can_be() -> None:
    with pytest.raises(ValueError, match="2 endpoints, but 1 matches"):
        Pipeline([BEST], [{}, {}]).run([1])
    with pytest.raises(OverflowError):
        Pipeline([BEST], [{}]).run([-1])
    with pytest.raises(ValueError, match="a prompt cannot have -1 tokens"):
        Pipeline([BEST], [{}]).run([0], prompt_tokens=-1)
    with pytest.raises(ValueError, match="endpoints have no colour"):
        Pipeline([BEST], [{"colour": 1}])


# --- golden vectors of the reference's hermetic suite: (queue, KV, active adapters) by endpoint, the one chosen ---

GOLDEN = {
    "lower queue and KV": ([(3, 0.2, ""), (0, 0.1, ""), (10, 0.2, "")], 1),
    "active LoRA, low queue": ([(0, 0.2, "foo,bar"), (0, 0.1, "foo,tuned"), (10, 0.2, "foo,bar")], 1),
    "LoRA affinity beats KV": ([(10, 0.2, "foo,bar"), (10, 0.4, "foo,tuned"), (10, 0.3, "foo")], 1),
    "no shedding by default": ([(6, 0.2, "foo,bar,tuned"), (0, 0.85, "foo"), (10, 0.9, "foo")], 0),
    "two endpoints with the adapter": ([(4, 0.2, "foo,bar,tuned"), (4, 0.85, "foo,tuned")], 0),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_vectors(case: str) -> None:
    pods, expected = GOLDEN[case]
    steps = [scorer(Kind.QUEUE), scorer(Kind.KV), scorer(Kind.PREFIX, 0.0, 8192.0), scorer(Kind.LORA), BEST]
    endpoints = [{"waiting": q, "kv_usage": kv, "running_adapters": names.split(",")} for q, kv, names in pods]
    pipeline = Pipeline(steps, endpoints)
    assert pipeline.run([0] * len(pods), prompt_tokens=10, model="tuned") == [expected]


# --- against the model ---

FIGURES = st.sampled_from([-1.0, 0.0, 0.3, 1.0, 2.0, 5.0, 95.0, 1e11, 1e13, math.inf, math.nan])
COUNTS = st.sampled_from([0, 1, 2, 700, 2**40])
TIMES = st.sampled_from([0, 1, SECOND, 3 * SECOND, 90 * SECOND])
ADAPTERS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True)
ENDPOINTS = st.fixed_dictionaries(
    {},
    optional={
        "waiting": FIGURES,
        "running": FIGURES,
        "kv_usage": FIGURES,
        "max_lora": FIGURES,
        "running_adapters": ADAPTERS,
        "waiting_adapters": ADAPTERS,
        "scraped_ns": TIMES,
        "requests": COUNTS,
        "prefill_tokens": COUNTS,
        "progress_ns": TIMES,
        "resident_tokens": COUNTS,
        "prefill_rate": st.sampled_from([50.0, 9000.0, 1e7]),
        "rate_ns": TIMES,
        "labels": st.integers(0, 7),
        "session": st.sampled_from([b"one", b"two"]),
    },
)
WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e9])
PARAM = st.sampled_from([0.0, 0.2, 1.0, 500.0, 1e12])
ABOVE_ZERO = st.sampled_from([0.1, 1.0, 3.0, 900.0])
REQUESTS = st.fixed_dictionaries(
    {
        "prompt_tokens": st.sampled_from([0, 1, 300, 2**40]),
        "block_tokens": st.sampled_from([1, 64, 2**32 - 1]),
        "model": st.sampled_from(["", "a", "c"]),
        "session": st.sampled_from([b"", b"one", b"three"]),
        "now_ns": TIMES,
    }
)


def steps_of(kind: Kind) -> st.SearchStrategy[Step]:
    params = {
        Kind.FILTER_PREFIX: st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5]), PARAM, ABOVE_ZERO),
        Kind.FILTER_LOAD: st.tuples(PARAM, PARAM, PARAM, PARAM),
        Kind.PREFIX: st.tuples(PARAM, ABOVE_ZERO),
        Kind.LOAD_AWARE: st.tuples(ABOVE_ZERO),
        Kind.TOKEN_LOAD: st.tuples(ABOVE_ZERO),
        Kind.ACTIVE: st.tuples(PARAM, PARAM),
        Kind.TTFT: st.tuples(PARAM, PARAM, PARAM),
    }
    return st.tuples(st.just(kind), WEIGHTS, params.get(kind, st.just(())), st.integers(0, 7))


def kinds(first: int, last: int) -> st.SearchStrategy[Step]:
    return st.sampled_from([kind for kind in Kind if first <= kind <= last]).flatmap(steps_of)


@st.composite
def pipelines(draw: st.DrawFn) -> list[Step]:
    filters = draw(st.lists(kinds(Kind.FILTER_LABELS, Kind.FILTER_LOAD), max_size=2))
    scorers = draw(st.lists(kinds(Kind.QUEUE, Kind.SCORE_PLUGIN), max_size=4))
    return [*filters, *scorers, draw(kinds(Kind.PICK_MAX, Kind.PICK_PLUGIN))]


def plugin_of(steps: list[Step], skipped: int) -> model.Plugin:
    """Plugins that answer by their number and the slots alone, so that core and model are told the same."""

    def plugin(number: int, slots: list[int]) -> Sequence[float] | None:
        if (number + skipped) % 4 == 0:
            return None
        if steps[number][0] == Kind.SCORE_PLUGIN:
            return [[0.5, 2.0, math.nan, -1.0, 0.25][(slot + number) % 5] for slot in slots]
        return [slot for slot in reversed(slots) if (slot + number) % 3]

    return plugin


@settings(max_examples=250, deadline=None)
@given(
    pipelines(),
    st.lists(ENDPOINTS, max_size=6),
    st.integers(1, 8),
    st.integers(0, 2**64 - 1),
    st.integers(0, 4),
    st.lists(REQUESTS, min_size=1, max_size=3),
    st.data(),
)
def test_equals_the_model(
    steps: list[Step],
    endpoints: list[dict[str, Any]],
    wanted: int,
    seed: int,
    skipped: int,
    requests: list[dict[str, Any]],
    data: st.DataObject,
) -> None:
    core = Pipeline(steps, endpoints, wanted=wanted, seed=seed)
    slow = model.Pipeline(steps, [model.Endpoint(**described) for described in endpoints], wanted, seed)
    blocks = st.lists(st.sampled_from([0, 1, 3, 2**32 - 1]), min_size=len(endpoints), max_size=len(endpoints))
    for number, request in enumerate(requests):
        plugin = plugin_of(steps, skipped + number)
        match = data.draw(st.none() | blocks)
        expected = slow.run(model.Request(match, **request), plugin)
        assert core.run(match, plugin=plugin, **request) == expected.chosen
        assert core.scores() == expected.scores
        assert core.margin() == expected.margin
        core._check()


# --- memory ---


def busy_life() -> None:
    endpoints = [{"waiting": n, "running_adapters": ["a"], "session": b"s"} for n in range(40)]
    pipeline = Pipeline([*PLUGINS[:2], scorer(Kind.TTFT, 0.1, 500.0, 2.0), BEST], endpoints, wanted=8)
    pipeline.run([0] * 40, prompt_tokens=100, plugin=lambda step, slots: slots if step == 0 else None)
    pipeline.scores()
    with pytest.raises(ValueError):
        pipeline.run([0] * 40, plugin=lambda step, slots: [99])
    with pytest.raises(ValueError):
        Pipeline([BEST, BEST], endpoints)
    with pytest.raises(ValueError):
        Pipeline([BEST], [{}, {"colour": 1}])


def test_leaks_nothing() -> None:
    assert_flat(busy_life, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    # slots and details of the endpoints, twice each; matches; slots, totals and scores of the frame
    assert failing_allocations(lambda: Pipeline([BEST], [{}] * 10)) == 8
