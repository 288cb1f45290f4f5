"""The Prometheus page: reads the core's counters when it is asked for; nothing is counted twice.

Names, labels and buckets of `inference_*` are those of the Gateway API Inference Extension, of `llm_d_epp_*` those that
llm-d has given the same figures since, so that existing dashboards read either; `picker_*` is picker's own.
`docs/response-tracking.md` says what the figures of responses mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

from picker.admin.exposition import AnyFamily, Counters, Gauges, Histogram, Histograms
from picker.admin.flow import NO_FLOW, flow_families
from picker.admin.ratelimits import rate_limit_families
from picker.admin.routing import routing_families

__all__ = ["Figure", "PoolSnapshot", "Snapshot", "families", "page"]

_MODEL = ("model_name", "target_model_name")
_PREFIX_PLUGIN = ("prefix-cache", "radix")  # plugin_name, plugin_type

_SERIES = (*_MODEL, "fairness_id", "priority")
_STREAMING = "Time from request headers to the first token; of an answer that is no stream, to its first byte."

# (name since the Inference Extension, name since llm-d, what it is, member of the series)
_REQUEST_HISTOGRAMS = (
    (
        "inference_objective_request_duration_seconds",
        "llm_d_epp_request_duration_seconds",
        "Time from request headers to the end of the response.",
        "duration_s",
    ),
    ("inference_objective_request_ttft_seconds", "", _STREAMING, "ttft_s"),
    (
        "inference_objective_request_tpot_seconds",
        "llm_d_epp_request_streaming_tpot_seconds",
        "Time per output token after the first, of streams.",
        "tpot_s",
    ),
    (
        "inference_objective_normalized_time_per_output_token_seconds",
        "llm_d_epp_request_ntpot_seconds",
        "Time from request headers to the end of the response, by output token.",
        "ntpot_s",
    ),
    (
        "",
        "llm_d_epp_request_streaming_itl_seconds",
        "Time between chunks of a stream that hold tokens.",
        "itl_s",
    ),
    ("inference_objective_request_sizes", "llm_d_epp_request_size_bytes", "Request body bytes.", "request_bytes"),
    ("inference_objective_response_sizes", "llm_d_epp_response_size_bytes", "Response body bytes.", "response_bytes"),
    (
        "inference_objective_input_tokens",
        "llm_d_epp_request_input_tokens",
        "Prompt tokens, as model servers report them.",
        "input_tokens",
    ),
    (
        "inference_objective_output_tokens",
        "llm_d_epp_request_output_tokens",
        "Completion tokens, as model servers report them.",
        "output_tokens",
    ),
    (
        "inference_objective_prompt_cached_tokens",
        "llm_d_epp_request_cached_tokens",
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
"""Lines of a page made at a time: a page of many models must not hold up what else runs on the loop."""

Figure = tuple[str, Sequence[str], Sequence[tuple[Sequence[str], float]]]
"""Its help, the names of its labels, and rows of (their values, value)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """Those of one pool. `stats` and `endpoints` are `Engine.stats()` and `Engine.endpoints()`.

    `endpoints_age_s`: how long ago the endpoints were last known to be those there are. `rewrites`: name of the object,
    model asked for, target, decisions. `plugins` are `PluginRecord.view()`. `flow` is what `copies.read_flow` reads.
    """

    name: str
    stats: Mapping[str, Any]
    endpoints: Sequence[Mapping[str, Any]]
    sessions: int
    buffered_bytes: int
    index_blocks: int
    index_bytes: int
    endpoints_age_s: float = 0.0
    rewrites: Sequence[tuple[str, str, str, int]] = ()
    plugins: Sequence[Mapping[str, Any]] = ()
    flow: Mapping[str, Any] = field(default_factory=lambda: NO_FLOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the page is made of, taken at once.

    `by_pool`: whether there may be several pools, so that each is called by its namespace and name. `routing` are the
    figures of the body-based router, if there is one, `rate_limits` those of rate limits; `counters` and `gauges` map a
    name to its help, label names and rows of (label values, value). Times in ns of one monotonic clock.
    """

    version: str
    shell: str
    now_ns: int
    stale_after_s: float
    pools: Sequence[PoolSnapshot]
    by_pool: bool = False
    routing: Mapping[str, Any] | None = None
    rate_limits: Sequence[Mapping[str, Any]] = ()
    counters: Mapping[str, Figure] = field(default_factory=dict)
    gauges: Mapping[str, Figure] = field(default_factory=dict)


def families(snapshot: Snapshot) -> Iterator[AnyFamily]:
    """Everything there is to show: of each pool, and of the process."""
    if len(snapshot.pools) == 1 and not snapshot.by_pool:
        yield from _of_pool(snapshot, snapshot.pools[0])
    elif snapshot.pools:
        yield from _of_pools(snapshot)
    else:
        yield from (*_info(snapshot), _shell(snapshot))
    if snapshot.routing is not None:
        yield from routing_families(snapshot.routing)
    yield from rate_limit_families(snapshot.rate_limits)
    yield from _given(Counters, snapshot.counters)
    yield from _given(Gauges, snapshot.gauges)


def _of_pool(snapshot: Snapshot, pool: PoolSnapshot) -> Iterator[AnyFamily]:
    yield from _requests(pool.stats["series"])
    yield from _pool(pool)
    yield from _scheduler(snapshot, pool)
    yield from _endpoints(snapshot, pool)
    stale = sum(_is_stale(snapshot, endpoint) for endpoint in pool.endpoints)
    yield from flow_families(pool.name, pool.flow, pool.stats["series"], pool.endpoints, stale=stale)
    yield from _rewrites(pool.rewrites)
    yield from _plugins(pool.plugins)


def _of_pools(snapshot: Snapshot) -> Iterator[AnyFamily]:
    """The families of one pool, with the rows of all: which pool they are of is said where no label says it."""
    names = [pool.name for pool in snapshot.pools]
    for first, *others in zip(*(_of_pool(snapshot, pool) for pool in snapshot.pools), strict=True):
        same = list(zip(names, (first, *others), strict=True))
        yield first if first.is_shared else first.joined(same, "pool")


def page(snapshot: Snapshot, *, openmetrics: bool = False) -> Iterator[bytes]:
    """The page as text (version 0.0.4) or OpenMetrics (1.0.0), in slices."""
    lines: list[str] = []
    for family in families(snapshot):
        for more in chain([family.head(openmetrics=openmetrics)], family.rows()):
            if len(lines) + len(more) > SLICE:
                yield "".join(lines).encode()
                lines.clear()
            lines += more
    lines += ["# EOF\n"] if openmetrics else []
    yield "".join(lines).encode()


def _labels(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The model a client asks for, the one its requests are sent to, who it is, and how much it matters: `_SERIES`."""
    return one["model"], one["target"], one["fairness_id"], one["priority"]


def _requests(series: Sequence[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    under_way: dict[str, int] = {}
    for one in series:
        under_way[one["model"]] = under_way.get(one["model"], 0) + one["running"]
    running = Gauges("inference_objective_running_requests", "Requests under way.", ("model_name",))
    for model, count in under_way.items():
        running.add((model,), count)
    yield running
    now_running = Gauges("llm_d_epp_request_running", "Requests under way.", _SERIES)
    statuses = Counters("picker_responses", "Responses by class of status.", (*_MODEL, "status_class"))
    by_status: dict[tuple[str, str, str], int] = {}
    for one in series:
        now_running.add(_labels(one), one["running"])
        for kind, count in one["statuses"].items():
            key = (one["model"], one["target"], kind)
            by_status[key] = by_status.get(key, 0) + count
    for values, count in by_status.items():
        statuses.add(values, count)
    yield from (now_running, statuses)
    for prefix in ("inference_objective", "llm_d_epp"):
        yield from _request_counts(prefix, series)
    yield from _request_histograms(series)


def _request_counts(prefix: str, series: Sequence[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    total = Counters(f"{prefix}_request", "Requests that have ended, well or badly.", _SERIES)
    about = "Requests that ended badly, by cause."
    errors = Counters(f"{prefix}_request_error", about, (*_SERIES, "error_code"))
    for one in series:
        total.add(_labels(one), one["requests"])
        for code, count in one["failures"].items():
            errors.add((*_labels(one), code), count)
    yield from (total, errors)


def _request_histograms(series: Sequence[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    for old, new, about, key in _REQUEST_HISTOGRAMS:
        for name in filter(None, (old, new)):
            histograms = Histograms(name, about, _SERIES)
            for one in series:
                histograms.observe(_labels(one), one[key])
            yield histograms
    ttft = Histograms("llm_d_epp_request_ttft_seconds", _STREAMING, (*_SERIES, "streaming"))
    for one in series:
        ttft.observe((*_labels(one), "true"), one["streaming_ttft_s"])
        ttft.observe((*_labels(one), "false"), _difference(one["ttft_s"], one["streaming_ttft_s"]))
    yield ttft


def _difference(all_of_it: Histogram, part: Histogram) -> Histogram:
    """The observations that are not of the part."""
    (rows, total), (fewer, less) = all_of_it, part
    return [(bound, count - of_part) for (bound, count), (_, of_part) in zip(rows, fewer, strict=True)], total - less


F = TypeVar("F", Gauges, Counters)


def _one(family: F, value: float) -> F:
    """A family of a single sample without labels."""
    family.add((), value)
    return family


def _mean(endpoints: Sequence[Mapping[str, Any]], key: str) -> float:
    known = [endpoint[key] for endpoint in endpoints if endpoint[key] >= 0]
    return sum(known) / len(known) if known else 0.0


def _pool(pool: PoolSnapshot) -> Iterator[AnyFamily]:
    rows = (
        ("ready_pods", "ready_endpoints", "Endpoints of the pool, ejected ones too.", float(len(pool.endpoints))),
        ("average_queue_size", "", "Mean waiting requests.", _mean(pool.endpoints, "waiting")),
        ("average_running_requests", "", "Mean running requests.", _mean(pool.endpoints, "running")),
        ("average_kv_cache_utilization", "", "Mean KV usage, 0-1.", _mean(pool.endpoints, "kv_usage")),
    )
    for old, new, about, value in rows:
        for name in (f"inference_pool_{old}", f"llm_d_epp_{new or old}"):
            family = Gauges(name, about, ("name",))
            family.add((pool.name,), value)
            yield family
    about = "Time since the endpoints were last known to be those there are."
    yield _one(Gauges("picker_endpoints_age_seconds", about), pool.endpoints_age_s)
    for name, label in (
        ("inference_pool_per_pod_queue_size", "model_server_pod"),
        ("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint"),
    ):
        queue = Gauges(name, "Waiting requests.", ("name", label))
        for endpoint in pool.endpoints:
            queue.add((pool.name, endpoint["target"]), max(endpoint["waiting"], 0))
        yield queue


def _info(snapshot: Snapshot) -> Iterator[Gauges]:
    for prefix in ("inference_extension", "llm_d_epp"):
        info = Gauges(f"{prefix}_info", "The build.", ("commit", "build_ref"), is_shared=True)
        info.add(("", snapshot.version), 1)
        yield info


def _shell(snapshot: Snapshot) -> Gauges:
    shell = Gauges("picker_shell_info", "Which server moves the bytes.", ("shell",), is_shared=True)
    shell.add((snapshot.shell,), 1)
    return shell


def _scheduler(snapshot: Snapshot, pool: PoolSnapshot) -> Iterator[AnyFamily]:
    stats = pool.stats
    labels = ("plugin_name", "plugin_type")
    for prefix, info in zip(("inference_extension", "llm_d_epp"), _info(snapshot), strict=True):
        about = "Time of a pick: from the last byte of the request to the reply."
        took = Histograms(f"{prefix}_scheduler_e2e_duration_seconds", about)
        took.observe((), stats["scheduling_s"])
        yield took
        attempts = Counters(f"{prefix}_scheduler_attempts", "Picks.", ("status",))
        attempts.add(("success",), stats["picked"])
        attempts.add(("failure",), stats["not_picked"])
        yield attempts
        size = Gauges(f"{prefix}_prefix_indexer_size", "(block, endpoint) pairs held.", labels)
        size.add(_PREFIX_PLUGIN, pool.index_blocks)
        yield size
        about = "Share of the prompt that the picked endpoint is thought to hold."
        ratio = Histograms(f"{prefix}_prefix_indexer_hit_ratio", about, labels)
        ratio.observe(_PREFIX_PLUGIN, stats["hit_ratio"])
        yield ratio
        about = "Prompt bytes that the picked endpoint is thought to hold."
        held = Histograms(f"{prefix}_prefix_indexer_hit_bytes", about, labels)
        held.observe(_PREFIX_PLUGIN, stats["hit_bytes"])
        yield held
        yield info
    yield _shell(snapshot)
    yield _one(Gauges("picker_prefix_index_bytes", "Memory of the prefix index."), pool.index_bytes)
    yield _one(Gauges("picker_open_streams", "Open ext_proc streams."), pool.sessions)
    about = "Request bodies that wait to be complete, in bytes."
    yield _one(Gauges("picker_buffered_body_bytes", about), pool.buffered_bytes)
    yield _one(Counters("picker_endpoint_ejections", "Endpoints ejected."), stats["ejected"])
    for kind in ("predicted", "reported"):
        about = f"Prompt tokens {kind} as cached, of requests whose model server reported them."
        yield _one(Counters(f"picker_prompt_tokens_cached_{kind}", about), stats[f"{kind}_tokens"])


def _age_s(snapshot: Snapshot, endpoint: Mapping[str, Any]) -> float:
    seen: int = endpoint["scraped_ns"]
    return (snapshot.now_ns - seen) * 1e-9 if seen else -1.0


def _is_stale(snapshot: Snapshot, endpoint: Mapping[str, Any]) -> bool:
    return not 0 <= _age_s(snapshot, endpoint) <= snapshot.stale_after_s


def _endpoints(snapshot: Snapshot, pool: PoolSnapshot) -> Iterator[AnyFamily]:
    labels = ("endpoint",)
    for name, about, key in _ENDPOINT_GAUGES:
        family = Gauges(name, about, labels)
        for endpoint in pool.endpoints:
            family.add((endpoint["target"],), endpoint[key])
        yield family
    age = Gauges("picker_endpoint_metrics_age_seconds", "Age of the scraped load; -1 = never.", labels)
    stale = Gauges("picker_endpoint_metrics_stale", "1 when that age is too high.", labels)
    ejected = Gauges("picker_endpoint_ejected", "1 while the circuit breaker is open.", labels)
    picks = Counters("picker_endpoint_picks", "Requests sent to the endpoint.", labels)
    for endpoint in pool.endpoints:
        age.add((endpoint["target"],), _age_s(snapshot, endpoint))
        stale.add((endpoint["target"],), float(_is_stale(snapshot, endpoint)))
        ejected.add((endpoint["target"],), float(endpoint["ejected"]))
        picks.add((endpoint["target"],), endpoint["picks"])
    yield from (age, stale, ejected, picks)


def _rewrites(rewrites: Sequence[tuple[str, str, str, int]]) -> Iterator[AnyFamily]:
    """Rules may count one thing in two places, but only once it is shown."""
    counts: dict[tuple[str, str, str], int] = {}
    for name, model, target, count in rewrites:
        counts[name, model, target] = counts.get((name, model, target), 0) + count
    labels = ("model_rewrite_name", "model_name", "target_model")
    for prefix in ("inference_extension", "llm_d_epp"):
        about = "Requests that a rewrite rule sent to another model."
        family = Counters(f"{prefix}_model_rewrite_decisions", about, labels)
        for values, total in counts.items():
            family.add(values, total)
        yield family


def _plugins(plugins: Sequence[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    labels = ("extension_point", "plugin_type", "plugin_name")
    calls = Counters("picker_plugin_calls", "Calls of Python plugins.", labels)
    seconds = Counters("picker_plugin_seconds", "Time spent in Python plugins.", labels)
    failures = Counters(
        "picker_plugin_failures", "Requests a Python plugin was left out of, by cause.", (*labels, "cause")
    )
    for plugin in plugins:
        values = (plugin["role"], plugin["type"], plugin["name"])
        calls.add(values, plugin["calls"])
        seconds.add(values, plugin["seconds"])
        for cause, key in (("error", "errors"), ("overrun", "overruns"), ("resting", "skipped")):
            failures.add((*values, cause), plugin[key])
    yield from (calls, seconds, failures)


def _given(kind: type[Counters | Gauges], figures: Mapping[str, Figure]) -> Iterator[AnyFamily]:
    for name, (about, labels, rows) in figures.items():
        family = kind(name, about, labels)
        for values, value in rows:
            family.add(values, value)
        yield family
