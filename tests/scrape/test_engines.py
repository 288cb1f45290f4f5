import pytest

from picker.config.support import EngineConfig
from picker.scrape import PRESETS, EngineTable
from picker.types import ScrapedLoad
from tests.support.shared import SHARED, needs_shared

TABLE = EngineTable()


def read(page: str, engine: str = "vllm") -> ScrapedLoad | None:
    return TABLE.reader({"llm-d.ai/engine-type": engine}).read(page.encode())


@needs_shared
def test_reads_a_real_vllm_page() -> None:
    page = (SHARED / "reference" / "vllm_metrics.txt").read_text()
    assert read(page) == ScrapedLoad(
        waiting=0.0,
        running=6.0,
        kv_usage=0.0008392462043183002,
        block_size_tokens=32,
        num_blocks=65536,
        max_lora=2,
        running_adapters=("lora1",),
        waiting_adapters=("lora1",),
    )


def test_reads_sglang() -> None:
    page = """sglang:num_queue_reqs{tp_rank="0"} 1
sglang:num_running_reqs{tp_rank="0"} 2
sglang:token_usage{tp_rank="0"} 0.5
sglang:cache_config_info{page_size="64",num_pages="100"} 1
"""
    expected = ScrapedLoad(waiting=1, running=2, kv_usage=0.5, block_size_tokens=64, num_blocks=100)
    assert read(page, "sglang") == expected


def test_reads_trtllm_serve() -> None:
    page = """trtllm_num_requests_waiting 1
trtllm_num_requests_running 2
trtllm_kv_cache_utilization 0.25
trtllm_kv_cache_tokens_per_block 32
trtllm_kv_cache_max_blocks 500
"""
    expected = ScrapedLoad(waiting=1, running=2, kv_usage=0.25, block_size_tokens=32, num_blocks=500)
    assert read(page, "trtllm-serve") == expected


def test_reads_triton() -> None:
    page = """nv_trt_llm_request_metrics{request_type="waiting"} 1
nv_trt_llm_request_metrics{request_type="scheduled"} 2
nv_trt_llm_request_metrics{request_type="max"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"} 0.125
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} 700
"""
    expected = ScrapedLoad(waiting=1, running=2, kv_usage=0.125, block_size_tokens=64, num_blocks=700)
    assert read(page, "triton-tensorrt-llm") == expected


def test_data_parallel_ranks_are_put_together() -> None:
    page = "".join(
        f"""vllm:num_requests_waiting{{engine="{rank}"}} {rank}
vllm:num_requests_running{{engine="{rank}"}} 4
vllm:kv_cache_usage_perc{{engine="{rank}"}} 0.{rank}
vllm:cache_config_info{{block_size="16",engine="{rank}",num_gpu_blocks="1000"}} 1.0
"""
        for rank in range(4)
    )
    expected = ScrapedLoad(waiting=6, running=16, kv_usage=0.3, block_size_tokens=16, num_blocks=4000)
    assert read(page) == expected


def test_what_the_page_does_not_tell_is_none() -> None:
    assert read("vllm:num_requests_running 1\n") == ScrapedLoad(running=1.0)
    assert read("vllm:num_requests_waiting 1\n") == ScrapedLoad(waiting=1.0)
    assert read("vllm:kv_cache_usage_perc 1\n") is None
    assert read("") is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "many"])
def test_a_senseless_value_costs_only_its_own_field(value: str) -> None:
    page = f"vllm:num_requests_waiting {value}\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc {value}\n"
    assert read(page) == ScrapedLoad(running=2.0)


def test_usage_is_at_most_one() -> None:
    load = read("vllm:num_requests_running 1\nvllm:kv_cache_usage_perc 1.0000001\n")
    assert load is not None
    assert load.kv_usage == 1.0


@pytest.mark.parametrize("text", ["None", "", "0", "-5", "1e3", "9" * 19])
def test_labels_that_are_no_positive_integers_are_none(text: str) -> None:
    page = f'vllm:num_requests_running 1\nvllm:cache_config_info{{block_size="16",num_gpu_blocks="{text}"}} 1\n'
    assert read(page) == ScrapedLoad(running=1.0, block_size_tokens=16)


def test_adapters_are_split_at_commas() -> None:
    page = """vllm:num_requests_running 1
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b,,c/d",waiting_lora_adapters=""} 20
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters="old"} 10
"""
    assert read(page) == ScrapedLoad(running=1.0, max_lora=4, running_adapters=("a", "b", "c/d"))


def test_the_engine_is_named_by_either_label_and_is_vllm_otherwise() -> None:
    legacy = "inference.networking.k8s.io/engine-type"
    assert TABLE.reader({}).engine.name == "vllm"
    assert TABLE.reader({legacy: "sglang"}).engine.name == "sglang"
    assert TABLE.reader({legacy: "sglang", "llm-d.ai/engine-type": "trtllm-serve"}).engine.name == "trtllm-serve"
    assert TABLE.reader({legacy: "unheard-of"}).engine.name == "vllm"
    assert {engine.name for engine in PRESETS} == {"vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm"}


def test_engines_can_be_added_and_replaced() -> None:
    mine = EngineConfig(
        name="mine",
        queuedRequestsSpec="q{pool=a}",
        runningRequestsSpec="r",
        cacheBlockSizeSpec="b",
        cacheNumBlocksSpec="n",
    )
    table = EngineTable([mine, EngineConfig(name="vllm", queuedRequestsSpec="v")], labels=("engine",), default="mine")
    page = b'q{pool="a"} 1\nq{pool="b"} 2\nr 3\nb 16\nn 10\nn 10\nv 7\n'
    assert table.reader({}).read(page) == ScrapedLoad(waiting=1, running=3, block_size_tokens=16, num_blocks=20)
    assert table.reader({"engine": "vllm"}).read(page) == ScrapedLoad(waiting=7)
    with pytest.raises(ValueError, match="default engine"):
        EngineTable(default="none")
    with pytest.raises(ValueError, match="metric spec"):
        EngineTable([EngineConfig(name="bad", queuedRequestsSpec="q{")])


def test_labels_of_an_info_series_win_over_series_of_their_own() -> None:
    mine = EngineConfig(
        name="vllm",
        queuedRequestsSpec="q",
        cacheInfoSpec="i",
        cacheNumBlocksLabelName="blocks",
        cacheBlockSizeSpec="b",
        cacheNumBlocksSpec="n",
    )
    reader = EngineTable([mine]).reader({})
    assert reader.read(b'q 1\nb 16\nn 5\ni{blocks="9"} 1\n') == ScrapedLoad(
        waiting=1, block_size_tokens=16, num_blocks=9
    )
    assert reader.read(b"q 1\nb 16\nn 5\n") == ScrapedLoad(waiting=1, block_size_tokens=16, num_blocks=5)


def test_skipped_lines_are_counted() -> None:
    table = EngineTable()
    table.reader({}).read(b"vllm:num_requests_running x\nvllm:num_requests_waiting{ 1\n")
    table.reader({}).read(b"vllm:num_requests_running x\n")
    assert table.malformed == 3
