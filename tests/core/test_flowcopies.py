"""What another process reads of flow control is what the engine counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core.engine import Engine
from picker._core.flowcopies import copy_flow, read_flow
from tests.support.crowd import Crowd
from tests.support.leaks import assert_flat
from tests.support.rig import SECOND


@pytest.fixture
def crowd() -> Crowd:
    """One under way, two and one wait for 3 s, one was turned away."""
    made = Crowd()
    for tenant, objective in (("a", ""), ("a", "vip"), ("b", "vip"), ("a", ""), ("a", "batch")):
        made.ask(tenant, objective)
    made.now_ns += 3 * SECOND
    return made


def test_bands_are_shown_from_the_highest_down_with_who_waits(crowd: Crowd) -> None:
    flow = read_flow(copy_flow(crowd.engine, crowd.now_ns), crowd.now_ns)
    assert [band["priority"] for band in flow["bands"]] == ["10", "0", "-1"]
    high, middle, low = flow["bands"]
    size = high["bytes"] // 2
    assert {key: value for key, value in high.items() if key != "waited_s"} == {
        "priority": "10", "passed": 2, "queued": 2, "outcomes": {"Dispatched": 2}, "drops": {}, "evicted": 0,
        "requests": 2, "bytes": 2 * size, "flows": 2, "oldest_wait_s": 3.0, "order": "edf", "fairness": "round-robin",
        "max_requests": 4, "max_bytes": 1000, "ttl_s": 5.0,
    }  # fmt: skip
    assert (middle["requests"], middle["bytes"], middle["oldest_wait_s"]) == (1, size, 3.0)
    assert (low["requests"], low["outcomes"], low["drops"]) == (0, {"RejectedCapacity": 1}, {"Saturated": 1})
    assert size > 50


def test_the_whole_is_what_the_engine_says(crowd: Crowd) -> None:
    flow = read_flow(copy_flow(crowd.engine, crowd.now_ns), crowd.now_ns)
    said = crowd.engine.flow(crowd.now_ns)
    for key in (
        "is_on",
        "queues",
        "waiting",
        "waiting_bytes",
        "max_requests",
        "max_bytes",
        "drain_per_s",
        "saturation",
    ):
        assert flow[key] == said[key]
    assert (flow["waiting"], flow["saturation"], flow["detector"]) == (3, 1.0, "concurrency-detector")


def test_turns_and_time_outs_are_counted(crowd: Crowd) -> None:
    crowd.engine.remove_endpoint(0, 1)
    crowd.now_ns += 3 * SECOND
    assert len(crowd.go_on()) == 2
    high, middle, _ = read_flow(copy_flow(crowd.engine, crowd.now_ns), crowd.now_ns)["bands"]
    assert sum(high["drops"].values()) == 2
    assert (high["requests"], high["oldest_wait_s"]) == (0, 0.0)
    assert (middle["requests"], middle["oldest_wait_s"]) == (1, 6.0)


def test_rounds_of_turns_are_timed(crowd: Crowd) -> None:
    for took_s in (0.00001, 0.0001, 5.0):
        crowd.engine.count_dispatch(took_s)
    rows, total = read_flow(copy_flow(crowd.engine, 1), 1)["dispatch_s"]
    assert [count for bound, count in rows if bound in (0.00001, 0.0001, 0.1)] == [1, 2, 2]
    assert (rows[-1][1], total) == (3, pytest.approx(5.00011))


def test_priorities_beyond_the_most_come_last_together() -> None:
    crowd = Crowd()
    crowd.engine.set_objectives({f"o{number}": number for number in range(100)})
    for number in range(100):
        crowd.ask("a", f"o{number}")
    bands = read_flow(copy_flow(crowd.engine, crowd.now_ns), crowd.now_ns)["bands"]
    shown = [int(band["priority"]) for band in bands if band["priority"] != "other"]
    assert shown == sorted(shown, reverse=True)
    assert bands[-1]["priority"] == "other"
    assert sum(band["passed"] + band["queued"] + sum(band["outcomes"].values()) for band in bands) > 100


def test_an_engine_without_flow_control_says_so() -> None:
    engine = Engine(hash_seed=1)
    flow = read_flow(copy_flow(engine, 1), 1)
    assert (flow["is_on"], flow["detector"], flow["waiting"], flow["bands"]) == (False, "off", 0, [])


@given(st.data())
def test_what_is_no_copy_is_refused_or_read(data: st.DataObject) -> None:
    """Another build's, cut, or of anything: never a look beyond its end."""
    copy = bytearray(copy_flow(Engine(hash_seed=1), 1))
    for place in data.draw(st.lists(st.integers(0, 15), max_size=4)):
        copy[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(copy)) | st.just(len(copy)))
    try:
        flow = read_flow(bytes(copy[:cut]), 1)
    except ValueError as problem:
        assert "no copy" in str(problem)
    else:
        assert cut == len(copy) and isinstance(flow["bands"], list)


def test_leaks_nothing(crowd: Crowd) -> None:
    assert_flat(lambda: read_flow(copy_flow(crowd.engine, 1), 1), calls=50)
