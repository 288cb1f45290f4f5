"""Flow control on the metrics page and at /debug/queue."""

from typing import Any

import pytest

from picker.admin.metrics import PoolSnapshot
from picker.admin.queue import MOST_FLOWS, queue_text, queue_view
from tests.admin.test_metrics import FORMATS, figures, parsed, samples, snapshot, value
from tests.support.crowd import Crowd
from tests.support.rig import SECOND, target

PREFIXES = pytest.mark.parametrize("prefix", ["inference_extension_flow_control", "llm_d_epp_flow_control"])
LABELS = {"fairness_id", "priority", "inference_pool", "model_name", "target_model_name"}
REQUIRED = {
    "queue_size": LABELS,
    "queue_bytes": LABELS,
    "request_queue_duration_seconds_count": LABELS | {"outcome"},
    "requests_total": {"outcome", "priority", "inference_pool"},
    "pool_saturation": {"inference_pool", "stage"},
    "capacity_utilization_requests": {"priority", "inference_pool"},
    "capacity_utilization_bytes": {"priority", "inference_pool"},
    "global_capacity_utilization_requests": {"inference_pool"},
    "global_capacity_utilization_bytes": {"inference_pool"},
    "dispatch_cycle_duration_seconds_count": set(),
    "stale_endpoints": {"detector"},
}


@pytest.fixture
def crowd() -> Crowd:
    """Of tenant a: one under way, one that waited 3 s before it; one of a and two of b wait. One was turned away."""
    made = Crowd()
    first = made.ask("a")
    made.ask("a", "vip")
    for tenant in ("b", "b", "a"):
        made.ask(tenant)
    made.ask("b", "batch")
    made.now_ns += 3 * SECOND
    made.finish(first)
    assert len(made.go_on()) == 1
    return made


@PREFIXES
@pytest.mark.parametrize("name", REQUIRED)
def test_names_and_labels_are_the_peers(crowd: Crowd, prefix: str, name: str) -> None:
    found = samples(snapshot(crowd), f"{prefix}_{name}")
    assert found
    assert {frozenset(sample.labels) for sample in found} == {frozenset(REQUIRED[name])}


@PREFIXES
def test_buckets_are_the_peers(crowd: Crowd, prefix: str) -> None:
    found = bounds_of(crowd, f"{prefix}_request_queue_duration_seconds")
    assert found == [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]


def bounds_of(crowd: Crowd, name: str) -> list[float]:
    labels = {"outcome": "Dispatched", "fairness_id": "a", "priority": "10"}
    found = [sample for sample in samples(snapshot(crowd), f"{name}_bucket") if labels.items() <= sample.labels.items()]
    assert found[-1].labels["le"] == "+Inf"
    return [float(sample.labels["le"]) for sample in found[:-1]]


@FORMATS
def test_no_two_rows_have_the_same_labels(crowd: Crowd, accept: str) -> None:
    crowd.ask("never-served")
    for family in parsed(snapshot(crowd), accept).values():
        rows = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(set(rows)) == len(rows)


@PREFIXES
def test_who_waits_is_shown_by_tenant(crowd: Crowd, prefix: str) -> None:
    crowd.ask("never-served")
    found = {
        (sample.labels["fairness_id"], sample.labels["priority"]): sample.value
        for sample in samples(snapshot(crowd), f"{prefix}_queue_size")
        if sample.value
    }
    assert found == {("b", "0"): 2, ("a", "0"): 1, ("other", "0"): 1}
    size = value(snapshot(crowd), f"{prefix}_queue_bytes", fairness_id="a", priority="0")
    assert value(snapshot(crowd), f"{prefix}_queue_bytes", fairness_id="b", priority="0") == 2 * size > 0


@PREFIXES
def test_what_became_of_requests_is_shown_by_priority(crowd: Crowd, prefix: str) -> None:
    shown = snapshot(crowd)
    found = {
        (sample.labels["outcome"], sample.labels["priority"]): sample.value
        for sample in samples(shown, f"{prefix}_requests_total")
    }
    assert found == {("Dispatched", "10"): 3, ("Dispatched", "0"): 3, ("RejectedCapacity", "-1"): 1}
    waits = f"{prefix}_request_queue_duration_seconds"
    assert value(shown, f"{waits}_sum", fairness_id="a", priority="10", outcome="Dispatched") == 3.0
    assert value(shown, f"{waits}_count", fairness_id="a", priority="10", outcome="Dispatched") == 1


@PREFIXES
def test_how_full_all_is_is_shown(crowd: Crowd, prefix: str) -> None:
    shown = snapshot(crowd)
    assert value(shown, f"{prefix}_pool_saturation", stage="effective", inference_pool="pool-a") == 1.0
    assert value(shown, f"{prefix}_capacity_utilization_requests", priority="0") == 3 / 5000
    assert value(shown, f"{prefix}_capacity_utilization_requests", priority="10") == 0
    assert value(shown, f"{prefix}_global_capacity_utilization_requests") == 3 / 8
    assert value(shown, f"{prefix}_stale_endpoints", detector="concurrency-detector") == 1


def test_waits_and_drops_are_shown_by_priority(crowd: Crowd) -> None:
    crowd.now_ns += SECOND
    shown = snapshot(crowd)
    assert value(shown, "picker_queue_requests", priority="0") == 3
    assert value(shown, "picker_queue_flows", priority="0") == 2
    assert value(shown, "picker_queue_oldest_wait_seconds", priority="0") == 4.0
    assert value(shown, "picker_queue_wait_seconds_sum", priority="10") == 3.0
    assert value(shown, "picker_queue_wait_seconds_count", priority="10") == 3
    assert value(shown, "picker_queue_passed_total", priority="10") == 2
    assert value(shown, "picker_queue_entered_total", priority="10") == 1
    assert value(shown, "picker_queue_drops_total", priority="-1", reason="Saturated") == 1


def test_what_an_autoscaler_needs_is_shown(crowd: Crowd) -> None:
    shown = snapshot(crowd)
    assert value(shown, "picker_pool_demand_requests", name="pool-a") == 4  # one under way, three wait
    assert value(shown, "picker_queue_drain_per_second", name="pool-a") >= 0
    assert samples(shown, "picker_pool_credit_requests") == []  # this detector learns none
    assert value(shown, "llm_d_epp_inflight_requests", endpoint_name=target(1)) == 1
    assert value(shown, "inference_extension_inflight_tokens", endpoint_name=target(1)) > 1


def test_credit_is_shown_as_far_as_it_is_known() -> None:
    crowd = Crowd()
    crowd.engine.set_flow({"detector": ("adaptive",)})
    crowd.ask("a")
    shown = snapshot(crowd)
    assert value(shown, "picker_endpoint_credit_used_requests", endpoint=target(1)) == 1
    assert value(shown, "picker_endpoint_fullness_ratio", endpoint=target(1)) >= 0
    assert samples(shown, "picker_endpoint_credit_window_requests") == []
    row = {**figures(crowd).endpoints[0]}
    assert {"limit", "kv_tokens", "kv_used"} <= set(row["credit"])  # what is set here is there to be set
    row["credit"] = {**row["credit"], "limit": 4.0, "kv_tokens": 1000.0, "kv_used": 0.5}
    known = snapshot(crowd)
    pool = PoolSnapshot(**{**fields(known.pools[0]), "endpoints": [row]})
    shown = type(known)(**{**fields(known), "pools": [pool]})
    assert value(shown, "picker_endpoint_credit_window_requests", endpoint=target(1)) == 4
    assert value(shown, "picker_endpoint_credit_kv_used_ratio", endpoint=target(1)) == 0.5
    assert value(shown, "picker_pool_credit_requests", name="pool-a") == 4


def fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__slots__}


# --- /debug/queue ---


def test_the_queue_is_told_with_who_waits_and_why(crowd: Crowd) -> None:
    view = queue_view(figures(crowd))
    assert (view["pool"], view["detector"], view["waiting"], view["saturation"]) == (
        "pool-a", "concurrency-detector", 3, 1.0,
    )  # fmt: skip
    assert [(band["priority"], band["requests"], band["mean_wait_s"]) for band in view["bands"]] == [
        ("10", 0, 1.0),
        ("0", 3, 0.0),
        ("-1", 0, None),
    ]
    assert [(flow["fairness_id"], flow["requests"]) for flow in view["flows"]] == [("b", 2), ("a", 1)]
    (endpoint,) = view["endpoints"]
    assert (endpoint["in_use"], endpoint["window"], endpoint["full_by"]) == (1.0, None, "concurrency-detector")
    assert "hi" not in str(view)


def test_a_table_says_the_same(crowd: Crowd) -> None:
    head, _, *lines = queue_text(queue_view(figures(crowd))).splitlines()
    assert head.startswith("pool-a: 3 wait, ") and head.endswith("(concurrency-detector)")
    tables = [block.splitlines() for block in "\n".join(lines).split("\n\n")]
    assert [table[0].split()[:2] for table in tables] == [
        ["priority", "requests"],
        ["priority", "fairness_id"],
        ["endpoint", "in_use"],
    ]
    assert tables[0][3].split()[-1] == "Saturated=1"
    assert tables[1][1].split()[:3] == ["0", "b", "2"]
    assert tables[2][1].split() == [target(1), "1", "-", "1", "concurrency-detector", "False"]


def test_the_flows_with_most_requests_are_told_first_and_not_all() -> None:
    series = [
        {"priority": "0", "fairness_id": f"t{number:03}", "waiting": number, "waiting_bytes": 2 * number}
        for number in range(MOST_FLOWS + 50)
    ]
    pool = figures(Crowd())
    view = queue_view(PoolSnapshot(**{**fields(pool), "stats": {"series": [*series, series[-1]]}}))
    assert len(view["flows"]) == MOST_FLOWS
    assert view["flows"][0] == {"priority": "0", "fairness_id": "t149", "requests": 298, "bytes": 596}


@pytest.mark.parametrize(
    ("credit", "why"),
    [
        ({"fullness": 0.5, "limit": 4.0, "in_flight": 2.0, "kv_used": None}, None),
        ({"fullness": 1.0, "limit": 4.0, "in_flight": 4.0, "kv_used": None}, "requests"),
        ({"fullness": 1.2, "limit": None, "in_flight": 4.0, "kv_used": 1.2}, "kv"),
        ({"fullness": 1.2, "limit": 9.0, "in_flight": 4.0, "kv_used": None}, "prefill"),
        ({}, None),
    ],
)
def test_it_is_said_what_an_endpoint_is_full_of(credit: dict[str, Any], why: str | None) -> None:
    pool = figures(Crowd())
    row = {**pool.endpoints[0], "credit": credit}
    flow = {**pool.flow, "detector": "adaptive-detector"}
    (endpoint,) = queue_view(PoolSnapshot(**{**fields(pool), "endpoints": [row], "flow": flow}))["endpoints"]
    assert endpoint["full_by"] == why
