"""The control plane beside a pick: p99 quiet, and while endpoints change and the metrics page is asked for.

`python -m benchmarks.load.quiet` runs it alone.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.load import bench, exchanges, script, tools
from benchmarks.load.options import BUILD, Options, Variant
from benchmarks.load.processes import Picker, settle
from benchmarks.load.row import Row, shown
from benchmarks.load.script import Script
from tests.support import messages

GROUP = "quiet"
ENDPOINTS, MODELS = 2000, 200
UPDATES_PER_S, PAGES_PER_S = 50.0, 1.0
SECONDS = 5.0
RATE = {"wire": 1000.0, "grpcio": 150.0}  # picks per second: some tenth of a core, so that what waits was held up
CONNECTIONS = 4
ADDED_US = 1000.0
FLAGS = ("--endpoints-interval=5ms",)  # a change counts once two looks agree


class EndpointsFile:
    """2,000 endpoints that listen nowhere; each update gives one of them another name and replaces the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._updates = 0
        self._entries = [self._entry(number) for number in range(ENDPOINTS)]
        self._write()

    def update(self) -> None:
        number = self._updates % ENDPOINTS
        self._updates += 1
        self._entries[number] = self._entry(number)
        self._write()

    def _entry(self, number: int) -> str:
        address = f"127.1.{number // 250}.{number % 250}"
        return f'{{"name": "server-{number}-{self._updates}", "address": "{address}", "port": 9}}'

    def _write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text('{"endpoints": [\n' + ",\n".join(self._entries) + "\n]}\n")
        fresh.replace(self.path)


def rows(options: Options) -> list[Row]:
    """By variant: p99 of a pick quiet and under load, what the load adds, and how much load there was."""
    path = bench.scripts("quiet", [_request(f"m{number:03}") for number in range(MODELS)])
    return [row for variant in options.variants() for row in _rows(options, variant, path)]


def _rows(options: Options, variant: Variant, path: str) -> list[Row]:
    taken: dict[str, list[float]] = {}
    file = EndpointsFile(BUILD / f"quiet-{variant.shell}{'-tls' if variant.tls else ''}.json")
    server = Picker(variant, file.path, *FLAGS)
    try:
        server.wait_ready()
        _picks(server, path, seconds=1.0)  # so that all models are there
        for turn in range(options.rounds):
            figures = measure(server, file, path, options.seconds(SECONDS))
            for name, value in figures.items():
                taken.setdefault(name, []).append(value)
            said = ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
            bench.console.print(f"  quiet · {variant} · round {turn + 1} of {options.rounds}: {said}", style="dim")
    finally:
        server.child.stop()
    return _told(variant, {name: tuple(values) for name, values in taken.items()})


def measure(server: Picker, file: EndpointsFile, path: str, seconds: float) -> bench.Figures:
    """Quiet, then under load, in microseconds; what that adds; changes taken over and pages served per second."""
    waited_s = _waited_s(server)
    quiet = _picks(server, path, seconds)
    quiet_wait_s, waited_s = _waited_s(server) - waited_s, _waited_s(server)
    settle()
    with disturbed(server, file) as (before, pages):
        started = time.monotonic()
        loaded = _picks(server, path, seconds)
        took_s = time.monotonic() - started
        loaded_wait_s = _waited_s(server) - waited_s
        changes = _changes(server) - before
    settle()
    return {
        "quiet p50": quiet["p50"],
        "quiet p99": quiet["p99"],
        "loaded p50": loaded["p50"],
        "loaded p99": loaded["p99"],
        "added p99": loaded["p99"] - quiet["p99"],
        "changes/s": changes / took_s,
        "quiet wait": 1e3 * quiet_wait_s / took_s,
        "loaded wait": 1e3 * loaded_wait_s / took_s,
        "page ms": 1e3 * max(pages, default=0.0),
    }


def _picks(server: Picker, path: str, seconds: float) -> dict[str, float]:
    """Latencies of a pick at a steady rate. RuntimeError if any failed."""
    report = tools.run(
        "extproc",
        target=server.address,
        tls=server.variant.tls,
        script=path,
        connections=CONNECTIONS,
        rate=RATE[server.variant.shell],
        duration=seconds,
    )
    if tools.errors(report) or not report["done"]:
        raise RuntimeError(f"{server.variant}: {report['done']} streams done, errors {report['errors']}")
    return dict(report["pick_us"])


def _waited_s(server: Picker) -> float:
    """How long the thread that serves picks has waited for a core so far: what no program can help."""
    return int(Path(f"/proc/{server.child.pid}/schedstat").read_text().split()[1]) * 1e-9


@contextlib.contextmanager
def disturbed(server: Picker, file: EndpointsFile) -> Iterator[tuple[float, list[float]]]:
    """The load: how many changes were taken over before it, and the seconds each page took so far."""
    pages: list[float] = []
    over = threading.Event()
    threads = [
        threading.Thread(target=_every, args=(1 / UPDATES_PER_S, over, file.update)),
        threading.Thread(target=_every, args=(1 / PAGES_PER_S, over, lambda: pages.append(_page_s(server)))),
    ]
    before = _changes(server)
    for thread in threads:
        thread.start()
    try:
        yield before, pages
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _every(pause_s: float, over: threading.Event, act: Callable[[], object]) -> None:
    due = time.monotonic()
    while not over.wait(max(0.0, due - time.monotonic())):
        act()
        due += pause_s


def _page_s(server: Picker) -> float:
    started = time.monotonic()
    server.get("/metrics")
    return time.monotonic() - started


def _changes(server: Picker) -> float:
    page = server.get("/metrics")
    return next(
        float(line.split()[1]) for line in page.splitlines() if line.startswith("picker_endpoint_changes_total")
    )


def _request(model: str) -> Script:
    """The whole life of a small request for this model."""
    body = exchanges.chat_body(1024).replace(b'"load"', f'"{model}"'.encode())
    answer = [messages.response_headers(content_type="application/json"), messages.response_body(exchanges.ANSWER)]
    return script.answered([exchanges.request(body), answer, [messages.response_body(b"", end_of_stream=True)]])


def _told(variant: Variant, samples: dict[str, tuple[float, ...]]) -> list[Row]:
    note = f"{RATE[variant.shell]:g}/s, {ENDPOINTS} endpoints, {MODELS} models"
    limit = ADDED_US if variant.shell == "wire" else None
    return [
        Row(GROUP, f"pick, {variant}: quiet p99", "µs", samples["quiet p99"], note=note),
        Row(GROUP, f"pick, {variant}: p99 beside the control plane's load", "µs", samples["loaded p99"], note=note),
        Row(GROUP, f"pick, {variant}: what that adds to p99", "µs", samples["added p99"], limit),
        Row(GROUP, f"pick, {variant}: waiting for a core, quiet", "ms/s", samples["quiet wait"]),
        Row(GROUP, f"pick, {variant}: waiting for a core, loaded", "ms/s", samples["loaded wait"]),
        Row(GROUP, f"{variant}: endpoint changes taken over", "/s", samples["changes/s"]),
        Row(GROUP, f"{variant}: slowest metrics page", "ms", samples["page ms"]),
    ]


def main() -> None:
    """All variants, as plain lines."""
    tools.build()
    for row in rows(Options()):
        low, high = min(row.samples), max(row.samples)
        print(f"{row.what}: {shown(row.median)} {row.unit} ({shown(low)}-{shown(high)}) {row.target} {row.verdict}")


if __name__ == "__main__":
    main()
