"""The control process itself: it comes back, it ends with the data plane, and picks go on without it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from picker.admin.ports import listen
from picker.config.settings import (
    DiscoverySettings,
)
from picker.control import supervisor
from picker.control.answers import Answers
from picker.control.messages import Start
from picker.control.orders import Orders
from picker.control.supervisor import ControlProcess
from picker.errors import PickerError
from picker.extproc.readiness import Readiness
from picker.standing import Standing
from tests.support.config_samples import HEAD
from tests.support.rig import POOL, Rig, endpoint, target
from tests.support.starting import start_of
from tests.support.streams import within_deadline


def entry(number: int) -> str:
    return f"- {{name: pod-{number}, address: 192.168.1.{number}, port: 8000}}\n"


class Data:
    """A data plane of one endpoint, and its control process."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "endpoints.yaml"
        self.file.write_text("endpoints:\n" + entry(1))
        self.resources = folder / "resources.yaml"
        self.resources.write_text("")
        self.rig = Rig(HEAD, [endpoint(1)])
        self.listeners = listen("127.0.0.1", 0)
        self.port = self.listeners[0].getsockname()[1]
        pools = self.rig.served()
        self.answers = Answers(pools, Orders(pools, Standing(Readiness())), is_ready=lambda: True)
        self.process = ControlProcess(
            self.answers, listeners=self.listeners, start=self.start, known=lambda: {POOL: self.rig.pool.endpoints}
        )

    def start(self, restarts: int, confirmed_ns: int) -> Start:
        discovery = DiscoverySettings(
            endpoints_file=str(self.file), resources_file=str(self.resources), endpoints_interval_s=0.01
        )
        return start_of(discovery, restarts=restarts, confirmed_ns=confirmed_ns)

    @property
    def counters(self) -> int:
        """As many as rewrite rules in force have targets."""
        return sum(self.rig.engine.rewrite_counts(first, 1) is not None for first in range(9))

    @property
    def targets(self) -> list[str]:
        return sorted(each.target for each in self.rig.pool.endpoints)

    async def get(self, path: str) -> str:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.port}{path}") as response,
        ):
            return await response.text()

    async def metric(self, name: str) -> float:
        page = (await self.get("/metrics")).splitlines()
        return next(float(line.split()[1]) for line in page if line.startswith(f"{name} "))


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Data]:
    data = Data(folder)
    with contextlib.ExitStack() as stack:
        for listener in data.listeners:
            stack.enter_context(listener)
        data.process.start()
        try:
            await data.process.wait_up()
            yield data
        finally:
            await data.process.stop()


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Asks the admin port or looks at the pool again and again; the test has a deadline."""
    done = asyncio.Event()
    while not done.is_set():
        found = condition()
        if found if isinstance(found, bool) else await found:
            done.set()
        await asyncio.to_thread(os.sched_yield)


def is_there(pid: int) -> bool:
    """As a process that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@within_deadline
async def test_it_follows_the_file_and_serves_the_admin_port(tmp_path: Path) -> None:
    async with running(tmp_path) as data:
        assert await data.get("/readyz") == "ready\n"
        data.file.write_text("endpoints:\n" + entry(1) + entry(2))
        await until(lambda: data.targets == [target(1), target(2)])
        assert await data.metric("picker_endpoint_changes_total") == 1
        assert await data.metric("picker_control_restarts_total") == 0
        assert await data.metric("picker_endpoints_age_seconds") < 30
        assert (await data.get("/metrics")).count("picker_endpoint_picks_total{") == 2


def rewrites(*names: str, pool: str = "pool-a") -> str:
    """Objects of two targets each."""
    targets = "targets: [{modelRewrite: x}, {modelRewrite: y}]"
    return "---\n".join(
        f"apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {{name: {name}}}\n"
        f"spec: {{poolRef: {{name: {pool}}}, rules: [{{matches: [{{model: {{value: {name}}}}}], {targets}}}]}}\n"
        for name in names
    )


@within_deadline
async def test_it_follows_the_resources_file(tmp_path: Path) -> None:
    async with running(tmp_path) as data:
        data.resources.write_text(rewrites("a", "b"))
        await until(lambda: data.counters == 4)
        data.resources.write_text(rewrites("a") + "nonsense: 1\n")

        async def is_told() -> bool:
            return await data.metric("picker_resources_file_errors_total") == 1

        await until(is_told)
        assert data.counters == 4
        data.resources.write_text(rewrites("a") + "---\n" + rewrites("b", pool="pool-b"))
        await until(lambda: data.counters == 2)
        data.resources.write_text("")
        await until(lambda: data.counters == 0)


@within_deadline
async def test_rules_stay_while_it_is_away_and_are_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    async with running(tmp_path) as data:
        data.resources.write_text(rewrites("a"))
        await until(lambda: data.counters == 2)
        os.kill(data.process.pid, signal.SIGSTOP)
        data.resources.write_text(rewrites("a", "b", "c"))
        os.kill(data.process.pid, signal.SIGKILL)
        assert data.counters == 2
        await until(lambda: data.counters == 6)


@within_deadline
async def test_a_killed_one_comes_back_and_the_pool_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    async with running(tmp_path) as data:
        for deaths in (1, 2, 3):
            first = data.process.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda first=first: data.process.pid not in (0, first))  # type: ignore[misc]
            assert data.targets == [target(1)]
            assert data.rig.pick() == target(1)
            assert await data.metric("picker_control_restarts_total") == deaths  # the port refused nobody meanwhile
            assert not is_there(first)
        data.file.write_text("endpoints:\n" + entry(2))
        await until(lambda: data.targets == [target(2)])
    assert "going on with what is known" in caplog.text


@within_deadline
async def test_a_change_that_came_while_it_was_away_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    async with running(tmp_path) as data:
        os.kill(data.process.pid, signal.SIGSTOP)
        data.file.write_text("endpoints:\n" + entry(3))
        os.kill(data.process.pid, signal.SIGKILL)
        await until(lambda: data.targets == [target(3)])


@within_deadline
async def test_one_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    monkeypatch.setattr(supervisor, "STOP_S", 0.05)
    monkeypatch.setattr(supervisor, "SILENT_S", 2.0)
    monkeypatch.setattr(supervisor, "CHECK_S", 0.05)
    async with running(tmp_path) as data:
        first = data.process.pid
        os.kill(first, signal.SIGSTOP)
        await until(lambda: data.process.pid not in (0, first))
        assert not is_there(first)
        assert data.targets == [target(1)]
    assert "says nothing any more" in caplog.text


@within_deadline
async def test_it_is_deaf_to_signals_that_the_data_plane_drains_on(tmp_path: Path) -> None:
    async with running(tmp_path) as data:
        pid = data.process.pid
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, number)
        assert await data.get("/healthz") == "ok\n"
        assert data.process.pid == pid
        await data.process.stop()
        assert not is_there(pid)
        await data.process.stop()  # twice


@within_deadline
async def test_one_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    data = Data(tmp_path)
    for listener in data.listeners:
        listener.close()
    data.process._listeners = ()
    data.process.start()
    with pytest.raises(PickerError, match="ended at its start with status 1"):
        await data.process.wait_up()
    await data.process.stop()


@within_deadline
async def test_a_link_that_ends_ends_it(tmp_path: Path) -> None:
    """As when the data plane is killed: there is no orphan."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = supervisor._spawn(theirs, [])
    assert await asyncio.to_thread(process.wait) == 0
