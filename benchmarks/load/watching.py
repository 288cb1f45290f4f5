"""A cluster that changes: 2,000 pods, 10 updates a second; how soon picks know, and what the watch costs.

`python -m benchmarks.load.watching [--pods 2000] [--seconds 10] [--rounds 3]` runs it alone. An update takes a pod out
of service or puts it back; picks that may only go to that pod (the gateway's subset hint) are made until one knows.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from benchmarks.load import bench, big_cluster
from benchmarks.load.options import BUILD, Options, Variant
from benchmarks.load.processes import Picker, listening
from benchmarks.load.row import Row, shown
from benchmarks.load.scraping import NO_SCRAPING
from picker.demo.processes import Child
from picker.kube.client import MERGE_PATCH, KubeClient
from tests.support import messages

GROUP = "watching"
PODS = 2000
UPDATES_PER_S = 10.0
SECONDS = 10.0
SEEN_MS = 100.0
POLL_S = 0.001
LATEST_S = 10.0
READY_S = 120.0
METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


@dataclass(frozen=True)
class Figures:
    """Of one round. Milliseconds from the API server's answer to an update until a pick knows it; cores, of both
    processes together, while nothing changes and while things do; bytes resident, of both; seconds to readiness."""

    seen_ms: tuple[float, ...]
    idle_cores: float
    busy_cores: float
    rss_bytes: int
    ready_s: float

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.seen_ms, n=100, method="inclusive")[98]


class Pods:
    """Updates of them, one after the other: down, and up again."""

    def __init__(self, client: KubeClient, count: int) -> None:
        self._client, self._count = client, count
        self._updates = 0

    @property
    def next(self) -> tuple[int, bool]:
        """Which pod is changed next, and whether it serves then."""
        return self._updates // 2 * 7 % self._count, bool(self._updates % 2)

    async def update(self) -> None:
        number, serves = self.next
        self._updates += 1
        conditions = [{"type": "Ready", "status": str(serves)}]
        path = f"/api/v1/namespaces/default/pods/{big_cluster.name(number)}/status"
        await self._client.request("PATCH", path, body={"status": {"conditions": conditions}}, content_type=MERGE_PATCH)


class Picks:
    """Picks of one pod, over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._method = channel.stream_stream(METHOD)

    async def serves(self, number: int) -> bool:
        """Whether a request that may only go there is sent there."""
        call = self._method()
        target = f"{big_cluster.address(number)}:9"
        await call.write(messages.request_headers("/v1/models", method="GET", end_of_stream=True, subset=[target]))
        reply = bytes(await call.read())
        call.cancel()
        return target.encode() in reply

    async def until(self, number: int, serves: bool) -> None:
        """Raises TimeoutError."""
        async with asyncio.timeout(LATEST_S):
            while await self.serves(number) != serves:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)


def measure(pods: int, seconds: float, variant: Variant) -> Figures:
    """One round: a fresh picker over a fresh cluster. Raises RuntimeError, TimeoutError."""
    with tempfile.TemporaryDirectory() as name, cluster(Path(name), pods) as kubeconfig:
        flags = ["--pool-name=pool", f"--kubeconfig={kubeconfig}", f"--config-text={NO_SCRAPING}"]
        begun_s = time.monotonic()
        picker = Picker(variant, None, *flags)
        try:
            picker.wait_ready()
            return asyncio.run(_measure(picker, kubeconfig, pods, seconds, time.monotonic() - begun_s))
        finally:
            picker.child.stop()


@contextlib.contextmanager
def cluster(directory: Path, pods: int) -> Iterator[Path]:
    """An API server with so many pods, and the kubeconfig for it."""
    command = [sys.executable, "-m", "benchmarks.load.big_cluster", str(pods), str(directory)]
    child = Child("API server", command, directory / "cluster.log")
    try:
        child.wait_until(lambda: "listening" in child.log_text(), READY_S)
        listening(child)
        yield directory / "kubeconfig"
    finally:
        child.stop()


async def _measure(picker: Picker, kubeconfig: Path, count: int, seconds: float, ready_s: float) -> Figures:
    async with connected(picker, kubeconfig, count) as (pods, picks):
        await picks.until(count - 1, True)
        await asyncio.sleep(min(seconds, 2.0))  # what the start left to do is done
        idle = await _cores(picker, asyncio.sleep(seconds))
        busy = await _cores(picker, _updates(pods, seconds))
        seen = await _seen(pods, picks, seconds)
        return Figures(tuple(seen), idle, busy, picker.rss_bytes(), ready_s)


@contextlib.asynccontextmanager
async def connected(picker: Picker, kubeconfig: Path, count: int) -> AsyncIterator[tuple[Pods, Picks]]:
    client = await KubeClient.connect(kubeconfig=str(kubeconfig))
    async with grpc.aio.insecure_channel(picker.address) as channel:
        yield Pods(client, count), Picks(channel)
    await client.close()


async def _cores(picker: Picker, meanwhile: Coroutine[None, None, None]) -> float:
    used_s, begun_s = picker.cpu_s(), time.monotonic()
    await meanwhile
    return (picker.cpu_s() - used_s) / (time.monotonic() - begun_s)


async def _updates(pods: Pods, seconds: float) -> None:
    due_s = time.monotonic()
    for _ in range(int(seconds * UPDATES_PER_S)):
        await pods.update()
        due_s += 1 / UPDATES_PER_S
        await asyncio.sleep(due_s - time.monotonic())


async def _seen(pods: Pods, picks: Picks, seconds: float) -> list[float]:
    """How late each update was known."""
    due_s, found = time.monotonic(), []
    for _ in range(int(seconds * UPDATES_PER_S)):
        number, serves = pods.next
        await pods.update()
        updated_s = time.monotonic()
        await picks.until(number, serves)
        found.append(1e3 * (time.monotonic() - updated_s))
        due_s += 1 / UPDATES_PER_S
        await asyncio.sleep(due_s - time.monotonic())
    return found


def rows(options: Options) -> list[Row]:
    """When updates are seen, and what the watch costs; by the first variant, for it is the same in all."""
    variant = Variant("wire")
    taken = []
    for turn in range(options.rounds):
        figures = measure(PODS, options.seconds(SECONDS), variant)
        taken.append(figures)
        told = {
            "p50 ms": statistics.median(figures.seen_ms),
            "most ms": max(figures.seen_ms),
            "cores": figures.busy_cores,
        }
        bench.tell(f"watching · round {turn + 1} of {options.rounds}", told)
    return _told(taken)


def _told(taken: list[Figures]) -> list[Row]:
    note = f"{PODS} pods, {UPDATES_PER_S:g}/s"
    worst = (max(max(each.seen_ms) for each in taken),)  # one update that comes late is one too many

    def row(what: str, unit: str, *samples: float, limit: float | None = None) -> Row:
        return Row(GROUP, what, unit, samples, limit, note=note)

    return [
        row("update until picks know, p50", "ms", *(statistics.median(each.seen_ms) for each in taken)),
        row("update until picks know, p99", "ms", *(each.p99_ms for each in taken)),
        row("update until picks know, the worst", "ms", *worst, limit=SEEN_MS),
        row("picker while nothing changes", "cores", *(each.idle_cores for each in taken)),
        row("picker while pods change", "cores", *(each.busy_cores for each in taken)),
        row("picker, both processes", "MB", *(each.rss_bytes / 1e6 for each in taken)),
        row("start until ready", "s", *(each.ready_s for each in taken)),
    ]


def main() -> None:
    """Prints the rows as plain lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=PODS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    taken = [measure(options.pods, options.seconds, Variant("wire")) for _ in range(options.rounds)]
    for row in _told(taken):
        low, high = min(row.samples), max(row.samples)
        print(f"{row.what}: {shown(row.median)} {row.unit} ({shown(low)}-{shown(high)}) {row.target} {row.verdict}")


if __name__ == "__main__":
    main()
