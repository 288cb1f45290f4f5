"""Which series of which engine say what, and how a page of them becomes a `ScrapedLoad`.

Names are those of the model server protocol (proposal 003) and of `core-metrics-extractor`. Where an engine with
data-parallel ranks shows one series per rank: requests add up; KV usage is that of the fullest rank, because that is
the one which preempts requests (the engine spreads them evenly, so in health the maximum is close to the mean); block
counts add up, as each rank has a cache of its own.
"""

import math
from collections.abc import Iterable, Mapping

from picker._core.promtext import PromSpec
from picker.config.support import CoreMetricsExtractor, EngineConfig
from picker.scrape.specs import parse_spec
from picker.types import ScrapedLoad

__all__ = ["ENGINE_LABELS", "PRESETS", "EngineReader", "EngineTable", "configured_engines"]

ENGINE_LABELS = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
"""Pod labels that name the engine; the first one present decides."""

Want = tuple[str, dict[str, str], str, tuple[str, ...]]
Sample = tuple[float, tuple[bytes | None, ...]] | None


PRESETS = (
    EngineConfig(
        name="vllm",
        queuedRequestsSpec="vllm:num_requests_waiting",
        runningRequestsSpec="vllm:num_requests_running",
        kvUsageSpec="vllm:kv_cache_usage_perc",
        loraSpec="vllm:lora_requests_info",
        cacheInfoSpec="vllm:cache_config_info",
        cacheBlockSizeLabelName="block_size",
        cacheNumBlocksLabelName="num_gpu_blocks",
    ),
    EngineConfig(
        name="sglang",
        queuedRequestsSpec="sglang:num_queue_reqs",
        runningRequestsSpec="sglang:num_running_reqs",
        kvUsageSpec="sglang:token_usage",
        cacheInfoSpec="sglang:cache_config_info",
        cacheBlockSizeLabelName="page_size",
        cacheNumBlocksLabelName="num_pages",
    ),
    EngineConfig(
        name="trtllm-serve",
        queuedRequestsSpec="trtllm_num_requests_waiting",
        runningRequestsSpec="trtllm_num_requests_running",
        kvUsageSpec="trtllm_kv_cache_utilization",
        cacheBlockSizeSpec="trtllm_kv_cache_tokens_per_block",
        cacheNumBlocksSpec="trtllm_kv_cache_max_blocks",
    ),
    EngineConfig(
        name="triton-tensorrt-llm",
        queuedRequestsSpec="nv_trt_llm_request_metrics{request_type=waiting}",
        runningRequestsSpec="nv_trt_llm_request_metrics{request_type=scheduled}",
        kvUsageSpec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
        cacheBlockSizeSpec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}",
        cacheNumBlocksSpec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}",
    ),
)


class EngineReader:
    """Reads pages of one engine. Raises ValueError for a spec that cannot be parsed.

    `malformed` counts the lines of wanted series that were skipped, over all pages.
    """

    def __init__(self, engine: EngineConfig) -> None:
        lora = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
        cache = tuple(label for label in (engine.cacheBlockSizeLabelName, engine.cacheNumBlocksLabelName) if label)
        self.engine = engine
        self.malformed = 0
        self._wants: list[Want] = []
        self._queued = self._want(engine.queuedRequestsSpec, "sum")
        self._running = self._want(engine.runningRequestsSpec, "sum")
        self._kv_usage = self._want(engine.kvUsageSpec, "max")
        self._lora = self._want(engine.loraSpec, "newest", lora)
        self._cache_info = self._want(engine.cacheInfoSpec, "sum", cache)
        self._block_size = self._want(engine.cacheBlockSizeSpec, "max")
        self._num_blocks = self._want(engine.cacheNumBlocksSpec, "sum")
        self._spec = PromSpec(self._wants)

    def _want(self, spec: str, combine: str, labels: tuple[str, ...] = ()) -> int | None:
        """The index of the series in what `scan` returns; None if it is switched off."""
        if not spec:
            return None
        name, filters = parse_spec(spec)
        self._wants.append((name, filters, combine, labels))
        return len(self._wants) - 1

    def read(self, page: bytes | bytearray) -> ScrapedLoad | None:
        """The load `page` tells, or None if it tells neither queued nor running requests."""
        found = self._spec.scan(page)
        self.malformed += self._spec.malformed
        waiting, running = _count(self._value(found, self._queued)), _count(self._value(found, self._running))
        if waiting is None and running is None:
            return None
        usage = _count(self._value(found, self._kv_usage))
        block_size, num_blocks = self._blocks(found)
        max_lora, serving, queued = self._labels(found, self._lora, 3)
        return ScrapedLoad(
            waiting=waiting,
            running=running,
            kv_usage=None if usage is None else min(usage, 1.0),
            block_size_tokens=block_size,
            num_blocks=num_blocks,
            max_lora=_integer(max_lora),
            running_adapters=_names(serving),
            waiting_adapters=_names(queued),
        )

    def _blocks(self, found: list[Sample]) -> tuple[int | None, int | None]:
        """Tokens per block and blocks in all. An info series counts its ranks: the value of each is 1."""
        size, blocks = _whole(self._value(found, self._block_size)), _whole(self._value(found, self._num_blocks))
        named = (self.engine.cacheBlockSizeLabelName, self.engine.cacheNumBlocksLabelName)
        labels = iter(self._labels(found, self._cache_info, sum(map(bool, named))))
        size_label, blocks_label = (_integer(next(labels)) if name else None for name in named)
        ranks = _whole(self._value(found, self._cache_info)) or 1
        return size_label or size, blocks_label * ranks if blocks_label else blocks

    @staticmethod
    def _value(found: list[Sample], index: int | None) -> float | None:
        sample = None if index is None else found[index]
        return None if sample is None else sample[0]

    @staticmethod
    def _labels(found: list[Sample], index: int | None, count: int) -> tuple[bytes | None, ...]:
        sample = None if index is None else found[index]
        return (None,) * count if sample is None else sample[1]


class EngineTable:
    """Finds the reader of an endpoint's engine by its pod labels.

    `engines` replace the presets of their names; a label that names no known engine means `default`. Raises ValueError
    for a bad spec or an unknown default.
    """

    def __init__(
        self, engines: Iterable[EngineConfig] = (), *, labels: tuple[str, ...] = ENGINE_LABELS, default: str = "vllm"
    ) -> None:
        self._readers = {engine.name: EngineReader(engine) for engine in (*PRESETS, *engines)}
        self._label_keys = labels
        if default not in self._readers:
            raise ValueError(f"default engine {default!r} is none of {', '.join(self._readers)}")
        self._default = self._readers[default]

    @property
    def malformed(self) -> int:
        """Lines of wanted series skipped so far."""
        return sum(reader.malformed for reader in self._readers.values())

    def reader(self, labels: Mapping[str, str]) -> EngineReader:
        """The reader for pages of an endpoint with these pod labels; shared by all endpoints of one engine."""
        named = next((labels[key] for key in self._label_keys if key in labels), "")
        return self._readers.get(named, self._default)


def configured_engines(extractor: CoreMetricsExtractor | None) -> EngineTable:
    """The engines a `core-metrics-extractor` names, beside the presets. Raises ValueError for a bad spec."""
    if extractor is None:
        return EngineTable()
    own = extractor.engineLabelKey
    labels = ENGINE_LABELS if own in ENGINE_LABELS else (own, *ENGINE_LABELS)
    return EngineTable(extractor.engineConfigs, labels=labels, default=extractor.defaultEngine)


def _count(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) and value >= 1 else None


def _integer(text: bytes | None) -> int | None:
    """A positive integer label; engines write `None` where they have none."""
    return (int(text) or None) if text is not None and text.isdigit() and len(text) < 19 else None


def _names(text: bytes | None) -> tuple[str, ...]:
    parts = [] if text is None else text.decode(errors="replace").split(",")
    return tuple(name for part in parts if (name := part.strip()))
