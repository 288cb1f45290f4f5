"""Whole routers: `sglang-router` and `vllm-router` (cache_aware) against picker with its Envoy.

The same four model servers, which cost next to nothing and answer with a short JSON text, and the same client
(`benchmarks/load`), in turns within each round. Told are the time that a way adds to asking a model server directly, at
one connection; requests per second at 64; and CPU per request of all processes of the router.

Not the same: the routers are the proxy, with an index of the text they saw; in front of picker stands an Envoy, which
carries the request and asks picker in between, body and answer passing through both. So Envoy alone (round robin) is
measured too. Envoy and the routers have a thread for each core, picker one. Every request has the same body: all
indexes are warm.
"""

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import BUILD, Variant
from benchmarks.load.processes import Picker, cpu_s, settle, write_endpoints
from benchmarks.peers import environment
from benchmarks.peers.told import COMMAND
from benchmarks.results import Row
from picker.demo.envoy import EnvoyProcess, Gateway, envoy_config
from picker.demo.processes import Child, free_port

GROUP = "whole routers"
CASES = {
    "2 KB request": (2048, False),
    "100 KB request": (100_000, False),
    "2 KB request, stream: true": (2048, True),
}
NAGLE = "its streamed answer leaves as two writes, Nagle's algorithm on: the second waits for a delayed ACK (strace)"
MODEL_SERVERS, CONNECTIONS, WORKERS = 4, 64, 2
ROUNDS, SECONDS, WARM_UP_S, READY_S = 5, 1.5, 0.5, 60.0
DIRECT, ENVOY, OURS = "no router", "Envoy alone", "picker + Envoy"
DELAYED_ACK_US = 30_000
UNREACHABLE = "http://127.0.0.1:9"  # one of them asks a public hub for a tokenizer, which the measure is not about


@dataclass(frozen=True)
class Way:
    """Where requests go in, and the processes that are the router."""

    address: str
    pids: tuple[int, ...] = ()

    def load(self, body: str, connections: int, seconds: float) -> tuple[tools.Report, float]:
        """What the client says, and the CPU seconds used. RuntimeError for requests that went wrong."""
        before = sum(map(cpu_s, self.pids))
        report = tools.run("http", target=self.address, body=body, connections=connections, duration=seconds)
        used = sum(map(cpu_s, self.pids)) - before
        if tools.errors(report) or not report["done"]:
            raise RuntimeError(f"{self.address}: {report['done']} requests done, errors {report['errors']}")
        return report, used


def measure(rounds: int = ROUNDS) -> list[Row]:
    """All cases."""
    tools.build()
    BUILD.mkdir(parents=True, exist_ok=True)
    made: list[Row] = []
    with bench.model_servers(MODEL_SERVERS) as upstream, _ways(upstream.addresses) as ways:
        for said, (size, streams) in CASES.items():
            body = BUILD / "peers-body.json"
            body.write_bytes(_body(size, streams))
            made += _rows(said, _taken(ways, str(body), rounds))
    return made


def _body(size: int, streams: bool) -> bytes:
    return exchanges.chat_body(size).replace(b'"stream": true', b'"stream": %s' % json.dumps(streams).encode())


Figures = Mapping[str, Mapping[str, Sequence[float]]]
"""By figure and way, what each round gave."""


def _taken(ways: Mapping[str, Way], body: str, rounds: int) -> Figures:
    taken: dict[str, dict[str, list[float]]] = {name: {who: [] for who in ways} for name in ("p50", "rate", "cpu")}
    for way in ways.values():
        way.load(body, CONNECTIONS, WARM_UP_S)
    for turn in range(rounds):
        for who in tuple(ways)[:: 1 if turn % 2 == 0 else -1]:
            alone, _ = ways[who].load(body, 1, SECONDS)
            settle()
            crowd, used_s = ways[who].load(body, CONNECTIONS, SECONDS)
            settle()
            taken["p50"][who].append(alone["whole_us"]["p50"])
            taken["rate"][who].append(crowd["rate"])
            taken["cpu"][who].append(used_s / crowd["done"] * 1e6)
    return taken


def _rows(said: str, taken: Figures) -> list[Row]:
    routers = [who for who in taken["p50"] if who != DIRECT]
    peers = [who for who in routers if who not in (ENVOY, OURS)]
    added = {who: _less(taken["p50"][who], taken["p50"][DIRECT]) for who in routers}
    figures = [
        (f"{said}: added at 1 connection, p50", "µs", added, False),
        (f"{said}: {CONNECTIONS} connections", "req/s", taken["rate"], True),
        (f"{said}: CPU of the router", "µs", taken["cpu"], False),
    ]
    made = [_row(f"{said}: at 1 connection, p50", DIRECT, "µs", taken["p50"][DIRECT])]
    for what, unit, values, higher in figures:
        made += [_row(what, who, unit, values[who]) for who in routers]
        made += [_ratio(what, who, values, higher) for who in peers]
    return made


def _less(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, base, strict=True)]


def _ratio(what: str, who: str, values: Mapping[str, Sequence[float]], higher: bool) -> Row:
    """How many times better picker is: more requests, or less time."""
    pairs = list(zip(values[who], values[OURS], strict=True))
    ratios = [ours / theirs if higher else theirs / ours for theirs, ours in pairs]
    return _row(what, f"{OURS} / {who}" if higher else f"{who} / {OURS}", "×", ratios)


def _row(what: str, who: str, unit: str, values: Sequence[float]) -> Row:
    is_nagle = who == "sglang-router" and "at 1 connection" in what and statistics.median(values) > DELAYED_ACK_US
    note = NAGLE if is_nagle else ""
    return Row(GROUP, what, who, statistics.median(values), unit, COMMAND, min(values), max(values), note=note)


@contextlib.contextmanager
def _ways(upstreams: list[str]) -> Iterator[dict[str, Way]]:
    """All routers up, in front of the same model servers."""
    with contextlib.ExitStack() as stack:
        picker = Picker(
            Variant("wire"), write_endpoints(BUILD / "peers.yaml", upstreams), log=BUILD / "peers-picker.log"
        )
        stack.callback(picker.child.stop)
        picker.wait_ready()
        directory = BUILD / "peers-envoy"
        directory.mkdir(exist_ok=True)
        envoy = EnvoyProcess(envoy_config(upstreams, picker.address, Gateway()), directory, workers=WORKERS)
        stack.callback(envoy.stop)
        envoy.wait_ready()
        yield {
            DIRECT: Way(upstreams[0]),
            ENVOY: Way(envoy.addresses["round_robin"], (envoy.child.pid,)),
            OURS: Way(envoy.addresses["picker"], (envoy.child.pid, picker.child.pid)),
            "sglang-router": _router(stack, "sglang-router", ("launch",), "warn", upstreams),
            "vllm-router": _router(stack, "vllm-router", (), "warning", upstreams),
        }


def _router(stack: contextlib.ExitStack, name: str, verb: Sequence[str], level: str, upstreams: Sequence[str]) -> Way:
    address, binary = f"127.0.0.1:{free_port()}", environment.PLACE / "bin" / name
    flags = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--policy", "cache_aware"]
    flags += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()), "--log-level", level]
    flags += ["--worker-urls", *(f"http://{upstream}" for upstream in upstreams)]
    child = Child(name, [str(binary), *verb, *flags], BUILD / f"{name}.log", {"HTTPS_PROXY": UNREACHABLE})
    stack.callback(child.stop)
    child.wait_until(partial(_answers, address), READY_S)
    return Way(address, (child.pid,))


def _answers(address: str) -> bool:
    """Does it carry a request to a model server?"""
    body = BUILD / "peers-ready.json"
    body.write_bytes(exchanges.chat_body(256))
    report = tools.run("http", target=address, body=str(body), connections=1, count=1, grace=1)
    return bool(report["done"])
