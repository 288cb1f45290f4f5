"""The control plane's end: what the data plane ordered is done before the connections go."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from picker.config.settings import (
    DiscoverySettings,
)
from picker.control.files import Files
from picker.control.messages import Resign, Start
from picker.control.plane import ControlPlane
from picker.control.questions import Questions
from tests.support.rig import POOL
from tests.support.starting import start_of
from tests.support.streams import within_deadline


def start(folder: Path) -> Start:
    return start_of(DiscoverySettings(endpoints_file=str(folder / "endpoints.yaml")))


@within_deadline
async def test_a_resignation_comes_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle leader drains faster than a slow API server answers: its Lease would have to run out."""
    happened: list[str] = []
    started, asked, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def connect(_: Files, stack: AsyncExitStack) -> None:
        stack.callback(happened.append, "connections closed")
        started.set()

    async def resign(_: Files) -> None:
        asked.set()
        await answered.wait()
        happened.append("resigned")

    monkeypatch.setattr(Files, "start", connect)
    monkeypatch.setattr(Files, "resign", resign)
    questions = Questions()
    running = asyncio.create_task(ControlPlane(start(tmp_path), {POOL: ()}, questions).run([]))
    await started.wait()
    questions.on_order(Resign())
    await asked.wait()
    running.cancel()
    asyncio.get_running_loop().call_later(0.05, answered.set)
    await asyncio.wait([running])
    assert happened == ["resigned", "connections closed"]
