import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core import stats
from tests.model import stats as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

PLAIN = ["", "a", "b", "other", "llama-é", "\ud800", "\ud801x", "x" * 256, "x" * 257, "\uffff"]
BOTH = [
    "a\0b",
    "a\0other",
    "b\0a",
    "x" * 256 + "\0" + "y" * 256,
    "x" * 257 + "\0a",
    "a\0" + "x" * 257,
    "a\0\ud800",
    "\0a",
]
NAMES = st.sampled_from([*PLAIN, *BOTH]).map(lambda name: name.encode("utf-8", "surrogatepass"))
SECONDS = st.sampled_from([0.0, 0.004, 0.005, 0.0051, 1.0, 3600.0, 3601.0, 1e9])


FLOWS = st.sampled_from(["", "default-flow", "other", "tenant-a", "tenant-b"])
COUNTED = st.tuples(NAMES, SECONDS, st.sampled_from([0, 7, -(2**31)]), FLOWS, st.booleans())


@given(st.integers(0, 3), st.lists(COUNTED | NAMES, max_size=12))
def test_equals_the_model(limit: int, requests: list[tuple[bytes, float, int, str, bool] | bytes]) -> None:
    """A name alone: it is kept."""
    core, slow = stats.Stats(limit), model.Stats(limit)
    for request in requests:
        if isinstance(request, tuple):
            name, duration_s, priority, flow, is_served = request
            core.count(name, duration_s, priority=priority, flow=flow.encode(), is_served=is_served)
            slow.count(name, duration_s, priority, flow, is_served=is_served)
        elif b"\0" not in request:
            core.keep(request)
            slow.keep(request)
        core._check()
    shown = core.view()["series"]
    series = {(slow.joined(one["model"], one["target"]), one["priority"], one["fairness_id"]): one for one in shown}
    assert len(series) == len(shown)
    assert series.keys() == slow.durations.keys()
    for name, durations in slow.durations.items():
        rows, total = series[name]["duration_s"]
        assert [count for _, count in rows] == model.buckets(durations, [bound for bound, _ in rows])
        assert series[name]["requests"] == len(durations)
        assert total == pytest.approx(sum(durations))


def test_clients_that_are_not_served_name_no_flows() -> None:
    core = stats.Stats(5)
    core.count(b"a", 1.0)
    core.count(b"a", 1.0, priority=3, flow=b"tenant", is_served=False)
    assert [(one["priority"], one["fairness_id"]) for one in core.view()["series"]] == [
        ("0", "default-flow"),
        ("3", "other"),
    ]


def test_flows_and_priorities_beyond_the_limit_count_together() -> None:
    core = stats.Stats(2)
    for number in range(4):
        core.count(b"a", 1.0, flow=b"tenant-%d" % number)
        core.count(b"a", 1.0, priority=number)
    core._check()
    found = {(one["model"], one["priority"], one["fairness_id"]): one["requests"] for one in core.view()["series"]}
    assert found == {
        ("a", "0", "default-flow"): 1,
        ("a", "0", "tenant-0"): 1,
        ("a", "0", "tenant-1"): 1,
        ("a", "1", "default-flow"): 1,
        ("a", "0", "other"): 2,
        ("other", "other", "other"): 2,
    }


def test_a_flow_is_named_by_what_is_shown_of_it() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        stats.Stats().count(b"a", 1.0, flow=b"x" * 65)


def test_names_are_told_apart_however_many() -> None:
    core = stats.Stats(500)
    for number in range(600):
        core.count(b"model-%d" % number, 1.0)
    core._check()
    series = {one["model"]: one["requests"] for one in core.view()["series"]}
    assert series.pop("other") == 100
    assert series == {f"model-{number}": 1 for number in range(500)}


def test_names_kept_are_told_apart_beside_the_limit() -> None:
    core = stats.Stats(1)
    for number in range(5000):
        core.keep(b"kept-%d" % number)
    for number in range(5000):
        core.count(b"kept-%d" % number, 1.0)
    core._check()
    series = {one["model"]: one["requests"] for one in core.view()["series"]}
    assert series.pop("other") == 5000 - 4096 - 1
    assert series == {f"kept-{number}": 1 for number in range(4097)}


def test_models_that_are_rewritten_are_told_apart_by_both_names() -> None:
    core = stats.Stats(3)
    core.keep(b"kept")
    core.keep(b"too")
    for name in (b"a", b"a\0kept", b"a\0b", b"kept\0too", b"b\0a", b"too\0kept"):
        core.count(name, 1.0)
    core._check()
    found = {(one["model"], one["target"]) for one in core.view()["series"]}
    assert found == {("a", "a"), ("a", "kept"), ("a", "b"), ("kept", "too"), ("too", "kept"), ("other", "other")}


def test_every_histogram_ends_in_infinity_and_counts_up() -> None:
    core = stats.Stats()
    core.count(b"a", 2.0)
    view = core.view()
    histograms = [value for value in view["series"][0].values() if isinstance(value, tuple)]
    histograms += [value for value in view.values() if isinstance(value, tuple)]
    assert len(histograms) == 14
    for rows, _ in histograms:
        assert rows[-1][0] == math.inf
        assert sorted(rows) == list(rows)


def test_nonsense_counts_as_nought() -> None:
    core = stats.Stats()
    for duration_s in (math.nan, -1.0, -math.inf):
        core.count(b"a", duration_s)
    rows, total = core.view()["series"][0]["duration_s"]
    assert (rows[0][1], total) == (3, 0.0)


def test_gaps_are_counted_in_buckets_of_their_own() -> None:
    core = stats.Stats()
    gaps = [0, -5, 1_000_000, 1_000_001, 5_000_000, 2_000_000_000, 2_000_000_001, 2**62]
    core.count_gaps(b"a", gaps)
    core.count(b"a", 1.0)
    rows, total = core.view()["series"][0]["itl_s"]
    seconds = [max(gap, 0) / 1e9 for gap in gaps]
    assert [count for _, count in rows] == model.buckets(seconds, [bound for bound, _ in rows])
    assert total == pytest.approx(sum(seconds))


def test_names_are_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        stats.Stats().count(b"\xff", 1.0)


def test_limits() -> None:
    with pytest.raises(OverflowError, match="1048576"):
        stats.Stats(2**20 + 1)
    with pytest.raises(OverflowError):
        stats.Stats(-1)


def test_leaks_nothing() -> None:
    def each() -> None:
        core = stats.Stats(4)
        for number in range(8):
            core.count(b"%d" % number, 1.0)
        core.view()

    assert_flat(each, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(lambda: stats.Stats(4)) == 5

    def count() -> None:
        core = stats.Stats(4)
        core.count(b"a", 1.0)
        core._check()
        if core.view()["series"][0]["model"] == "other":  # no memory for a series of its own
            raise MemoryError

    assert failing_allocations(count) == 6
