"""The simulated server over loopback."""

import asyncio
import contextlib
import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from picker.sim.engine import EngineConfig, TimingModel
from picker.sim.faults import Faults
from picker.sim.journal import read as read_journal
from picker.sim.model_server import DIED, ModelServer, ServerConfig, serve
from tests.support.shared import SHARED, needs_shared

FAST = EngineConfig(timing=TimingModel(speedup=1000.0))
FROZEN = EngineConfig(timing=TimingModel(speedup=1e-6))  # nothing ends while a test runs
DEADLINE_S = 60.0


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on its own loop, with a deadline."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), DEADLINE_S))

    return run


class Client:
    """One server and a client session for it."""

    def __init__(self, server: ModelServer, address: str, session: aiohttp.ClientSession) -> None:
        self.server, self.address, self.session = server, address, session

    def url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    async def post(self, path: str, body: Any) -> tuple[int, Any, Any]:
        """Status, decoded body, headers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url(path), data=io.BytesIO(data)) as response:
            text = await response.text()
            decoded = json.loads(text) if response.content_type == "application/json" else text
            return response.status, decoded, response.headers

    async def metrics(self) -> dict[str, float]:
        """Samples by name with labels."""
        async with self.session.get(self.url("/metrics")) as response:
            assert response.status == 200
            lines = (await response.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    async def until(self, condition: Callable[[dict[str, float]], bool]) -> None:
        """Polls the metrics; the test's deadline ends a wait in vain."""
        while not condition(await self.metrics()):
            pass


@contextlib.asynccontextmanager
async def running(config: ServerConfig | None = None, **changes: Any) -> AsyncIterator[Client]:
    server = ModelServer(replace(config or ServerConfig(engine=FAST), **changes))
    async with serve(server) as address, aiohttp.ClientSession() as session:
        yield Client(server, address, session)


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "sim", "messages": [{"role": "user", "content": text}], **more}


RUNNING = 'vllm:num_requests_running{engine="0",model_name="sim"}'
LENGTH = "simulated_output_tokens"
HITS = 'vllm:prefix_cache_hits_total{engine="0",model_name="sim"}'


@in_loop
async def test_a_unary_completion_counts_its_tokens() -> None:
    async with running() as client:
        status, reply, headers = await client.post(
            "/v1/completions", {"model": "sim", "prompt": "12345", "max_tokens": 3}
        )
    assert status == 200
    assert reply["object"] == "text_completion"
    assert len(reply["choices"][0]["text"]) == 12
    assert reply["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert headers["x-served-by"] == client.address


@in_loop
async def test_token_ids_count_as_they_are() -> None:
    async with running() as client:
        for prompt in ([1, 2, 3], [[1, 2, 3]], "123456789abc", ["123456789abc"]):
            _, reply, _ = await client.post("/v1/completions", {"model": "sim", "prompt": prompt})
            assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (3, 16)


@in_loop
async def test_a_stream_brings_one_chunk_per_token_and_usage_on_demand() -> None:
    async with running() as client:
        body = chat(stream=True, max_completion_tokens=5, stream_options={"include_usage": True})
        status, text, headers = await client.post("/v1/chat/completions", body)
        body.pop("stream_options")
        _, bare, _ = await client.post("/v1/chat/completions", body)
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    *frames, counted, done = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    chunks = [json.loads(frame)["choices"][0] for frame in frames]
    assert [len(chunk["delta"]["content"]) for chunk in chunks] == [4] * 5
    assert [chunk["delta"].get("role") for chunk in chunks] == ["assistant", None, None, None, None]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, None, None, "length"]
    assert json.loads(counted)["usage"]["completion_tokens"] == 5
    assert done == "[DONE]"
    assert bare.count("data: ") == 6, "five tokens and the end mark"


@in_loop
async def test_each_token_is_an_http_chunk_of_its_own() -> None:
    body = {"prompt": "x", "max_tokens": 4, "stream": True}
    async with running() as client, client.session.post(client.url("/v1/completions"), json=body) as response:
        chunks = [data async for data, _ in response.content.iter_chunks()]
    assert [chunk.count(b"data: ") for chunk in chunks] == [1, 1, 1, 1, 1]


@in_loop
@pytest.mark.parametrize(("tokens", "sizes"), [(1, [1]), (3, [1, 2]), (8, [1, 3, 3, 1]), (7, [1, 3, 3])])
async def test_tokens_after_the_first_come_as_many_together_as_the_server_was_told(
    tokens: int, sizes: list[int]
) -> None:
    body = chat(stream=True, max_completion_tokens=tokens)
    async with running(stream_interval=3) as client:
        _, text, _ = await client.post("/v1/chat/completions", body)
    *frames, _ = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    chunks = [json.loads(frame)["choices"][0] for frame in frames]
    assert [len(chunk["delta"]["content"]) // 4 for chunk in chunks] == sizes
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * (len(sizes) - 1) + ["length"]


@in_loop
@pytest.mark.parametrize(("length", "reason", "tokens"), [(3, "stop", 3), (5, "length", 5), (9, "length", 5)])
async def test_an_answer_may_end_before_the_most_that_was_asked_for(length: int, reason: str, tokens: int) -> None:
    async with running() as client:
        _, reply, _ = await client.post("/v1/completions", {"prompt": "x", "max_tokens": 5, LENGTH: length})
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == (reason, tokens)


@in_loop
async def test_the_next_turn_finds_the_whole_conversation_in_the_cache() -> None:
    async with running() as client:
        messages = [{"role": "system", "content": "s" * 4000}, {"role": "user", "content": "hello"}]
        _, first, _ = await client.post("/v1/chat/completions", chat(messages=messages, max_tokens=40))
        messages += [first["choices"][0]["message"], {"role": "user", "content": "and now?"}]
        _, second, _ = await client.post("/v1/chat/completions", chat(messages=messages))
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > first["usage"]["prompt_tokens"], "the answer is cached as well"
        assert cached % 16 == 0
        assert (await client.metrics())[HITS] == cached
        async with client.session.post(client.url("/reset_prefix_cache")) as reset:
            assert reset.status == 200
        _, cold, _ = await client.post("/v1/chat/completions", chat(messages=messages))
        assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@in_loop
async def test_adapters_and_salts_have_their_own_cache() -> None:
    async with running(adapters=("lora-1",)) as client:
        hits = []
        for more in ({}, {"model": "lora-1"}, {"cache_salt": "mine"}, {"model": "lora-1"}):
            _, reply, _ = await client.post("/v1/chat/completions", chat("x" * 1000, **more))
            hits.append(reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)
    assert hits == [False, False, False, True]


@in_loop
async def test_large_bodies_arrive_byte_for_byte() -> None:
    engine = EngineConfig(num_blocks=2_000_000, timing=TimingModel(speedup=1e6))
    async with running(engine=engine) as client:
        body = json.dumps(chat("y" * (64 << 20))).encode()
        status, reply, headers = await client.post("/v1/chat/completions", body)
    assert (status, reply["usage"]["prompt_tokens"] > 16_000_000) == (200, True)
    assert int(headers["x-body-bytes"]) == len(body)
    assert headers["x-body-sha256"] == hashlib.sha256(body).hexdigest()


@in_loop
async def test_a_client_that_leaves_cancels_its_request() -> None:
    for stream in (True, False):
        async with running(engine=FROZEN) as client:
            request = asyncio.create_task(client.post("/v1/chat/completions", chat(stream=stream)))
            await client.until(lambda metrics: metrics[RUNNING] == 1)
            request.cancel()
            aborts = 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="sim"}'
            await client.until(lambda metrics, aborts=aborts: metrics[aborts] == 1)  # type: ignore[misc]


BAD = [
    (b"{", 400, "not a valid request"),
    ({"model": "sim"}, 400, "messages"),
    (chat(messages=[]), 400, "must not be empty"),
    (chat(max_tokens=0), 400, "max_tokens"),
    (chat(n=2), 400, "n must be 1"),
    (chat(messages=[{"role": "user", "content": 5}]), 400, "content must be"),
    (chat(max_tokens=10**15), 400, "maximum context length"),
    (chat(model="nobody"), 404, "The model `nobody` does not exist."),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD)
def test_refuses_in_the_shape_of_openai(body: Any, status: int, message: str) -> None:
    @in_loop
    async def check() -> None:
        async with running() as client:
            got, reply, headers = await client.post("/v1/chat/completions", body)
        assert (got, reply["error"]["code"]) == (status, status)
        assert message in reply["error"]["message"]
        assert headers["x-served-by"] == client.address

    check()


@in_loop
async def test_adapters_are_loaded_and_unloaded_as_in_vllm() -> None:
    async with running() as client:
        lora = {"lora_name": "a", "lora_path": "/adapters/a"}
        answers = [
            await client.post(path, body)
            for path, body in (
                ("/v1/load_lora_adapter", lora),
                ("/v1/load_lora_adapter", lora),
                ("/v1/load_lora_adapter", {"lora_name": "b"}),
                ("/v1/chat/completions", chat(model="a")),
            )
        ]
        async with client.session.get(client.url("/v1/models")) as response:
            cards = (await response.json())["data"]
        answers += [await client.post("/v1/unload_lora_adapter", {"lora_name": "a"}) for _ in range(2)]
        answers.append(await client.post("/v1/chat/completions", chat(model="a")))
    assert [status for status, _, _ in answers] == [200, 400, 400, 200, 200, 404, 404]
    assert answers[0][1] == "Success: LoRA adapter 'a' added successfully."
    assert answers[1][1]["error"]["message"] == "The lora adapter 'a' has already been loaded."
    assert answers[1][1]["error"]["type"] == "InvalidUserInput"
    assert answers[5][1]["error"]["message"] == "The lora adapter 'a' cannot be found."
    assert [(card["id"], card["parent"]) for card in cards] == [("sim", None), ("a", "sim")]


@in_loop
async def test_metrics_follow_the_requests() -> None:
    async with running(engine=replace(FROZEN, max_num_seqs=1, max_lora=2), adapters=("a", "b")) as client:
        tasks = []
        for model, there in (("a", RUNNING), ("b", RUNNING.replace("running", "waiting"))):
            tasks.append(asyncio.create_task(client.post("/v1/chat/completions", chat(model=model))))
            await client.until(lambda metrics, there=there: metrics[there] == 1)  # type: ignore[misc]
        metrics = await client.metrics()
        for task in tasks:
            task.cancel()
    assert 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters="b"}' in metrics
    assert 0 < metrics[RUNNING.replace("num_requests_running", "kv_cache_usage_perc")] < 0.01


@in_loop
async def test_latency_histograms_count_requests() -> None:
    async with running() as client:
        await client.post("/v1/chat/completions", chat())
        metrics = await client.metrics()
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert metrics[f'vllm:{name}_count{{engine="0",model_name="sim"}}'] == 1
        assert metrics[f'vllm:{name}_bucket{{engine="0",le="20.0",model_name="sim"}}'] == 1
        assert 0 < metrics[f'vllm:{name}_sum{{engine="0",model_name="sim"}}'] < 20


@needs_shared
@in_loop
async def test_the_page_has_the_shape_of_a_real_vllm() -> None:
    """Every series but the cache's description exists under the same name, type and labels in a real page."""
    async with running(model="tiny") as client:
        await client.post("/v1/chat/completions", chat(model="tiny"))
        async with client.session.get(client.url("/metrics")) as response:
            ours = (await response.text()).splitlines()
    real = (SHARED / "reference" / "vllm_metrics.txt").read_text().splitlines()

    def series(lines: list[str]) -> set[str]:
        names = {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}
        return {name for name in names if "cache_config_info" not in name and "lora_requests_info" not in name}

    assert series(ours) <= series(real)
    assert {line for line in ours if line.startswith("# TYPE")} <= set(real)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("sglang", 'sglang:cache_config_info{model_name="sim",num_pages="65536",page_size="16"}'),
        ("trtllm-serve", 'trtllm_kv_cache_tokens_per_block{model_name="sim"}'),
        ("triton-tensorrt-llm", 'nv_trt_llm_request_metrics{model="sim",request_type="waiting",version="1"}'),
    ],
)
def test_plays_other_engines(style: str, expected: str) -> None:
    @in_loop
    async def check() -> None:
        async with running(metrics_style=style) as client:
            assert expected in await client.metrics()

    check()


@in_loop
async def test_faults_are_switched_at_run_time() -> None:
    async with running() as client:
        status, faults, _ = await client.post("/admin/faults", {"error_rate": 1.0, "error_status": 503})
        assert (status, faults["error_status"], faults["hang"]) == (200, 503, False)
        status, reply, headers = await client.post("/v1/chat/completions", chat())
        assert (status, reply["error"]["message"]) == (503, "injected fault")
        assert "x-body-sha256" in headers
        await client.post("/admin/faults", {"error_rate": 0, "refuse_metrics": True})
        assert (await client.post("/v1/chat/completions", chat()))[0] == 200
        async with client.session.get(client.url("/metrics")) as response:
            assert response.status == 503
        for bad in ({"error_rate": 2}, {"no_such": 1}, [], {"error_status": 200}, {"speed": 0}):
            assert (await client.post("/admin/faults", bad))[0] == 400


@in_loop
async def test_an_engine_that_all_but_stands_still_goes_on_when_it_is_fast_again() -> None:
    async with running(faults=Faults(speed=1e-6)) as client:
        request = asyncio.create_task(client.post("/v1/chat/completions", chat(max_tokens=50)))
        await client.until(lambda metrics: metrics[RUNNING] == 1)
        assert not request.done()
        await client.post("/admin/faults", {"speed": 1.0})
        status, reply, _ = await request
        assert (status, reply["usage"]["completion_tokens"]) == (200, 50)


@in_loop
async def test_a_journal_says_what_became_of_each_request(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running(journal=path) as client:
        named = {"x-journal-id": "one two"}
        async with client.session.post(client.url("/v1/chat/completions"), json=chat(), headers=named) as response:
            assert response.status == 200
        await client.post("/v1/chat/completions", chat())  # without an id: left out
        bad = client.session.post(client.url("/v1/completions"), json={}, headers={"x-journal-id": "bad"})
        async with bad as response:
            assert response.status == 400
    async with running(engine=FROZEN, journal=path) as client:
        leaving = client.session.post(
            client.url("/v1/completions"), json={"prompt": "x"}, headers={"x-journal-id": "c"}
        )
        request = asyncio.ensure_future(leaving.__aenter__())
        await client.until(lambda metrics: metrics[RUNNING] == 1)
        request.cancel()
        await client.until(lambda metrics: ("cut", "c") in read_journal(path))
    assert read_journal(path) == [
        *(("begin", "one_two"), ("end", "one_two")),
        *(("begin", "bad"), ("refused", "bad")),
        *(("begin", "c"), ("cut", "c")),
    ]


@in_loop
async def test_a_hanging_server_accepts_and_says_nothing() -> None:
    async with running(faults=Faults(hang=True)) as client:
        request = asyncio.create_task(client.post("/v1/chat/completions", chat()))
        async with client.session.get(client.url("/health")) as response:
            assert response.status == 200
        assert not request.done()
        request.cancel()


@in_loop
async def test_dies_when_told_to() -> None:
    ended: list[int] = []
    server = ModelServer(ServerConfig(), end_process=ended.append)
    async with serve(server) as address, aiohttp.ClientSession() as session:
        await Client(server, address, session).post("/admin/faults", {"die": True})
    assert ended == [DIED]


@in_loop
async def test_many_at_once_share_the_steps() -> None:
    async with running() as client:
        replies = await asyncio.gather(
            *(client.post("/v1/chat/completions", chat(str(n), max_tokens=20)) for n in range(50))
        )
        metrics = await client.metrics()
    assert {status for status, _, _ in replies} == {200}
    assert metrics['vllm:generation_tokens_total{engine="0",model_name="sim"}'] == 1000
    assert metrics[RUNNING] == 0
