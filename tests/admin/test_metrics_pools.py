"""The metrics page of several pools: what one pool's page says is said of each, and of the process once."""

import dataclasses
import re
from typing import Any

import pytest

from picker.admin.metrics import SLICE, page
from tests.admin.test_metrics import FORMATS, figures, parsed, samples, snapshot, snapshot_of, text, value
from tests.support.config_samples import HEAD
from tests.support.rig import SECOND, Rig, chat, endpoint, target

SHARED = {"inference_extension_info", "llm_d_epp_info", "picker_shell_info"}
PLUGIN = {
    "name": "n", "type": "t", "role": "scorer", "calls": 9, "seconds": 0.5, "errors": 1, "overruns": 2, "skipped": 3,
}  # fmt: skip
COUNTERS = {"picker_x": ("What.", ("reason",), [(("a",), 2.0)])}
REWRITES = [("canary", "llama", "v1", 90)]


def rig(*numbers: int, model: str = "qwen", picks: int = 2) -> Rig:
    made = Rig(HEAD, [endpoint(number) for number in numbers])
    made.load(numbers[0], waiting=3, running=2, kv_usage=0.5)
    for _ in range(picks):
        made.pick(chat("p" * 1000, model=model))
    made.send(chat(model=model))
    return made


@pytest.fixture
def rigs() -> dict[str, Rig]:
    return {"ml/a": rig(1, 2), "ml/b": rig(3, model="llama", picks=5), "web/a": rig(1)}


def pages(rigs: dict[str, Rig], **more: Any) -> Any:
    kept = {"rewrites": REWRITES, "plugins": [PLUGIN], "endpoints_age_s": 2.0}
    return snapshot_of([figures(made, name, **kept) for name, made in rigs.items()], counters=COUNTERS, **more)


@FORMATS
def test_what_the_page_of_each_pool_says_is_there_and_nothing_else(rigs: dict[str, Rig], accept: str) -> None:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parsed(pages(rigs), accept).values():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    wanted: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name, made in rigs.items():
        alone = dataclasses.replace(pages({name: made}), counters={})
        for family in parsed(alone, accept).values():
            for sample in family.samples:
                if sample.name not in SHARED:
                    more = {} if {"name", "inference_pool"} & set(sample.labels) else {"pool": name}
                    wanted.setdefault(sample.name, []).append(({**sample.labels, **more}, sample.value))
    process = {"picker_x_total"} | SHARED
    assert {name: rows for name, rows in found.items() if name not in process} == wanted
    assert {len(found[name]) for name in process} == {1}


def test_of_one_pool_no_label_says_which(rigs: dict[str, Rig]) -> None:
    shown = snapshot(rigs["ml/a"], plugins=[PLUGIN], rewrites=REWRITES, counters=COUNTERS)
    assert not re.search(r"[{,]pool=", text(shown))


@FORMATS
def test_no_pool_is_a_page_too(accept: str) -> None:
    shown = snapshot_of([], counters=COUNTERS)
    assert {sample.name for family in parsed(shown, accept).values() for sample in family.samples} == {
        *SHARED,
        "picker_x_total",
    }


def test_labels_are_those_upstream_has(rigs: dict[str, Rig]) -> None:
    shown = pages(rigs)
    labels = {"name": "ml/b", "model_server_pod": target(3)}
    assert value(shown, "inference_pool_per_pod_queue_size", **labels) == 3
    assert value(shown, "inference_pool_ready_pods", name="ml/a") == 2
    assert value(shown, "inference_extension_scheduler_attempts_total", pool="ml/b", status="success") == 6
    assert value(shown, "picker_open_streams", pool="web/a") == 1
    # one address in two pools: which endpoint it is, its pool says
    found = [each for each in samples(shown, "picker_endpoint_picks_total") if each.labels["endpoint"] == target(1)]
    assert {each.labels["pool"] for each in found} == {"ml/a", "web/a"}


def test_pages_of_many_pools_come_in_slices() -> None:
    made = rig(*range(1, 31))
    shown = snapshot_of([figures(made, f"ml/{number}") for number in range(20)], now_ns=SECOND)
    assert max(piece.count(b"\n") for piece in page(shown)) <= SLICE + 2
    assert len(samples(shown, "picker_endpoint_picks_total")) == 600
