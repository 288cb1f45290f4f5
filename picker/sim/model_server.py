"""A simulated vLLM server: OpenAI completions and chat over aiohttp, in front of one engine model in real time.

Every answer to an inference request proves what arrived: `x-body-bytes` and `x-body-sha256` of the body as received,
`x-served-by` the server's own address. A client that disconnects cancels its request.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from picker.sim import exposition, openai
from picker.sim.driver import EngineDriver
from picker.sim.engine import Engine, EngineConfig, EngineFull, Progress, Request
from picker.sim.faults import Faults
from picker.sim.journal import HEADER, Journal

MAX_BODY_BYTES = 256 << 20
MAX_ADAPTERS = 1024
DIED = 70  # exit status of the `die` fault


@dataclass(frozen=True)
class ServerConfig:
    """What one server plays."""

    model: str = "sim"
    adapters: tuple[str, ...] = ()
    engine: EngineConfig = field(default_factory=EngineConfig)
    metrics_style: str = "vllm"
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    max_adapters: int = MAX_ADAPTERS
    journal: Path | None = None
    stream_interval: int = 1  # tokens in a chunk of a stream, after the first one, which comes by itself

    def __post_init__(self) -> None:
        if self.stream_interval < 1:
            raise ValueError(f"a stream interval of {self.stream_interval} tokens cannot be: at least 1")


class _Refusal(Exception):
    """Ends a request with vLLM's error body."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param
        self.headers: dict[str, str] = {}


class _AdapterBody(msgspec.Struct):
    lora_name: str = ""
    lora_path: str = ""


Handler = Callable[[web.Request], Any]


class ModelServer:
    """One server; `app()` gives its aiohttp application, to be run on one loop (see `serve`)."""

    def __init__(self, config: ServerConfig, end_process: Callable[[int], object] = os._exit) -> None:
        self.config = config
        self.faults = config.faults
        self.adapters = dict.fromkeys(config.adapters)  # an ordered set
        self._latencies = exposition.Latencies()
        self._driver = EngineDriver(Engine(config.engine), self._latencies.observe)
        self._driver.set_speed(config.faults.speed)
        self._ids = count(1)
        self._dice = random.Random(config.seed)
        self._started = time.time()
        self._end_process = end_process
        self._journal = Journal(config.journal) if config.journal else None

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refusals])
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completions),
                web.get("/v1/models", self._models),
                web.post("/v1/load_lora_adapter", self._load_adapter),
                web.post("/v1/unload_lora_adapter", self._unload_adapter),
                web.post("/reset_prefix_cache", self._reset_prefix_cache),
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/admin/faults", self._show_faults),
                web.post("/admin/faults", self._change_faults),
            ]
        )
        return app

    def close(self) -> None:
        self._driver.close()
        if self._journal is not None:
            self._journal.close()

    # --- inference ---

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._infer(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._infer(request, chat=False)

    async def _infer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await request.read()
        receipt = _receipt(request, body)
        try:
            with self._entry(request.headers.get(HEADER, "")):
                return await self._answer(request, body, receipt, chat=chat)
        except _Refusal as refusal:
            refusal.headers = receipt
            raise

    def _entry(self, request_id: str) -> contextlib.AbstractContextManager[None]:
        if self._journal is None or not request_id:
            return contextlib.nullcontext()
        return self._journal.entry(request_id, _Refusal)

    async def _answer(
        self, request: web.Request, body: bytes, receipt: dict[str, str], *, chat: bool
    ) -> web.StreamResponse:
        await self._misbehave()
        try:
            ask = openai.decode(body, chat=chat)
        except openai.BadRequest as error:
            raise _Refusal(400, "BadRequestError", str(error)) from None
        adapter = self._adapter_of(ask.model)
        wanted, answer = self._plan(ask, adapter)
        replies = openai.Replies(ask, f"{'chatcmpl' if chat else 'cmpl'}-{wanted.request_id}", ask.model)
        queue = self._submit(wanted)
        try:
            if ask.stream:
                response = web.StreamResponse(headers={**receipt, "content-type": "text/event-stream"})
                await response.prepare(request)  # the head goes out at once, before the first token
                return await self._stream(response, queue, answer, replies)
            cached_tokens = await self._finish(queue)
            reply = replies.whole("".join(answer), cached_tokens)
            return web.Response(body=reply, content_type="application/json", headers=receipt)
        finally:
            self._driver.forget(wanted.request_id)

    async def _misbehave(self) -> None:
        if self.faults.hang:
            await asyncio.Event().wait()
        if self.faults.strikes(self._dice):
            raise _Refusal(self.faults.error_status, "InternalServerError", "injected fault")

    def _adapter_of(self, model: str) -> str | None:
        """None for the base model. An empty name is the base model, as in vLLM."""
        if model in ("", self.config.model):
            return None
        if model not in self.adapters:
            raise _Refusal(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
        return model

    def _plan(self, ask: openai.Ask, adapter: str | None) -> tuple[Request, list[str]]:
        limits = self.config.engine
        room = limits.num_blocks * limits.block_size
        if ask.prompt_tokens + ask.output_tokens > room:
            wanted = f"{ask.prompt_tokens} in the prompt, {ask.output_tokens} to generate"
            raise _Refusal(
                400, "BadRequestError", f"This model's maximum context length is {room} tokens; requested: {wanted}."
            )
        answer = openai.generate(ask)
        keys = openai.block_keys(ask, answer, block_size=limits.block_size, adapter=adapter or "")
        return Request(next(self._ids), ask.prompt_tokens, ask.output_tokens, keys, adapter), answer

    def _submit(self, wanted: Request) -> asyncio.Queue[Progress]:
        try:
            return self._driver.submit(wanted)
        except EngineFull as error:
            raise _Refusal(503, "ServiceUnavailableError", str(error)) from None
        except ValueError as error:
            raise _Refusal(400, "BadRequestError", str(error)) from None

    async def _stream(
        self, response: web.StreamResponse, queue: asyncio.Queue[Progress], answer: list[str], replies: openai.Replies
    ) -> web.StreamResponse:
        """One chunk for the first token, and one for each interval; each written by itself."""
        whole, made, sent = len(answer), 0, 0
        while sent < whole:
            event = await queue.get()
            made += event.tokens
            while sent < whole and (end := min(sent + self.config.stream_interval, whole) if sent else 1) <= made:
                text = "".join(answer[sent:end])
                await response.write(replies.chunk(text, first=sent == 0, last=end == whole))
                sent = end
        await response.write(replies.closing(event.cached_tokens))
        await response.write_eof()
        return response

    async def _finish(self, queue: asyncio.Queue[Progress]) -> int:
        """Waits for the last token; returns how many tokens of the prompt came from the cache."""
        while not (event := await queue.get()).finished:
            pass
        return event.cached_tokens

    # --- models and adapters ---

    async def _models(self, request: web.Request) -> web.Response:
        limits = self.config.engine
        base = {"object": "model", "created": int(self._started), "owned_by": "vllm", "root": self.config.model}
        cards: list[dict[str, Any]] = [
            {"id": self.config.model, **base, "parent": None, "max_model_len": limits.num_blocks * limits.block_size}
        ]
        cards += [{"id": name, **base, "root": name, "parent": self.config.model} for name in self.adapters]
        return web.json_response({"object": "list", "data": cards})

    async def _load_adapter(self, request: web.Request) -> web.Response:
        body = await self._adapter_body(request)
        if not body.lora_name or not body.lora_path:
            raise _Refusal(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if body.lora_name in self.adapters or body.lora_name == self.config.model:
            raise _Refusal(400, "InvalidUserInput", f"The lora adapter '{body.lora_name}' has already been loaded.")
        if len(self.adapters) >= self.config.max_adapters:
            raise _Refusal(400, "InvalidUserInput", "Too many adapters are loaded.")
        self.adapters[body.lora_name] = None
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        body = await self._adapter_body(request)
        if not body.lora_name:
            raise _Refusal(400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter.")
        if body.lora_name not in self.adapters:
            raise _Refusal(404, "NotFoundError", f"The lora adapter '{body.lora_name}' cannot be found.")
        del self.adapters[body.lora_name]
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def _adapter_body(self, request: web.Request) -> _AdapterBody:
        try:
            return msgspec.json.decode(await request.read(), type=_AdapterBody)
        except msgspec.DecodeError as error:
            raise _Refusal(400, "BadRequestError", str(error)) from None

    # --- operations ---

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.faults.slow_metrics_s:
            await asyncio.sleep(self.faults.slow_metrics_s)
        if self.faults.refuse_metrics:
            raise web.HTTPServiceUnavailable
        page = exposition.Page(
            self.config.model, self.config.engine, self._driver.metrics(), self._latencies, self._started
        )
        body = exposition.render(page, self.config.metrics_style)
        return web.Response(body=body, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _reset_prefix_cache(self, request: web.Request) -> web.Response:
        """409 while requests are running, as nothing is dropped then."""
        return web.Response(status=200 if self._driver.reset_prefix_cache() else 409)

    async def _show_faults(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self.faults), content_type="application/json")

    async def _change_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults = self.faults.changed(await request.read())
        except ValueError as error:  # msgspec's are ValueErrors too
            raise _Refusal(400, "BadRequestError", str(error)) from None
        self._driver.set_speed(self.faults.speed)
        if self.faults.die:
            self._end_process(DIED)
        return await self._show_faults(request)


def _receipt(request: web.Request, body: bytes) -> dict[str, str]:
    """Headers that prove which bytes arrived, and where."""
    receipt = {"x-body-bytes": str(len(body)), "x-body-sha256": hashlib.sha256(body).hexdigest()}
    if request.transport is not None:
        receipt["x-served-by"] = format_address(request.transport.get_extra_info("sockname"))
    return receipt


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except _Refusal as refusal:
        body = openai.error(str(refusal), refusal.kind, refusal.status, refusal.param)
        return web.json_response(body, status=refusal.status, headers=refusal.headers)
    return response


def format_address(address: tuple[Any, ...]) -> str:
    """`host:port`, an IPv6 host in brackets."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.asynccontextmanager
async def serve(server: ModelServer, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serves while the context is open; yields `host:port`. Port 0 is a free one. Raises OSError if it cannot bind."""
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        yield format_address(runner.addresses[0])
    finally:
        server.close()
        await runner.cleanup()
