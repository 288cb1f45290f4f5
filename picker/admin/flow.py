"""Flow control on the metrics page: who waits, for how long, who was turned away and why, and what endpoints can take.

Names, labels and buckets of `inference_extension_flow_control_*` and `llm_d_epp_flow_control_*` are the reference
picker's; `picker_*` says what it does not. `docs/metrics-flow-control.md` explains them to users.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from picker.admin.exposition import AnyFamily, Counters, Gauges, Histograms

__all__ = ["ADAPTIVE", "NO_FLOW", "flow_families"]

NO_FLOW: Mapping[str, Any] = {
    "detector": "off",
    "waiting": 0,
    "waiting_bytes": 0,
    "max_requests": 0,
    "max_bytes": 0,
    "drain_per_s": 0.0,
    "saturation": 0.0,
    "dispatch_s": None,
    "bands": (),
}
"""The figures of a pool without flow control: as of one where nothing has happened."""

_PREFIXES = ("inference_extension_flow_control", "llm_d_epp_flow_control")
_SERIES = ("fairness_id", "priority", "inference_pool", "model_name", "target_model_name")
_PRODUCER = "picker"

ADAPTIVE = "adaptive-detector"
_CREDITS = (  # the last: whether other detectors than the adaptive one go by it
    ("picker_endpoint_fullness_ratio", "How full it is; from about 1 on it gets no further request.", "fullness", True),
    ("picker_endpoint_credit_used_requests", "Requests it is thought to have, other pickers' too.", "in_flight", True),
    ("picker_endpoint_credit_window_requests", "Requests it can have; none while not known.", "limit", False),
    (
        "picker_endpoint_credit_window_tokens",
        "Tokens that fill its KV cache; none while not known.",
        "kv_tokens",
        False,
    ),
    ("picker_endpoint_credit_kv_used_ratio", "Share of them in use; none while not known.", "kv_used", False),
    ("picker_endpoint_prefill_ahead_seconds", "Time the prefills sent to it will take.", "ahead_s", False),
)

Rows = Sequence[Mapping[str, Any]]


def flow_families(
    pool: str, flow: Mapping[str, Any], series: Rows, endpoints: Rows, *, stale: int
) -> Iterator[AnyFamily]:
    """Those of one pool, always the same ones. `flow` is `copies.read_flow`'s, or NO_FLOW; `series` and `endpoints` are
    those of `Engine.stats()` and `copies.read_endpoints`; `stale`: endpoints whose metrics are too old."""
    for prefix in _PREFIXES:
        yield from _waiting(prefix, pool, series)
        yield from _pool(prefix, pool, flow, stale)
        yield from _bands(prefix, pool, flow["bands"])
    yield from _own_bands(flow["bands"])
    yield from _credits(endpoints, is_adaptive=flow["detector"] == ADAPTIVE)
    yield from _in_flight(endpoints)
    yield from _demand(pool, flow, endpoints)


def _waiting(prefix: str, pool: str, series: Rows) -> Iterator[AnyFamily]:
    size = Gauges(f"{prefix}_queue_size", "Requests that wait.", _SERIES)
    volume = Gauges(f"{prefix}_queue_bytes", "Bytes of their bodies.", _SERIES)
    about = "Time in the queue of requests that left it, by how; of those that never were in it, none."
    waits = Histograms(f"{prefix}_request_queue_duration_seconds", about, (*_SERIES, "outcome"))
    for one in series:
        values = (one["fairness_id"], one["priority"], pool, one["model"], one["target"])
        if not one["waits"] and not one["waiting"]:
            continue  # it has never come to flow control
        size.add(values, one["waiting"])
        volume.add(values, one["waiting_bytes"])
        for outcome, histogram in one["waits"].items():
            waits.observe((*values, outcome), histogram)
    yield from (size, volume, waits)


def _pool(prefix: str, pool: str, flow: Mapping[str, Any], stale: int) -> Iterator[AnyFamily]:
    saturation = Gauges(
        f"{prefix}_pool_saturation", "How full the pool is; 1: nobody has room.", ("inference_pool", "stage")
    )
    saturation.add((pool, "effective"), flow["saturation"])
    yield saturation
    about = "Endpoints whose metrics are too old to tell."
    without = Gauges(f"{prefix}_stale_endpoints", about, ("detector",))
    without.add((flow["detector"],), stale)
    yield without
    for unit, key in (("requests", "waiting"), ("bytes", "waiting_bytes")):
        about = f"Share of all {unit} that may wait; none where there is no cap."
        used = Gauges(f"{prefix}_global_capacity_utilization_{unit}", about, ("inference_pool",))
        if flow[f"max_{unit}"]:
            used.add((pool,), flow[key] / flow[f"max_{unit}"])
        yield used
    took = Histograms(
        f"{prefix}_dispatch_cycle_duration_seconds", "Time of one round, however many got their turn.", ()
    )
    if flow["dispatch_s"] is not None:
        took.observe((), flow["dispatch_s"])
    yield took


def _bands(prefix: str, pool: str, bands: Rows) -> Iterator[AnyFamily]:
    about = "Requests by what became of them: sent on, turned away or lost after a wait."
    total = Counters(f"{prefix}_requests", about, ("outcome", "priority", "inference_pool"))
    for band in bands:
        for outcome, count in band["outcomes"].items():
            total.add((outcome, band["priority"], pool), count)
    yield total
    for unit in ("requests", "bytes"):
        about = f"Share of the {unit} of a priority that may wait; none where there is no cap."
        used = Gauges(f"{prefix}_capacity_utilization_{unit}", about, ("priority", "inference_pool"))
        for band in bands:
            if band[f"max_{unit}"]:
                used.add((band["priority"], pool), band[unit] / band[f"max_{unit}"])
        yield used
    for kind in ("revocations_issued", "revocations"):  # an eviction takes effect at once
        about = "Running requests ended for others of higher priority."
        evicted = Counters(f"{prefix}_{kind}", about, ("priority", "inference_pool"))
        for band in bands:
            evicted.add((band["priority"], pool), band["evicted"])
        yield evicted


def _own_bands(bands: Rows) -> Iterator[AnyFamily]:
    labels = ("priority",)
    waiting = Gauges("picker_queue_requests", "Requests that wait, by priority.", labels)
    volume = Gauges("picker_queue_bytes", "Bytes of their bodies.", labels)
    flows = Gauges("picker_queue_flows", "Fairness ids that have somebody waiting.", labels)
    oldest = Gauges("picker_queue_oldest_wait_seconds", "How long who has waited longest has.", labels)
    waits = Histograms("picker_queue_wait_seconds", "Time until requests had their turn; 0: at once.", labels)
    for band in bands:
        values = (band["priority"],)
        waiting.add(values, band["requests"])
        volume.add(values, band["bytes"])
        flows.add(values, band["flows"])
        oldest.add(values, band["oldest_wait_s"])
        waits.observe(values, band["waited_s"])
    yield from (waiting, volume, flows, oldest, waits)
    passed = Counters("picker_queue_passed", "Requests that had their turn at once.", labels)
    queued = Counters("picker_queue_entered", "Requests that had to wait.", labels)
    drops = Counters("picker_queue_drops", "Requests without a turn, by cause.", (*labels, "reason"))
    for band in bands:
        passed.add((band["priority"],), band["passed"])
        queued.add((band["priority"],), band["queued"])
        for reason, count in band["drops"].items():
            drops.add((band["priority"], reason), count)
    yield from (passed, queued, drops)


def _credits(endpoints: Rows, *, is_adaptive: bool) -> Iterator[AnyFamily]:
    for name, about, key, is_general in _CREDITS:
        family = Gauges(name, about, ("endpoint",))
        for endpoint in endpoints if is_adaptive or is_general else ():
            if (value := endpoint.get("credit", {}).get(key)) is not None:
                family.add((endpoint["target"],), value)
        yield family


def _in_flight(endpoints: Rows) -> Iterator[AnyFamily]:
    labels = ("endpoint_name", "namespace", "producer_name")
    for prefix in ("inference_extension", "llm_d_epp"):
        for name, about, key in (
            ("inflight_requests", "Requests under way.", "requests"),
            ("inflight_tokens", "Tokens of requests under way.", "resident_tokens"),
        ):
            family = Gauges(f"{prefix}_{name}", about, labels)
            for endpoint in endpoints:
                family.add((endpoint["target"], "", _PRODUCER), endpoint[key])
            yield family


def _demand(pool: str, flow: Mapping[str, Any], endpoints: Rows) -> Iterator[AnyFamily]:
    """What an autoscaler needs."""
    labels = ("name",)
    demand = Gauges("picker_pool_demand_requests", "Requests under way and requests that wait: what is wanted.", labels)
    demand.add((pool,), flow["waiting"] + sum(endpoint["requests"] for endpoint in endpoints))
    room = Gauges("picker_pool_credit_requests", "What endpoints can have under way, as far as known.", labels)
    known = [limit for one in endpoints if (limit := one.get("credit", {}).get("limit")) is not None]
    if known and len(known) == len(endpoints) and flow["detector"] == ADAPTIVE:
        room.add((pool,), sum(known))
    drain = Gauges("picker_queue_drain_per_second", "Turns given while requests wait, lately.", labels)
    drain.add((pool,), flow["drain_per_s"])
    yield from (demand, room, drain)
