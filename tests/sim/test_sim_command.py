"""`picker sim` as scripts use it: its contract, and what it says of mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest

from picker.cli.main import main

ENTRIES = [
    {"timestamp": 400 * place, "input_length": 700 + 512 * (place % 7), "output_length": place % 5,
     "hash_ids": [0, *range(10 * (place % 7), 10 * (place % 7) + place % 7 + 1)]}
    for place in range(60)
]  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "small.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in ENTRIES))
    return path


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    assert main(["sim", *map(str, words), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["sim", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_one_json_object_per_policy(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--replicas", "2", "--blocks", "65536", "--block-size", "64", "--speed", "4", "--seed", "1"]
    found = told(
        capsys, "--trace", trace, "--format", "mooncake", "--policy", "picker", "--policy", "round-robin", *flags
    )
    assert [one["policy"] for one in found] == ["picker", "round-robin"]
    for one in found:
        assert one.keys() >= {
            "requests",
            "rejected",
            "hit_rate",
            "hit_ceiling",
            "output_tokens_per_s",
            "balance",
            "wall_s",
        }
        assert one["ttft_ms"].keys() == one["e2e_ms"].keys() == {"mean", "p50", "p90", "p99"}
        assert (one["requests"], one["rejected"], one["failed"]) == (60, 0, 0)
        assert 0 < one["hit_rate"] <= one["hit_ceiling"]


def test_a_seed_repeats(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [told(capsys, "--trace", trace, "--policy", "picker", "--closed", "8") for _ in range(2)]
    for run in runs:
        run[0].pop("wall_s")
    assert runs[0] == runs[1]


def test_fleets_loads_and_adapters(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--gpu",
        "h200,mixed",
        "--max-lora",
        "2",
        "--load",
        "0.5",
        "--tells-cached",
        "--part",
        "0.1:",
        "--limit",
        "50",
    ]
    found = told(capsys, "--trace", trace, "--policy", "picker,oracle", *flags)
    assert [(one["requests"], one["rejected"], one["failed"]) for one in found] == [(50, 0, 0)] * 2


def test_any_configuration_may_run(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n"
        "plugins:\n- type: queue-scorer\n- type: max-score-picker\n"
        "schedulingProfiles:\n- name: default\n  plugins:\n"
        "  - pluginRef: queue-scorer\n  - pluginRef: max-score-picker\n"
    )
    assert told(capsys, "--trace", trace, "--policy", config)[0]["policy"] == str(config)


def test_a_table_a_csv_and_pictures(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv, plots = tmp_path / "figures.csv", tmp_path / "plots"
    assert (
        main(["sim", "--trace", str(trace), "--csv", str(csv), "--plot", str(plots), "--failures", "dead@5+9:1"]) == 0
    )
    shown = capsys.readouterr().out
    assert "small: 60 requests" in shown and "picker" in shown and "round-robin" in shown
    assert [line.split(",")[0] for line in csv.read_text().splitlines()] == ["policy", "picker", "round-robin"]
    assert {path.name for path in plots.iterdir()} == {"latency.png", "load.png", "hits.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())


def test_what_there_is_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--list-policies"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("picker", "round-robin", "mooncake"))


def test_mistakes_are_explained(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name it with --trace" in refused(capsys)
    assert "nowhere.jsonl" in refused(capsys, "--trace", trace.parent / "nowhere.jsonl")
    assert 'did you mean "round-robin"' in refused(capsys, "--trace", trace, "--policy", "round-robbin")
    assert 'did you mean "mooncake"' in refused(capsys, "--trace", trace, "--format", "moncake")
    assert "two shares of a whole" in refused(capsys, "--trace", trace, "--part", "0.7:0.2")
    assert "not a number above 0" in refused(capsys, "--trace", trace, "--speed", "0")
    assert "is no failure" in refused(capsys, "--trace", trace, "--failures", "flood@7")
    assert "give one of them" in refused(capsys, "--trace", trace, "--load", "0.5", "--closed", "3")
    assert "from 0.001 to 1000" in refused(capsys, "--trace", trace, "--speedup", "1e-9")
    assert "--csv" in refused(capsys, "--trace", trace, "--csv", trace.parent / "nowhere" / "figures.csv")
    assert "name a folder" in refused(capsys, "--trace", trace, "--plot", trace)
    assert "look at the trace, and at --part" in refused(capsys, "--trace", trace, "--part", "0.001:0.002")
    assert "--block-size 1 or more" in refused(capsys, "--trace", trace, "--block-size", "0")
    trace.write_text(trace.read_text() + "\n{}\n")
    assert "line 61" in refused(capsys, "--trace", trace)
