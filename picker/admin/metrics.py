"""The Prometheus page: reads the core's counters when it is asked for; nothing is counted twice.

Names, labels and buckets of `inference_*` are those of the Gateway API Inference Extension, so that existing dashboards
read them; `picker_*` is picker's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

__all__ = ["Counter", "Encoder", "Snapshot", "families", "page"]

_MODEL = ("model_name", "target_model_name")
_PREFIX_PLUGIN = ("prefix-cache", "radix")  # plugin_name, plugin_type

_REQUEST_HISTOGRAMS = (
    (
        "inference_objective_request_duration_seconds",
        "Time from request headers to the end of the response.",
        "duration_s",
    ),
    ("inference_objective_request_ttft_seconds", "Time from request headers to the first response byte.", "ttft_s"),
    ("inference_objective_request_tpot_seconds", "Time per output token after the first.", "tpot_s"),
    ("inference_objective_request_sizes", "Request body bytes.", "request_bytes"),
    ("inference_objective_response_sizes", "Response body bytes.", "response_bytes"),
    ("inference_objective_input_tokens", "Prompt tokens, as model servers report them.", "input_tokens"),
    ("inference_objective_output_tokens", "Completion tokens, as model servers report them.", "output_tokens"),
    (
        "inference_objective_prompt_cached_tokens",
        "Cached prompt tokens, as model servers report them.",
        "cached_tokens",
    ),
)
_ENDPOINT_GAUGES = (
    ("picker_endpoint_requests", "Requests picker has under way on the endpoint.", "requests"),
    ("picker_endpoint_prefill_tokens", "Uncached prompt tokens booked and not yet answered.", "prefill_tokens"),
    ("picker_endpoint_resident_tokens", "Tokens of requests under way.", "resident_tokens"),
    ("picker_endpoint_prefill_tokens_per_second", "Learned prefill rate.", "prefill_rate"),
    ("picker_endpoint_waiting_requests", "Requests waiting in the engine, as scraped; -1 = unknown.", "waiting"),
    ("picker_endpoint_running_requests", "Requests running in the engine, as scraped; -1 = unknown.", "running"),
    ("picker_endpoint_kv_usage_ratio", "KV cache in use, as scraped; -1 = unknown.", "kv_usage"),
)

SLICE = 256
"""Samples written at a time: a page of many models must not hold up the requests."""

Counter = tuple[str, Sequence[str], Sequence[tuple[Sequence[str], float]]]
Histogram = tuple[Sequence[tuple[float, int]], float]
Encoder = Callable[[Collector], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the page is made of, taken at once. `stats` and `endpoints` are `Engine.stats()` and `Engine.endpoints()`.

    `plugins` are `PluginRecord.view()`; `counters` maps a name to its help, label names and rows of (label values,
    value). Times in ns of one monotonic clock.
    """

    version: str
    shell: str
    pool: str
    now_ns: int
    stale_after_s: float
    stats: Mapping[str, Any]
    endpoints: Sequence[Mapping[str, Any]]
    sessions: int
    buffered_bytes: int
    index_blocks: int
    index_bytes: int
    plugins: Sequence[Mapping[str, Any]] = ()
    counters: Mapping[str, Counter] = field(default_factory=dict)


class _Piece(Collector):
    """What an encoder is given: one family, part of one, or nothing."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Everything there is to show."""
    yield from _requests(snapshot.stats["series"])
    yield from _pool(snapshot)
    yield from _scheduler(snapshot)
    yield from _endpoints(snapshot)
    yield from _plugins(snapshot.plugins)
    yield from _counters(snapshot.counters)


def page(snapshot: Snapshot, encode: Encoder) -> Iterator[bytes]:
    """The page as `encode` (text or OpenMetrics) writes it, in slices."""
    for family in families(snapshot):
        samples = family.samples
        for start in range(0, max(len(samples), 1), SLICE):
            family.samples = samples[start : start + SLICE]
            yield _slice(encode(_Piece(family)), is_first=start == 0)
    yield encode(_Piece())  # which ends an OpenMetrics page


def _slice(text: bytes, *, is_first: bool) -> bytes:
    """Without the end of the page, and without the family's head (HELP, TYPE) unless it is the first one of it."""
    lines = text.split(b"\n")  # no label holds one: it is escaped
    return b"\n".join(line for line in lines if not line.startswith(b"# ") or (is_first and line != b"# EOF"))


def _histogram(name: str, about: str, labels: Sequence[str], rows: Sequence[tuple[Sequence[str], Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for values, (buckets, total) in rows:
        family.add_metric(values, [(_bound(bound), count) for bound, count in buckets], total)
    return family


def _bound(bound: float) -> str:
    """As the reference picker's library writes it, which OpenMetrics demands."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def _requests(series: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """A model is served under its own name until rewriting comes, so both labels say the same."""
    total = CounterMetricFamily(
        "inference_objective_request", "Requests that have ended, well or badly.", labels=(*_MODEL, "priority")
    )
    errors = CounterMetricFamily(
        "inference_objective_request_error", "Requests that ended badly, by cause.", labels=(*_MODEL, "error_code")
    )
    running = GaugeMetricFamily("inference_objective_running_requests", "Requests under way.", labels=("model_name",))
    for one in series:
        model = one["model"]
        total.add_metric((model, model, "0"), one["requests"])
        running.add_metric((model,), one["running"])
        for code, count in one["failures"].items():
            errors.add_metric((model, model, code), count)
    yield from (total, errors, running)
    for name, about, key in _REQUEST_HISTOGRAMS:
        yield _histogram(name, about, _MODEL, [((one["model"], one["model"]), one[key]) for one in series])


def _mean(endpoints: Sequence[Mapping[str, Any]], key: str) -> float:
    known = [endpoint[key] for endpoint in endpoints if endpoint[key] >= 0]
    return sum(known) / len(known) if known else 0.0


def _pool(snapshot: Snapshot) -> Iterator[Metric]:
    rows = (
        ("inference_pool_ready_pods", "Endpoints of the pool, ejected ones too.", float(len(snapshot.endpoints))),
        ("inference_pool_average_queue_size", "Mean waiting requests.", _mean(snapshot.endpoints, "waiting")),
        ("inference_pool_average_running_requests", "Mean running requests.", _mean(snapshot.endpoints, "running")),
        ("inference_pool_average_kv_cache_utilization", "Mean KV usage, 0-1.", _mean(snapshot.endpoints, "kv_usage")),
    )
    for name, about, value in rows:
        family = GaugeMetricFamily(name, about, labels=("name",))
        family.add_metric((snapshot.pool,), value)
        yield family
    queue = GaugeMetricFamily(
        "inference_pool_per_pod_queue_size", "Waiting requests.", labels=("name", "model_server_pod")
    )
    for endpoint in snapshot.endpoints:
        queue.add_metric((snapshot.pool, endpoint["target"]), max(endpoint["waiting"], 0))
    yield queue


def _scheduler(snapshot: Snapshot) -> Iterator[Metric]:
    stats = snapshot.stats
    yield _histogram(
        "inference_extension_scheduler_e2e_duration_seconds",
        "Time of a pick: from the last byte of the request to the reply.",
        (),
        [((), stats["scheduling_s"])],
    )
    attempts = CounterMetricFamily("inference_extension_scheduler_attempts", "Picks.", labels=("status",))
    attempts.add_metric(("success",), stats["picked"])
    attempts.add_metric(("failure",), stats["not_picked"])
    yield attempts
    labels = ("plugin_name", "plugin_type")
    size = GaugeMetricFamily("inference_extension_prefix_indexer_size", "(block, endpoint) pairs held.", labels=labels)
    size.add_metric(_PREFIX_PLUGIN, snapshot.index_blocks)
    yield size
    about = "Share of the prompt that the picked endpoint is thought to hold."
    yield _histogram(
        "inference_extension_prefix_indexer_hit_ratio", about, labels, [(_PREFIX_PLUGIN, stats["hit_ratio"])]
    )
    about = "Prompt bytes that the picked endpoint is thought to hold."
    yield _histogram(
        "inference_extension_prefix_indexer_hit_bytes", about, labels, [(_PREFIX_PLUGIN, stats["hit_bytes"])]
    )
    info = GaugeMetricFamily("inference_extension_info", "The build.", labels=("commit", "build_ref"))
    info.add_metric(("", snapshot.version), 1)
    yield info
    shell = GaugeMetricFamily("picker_shell_info", "Which server moves the bytes.", labels=("shell",))
    shell.add_metric((snapshot.shell,), 1)
    yield shell
    yield GaugeMetricFamily("picker_prefix_index_bytes", "Memory of the prefix index.", value=snapshot.index_bytes)
    yield GaugeMetricFamily("picker_open_streams", "Open ext_proc streams.", value=snapshot.sessions)
    about = "Request bodies that wait to be complete, in bytes."
    yield GaugeMetricFamily("picker_buffered_body_bytes", about, value=snapshot.buffered_bytes)
    yield CounterMetricFamily("picker_endpoint_ejections", "Endpoints ejected.", value=stats["ejected"])
    for kind in ("predicted", "reported"):
        yield CounterMetricFamily(
            f"picker_prompt_tokens_cached_{kind}",
            f"Prompt tokens {kind} as cached, of requests whose model server reported them.",
            value=stats[f"{kind}_tokens"],
        )


def _endpoints(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ("endpoint",)
    for name, about, key in _ENDPOINT_GAUGES:
        family = GaugeMetricFamily(name, about, labels=labels)
        for endpoint in snapshot.endpoints:
            family.add_metric((endpoint["target"],), endpoint[key])
        yield family
    age = GaugeMetricFamily(
        "picker_endpoint_metrics_age_seconds", "Age of the scraped load; -1 = never.", labels=labels
    )
    stale = GaugeMetricFamily("picker_endpoint_metrics_stale", "1 when that age is too high.", labels=labels)
    ejected = GaugeMetricFamily("picker_endpoint_ejected", "1 while the circuit breaker is open.", labels=labels)
    picks = CounterMetricFamily("picker_endpoint_picks", "Requests sent to the endpoint.", labels=labels)
    for endpoint in snapshot.endpoints:
        seen = endpoint["scraped_ns"]
        seconds = (snapshot.now_ns - seen) * 1e-9 if seen else -1.0
        age.add_metric((endpoint["target"],), seconds)
        stale.add_metric((endpoint["target"],), float(not 0 <= seconds <= snapshot.stale_after_s))
        ejected.add_metric((endpoint["target"],), float(endpoint["ejected"]))
        picks.add_metric((endpoint["target"],), endpoint["picks"])
    yield from (age, stale, ejected, picks)


def _plugins(plugins: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = ("extension_point", "plugin_type", "plugin_name")
    calls = CounterMetricFamily("picker_plugin_calls", "Calls of Python plugins.", labels=labels)
    seconds = CounterMetricFamily("picker_plugin_seconds", "Time spent in Python plugins.", labels=labels)
    failures = CounterMetricFamily(
        "picker_plugin_failures", "Requests a Python plugin was left out of, by cause.", labels=(*labels, "cause")
    )
    for plugin in plugins:
        values = (plugin["role"], plugin["type"], plugin["name"])
        calls.add_metric(values, plugin["calls"])
        seconds.add_metric(values, plugin["seconds"])
        for cause, key in (("error", "errors"), ("overrun", "overruns"), ("resting", "skipped")):
            failures.add_metric((*values, cause), plugin[key])
    yield from (calls, seconds, failures)


def _counters(counters: Mapping[str, Counter]) -> Iterator[Metric]:
    for name, (about, labels, rows) in counters.items():
        family = CounterMetricFamily(name, about, labels=labels)
        for values, value in rows:
            family.add_metric(values, value)
        yield family
