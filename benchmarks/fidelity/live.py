"""The live half: model servers, a picker or a policy behind ext_proc, an Envoy, and a client, all on loopback."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.fidelity import scene
from benchmarks.fidelity.scene import Way
from benchmarks.load.options import ROOT, Variant
from benchmarks.load.processes import Picker, listening, write_endpoints
from picker.demo.envoy import EnvoyProcess, Gateway, gateways_config
from picker.demo.processes import Child, machine_busy, picker_command, stop_all
from picker.demo.stage import _reset
from picker.sim.asked import Asked, Load
from picker.sim.core import request_body
from picker.sim.gateway import FAILED, REFUSED, SERVED
from picker.sim.world import Outcome, Setting, Story

LISTENER = "under-test"
WHOLE_S = 120.0  # a request may take
READ = Gateway(steering="metadata")
WATCHED = Gateway(steering="metadata", response_body="STREAMED")


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    prompt_tokens_details: _Details = msgspec.field(default_factory=_Details)


class _Event(msgspec.Struct):
    usage: _Usage | None = None


_EVENTS = msgspec.json.Decoder(_Event)


@dataclass
class Played:
    """What a client saw, as the lab tells it. `machine`: share of it that was busy; `lag_s`: how late requests left."""

    outcome: Outcome
    machine: float = 0.0
    lag_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Servers:
    """The model servers, which stay; their caches are emptied before each run."""

    def __init__(self, directory: Path) -> None:
        engine = scene.ENGINE
        flags = ["--port", "0", "--model", scene.MODEL, "--speedup", str(engine.timing.speedup), "--max-lora", "0"]
        flags += ["--num-blocks", str(engine.num_blocks), "--block-size", str(engine.block_size)]
        flags += ["--max-num-seqs", str(engine.max_num_seqs)]
        flags += ["--max-num-batched-tokens", str(engine.max_num_batched_tokens)]
        command = picker_command("model-server", *flags)
        logs = [directory / f"server-{number}.log" for number in range(scene.SERVERS)]
        self.children = [Child(log.stem, command, log, {"PYTHONPATH": str(ROOT)}) for log in logs]
        self.addresses: list[str] = []

    def wait_ready(self) -> None:
        self.addresses = [listening(child)[0] for child in self.children]

    def cool(self) -> None:
        for address in self.addresses:
            while not _reset(address):
                time.sleep(0.05)

    def stop(self) -> None:
        stop_all(self.children)


async def play(servers: Servers, way: Way, load: Load, seed: int, directory: Path) -> Played:
    """One run, with a picker that knows nothing yet."""
    await asyncio.to_thread(servers.cool)
    with _gateway(servers, way, seed, directory) as address:
        busy_s, total_s = machine_busy()
        played = await _Client(address, servers.addresses, load).run()
        busy_after_s, total_after_s = machine_busy()
        played.machine = (busy_after_s - busy_s) / max(total_after_s - total_s, 1e-9)
    return played


@contextlib.contextmanager
def _gateway(servers: Servers, way: Way, seed: int, directory: Path) -> Iterator[str]:
    """The address of an Envoy that does what this way says. Started on the main thread, as `Child` demands."""
    with contextlib.ExitStack() as stack:
        gateways: dict[str, tuple[str, Gateway]] = {}
        if not way.is_envoys:
            started = (
                _policy(stack, servers, way, seed, directory) if way.lab else _picker(stack, servers, way, directory)
            )
            gateways[LISTENER] = started
        envoy = EnvoyProcess(gateways_config(servers.addresses, gateways), directory)
        stack.callback(envoy.stop)
        envoy.wait_ready()
        yield envoy.addresses["round_robin" if way.is_envoys else LISTENER]


def _picker(stack: contextlib.ExitStack, servers: Servers, way: Way, directory: Path) -> tuple[str, Gateway]:
    flags = []
    if way.config:
        path = directory / "config.yaml"
        path.write_text(way.config)
        flags.append(f"--config-file={path}")
    endpoints = write_endpoints(directory / "endpoints.yaml", servers.addresses)
    picker = Picker(Variant("wire"), endpoints, *flags, log=directory / "picker.log")
    stack.callback(picker.child.stop)
    picker.wait_ready()
    return picker.address, READ


def _policy(stack: contextlib.ExitStack, servers: Servers, way: Way, seed: int, directory: Path) -> tuple[str, Gateway]:
    command = [sys.executable, "-m", "benchmarks.fidelity.processor", way.lab, str(seed), *servers.addresses]
    child = Child(way.lab, command, directory / "policy.log", {"PYTHONPATH": str(ROOT)})
    stack.callback(child.stop)
    return listening(child)[0], WATCHED


class _Client:
    def __init__(self, address: str, servers: list[str], load: Load) -> None:
        self.url = f"http://{address}/v1/completions"
        self.slots = {server: slot for slot, server in enumerate(servers)}
        self.load = load
        self.stories = [Story(asked, at_s=asked.at_s) for asked in load.asked]
        self.played = Played(Outcome(Setting((scene.ENGINE,) * len(servers)), self.stories))
        self.begun_s = 0.0

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.begun_s

    async def run(self) -> Played:
        timeout = aiohttp.ClientTimeout(total=WHOLE_S)
        bodies = [body(asked, self.load.key_tokens) for asked in self.load.asked]
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as tasks,
        ):
            self.begun_s = time.monotonic()
            for story, content in zip(self.stories, bodies, strict=True):
                await asyncio.sleep(max(story.at_s - self.now_s, 0.0))
                self.played.lag_s.append(self.now_s - story.at_s)
                tasks.create_task(self.ask(session, story, content))
        self.played.outcome.end_s = self.now_s
        return self.played

    async def ask(self, session: aiohttp.ClientSession, story: Story, content: bytes) -> None:
        headers = {"content-type": "application/json"}
        try:
            async with session.post(self.url, data=content, headers=headers) as response:
                story.slot = self.slots.get(response.headers.get("x-served-by", ""), -1)
                story.outcome = SERVED if response.status == 200 else REFUSED
                async for line in response.content:
                    self.hear(story, line)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            story.outcome = FAILED
            self.played.errors.append(f"{type(error).__name__}: {error}")
        story.end_s = self.now_s
        story.ends += 1

    def hear(self, story: Story, line: bytes) -> None:
        """The first event is the first token; usage says what was cached."""
        if not line.startswith(b"data: {"):
            return
        if story.first_s < 0:
            story.first_s = self.now_s
        if (usage := _EVENTS.decode(line[6:]).usage) is not None:
            story.cached_tokens = usage.prompt_tokens_details.cached_tokens


def body(asked: Asked, key_tokens: int) -> bytes:
    """What the lab asks, and usage at the end."""
    plain = request_body(asked, key_tokens)
    return plain.replace(b'"stream":true,', b'"stream":true,"stream_options":{"include_usage":true},', 1)
