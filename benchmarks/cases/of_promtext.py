from benchmarks.cases.case import Action, Case, Growth
from picker._core.promtext import PromSpec
from tests.support.shared import SHARED

VLLM: list[tuple[str, dict[str, str], str, tuple[str, ...]]] = [
    ("vllm:num_requests_waiting", {}, "sum", ()),
    ("vllm:num_requests_running", {}, "sum", ()),
    ("vllm:kv_cache_usage_perc", {}, "max", ()),
    ("vllm:cache_config_info", {}, "sum", ("block_size", "num_gpu_blocks")),
    ("vllm:lora_requests_info", {}, "newest", ("max_lora", "running_lora_adapters", "waiting_lora_adapters")),
]


def likeness(lines: int) -> bytes:
    """A metrics page with so many lines of histograms, and a few gauges."""
    labels = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
    buckets = [f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{n / 100}"}} {n}.0' for n in range(lines)]
    gauges = [f"{name}{{{labels}}} {n}.5" for n, (name, *_) in enumerate(VLLM)]
    return "\n".join([*buckets, *gauges, ""]).encode()


def page() -> bytes:
    """vLLM's own, or a likeness where the reference data is not at hand."""
    path = SHARED / "reference" / "vllm_metrics.txt"
    return path.read_bytes() if path.is_file() else likeness(450)


def scanning(text: bytes) -> Action:
    spec = PromSpec(VLLM)
    return lambda: spec.scan(text)


def with_a_full_spec() -> Action:
    spec, text = PromSpec([(f"vllm:some_other_metric_{n}_total", {}, "sum", ()) for n in range(32)]), page()
    return lambda: spec.scan(text)


CASES = [
    Case("promtext: 57 KB vLLM page, 5 series", lambda: scanning(page()), limit=60),
    Case("promtext: 57 KB vLLM page, 32 series", with_a_full_spec, limit=60),
]
GROWTHS = [Growth("promtext: a page of n lines", lambda n: scanning(likeness(n)), 200, "n")]
