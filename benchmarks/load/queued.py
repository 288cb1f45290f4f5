"""100,000 requests of 1 KB wait at once, and 1,000 more than may: memory, caps, and that all are answered.

There is no endpoint until all are there, as when a pool is scaled from zero; then some come, and the queue empties.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.load import bench, exchanges, script, tools
from benchmarks.load.options import BUILD, Options, Variant
from benchmarks.load.processes import Picker, write_endpoints
from benchmarks.load.row import Row
from tests.support import messages

GROUP = "queued"
REQUESTS, QUICK_REQUESTS = 100_000, 2_000
BEYOND = 0.01  # of them, and more than may wait
BODY_BYTES = 1024
CONNECTIONS = 8
OPENED_PER_S = 6_000
FILL_S, EMPTY_S = 120.0, 240.0
FLOWS, OBJECTIVES = 500, {"critical": 100, "standard": 0, "sheddable": -10}
ENDPOINTS = [f"127.0.0.1:{port}" for port in range(9, 17)]  # nobody asks them anything
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
flowControl:
  maxRequests: {requests}
  defaultRequestTTL: 600s
  noEndpointRequestTTL: 600s
  defaultPriorityBand: {{maxRequests: {requests}, maxBytes: 10G}}
  defaultNegativePriorityBand: {{maxRequests: {requests}, maxBytes: 10G}}
"""
OBJECTIVE = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {{name: {name}}}
spec: {{priority: {priority}, poolRef: {{name: pool}}}}
---
"""
QUEUED, ENDPOINTS_READY = "inference_extension_flow_control_queue_size", "inference_pool_ready_pods"


@dataclass(frozen=True)
class Turn:
    """One filling and emptying. `held`, `left`: bytes more than before, while all wait and when all are answered."""

    held: int
    left: int
    emptied_s: float
    report: tools.Report


def rows(options: Options) -> list[Row]:
    """Resident memory for each request that waits, how many are refused at the cap, and how long emptying takes.

    Each round fills and empties the same picker again: memory that it keeps must be memory that it uses again.
    """
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    surplus = max(int(requests * BEYOND), 1)
    endpoints = write_endpoints(BUILD / "queued-endpoints.yaml", [])
    with _picker(endpoints, requests, surplus) as picker:
        before = picker.rss_bytes()
        turns = [_turn(picker, endpoints, before, requests, surplus) for _ in range(options.rounds)]
    return _rows(requests, surplus, turns)


def _turn(picker: Picker, endpoints: Path, before: int, requests: int, surplus: int) -> Turn:
    write_endpoints(endpoints, [])
    picker.child.wait_until(lambda: not _sum(picker, ENDPOINTS_READY), FILL_S)
    client = tools.Client(
        "extproc",
        target=picker.address,
        script=bench.scripts("queued", _scripts()),
        connections=CONNECTIONS,
        rate=OPENED_PER_S,
        count=requests + surplus,
        grace=FILL_S + EMPTY_S,
    )
    try:
        _wait_full(picker, requests)
        held = picker.rss_bytes() - before
        begun_s = time.monotonic()
        write_endpoints(endpoints, ENDPOINTS)
        report = client.report(EMPTY_S)
        seconds = time.monotonic() - begun_s
    finally:
        client.kill()
    bench.tell("queued", {"KiB each": held / requests / 1024, "emptied in s": seconds})
    return Turn(held, picker.rss_bytes() - before, seconds, report)


def _rows(requests: int, surplus: int, turns: Sequence[Turn]) -> list[Row]:
    what = f"{requests:,} requests of 1 KB wait"
    note = f"{CONNECTIONS} connections, {FLOWS} flows in {len(OBJECTIVES)} bands; the cap is {requests:,}"

    def row(figure: str, unit: str, sample: Callable[[Turn], float], note: str = "") -> Row:
        return Row(GROUP, f"{what}: {figure}", unit, tuple(map(sample, turns)), note=note, variant="wire")

    wrong = row(f"429 at the cap, other than {surplus:,}", "", lambda turn: abs(_refused(turn) - surplus))
    lost = row("lost", "", lambda turn: tools.errors(turn.report) - _refused(turn))
    return [
        row("memory for each", "KiB", lambda turn: turn.held / requests / 1024, note),
        row("memory in all", "MiB", lambda turn: turn.held / (1 << 20)),
        row("kept for others when all are answered", "MiB", lambda turn: turn.left / (1 << 20)),
        replace(wrong, limit=0.0),
        replace(lost, limit=0.0),
        row(
            "all answered within",
            "s",
            lambda turn: turn.emptied_s,
            "from the first endpoint to the last end of a stream",
        ),
    ]


def _refused(turn: Turn) -> int:
    return int(turn.report["errors"].get("answered", 0))


def _scripts() -> list[script.Script]:
    """A flow each, and each objective in turn."""
    made = []
    for flow in range(FLOWS):
        objective = list(OBJECTIVES)[flow % len(OBJECTIVES)]
        named = {"x-gateway-inference-objective": objective, "x-gateway-inference-fairness-id": f"tenant-{flow}"}
        response = [
            messages.response_headers(content_type="application/json"),
            messages.response_body(exchanges.ANSWER),
        ]
        request = exchanges.request(exchanges.chat_body(BODY_BYTES, flow), headers=named)
        made.append(script.answered([request, response, [messages.response_body(b"", end_of_stream=True)]]))
    return made


@contextlib.contextmanager
def _picker(endpoints: Path, requests: int, surplus: int) -> Iterator[Picker]:
    config, objectives = BUILD / "queued.yaml", BUILD / "queued-objectives.yaml"
    config.write_text(CONFIG.format(requests=requests))
    objectives.write_text("".join(OBJECTIVE.format(name=name, priority=at) for name, at in OBJECTIVES.items()))
    flags = [f"--config-file={config}", f"--resources-file={objectives}", f"--max-streams={requests + 2 * surplus}"]
    picker = Picker(Variant("wire"), endpoints, *flags, "--endpoints-interval=100ms", log=BUILD / "queued.log")
    try:
        picker.child.wait_until(lambda: _says(picker) is not None, FILL_S)
        yield picker
    finally:
        picker.child.stop()


def _says(picker: Picker) -> str | None:
    try:
        return picker.get("/metrics")
    except OSError:
        return None


def _sum(picker: Picker, name: str) -> float:
    lines = (_says(picker) or "").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def _wait_full(picker: Picker, requests: int) -> None:
    """RuntimeError if they do not come to wait in time."""
    until_s = time.monotonic() + FILL_S
    while _sum(picker, QUEUED) < requests:
        if time.monotonic() > until_s:
            raise RuntimeError(f"only {_sum(picker, QUEUED):,.0f} of {requests:,} requests wait after {FILL_S:g} s")
        time.sleep(0.25)
    time.sleep(1.0)  # for those beyond
