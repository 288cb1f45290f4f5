"""A model server that loads and unloads adapters as vLLM does, and fails as the test says. On loopback."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web


class FakeVllm:
    """`calls` are what was asked of it; `broken` maps an adapter to the status it is answered with."""

    def __init__(self, base: str = "base") -> None:
        self.base = base
        self.adapters: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.broken: dict[str, int] = {}
        self.unhealthy = 0
        """Looks at its health that are answered 503."""
        self.wrong_list = b""
        self.address = ""

    def restart(self) -> None:
        """It knows no adapters then."""
        self.adapters.clear()

    async def health(self, _: web.Request) -> web.Response:
        self.unhealthy -= 1
        return web.Response(status=503 if self.unhealthy >= 0 else 200)

    async def models(self, _: web.Request) -> web.Response:
        if self.wrong_list:
            return web.Response(body=self.wrong_list)
        cards = [{"id": self.base, "object": "model", "parent": None}]
        cards += [{"id": name, "object": "model", "parent": self.base} for name in self.adapters]
        return web.json_response({"object": "list", "data": cards})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(("load", body))
        name = body["lora_name"]
        if name in self.broken:
            return web.json_response({"object": "error", "message": "no such path"}, status=self.broken[name])
        self.adapters[name] = body
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(("unload", body))
        name = body["lora_name"]
        if name in self.broken:
            return web.json_response({"object": "error"}, status=self.broken[name])
        del self.adapters[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["FakeVllm"]:
        application = web.Application()
        application.router.add_get("/health", self.health)
        application.router.add_get("/v1/models", self.models)
        application.router.add_post("/v1/load_lora_adapter", self.load)
        application.router.add_post("/v1/unload_lora_adapter", self.unload)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.address = f"127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()
