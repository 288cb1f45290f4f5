import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from picker._core.promtext import PromSpec
from tests.support.shared import SHARED, needs_shared

VLLM = [
    ("vllm:num_requests_waiting", {}, "sum", ()),
    ("vllm:num_requests_running", {}, "sum", ()),
    ("vllm:kv_cache_usage_perc", {}, "max", ()),
    ("vllm:cache_config_info", {}, "sum", ("block_size", "num_gpu_blocks")),
    ("vllm:lora_requests_info", {}, "newest", ("max_lora", "running_lora_adapters", "waiting_lora_adapters")),
]


@pytest.fixture
def page() -> bytes:
    return (SHARED / "reference" / "vllm_metrics.txt").read_bytes()


@needs_shared
def test_scan_vllm_page(page: bytes, seconds, target) -> None:
    spec = PromSpec(VLLM)
    took = seconds(lambda: spec.scan(page))
    started = time.perf_counter()
    list(text_string_to_metric_families(page.decode()))
    library = time.perf_counter() - started
    target("promtext: 57 KB vLLM page, 5 series", took * 1e6, 60, "us")
    target("promtext: times faster than prometheus_client.parser", library / took, 100, "x", higher_is_better=True)


@needs_shared
def test_scan_with_a_full_spec(page: bytes, seconds, target) -> None:
    spec = PromSpec([(f"vllm:some_other_metric_{index}_total", {}, "sum", ()) for index in range(32)])
    target("promtext: 57 KB vLLM page, 32 series", seconds(lambda: spec.scan(page)) * 1e6, 60, "us")
