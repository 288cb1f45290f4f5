"""The engine model in virtual time."""

from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.sim.engine import Engine, EngineConfig, EngineFull, Progress, Request, TimingModel

FLAT = TimingModel(1.0, 0.0, 1.0, 0.0, 0.0)  # every step takes one second
BY_TOKEN = TimingModel(0.001, 1.0, 0.001, 0.0, 0.0)  # time is prefill


def engine(**limits: object) -> Engine:
    return Engine(EngineConfig(**{"timing": FLAT, "block_size": 4, "num_blocks": 100, **limits}))  # type: ignore[arg-type]


def ask(name: str, prompt: int = 4, output: int = 1, keys: Iterable[object] = (), lora: str | None = None) -> Request:
    return Request(name, prompt, output, tuple(keys), lora)  # type: ignore[arg-type]


def drain(model: Engine) -> list[Progress]:
    """Runs to idleness, one step at a time."""
    events = []
    while (at_s := model.next_step_at()) is not None:
        events += model.step(at_s)
        model._check()
    return events


def test_one_request_yields_its_tokens_step_by_step() -> None:
    model = engine()
    model.submit(ask("a", prompt=5, output=3), 10.0)
    assert [(e.at_s, e.tokens, e.first, e.finished) for e in drain(model)] == [
        (11.0, 1, True, False),
        (12.0, 1, False, False),
        (13.0, 1, False, True),
    ]
    assert model.blocks.used == 0


def test_a_late_call_delivers_what_it_missed_with_the_right_times() -> None:
    model = engine()
    model.submit(ask("a", output=5), 0.0)
    assert [(e.at_s, e.tokens) for e in model.step(3.5)] == [(1.0, 1), (3.0, 2)]
    assert model.next_step_at() == 4.0
    assert model.next_change_at() == 5.0


def test_prompts_are_prefilled_in_chunks_beside_decoding() -> None:
    model = engine(max_num_seqs=4, max_num_batched_tokens=10)
    model.submit(ask("first", prompt=4, output=9), 0.0)
    model.step(1.0)
    model.submit(ask("long", prompt=20), 1.5)
    first = [e.at_s for e in drain(model) if e.request_id == "long"]
    assert first == [5.0], "9 tokens a step beside one decoding sequence, from the step after its arrival"


def test_a_cached_prefix_shortens_the_prefill() -> None:
    model = engine(timing=BY_TOKEN)
    keys = ["k1", "k2", "k3"]
    model.submit(ask("cold", prompt=12, keys=keys), 0.0)
    (cold,) = drain(model)
    model.submit(ask("warm", prompt=12, keys=keys), 100.0)
    (warm,) = drain(model)
    assert cold.at_s == pytest.approx(12.001)
    assert warm.at_s - 100.0 == pytest.approx(4.001), "the last block is computed again: one token must be"
    assert (cold.cached_tokens, warm.cached_tokens) == (0, 8)
    assert (model.metrics().prefix_queries, model.metrics().prefix_hits) == (24, 8)


def test_blocks_are_shared_as_soon_as_they_are_computed() -> None:
    model = engine(max_num_seqs=4, max_num_batched_tokens=8)
    model.submit(ask("a", prompt=16, output=5, keys=["k1", "k2", "k3", "k4"]), 0.0)
    model.submit(ask("b", prompt=9, keys=["k1", "k2"]), 0.0)
    assert [e.cached_tokens for e in drain(model) if e.request_id == "b"] == [8]


def test_the_output_is_cached_for_the_next_turn() -> None:
    model = engine()
    keys = ["k1", "k2", "k3", "k4", "k5"]
    model.submit(ask("turn 1", prompt=4, output=12, keys=keys), 0.0)
    drain(model)
    model.submit(ask("turn 2", prompt=20, keys=keys), 20.0)
    assert [e.cached_tokens for e in drain(model)] == [12], "4 + 12 - 1 stored tokens are three full blocks"


def test_cold_prefixes_are_evicted_least_recently_used_first() -> None:
    model = engine(num_blocks=4)
    for name in ("a", "b", "a", "c"):
        model.submit(ask(name, prompt=8, keys=[name + "1", name + "2"]), model.blocks.evictions * 10.0)
        drain(model)
    hits = {name: model.blocks.match([name + "1", name + "2"], 2) for name in "abc"}
    assert hits == {"a": 2, "b": 0, "c": 2}


def test_all_decoding_sequences_advance_in_one_step() -> None:
    model = engine()
    for name in "abc":
        model.submit(ask(name, output=3), 0.0)
    by_time = defaultdict(set)
    for event in drain(model):
        by_time[event.at_s].add(event.request_id)
    assert by_time[3.0] == {"a", "b", "c"}, "the third step decodes all"


def test_admission_waits_for_blocks_and_stays_in_order() -> None:
    model = engine(num_blocks=3)
    model.submit(ask("big", prompt=8, output=4), 0.0)
    model.submit(ask("next", prompt=8), 0.0)
    model.submit(ask("small", prompt=4), 0.0)
    assert (model.metrics().running, model.metrics().waiting) == (1, 2)
    assert model.metrics().kv_usage == 1.0
    ends = {e.request_id: e.at_s for e in drain(model) if e.finished}
    assert ends == {"big": 4.0, "next": 5.0, "small": 5.0}


def test_a_step_without_tokens_left_admits_nobody() -> None:
    model = engine(max_num_seqs=8, max_num_batched_tokens=8)
    model.submit(ask("long", prompt=20), 0.0)
    model.submit(ask("next"), 0.0)
    assert (model.metrics().running, model.metrics().waiting, model.blocks.used) == (1, 1, 5)
    model.step(1.0)
    assert model.metrics().waiting == 1
    model.step(2.0)
    assert (model.metrics().running, model.metrics().waiting) == (2, 0), "the last 4 tokens leave room for 4"


def test_no_more_sequences_than_allowed() -> None:
    model = engine(max_num_seqs=2)
    for name in "abc":
        model.submit(ask(name, output=2), 0.0)
    assert (model.step(1.0), model.metrics().running, model.metrics().waiting)[1:] == (2, 1)
    assert {e.request_id: e.at_s for e in drain(model) if e.finished} == {"a": 2.0, "b": 3.0, "c": 4.0}


def test_a_missing_lora_slot_is_stepped_over() -> None:
    model = engine(max_lora=1)
    model.submit(ask("a", output=3, lora="x"), 0.0)
    model.submit(ask("b", lora="y"), 0.0)
    model.submit(ask("c", lora="x"), 0.0)
    model.step(0.5)
    assert (model.metrics().running_loras, model.metrics().waiting_loras) == (("x",), ("x", "y"))
    assert {e.request_id: e.at_s for e in drain(model) if e.finished} == {"a": 3.0, "b": 4.0, "c": 2.0}
    assert model.metrics().running_loras == ()


def test_cancelling_gives_everything_back_when_the_step_ends() -> None:
    model = engine(num_blocks=3)
    model.submit(ask("running", prompt=8, output=5, lora="x"), 0.0)
    model.submit(ask("waiting", prompt=8), 0.0)
    model.step(2.0)
    assert model.cancel("waiting", 2.5)
    assert model.metrics().waiting == 0
    assert model.cancel("running", 2.5)
    assert not model.cancel("running", 2.5)
    assert not model.cancel("nobody", 2.5)
    assert model.blocks.used == 3
    assert model.step(3.0) == []
    assert (model.blocks.used, model.next_step_at(), model.metrics().running_loras) == (0, None, ())
    assert (model.metrics().cancelled_requests, model.metrics().finished_requests) == (2, 0)


def test_forgets_its_cache_only_when_idle() -> None:
    model = engine()
    model.submit(ask("a", prompt=8, keys=["k1", "k2"]), 0.0)
    assert not model.reset_prefix_cache()
    drain(model)
    assert model.blocks.published == 2
    assert model.reset_prefix_cache()
    assert model.blocks.published == 0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask("a", prompt=0), "at least one prompt token"),
        (ask("a", output=0), "one output token"),
        (ask("a", prompt=401), "do not fit"),
        (ask("a", lora="x"), "no LoRA slots"),
        (ask("here"), "is here already"),
    ],
)
def test_refuses_requests_it_could_not_serve(request_: Request, message: str) -> None:
    model = engine(max_lora=0)
    model.submit(ask("here"), 0.0)
    with pytest.raises(ValueError, match=message):
        model.submit(request_, 0.0)


def test_a_full_queue_refuses() -> None:
    model = engine(max_num_seqs=1, max_waiting=1)
    model.submit(ask("a", output=2), 0.0)
    model.submit(ask("b"), 0.0)
    with pytest.raises(EngineFull):
        model.submit(ask("c"), 0.0)


def test_insists_on_being_stepped_first() -> None:
    model = engine()
    model.submit(ask("a"), 0.0)
    for act in (lambda: model.submit(ask("b"), 1.0), lambda: model.cancel("a", 1.0)):
        with pytest.raises(ValueError, match="must be called first"):
            act()


@pytest.mark.parametrize("limits", [{"num_blocks": 0}, {"max_num_seqs": 0}, {"max_num_batched_tokens": 3}])
def test_refuses_useless_limits(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        EngineConfig(**{"max_num_seqs": 4, **limits})


def test_the_timing_model_is_that_of_its_source() -> None:
    timing = TimingModel()
    assert timing.step_s(1000, 0, 0) == pytest.approx(0.01969 + 0.06769)
    assert timing.step_s(0, 10, 5000) == pytest.approx(0.014 + 0.002675 + 0.0010265)
    assert TimingModel(speedup=4).step_s(0, 10, 5000) == pytest.approx(timing.step_s(0, 10, 5000) / 4)
    with pytest.raises(ValueError, match="positive"):
        TimingModel(speedup=0)


@given(st.integers(1, 300), st.integers(0, 500_000), st.integers(0, 3000), st.floats(0.01, 100))
def test_runs_of_decode_steps_add_up(sequences: int, kv_tokens: int, steps: int, speedup: float) -> None:
    timing = TimingModel(speedup=speedup)
    took = timing.decode_steps_s(steps, sequences, kv_tokens)
    one_by_one = sum(timing.step_s(0, sequences, kv_tokens + n * sequences) for n in range(min(steps, 50)))
    if steps <= 50:
        assert took == pytest.approx(one_by_one)
    assert abs(timing.decode_steps_in(took, sequences, kv_tokens) - steps) <= 1


REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 3),  # gap to the one before
        st.integers(1, 40),
        st.integers(1, 12),
        st.text("ab", max_size=10),
        st.sampled_from([None, None, "x", "y", "z"]),
        st.one_of(st.none(), st.floats(0, 4)),  # cancelled so long after its arrival
    ),
    max_size=12,
)


def play(model: Engine, plan: list[tuple[float, str, Request]], *, every_step: bool) -> dict[object, list[object]]:
    """Carries `plan` out; tokens are reported as (time of the newest, how many so far) per request."""
    seen: dict[object, list[object]] = defaultdict(list)
    count: dict[object, int] = defaultdict(int)

    def advance(to_s: float) -> None:
        while every_step and (at_s := model.next_step_at()) is not None and at_s <= to_s:
            note(model.step(at_s))
        note(model.step(to_s))

    def note(events: list[Progress]) -> None:
        model._check()
        for event in events:
            count[event.request_id] += event.tokens
            if event.first or event.finished:
                seen[event.request_id].append((event.at_s, count[event.request_id], event.cached_tokens))

    for at_s, verb, request in plan:
        advance(at_s)
        if verb == "submit":
            model.submit(request, at_s)
        else:
            model.cancel(request.request_id, at_s)
        model._check()
    advance(1e9)
    return seen


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.integers(13, 30), st.integers(2, 5))
def test_conserves_blocks_and_does_not_care_how_it_is_stepped(
    wanted: list[tuple[float, int, int, str, str | None, float | None]], num_blocks: int, max_num_seqs: int
) -> None:
    """Many steps in one call must come to exactly the same first and last tokens as step by step."""
    plan: list[tuple[float, str, Request]] = []
    now_s = 0.0
    for index, (gap_s, prompt, output, name, lora, cancel_s) in enumerate(wanted):
        now_s += gap_s
        keys = [name[: depth + 1] for depth in range(min(len(name), prompt // 4))]
        request = Request(index, prompt, output, keys, lora)
        plan.append((now_s, "submit", request))
        if cancel_s is not None:
            plan.append((now_s + cancel_s, "cancel", request))
    plan.sort(key=lambda entry: entry[0])
    config = EngineConfig(
        num_blocks=num_blocks, block_size=4, max_num_seqs=max_num_seqs, max_num_batched_tokens=8, max_lora=2,
        timing=TimingModel(0.3, 0.01, 0.2, 0.001, 0.01),
    )  # fmt: skip
    coarse, fine = Engine(config), Engine(config)
    assert play(coarse, plan, every_step=False) == play(fine, plan, every_step=True)
    assert coarse.blocks.used == 0
    metrics = coarse.metrics()
    assert metrics.finished_requests + metrics.cancelled_requests == len(wanted)
    assert metrics == fine.metrics()
