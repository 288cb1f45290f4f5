"""What the side-car asks of a model server, and what it makes of the answers. Time is the test's."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest

from picker.lora.config import Adapter, LoraConfig
from picker.lora.sync import LoraSync, SyncSettings
from tests.lora.vllm import FakeVllm

V1 = Adapter(id="v1", source="example/v1", base_model="base")
V2 = Adapter(id="v2", source="example/v2", base_model="")


class Bench:
    """A side-car, its model server, and the time between."""

    def __init__(self, vllm: FakeVllm, session: aiohttp.ClientSession) -> None:
        self.vllm = vllm
        self.now = 0.0
        self.slept: list[float] = []
        self.go = asyncio.Event()
        self.sync = LoraSync(session, SyncSettings(), clock=lambda: self.now, sleep=self.let_pass)

    async def let_pass(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        if seconds == SyncSettings().reconcile_s:
            await self.go.wait()
            self.go.clear()

    def config(self, *wanted: Adapter, unwanted: tuple[str, ...] = (), disputed: tuple[str, ...] = ()) -> None:
        self.sync.change(LoraConfig(address=self.vllm.address, wanted=wanted, unwanted=unwanted, disputed=disputed))

    @property
    def done(self) -> list[tuple[str, str]]:
        return [(what, body["lora_name"]) for what, body in self.vllm.calls]


def with_bench(body: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with FakeVllm().listening() as vllm, aiohttp.ClientSession() as session:
            await asyncio.wait_for(body(Bench(vllm, session)), 20)

    asyncio.run(run())


def test_what_is_missing_is_loaded_and_what_is_unwanted_goes() -> None:
    async def body(bench: Bench) -> None:
        bench.vllm.adapters |= {"v0": {}, "mine": {}}
        bench.config(V1, V2, unwanted=("v0", "never"))
        assert await bench.sync.reconcile()
        assert bench.vllm.calls == [
            ("load", {"lora_name": "v1", "lora_path": "example/v1", "base_model_name": "base"}),
            ("load", {"lora_name": "v2", "lora_path": "example/v2", "base_model_name": ""}),
            ("unload", {"lora_name": "v0"}),
        ]
        assert set(bench.vllm.adapters) == {"v1", "v2", "mine"}  # what nobody speaks of is let be
        assert bench.sync.loaded == {"v1": True, "v2": True, "v0": False, "never": False}
        assert await bench.sync.reconcile()
        assert len(bench.vllm.calls) == 3

    with_bench(body)


def test_a_model_server_that_was_restarted_gets_its_adapters_again() -> None:
    async def body(bench: Bench) -> None:
        bench.config(V1)
        await bench.sync.reconcile()
        bench.vllm.restart()
        bench.vllm.unhealthy = 3
        await bench.sync.reconcile()
        assert bench.done == [("load", "v1")] * 2
        assert bench.slept == [2.0] * 3

    with_bench(body)


def test_one_that_fails_does_not_keep_the_others_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        bench.vllm.broken["v1"] = 400
        bench.config(V1, V2)
        assert not await bench.sync.reconcile()
        assert bench.sync.loaded == {"v1": False, "v2": True}
        assert bench.sync.failures == {("load", "v1"): 1}
        assert "adapter failed to load: adapter=v1" in caplog.text
        assert "no such path" in caplog.text
        bench.vllm.broken.clear()
        assert await bench.sync.reconcile()
        assert bench.done == [("load", "v1"), ("load", "v2"), ("load", "v1")]

    with_bench(body)


def test_what_cannot_be_unloaded_is_still_there() -> None:
    async def body(bench: Bench) -> None:
        bench.vllm.adapters["v0"] = {}
        bench.vllm.broken["v0"] = 500
        bench.config(unwanted=("v0",))
        assert not await bench.sync.reconcile()
        assert bench.sync.loaded == {"v0": True}

    with_bench(body)


def test_a_model_server_that_is_never_healthy_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        bench.vllm.unhealthy = 10_000
        bench.config(V1)
        assert not await bench.sync.reconcile()
        assert bench.now == 300.0
        assert bench.vllm.calls == []
        assert "model server is not healthy" in caplog.text

    with_bench(body)


@pytest.mark.parametrize("answer", [b"nonsense", b"{}", b'{"data": 5}', b"[" * 100_000])
def test_a_list_that_is_none_changes_nothing(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        bench.vllm.wrong_list = answer
        bench.config(V1)
        assert not await bench.sync.reconcile()
        assert bench.vllm.calls == []
        assert "adapters cannot be listed" in caplog.text

    with_bench(body)


def test_a_list_that_comes_in_pieces_is_read_to_its_end() -> None:
    async def body(bench: Bench) -> None:
        bench.vllm.adapters |= {f"adapter-{number}": {} for number in range(20_000)}  # some 1.5 MB
        bench.config(Adapter(id="adapter-19999", source="example/last", base_model=""))
        assert await bench.sync.reconcile()
        assert bench.vllm.calls == []

    with_bench(body)


def test_adapters_of_both_lists_are_let_be(caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        bench.config(V1, disputed=("both",))
        await bench.sync.reconcile()
        assert bench.done == [("load", "v1")]
        assert "must and must not exist are let be: adapters=both" in caplog.text

    with_bench(body)


def test_a_change_of_the_file_is_acted_on_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        caplog.set_level(logging.INFO)
        bench.config(V1)
        task = asyncio.ensure_future(bench.sync.run())
        await until(lambda: bench.sync.is_current)
        bench.config(V2, unwanted=("v1",))  # nobody lets time pass
        await until(lambda: set(bench.vllm.adapters) == {"v2"})
        bench.vllm.restart()
        bench.go.set()  # time passes
        await until(lambda: set(bench.vllm.adapters) == {"v2"})
        await until(lambda: bench.sync.loaded == {"v2": True, "v1": False})
        bench.config(V2)
        assert bench.sync.loaded == {"v2": True}  # what the file does not tell of has no status
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_bench(body)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what a server does sets no event here
        await asyncio.sleep(0)
