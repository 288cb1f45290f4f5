"""The simulated server's `/metrics` page, in the names of the engine it plays."""

import bisect
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from picker.sim.engine import EngineConfig, EngineMetrics, Progress

TTFT_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
E2E_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip


@dataclass
class Histogram:
    """Counts per bucket; the last one has no upper bound."""

    bounds: tuple[float, ...]
    total: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as the text format wants them."""
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        sums = [sum(self.counts[: index + 1]) for index in range(len(self.counts))]
        return list(zip(names, map(float, sums), strict=True))


@dataclass
class Latencies:
    """How long requests took, by the engine's own clock."""

    ttft_s: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS_S))
    e2e_s: Histogram = field(default_factory=lambda: Histogram(E2E_BOUNDS_S))

    def observe(self, event: Progress) -> None:
        if event.first:
            self.ttft_s.observe(event.at_s - event.submitted_s)
        if event.finished:
            self.e2e_s.observe(event.at_s - event.submitted_s)


@dataclass(frozen=True)
class Page:
    """All that a metrics page is made of."""

    model: str
    config: EngineConfig
    state: EngineMetrics
    latencies: Latencies
    started: float  # Unix seconds


def _vllm(page: Page) -> Iterator[Metric]:
    state, names, values = page.state, ["engine", "model_name"], ["0", page.model]

    def gauge(name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=names)
        family.add_metric(values, value)
        return family

    def counter(name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=names)
        family.add_metric(values, value, created=page.started)
        return family

    def histogram(name: str, text: str, observed: Histogram) -> Metric:
        family = HistogramMetricFamily(f"vllm:{name}", text, labels=names)
        family.add_metric(values, observed.buckets(), observed.total)
        return family

    yield gauge("num_requests_running", "Number of requests in model execution batches.", state.running)
    yield gauge("num_requests_waiting", "Number of requests waiting to be processed.", state.waiting)
    yield gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", state.kv_usage)
    yield counter("prefix_cache_queries", "Prefix cache queries, in terms of number of tokens.", state.prefix_queries)
    yield counter("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", state.prefix_hits)
    yield counter("prompt_tokens", "Number of prefill tokens processed.", state.prompt_tokens)
    yield counter("generation_tokens", "Number of generation tokens processed.", state.generation_tokens)
    finished = CounterMetricFamily(
        "vllm:request_success", "Count of successfully processed requests.", labels=[*names, "finished_reason"]
    )
    finished.add_metric([*values, "length"], state.finished_requests, created=page.started)
    finished.add_metric([*values, "abort"], state.cancelled_requests, created=page.started)
    yield finished
    yield histogram("time_to_first_token_seconds", "Time to first token in seconds.", page.latencies.ttft_s)
    yield histogram("e2e_request_latency_seconds", "End to end request latency in seconds.", page.latencies.e2e_s)
    yield from _vllm_infos(page)


def _vllm_infos(page: Page) -> Iterator[Metric]:
    config, state = page.config, page.state
    if config.max_lora:
        labels = ["max_lora", "running_lora_adapters", "waiting_lora_adapters"]
        loras = GaugeMetricFamily("vllm:lora_requests_info", "Running stats on lora requests.", labels=labels)
        running, waiting = ",".join(state.running_loras), ",".join(state.waiting_loras)
        loras.add_metric([str(config.max_lora), running, waiting], time.time())
        yield loras
    labels = ["block_size", "enable_prefix_caching", "engine", "num_gpu_blocks"]
    cache = GaugeMetricFamily("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=labels)
    cache.add_metric([str(config.block_size), "True", "0", str(config.num_blocks)], 1.0)
    yield cache


def _sglang(page: Page) -> Iterator[Metric]:
    names, values = ["model_name"], [page.model]
    for name, text, value in (
        ("num_queue_reqs", "The number of requests in the waiting queue.", page.state.waiting),
        ("num_running_reqs", "The number of running requests.", page.state.running),
        ("token_usage", "The token usage.", page.state.kv_usage),
    ):
        family = GaugeMetricFamily(f"sglang:{name}", text, labels=names)
        family.add_metric(values, value)
        yield family
    labels = [*names, "page_size", "num_pages"]
    cache = GaugeMetricFamily("sglang:cache_config_info", "Cache configuration.", labels=labels)
    cache.add_metric([*values, str(page.config.block_size), str(page.config.num_blocks)], 1.0)
    yield cache


def _trtllm_serve(page: Page) -> Iterator[Metric]:
    for name, value in (
        ("num_requests_waiting", page.state.waiting),
        ("num_requests_running", page.state.running),
        ("kv_cache_utilization", page.state.kv_usage),
        ("kv_cache_tokens_per_block", page.config.block_size),
        ("kv_cache_max_blocks", page.config.num_blocks),
    ):
        family = GaugeMetricFamily(f"trtllm_{name}", name.replace("_", " "), labels=["model_name"])
        family.add_metric([page.model], value)
        yield family


def _triton(page: Page) -> Iterator[Metric]:
    state, config = page.state, page.config
    for name, label, series in (
        ("request_metrics", "request_type", {"waiting": state.waiting, "scheduled": state.running}),
        (
            "kv_cache_block_metrics",
            "kv_cache_block_type",
            {"fraction": state.kv_usage, "tokens_per": config.block_size, "max": config.num_blocks},
        ),
    ):
        family = GaugeMetricFamily(f"nv_trt_llm_{name}", f"TRT LLM {name}", labels=["model", label, "version"])
        for kind, value in series.items():
            family.add_metric([page.model, kind, "1"], value)
        yield family


STYLES: dict[str, Callable[[Page], Iterator[Metric]]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm-serve": _trtllm_serve,
    "triton-tensorrt-llm": _triton,
}


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def render(page: Page, style: str) -> bytes:
    """The page in Prometheus' text format 0.0.4. `style` is a key of `STYLES`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(STYLES[style](page))))
    return generate_latest(registry)
