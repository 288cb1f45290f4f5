"""The metrics page: both formats parse, and dashboards find what they ask for."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from picker._core import copies
from picker._core.flowcopies import copy_flow, read_flow
from picker.admin.metrics import SLICE, PoolSnapshot, Snapshot, page
from tests.support import messages
from tests.support.config_samples import HEAD
from tests.support.rig import SECOND, Rig, chat, endpoint, target

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def endpoints_of(rig: Rig) -> list[dict[str, Any]]:
    """As the control process has them."""
    piece = copies.copy_endpoints(rig.engine, 0, 1000)
    return copies.read_endpoints(piece, rig.now_ns) if piece else []


def figures(rig: Rig, name: str = "pool-a", **more: Any) -> PoolSnapshot:
    return PoolSnapshot(
        name=name,
        stats=rig.engine.stats(),
        endpoints=endpoints_of(rig),
        flow=read_flow(copy_flow(rig.engine, rig.now_ns), rig.now_ns),
        sessions=rig.engine.sessions,
        buffered_bytes=rig.engine.buffered_bytes,
        index_blocks=rig.engine.index_blocks,
        index_bytes=rig.engine.index_bytes,
        **more,
    )


def snapshot_of(pools: Sequence[PoolSnapshot], now_ns: int = SECOND, **more: Any) -> Snapshot:
    return Snapshot(version="1.2.3", shell="wire", now_ns=now_ns, stale_after_s=5.0, pools=pools, **more)


def snapshot(rig: Rig, **more: Any) -> Snapshot:
    """Of the only pool there is."""
    of_all = {name: more.pop(name) for name in ("counters", "routing") if name in more}
    return snapshot_of([figures(rig, **more)], rig.now_ns, **of_all)


def text(shown: Snapshot, accept: str = "") -> str:
    return b"".join(page(shown, openmetrics=bool(accept))).decode()


def parsed(shown: Snapshot, accept: str) -> dict[str, Metric]:
    """Families by name, as the format's own parser reads them."""
    read = openmetrics_parser.text_string_to_metric_families if accept else text_string_to_metric_families
    families = list(read(text(shown, accept)))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def samples(shown: Snapshot, name: str, accept: str = "") -> list[Sample]:
    """All samples called exactly `name`."""
    return [sample for family in parsed(shown, accept).values() for sample in family.samples if sample.name == name]


def value(shown: Snapshot, sample_name: str, **labels: str) -> float:
    (found,) = (sample for sample in samples(shown, sample_name) if labels.items() <= sample.labels.items())
    return found.value


@pytest.fixture
def busy() -> Rig:
    """Two endpoints; requests that went well, one under way, one refused."""
    rig = Rig(HEAD, [endpoint(1), endpoint(2)])
    rig.load(1, waiting=3, running=2, kv_usage=0.5)
    for _ in range(3):
        rig.pick(chat("p" * 1000, model="qwen"))
        rig.now_ns += SECOND
    rig.send(chat(model="qwen"))
    rig.pick(b'{"model": "qwen", "messages": []}')
    return rig


FORMATS = pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])


@FORMATS
def test_the_page_parses(busy: Rig, accept: str) -> None:
    families = parsed(snapshot(busy), accept)
    assert len(families) > 40
    assert all(family.documentation and family.type != "unknown" for family in families.values())


@FORMATS
def test_the_page_of_an_empty_picker_parses(accept: str) -> None:
    families = parsed(snapshot(Rig(HEAD, [])), accept)
    assert families["inference_pool_ready_pods"].samples[0].value == 0


SERIES = {"model_name", "target_model_name", "fairness_id", "priority"}
REQUIRED: dict[str, set[str]] = {
    "inference_objective_request_total": SERIES,
    "inference_objective_request_error_total": SERIES | {"error_code"},
    "inference_objective_request_duration_seconds_count": SERIES,
    "inference_objective_request_ttft_seconds_count": SERIES,
    "inference_objective_request_tpot_seconds_count": SERIES,
    "inference_objective_normalized_time_per_output_token_seconds_count": SERIES,
    "inference_objective_request_sizes_count": SERIES,
    "inference_objective_response_sizes_count": SERIES,
    "inference_objective_input_tokens_count": SERIES,
    "inference_objective_output_tokens_count": SERIES,
    "inference_objective_prompt_cached_tokens_count": SERIES,
    "inference_objective_running_requests": {"model_name"},
    "inference_pool_ready_pods": {"name"},
    "inference_pool_average_queue_size": {"name"},
    "inference_pool_average_running_requests": {"name"},
    "inference_pool_average_kv_cache_utilization": {"name"},
    "inference_pool_per_pod_queue_size": {"name", "model_server_pod"},
    "inference_extension_scheduler_e2e_duration_seconds_count": set(),
    "inference_extension_scheduler_attempts_total": {"status"},
    "inference_extension_prefix_indexer_size": {"plugin_name", "plugin_type"},
    "inference_extension_prefix_indexer_hit_ratio_count": {"plugin_name", "plugin_type"},
    "inference_extension_prefix_indexer_hit_bytes_count": {"plugin_name", "plugin_type"},
    "inference_extension_info": {"commit", "build_ref"},
    "llm_d_epp_request_total": SERIES,
    "llm_d_epp_request_error_total": SERIES | {"error_code"},
    "llm_d_epp_request_duration_seconds_count": SERIES,
    "llm_d_epp_request_ttft_seconds_count": SERIES | {"streaming"},
    "llm_d_epp_request_streaming_tpot_seconds_count": SERIES,
    "llm_d_epp_request_streaming_itl_seconds_count": SERIES,
    "llm_d_epp_request_ntpot_seconds_count": SERIES,
    "llm_d_epp_request_size_bytes_count": SERIES,
    "llm_d_epp_response_size_bytes_count": SERIES,
    "llm_d_epp_request_input_tokens_count": SERIES,
    "llm_d_epp_request_output_tokens_count": SERIES,
    "llm_d_epp_request_cached_tokens_count": SERIES,
    "llm_d_epp_request_running": SERIES,
    "llm_d_epp_ready_endpoints": {"name"},
    "llm_d_epp_average_queue_size": {"name"},
    "llm_d_epp_average_running_requests": {"name"},
    "llm_d_epp_average_kv_cache_utilization": {"name"},
    "llm_d_epp_per_endpoint_queue_size": {"name", "model_server_endpoint"},
    "llm_d_epp_scheduler_e2e_duration_seconds_count": set(),
    "llm_d_epp_scheduler_attempts_total": {"status"},
    "llm_d_epp_prefix_indexer_size": {"plugin_name", "plugin_type"},
    "llm_d_epp_prefix_indexer_hit_ratio_count": {"plugin_name", "plugin_type"},
    "llm_d_epp_info": {"commit", "build_ref"},
}


@pytest.mark.parametrize("name", REQUIRED)
def test_names_and_labels_are_those_dashboards_ask_for(busy: Rig, name: str) -> None:
    found = samples(snapshot(busy), name)
    assert found
    assert {frozenset(sample.labels) for sample in found} == {frozenset(REQUIRED[name])}


def test_requests_are_counted_by_model_and_outcome(busy: Rig) -> None:
    shown = snapshot(busy)
    labels = {"model_name": "qwen", "target_model_name": "qwen"}
    assert value(shown, "inference_objective_request_total", **labels, priority="0") == 4  # that have ended
    assert value(shown, "inference_objective_request_error_total", **labels, error_code="BadRequest") == 1
    assert value(shown, "inference_objective_running_requests", model_name="qwen") == 1
    assert value(shown, "inference_objective_request_duration_seconds_count", **labels) == 4
    assert value(shown, "inference_extension_scheduler_attempts_total", status="success") == 4
    assert value(shown, "picker_open_streams") == 1
    assert value(shown, "llm_d_epp_request_total", **labels, fairness_id="default-flow", priority="0") == 4
    assert value(shown, "picker_responses_total", **labels, status_class="2xx") == 3


def test_a_rewritten_model_is_shown_by_both_names(busy: Rig) -> None:
    for name in ("qwen", "llama", "a\\u0000b"):
        busy.pick(chat(model=name), headers={"x-gateway-model-name-rewrite": "big"})
    busy.pick(chat(model="a\\u0000b"))
    shown = snapshot(busy)
    for model, sent_to, count in (("qwen", "qwen", 4), ("qwen", "big", 1), ("llama", "big", 1), ("other", "other", 2)):
        for name in ("inference_objective_request_total", "llm_d_epp_request_total"):
            assert value(shown, name, model_name=model, target_model_name=sent_to) == count
    assert value(shown, "inference_objective_running_requests", model_name="qwen") == 1


def test_times_to_the_first_token_tell_streams_from_others(busy: Rig) -> None:
    session, _ = busy.send(chat(model="qwen"))
    session.feed(messages.response_headers(200, "application/json"), busy.now_ns)
    session.feed(messages.response_body(b"{}", end_of_stream=True), busy.now_ns + SECOND)
    session.close(busy.now_ns)
    shown = snapshot(busy)
    assert value(shown, "inference_objective_request_ttft_seconds_count") == 4
    for streaming, count, total in (("true", 3, 0), ("false", 1, 1)):
        assert value(shown, "llm_d_epp_request_ttft_seconds_count", streaming=streaming) == count
        assert value(shown, "llm_d_epp_request_ttft_seconds_bucket", streaming=streaming, le="+Inf") == count
        assert value(shown, "llm_d_epp_request_ttft_seconds_sum", streaming=streaming) == total


def test_the_pool_is_told_by_its_name(busy: Rig) -> None:
    shown = snapshot(busy)
    assert value(shown, "inference_pool_ready_pods", name="pool-a") == 2
    assert value(shown, "inference_pool_average_queue_size", name="pool-a") == 3  # of those that were scraped
    assert value(shown, "inference_pool_per_pod_queue_size", model_server_pod=target(1)) == 3
    assert value(shown, "inference_pool_per_pod_queue_size", model_server_pod=target(2)) == 0
    assert value(shown, "inference_extension_info", build_ref="1.2.3") == 1


def test_the_shell_is_told_by_its_name(busy: Rig) -> None:
    (sample,) = samples(snapshot(busy), "picker_shell_info")
    assert (sample.labels, sample.value) == ({"shell": "wire"}, 1)


def test_the_age_of_what_was_scraped_is_shown(busy: Rig) -> None:
    assert value(snapshot(busy), "picker_endpoint_metrics_age_seconds", endpoint=target(1)) == 3.0
    assert value(snapshot(busy), "picker_endpoint_metrics_stale", endpoint=target(1)) == 0
    assert value(snapshot(busy), "picker_endpoint_metrics_age_seconds", endpoint=target(2)) == -1
    assert value(snapshot(busy), "picker_endpoint_metrics_stale", endpoint=target(2)) == 1
    busy.now_ns += 3 * SECOND
    assert value(snapshot(busy), "picker_endpoint_metrics_stale", endpoint=target(1)) == 1


def test_the_index_is_shown(busy: Rig) -> None:
    shown = snapshot(busy)
    labels = {"plugin_name": "prefix-cache", "plugin_type": "radix"}
    assert value(shown, "inference_extension_prefix_indexer_size", **labels) == busy.engine.index_blocks > 0
    assert value(shown, "inference_extension_prefix_indexer_hit_ratio_count", **labels) == 3
    assert value(shown, "picker_prefix_index_bytes") == busy.engine.index_bytes > 0


# --- histograms ---

LONG = [
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120),
    *(180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
]
TOKENS = [1, *(2**n for n in range(3, 15)), 32778, *(2**n for n in range(16, 21))]  # 32778: as the peer has it
EQUAL: dict[str, Sequence[float]] = {
    "inference_objective_request_duration_seconds": LONG,
    "inference_objective_request_ttft_seconds": LONG[:24],
    "inference_objective_request_tpot_seconds": [
        *(0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 2)
    ],
    "inference_objective_request_sizes": [2**n for n in range(6, 31)],
    "inference_objective_input_tokens": TOKENS,
    "inference_objective_prompt_cached_tokens": TOKENS,
}
EQUAL |= {
    "llm_d_epp_request_duration_seconds": LONG,
    "llm_d_epp_request_streaming_tpot_seconds": EQUAL["inference_objective_request_tpot_seconds"],
    "llm_d_epp_request_streaming_itl_seconds": [
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2)
    ],
    "llm_d_epp_request_ntpot_seconds": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10],
    "llm_d_epp_request_size_bytes": [2**n for n in range(6, 31)],
    "llm_d_epp_request_input_tokens": TOKENS,
    "llm_d_epp_request_cached_tokens": TOKENS,
}
HELD: dict[str, Sequence[float]] = {  # and some finer or higher ones: ADR 6
    "inference_objective_output_tokens": [1, *(2**n for n in range(3, 14))],
    "llm_d_epp_response_size_bytes": [1, *(2**n for n in range(3, 15)), 32778, 2**16],
    "inference_extension_scheduler_e2e_duration_seconds": [
        *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    ],
}


def bounds(shown: Snapshot, name: str, accept: str = "") -> list[float]:
    found = [float(sample.labels["le"]) for sample in samples(shown, f"{name}_bucket", accept)]
    assert found[-1] == math.inf
    return found[:-1]


@FORMATS
@pytest.mark.parametrize("name", EQUAL)
def test_buckets_are_the_peers(busy: Rig, name: str, accept: str) -> None:
    assert bounds(snapshot(busy), name, accept) == EQUAL[name]


@pytest.mark.parametrize("name", HELD)
def test_buckets_hold_the_peers(busy: Rig, name: str) -> None:
    assert set(HELD[name]) < set(bounds(snapshot(busy), name))


def test_bounds_are_written_as_the_peers_library_writes_them(busy: Rig) -> None:
    page = text(snapshot(busy))
    for bound in ("0.005", "1.0", "1.048576e+06", "1.073741824e+09", "+Inf"):
        assert f'le="{bound}"' in page


def test_counts_add_up_and_the_last_bucket_is_the_count(busy: Rig) -> None:
    shown = snapshot(busy)
    counts = [sample.value for sample in samples(shown, "inference_objective_request_sizes_bucket")]
    assert counts == sorted(counts)
    assert counts[-1] == value(shown, "inference_objective_request_sizes_count")
    assert value(shown, "inference_objective_request_sizes_sum") > 3000


# --- what clients say ---

HOSTILE = [
    'a"} 1\ninference_objective_request_total{model_name="forged',
    "back\\slash",
    "line\r\n# HELP x y\r# EOF",
    "\u2028\x85\x0b\x1c",
    "名" * 40,
    "{},=",
]


@FORMATS
def test_hostile_model_names_are_only_labels(accept: str) -> None:
    rig = Rig(HEAD, [endpoint(1)])
    for name in HOSTILE:
        escaped = "".join(f"\\u{ord(char):04x}" for char in name)
        assert rig.pick(b'{"model": "%s", "prompt": "hi"}' % escaped.encode(), path="/v1/completions")
    found = samples(snapshot(rig), "inference_objective_request_total", accept)
    assert {sample.labels["model_name"] for sample in found} == set(HOSTILE)
    assert [sample.value for sample in found] == [1] * len(HOSTILE)


def test_pages_longer_than_a_slice_are_whole() -> None:
    rig = Rig(HEAD, [endpoint(number + 1) for number in range(200)], limits={"models": 40})
    for number in range(60):
        rig.pick(chat(model=f"model-{number}"))
    shown = snapshot(rig)
    assert max(piece.count(b"\n") for piece in page(shown, openmetrics=True)) <= SLICE + 2
    whole = text(shown, OPENMETRICS)
    assert whole.endswith("\n# EOF\n")
    assert whole.count("# EOF") == 1
    names = {sample.labels["model_name"] for sample in samples(shown, "inference_objective_request_total", OPENMETRICS)}
    assert len(names) == 41
    assert "other" in names
    assert len(samples(shown, "picker_endpoint_picks_total", OPENMETRICS)) == 200


# --- rewrite rules, plugins and counters ---


@FORMATS
def test_rewrite_decisions_are_shown_under_both_names(busy: Rig, accept: str) -> None:
    rows = [
        ("canary", "llama", "v1", 90),
        ("canary", "llama", "v2", 10),
        ("any", "other", "v1", 2),
        ("any", "other", "v1", 3),
    ]
    shown = snapshot(busy, rewrites=rows)
    for name in ("inference_extension_model_rewrite_decisions_total", "llm_d_epp_model_rewrite_decisions_total"):
        found = {tuple(sorted(each.labels.items())): each.value for each in samples(shown, name, accept)}
        labels = ("model_name", "model_rewrite_name", "target_model")
        assert found == {
            tuple(zip(labels, values, strict=True)): count
            for values, count in {
                ("llama", "canary", "v1"): 90,
                ("llama", "canary", "v2"): 10,
                ("other", "any", "v1"): 5,
            }.items()
        }


def test_python_plugins_are_shown(busy: Rig) -> None:
    record = {
        "name": "n", "type": "t", "role": "scorer", "calls": 9, "seconds": 0.5, "errors": 1, "overruns": 2,
        "skipped": 3,
    }  # fmt: skip
    shown = snapshot(busy, plugins=[record])
    labels = {"extension_point": "scorer", "plugin_type": "t", "plugin_name": "n"}
    assert value(shown, "picker_plugin_calls_total", **labels) == 9
    assert value(shown, "picker_plugin_seconds_total", **labels) == 0.5
    causes = {"error": 1, "overrun": 2, "resting": 3}
    for cause, count in causes.items():
        assert value(shown, "picker_plugin_failures_total", **labels, cause=cause) == count


def test_counters_of_others_are_shown(busy: Rig) -> None:
    shown = snapshot(busy, counters={"picker_x": ("What.", ("reason",), [(("a",), 2.0), (("b",), 3.0)])})
    assert value(shown, "picker_x_total", reason="b") == 3
