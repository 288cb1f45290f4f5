"""Who waits, and why: flow control as people ask about it."""

from collections.abc import Mapping, Sequence
from typing import Any

from picker.admin.flow import ADAPTIVE
from picker.admin.metrics import PoolSnapshot

__all__ = ["MOST_FLOWS", "queue_text", "queue_view"]

MOST_FLOWS = 100
"""Flows shown of each pool, those with most requests waiting first."""

_WHOLE = ("is_on", "detector", "waiting", "waiting_bytes", "max_requests", "max_bytes", "drain_per_s", "retry_after_s")


def queue_view(pool: PoolSnapshot) -> dict[str, Any]:
    """One pool: its bands, who waits most in them, and what its endpoints can take.

    Fairness ids are those the metrics page shows: one that was never served is `other`. No request is shown.
    """
    flow = pool.flow
    return {
        "pool": pool.name,
        **{key: flow[key] for key in _WHOLE if key in flow},
        "saturation": flow["saturation"],
        "bands": [_band(band) for band in flow["bands"]],
        "flows": _flows(pool.stats["series"]),
        "endpoints": [_endpoint(endpoint, flow["detector"]) for endpoint in pool.endpoints],
    }


def _band(band: Mapping[str, Any]) -> dict[str, Any]:
    rows, total = band["waited_s"]
    count = rows[-1][1]
    return {
        **{key: value for key, value in band.items() if key != "waited_s"},
        "mean_wait_s": round(total / count, 6) if count else None,
    }


def _flows(series: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[int]] = {}
    for one in series:
        if one["waiting"]:
            sums = found.setdefault((one["priority"], one["fairness_id"]), [0, 0])
            sums[0] += one["waiting"]
            sums[1] += one["waiting_bytes"]
    most = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))[:MOST_FLOWS]
    return [
        {"priority": priority, "fairness_id": flow, "requests": requests, "bytes": size}
        for (priority, flow), (requests, size) in most
    ]


def _endpoint(endpoint: Mapping[str, Any], detector: str) -> dict[str, Any]:
    """`window`: the requests it can have, as far as known; of detectors that learn none it is always null."""
    credit = endpoint.get("credit", {})
    learned = credit if detector == ADAPTIVE else {}
    return {
        "endpoint": endpoint["target"],
        "in_use": credit.get("in_flight"),
        "window": learned.get("limit"),
        "fullness": credit.get("fullness"),
        "full_by": _full_by(credit, detector),
        **{
            key: learned[key]
            for key in ("kv_tokens", "kv_used", "ahead_s", "overhead_s", "prefill_rate")
            if key in learned
        },
        "ejected": endpoint["ejected"],
    }


def _full_by(credit: Mapping[str, Any], detector: str) -> str | None:
    """What keeps a full endpoint from taking more: the requests it has, its KV cache, or the prefills ahead."""
    if credit.get("fullness", 0.0) < 1.0:
        return None
    if detector != ADAPTIVE:
        return detector
    if (limit := credit["limit"]) is not None and credit["in_flight"] >= limit:
        return "requests"
    return "kv" if (credit["kv_used"] or 0.0) >= 1.0 else "prefill"


_COLUMNS = {
    "bands": (
        *("priority", "requests", "flows", "oldest_wait_s", "mean_wait_s"),
        *("max_requests", "passed", "queued", "drops"),
    ),
    "flows": ("priority", "fairness_id", "requests", "bytes"),
    "endpoints": ("endpoint", "in_use", "window", "fullness", "full_by", "ejected"),
}


def queue_text(view: Mapping[str, Any]) -> str:
    """The same as tables, for who has no `jq`."""
    turns = f"{view['drain_per_s']:.1f} turns/s, saturation {view['saturation']:.2f}"
    head = f"{view['pool']}: {view['waiting']} wait, {turns} ({view['detector']})\n"
    return "\n".join([head, *(_table(names, view[key]) for key, names in _COLUMNS.items() if view[key])])


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [list(names), *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in cells)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={count}" for name, count in value.items()) or "-"
    return "-" if value is None else str(value)
