"""Responses through real Envoys: the client's name put back in every body mode, and bodies that picker need not see."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import aiohttp
import pytest
from aiohttp import web

from picker.demo.envoy import BodyMode, EnvoyProcess, Gateway, gateways_config
from tests.e2e.stack import NEWEST_ENVOY, OLD_ENVOYS, Stack, old_envoy

pytestmark = pytest.mark.e2e

MODES: tuple[BodyMode, ...] = get_args(BodyMode)
READ: tuple[BodyMode, ...] = ("FULL_DUPLEX_STREAMED", "BUFFERED")
"""Modes of the request in which its body is read before it is picked, and so can be renamed."""
PIECES = [
    b'data: {"id":"x","model":"',
    b"meta/ll",
    b'ama-3","choices":[]}\n\n',
    b'data: {"model":"meta/llama-3","choices":[]}\n\nda',
    b'ta: {"model":"meta/llama-4"}\n\n',
    b'data: {"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
]
UNARY = [b'{"model": "meta', b'/llama-3", "choices": [], "usage": {"prompt_tokens": 7}}']
CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
responseTracking: {tracking}
dataLayer: {{injectDefaults: false}}
"""


async def answer(request: web.Request) -> web.StreamResponse:
    """In pieces that cut the name; the model that was asked for stands in a header."""
    asked = json.loads(await request.read())
    headers = {"x-model": asked["model"]}
    if asked["stream"]:
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
    else:
        response = web.StreamResponse(headers={**headers, "content-type": "application/json"})
        response.content_length = sum(map(len, UNARY))
    await response.prepare(request)
    for piece in PIECES if asked["stream"] else UNARY:
        await response.write(piece)
    return response


@dataclass
class Rig:
    """One picker behind one Envoy with a listener for each of `gateways`."""

    stack: Stack
    addresses: Mapping[str, str]

    async def post(self, name: str, *, stream: bool) -> tuple[Mapping[str, str], bytes]:
        asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        headers = {"x-gateway-model-name-rewrite": "meta/llama-3"}
        url = f"http://{self.addresses[name]}/v1/chat/completions"
        async with aiohttp.ClientSession() as client, client.post(url, json=asked, headers=headers) as response:
            body = await response.read()
            assert response.status == 200
            assert int(response.headers.get("content-length", len(body))) == len(body)
            return response.headers, body

    def demand_quiet(self) -> None:
        """Envoy has nothing to complain of."""
        assert self.stack.envoy is not None
        stats = self.stack.envoy.stats()
        for name in ("spurious_msgs_received", "streams_failed", "message_timeouts", "failure_mode_allowed"):
            assert sum(count for key, count in stats.items() if key.endswith(f".ext_proc.{name}")) == 0
        self.stack.wait_until(lambda: self.stack.metric("picker_open_streams") == 0)


@asynccontextmanager
async def rig(directory: Path, envoy: str, tracking: str, gateways: Mapping[str, Gateway]) -> AsyncIterator[Rig]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stack = Stack(directory, "wire", flags=(f"--config-text={CONFIG.format(tracking=tracking)}",))
    stack.upstreams = [f"127.0.0.1:{runner.addresses[0][1]}"]
    stack.write_endpoints(stack.upstreams)
    try:
        await asyncio.to_thread(stack.start_picker)
        picker = f"127.0.0.1:{stack.ports[0]}"
        config = gateways_config(stack.upstreams, {name: (picker, gateway) for name, gateway in gateways.items()})
        stack.envoy = EnvoyProcess(config, directory, binary=None if envoy == NEWEST_ENVOY else old_envoy(envoy))
        await asyncio.to_thread(stack.envoy.wait_ready)
        yield Rig(stack, stack.envoy.addresses)
    finally:
        await asyncio.to_thread(stack.stop)
        await runner.cleanup()


def gateways(requests: Sequence[BodyMode], overrides: Sequence[bool]) -> dict[str, Gateway]:
    return {
        f"{request}-{response}-{override}": Gateway(
            request_body=request, response_body=response, allow_mode_override=override, message_timeout_s=30.0
        )
        for request in requests
        for response in MODES
        for override in overrides
    }


ENVOYS = [
    pytest.param(
        envoy,
        marks=pytest.mark.skipif(
            envoy != NEWEST_ENVOY and old_envoy(envoy) is None,
            reason=f"Envoy {envoy} is not installed: `make test` does that",
        ),
    )
    for envoy in (*OLD_ENVOYS, NEWEST_ENVOY)
]


@pytest.mark.parametrize("envoy", ENVOYS)
def test_the_clients_name_comes_back_in_every_mode(tmp_path: Path, envoy: str) -> None:
    async def body() -> None:
        async with rig(tmp_path, envoy, "full", gateways(READ, [False])) as made:
            for name, gateway in gateways(READ, [False]).items():
                for stream, pieces in ((True, PIECES), (False, UNARY)):
                    wanted = b"".join(pieces)
                    if gateway.response_body != "NONE":
                        wanted = wanted.replace(b"meta/llama-3", b"gpt-4o")
                    headers, found = await made.post(name, stream=stream)
                    assert (headers["x-model"], found) == ("meta/llama-3", wanted), name
            await asyncio.to_thread(made.demand_quiet)

    asyncio.run(asyncio.wait_for(body(), 120))


@pytest.mark.parametrize("envoy", ENVOYS)
def test_bodies_that_are_not_read_arrive_whether_the_gateway_obeys_or_not(tmp_path: Path, envoy: str) -> None:
    async def body() -> None:
        asked = gateways(MODES, [False, True])
        async with rig(tmp_path, envoy, "headers", asked) as made:
            for name in asked:
                for stream, pieces in ((True, PIECES), (False, UNARY)):
                    _, found = await made.post(name, stream=stream)
                    assert found == b"".join(pieces), name
            await asyncio.to_thread(made.demand_quiet)
            total = 2 * len(asked)
            assert made.stack.total("picker_responses_total", status_class="2xx") == total
            assert made.stack.total("llm_d_epp_request_ttft_seconds_count") == total
            assert made.stack.total("llm_d_epp_request_input_tokens_count") == 0
            assert made.stack.total("llm_d_epp_request_error_total") == 0

    asyncio.run(asyncio.wait_for(body(), 120))
