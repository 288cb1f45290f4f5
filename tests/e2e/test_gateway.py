"""Through real Envoys: bodies arrive byte for byte at the picked server, tokens pass one for one, errors are JSON."""

import asyncio
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from picker.demo.envoy import Gateway
from tests.e2e.stack import OLD_ENVOY, SHELLS, Stack, old_envoy, running

pytestmark = pytest.mark.e2e

KIB, MIB = 1 << 10, 1 << 20
FULL_DUPLEX = Gateway()
BUFFERED = Gateway(request_body="BUFFERED", response_body="BUFFERED", buffer_limit_bytes=16 * MIB)
REQUEST_ONLY = Gateway(response_body="NONE")
MODES = {"full duplex": FULL_DUPLEX, "buffered": BUFFERED, "response none": REQUEST_ONLY}


def envoys() -> list[Any]:
    """Each shell behind the newest Envoy with every mode, and the oldest."""
    gone = pytest.mark.skipif(old_envoy() is None, reason=f"Envoy {OLD_ENVOY} is not installed: `make test` does that")
    binaries = [("newest", None, ()), (OLD_ENVOY, old_envoy(), (gone,))]
    return [
        pytest.param((shell, binary, gateway), id=f"{shell}-{envoy}-{name}", marks=marks)
        for shell in SHELLS
        for envoy, binary, marks in binaries
        for name, gateway in MODES.items()
    ]


@pytest.fixture(scope="module", params=envoys())
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    shell, binary, gateway = request.param
    with running(tmp_path_factory.mktemp("stack"), shell=shell, gateway=gateway, binary=binary) as made:
        yield made


def chat(size: int, *, lead: str = "", **more: Any) -> bytes:
    """A chat body of exactly `size` bytes, not all of them ASCII; the prompt begins with `lead`."""
    text = "Grüße, 世界! The quick brown fox\njumps over the lazy dog. "
    body: dict[str, Any] = {"model": "sim", "max_tokens": 3, **more, "messages": [{"role": "user", "content": ""}]}
    room = size - len(json.dumps(body).encode())
    room -= len(lead)
    body["messages"][0]["content"] = lead + text * (
        room // (len(text.encode()) + 1)
    )  # one more byte: the escaped newline
    made = json.dumps(body, ensure_ascii=False).encode()
    return made[:-1] + b" " * (size - len(made)) + b"}"


def post(url: str, body: bytes, *, timeout_s: float = 60, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@pytest.mark.parametrize("size", [KIB, 400 * KIB, 5 * MIB], ids=["1KB", "400KB", "5MB"])
def test_bodies_arrive_byte_for_byte_at_the_picked_server(stack: Stack, size: int) -> None:
    body = chat(size)
    assert len(body) == size
    status, headers, _ = post(f"{stack.url}/v1/chat/completions", body)
    assert status == 200
    assert headers["x-body-sha256"] == hashlib.sha256(body).hexdigest()
    assert headers["x-served-by"] == stack.decisions()[0]["endpoint"]


def get(url: str, **headers: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return response.status, response.read()


def test_the_shell_asked_for_serves(stack: Stack) -> None:
    assert stack.metric(f'picker_shell_info{{shell="{stack.shell}"}}') == 1


def test_a_get_is_picked_too(stack: Stack) -> None:
    before = stack.decisions()[0]["number"]
    status, answer = get(f"{stack.url}/v1/models")
    assert (status, json.loads(answer)["data"][0]["id"]) == (200, "sim")
    assert stack.decisions()[0]["number"] == before + 1


def test_a_client_cannot_choose_its_endpoint(stack: Stack) -> None:
    """Port 9 is nobody's: if the client's header won, nobody would answer."""
    steering = {"x-gateway-destination-endpoint": "127.0.0.1:9"}
    body = b'{"model":"sim","prompt":"hi","max_tokens":1}'
    status, headers, _ = post(f"{stack.url}/v1/completions", body, **steering)
    assert status == 200
    assert headers["x-served-by"] in stack.upstreams
    assert get(f"{stack.url}/v1/models", **steering)[0] == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"messages":[{"role":"user","content":"hi"}]}', "model"),
        (b'{"model":"sim","messages":[]}', "messages"),
    ],
)
def test_a_bad_body_is_refused_in_openai_form(stack: Stack, body: bytes, param: str | None) -> None:
    status, headers, answer = post(f"{stack.url}/v1/chat/completions", body)
    error = json.loads(answer)["error"]
    assert (status, headers["content-type"]) == (400, "application/json")
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_envoy_saw_nothing_spurious(stack: Stack) -> None:
    """Runs last in this file for each stack, after everything above went through it."""
    stats = stack.ext_proc_stats()
    assert stats["streams_started"] > 0
    assert stats["spurious_msgs_received"] == 0
    assert stats["streams_failed"] == 0
    assert stats.get("failure_mode_allowed", 0) == 0
    stack.wait_until(lambda: stack.metric("picker_open_streams") == 0)
    assert all(entry["requests"] == 0 for entry in stack.endpoints().values())


# --- streaming: the upstream sends a token only when the client has got the one before ---


class Lockstep:
    """A model server whose every chunk waits for the test's leave."""

    def __init__(self) -> None:
        self.leave = asyncio.Queue[int]()
        self.cancelled = asyncio.Event()
        self.address = ""

    async def __aenter__(self) -> "Lockstep":
        application = web.Application(client_max_size=64 * MIB)
        application.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(application, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            while (number := await self.leave.get()) >= 0:
                await response.write(event(number))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await response.write(b"data: [DONE]\n\n")
        return response


def event(number: int) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"token %d"}}]}\n\n' % number


STREAMING = [
    pytest.param(None, FULL_DUPLEX, id="newest-full duplex"),
    pytest.param(None, REQUEST_ONLY, id="newest-response none"),
    pytest.param(
        old_envoy(),
        FULL_DUPLEX,
        id=f"{OLD_ENVOY}-full duplex",
        marks=pytest.mark.skipif(
            old_envoy() is None, reason=f"Envoy {OLD_ENVOY} is not installed: `make test` does that"
        ),
    ),
]


@pytest.mark.parametrize(("binary", "gateway"), STREAMING)
def test_chunks_arrive_one_for_one_as_they_are_sent(
    tmp_path: Path, shell: str, binary: Path | None, gateway: Gateway
) -> None:
    async def body() -> None:
        async with Lockstep() as upstream:
            with running(tmp_path, shell=shell, servers=0, gateway=gateway, binary=binary, flags=NO_SCRAPING) as stack:
                await _lockstep(stack, upstream)
                stats = await asyncio.to_thread(stack.ext_proc_stats)
                assert (stats["spurious_msgs_received"], stats["streams_failed"]) == (0, 0)

    asyncio.run(asyncio.wait_for(body(), 60))


NO_SCRAPING = ("--config-text", json.dumps({
    "apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "dataLayer": {"injectDefaults": False},
    "plugins": [{"type": "ttft-scorer"}, {"type": "max-score-picker"}],
}))  # fmt: skip


async def _admit(stack: Stack, upstream: Lockstep) -> None:
    """Make the upstream picker's one endpoint."""
    await asyncio.to_thread(stack.write_endpoints, [upstream.address])
    await asyncio.to_thread(stack.wait_until, lambda: list(stack.endpoints()) == [upstream.address])


async def _lockstep(stack: Stack, upstream: Lockstep) -> None:
    await _admit(stack, upstream)
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{stack.url}/v1/chat/completions", data=chat(KIB, stream=True)) as response:
            assert response.status == 200
            for number in range(25):
                upstream.leave.put_nowait(number)
                assert await response.content.readuntil(b"\n\n") == event(number)
            upstream.leave.put_nowait(-1)
            assert await response.content.read() == b"data: [DONE]\n\n"


def test_a_client_that_leaves_is_left_by_everyone(tmp_path: Path, shell: str) -> None:
    """Closing the client's connection ends the upstream request and releases what was booked."""

    async def body() -> None:
        async with Lockstep() as upstream:
            with running(tmp_path, shell=shell, servers=0, flags=NO_SCRAPING) as stack:
                await _admit(stack, upstream)
                async with aiohttp.ClientSession() as client:
                    response = await client.post(f"{stack.url}/v1/chat/completions", data=chat(KIB, stream=True))
                    upstream.leave.put_nowait(0)
                    await response.content.readuntil(b"\n\n")
                    in_flight = await asyncio.to_thread(stack.endpoints)
                    assert in_flight[upstream.address]["requests"] == 1
                    response.close()
                    await upstream.cancelled.wait()
                await asyncio.to_thread(stack.wait_until, lambda: stack.metric("picker_open_streams") == 0)
                released = (await asyncio.to_thread(stack.endpoints))[upstream.address]
                assert (released["requests"], released["prefill_tokens"], released["resident_tokens"]) == (0, 0, 0)

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_stream_under_way_survives_sigterm(tmp_path: Path, shell: str) -> None:
    """Readiness goes first; the stream ends in its own time; then picker is gone, with exit code 0."""

    async def body() -> None:
        async with Lockstep() as upstream:
            with running(tmp_path, shell=shell, servers=0, flags=NO_SCRAPING) as stack:
                await _admit(stack, upstream)
                assert stack.picker is not None
                async with (
                    aiohttp.ClientSession() as client,
                    client.post(f"{stack.url}/v1/chat/completions", data=chat(KIB, stream=True)) as response,
                ):
                    upstream.leave.put_nowait(0)
                    assert await response.content.readuntil(b"\n\n") == event(0)
                    stack.picker.terminate()
                    await asyncio.to_thread(stack.wait_until, lambda: "draining 1 streams" in stack.picker.log_text())
                    upstream.leave.put_nowait(1)
                    upstream.leave.put_nowait(-1)
                    assert await response.content.read() == event(1) + b"data: [DONE]\n\n"
                await asyncio.to_thread(stack.wait_until, lambda: not stack.picker.alive)
                assert stack.picker.returncode == 0

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_body_over_the_cap_is_413(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell, servers=1, flags=["--body-cap=100KiB"]) as stack:
        status, _, answer = post(f"{stack.url}/v1/chat/completions", chat(200 * KIB))
        assert (status, json.loads(answer)["error"]["code"]) == (413, "request_too_large")
        assert post(f"{stack.url}/v1/chat/completions", chat(99 * KIB))[0] == 200


def test_no_endpoint_is_503_with_retry_after(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell, servers=0) as stack:
        status, headers, answer = post(f"{stack.url}/v1/chat/completions", chat(KIB))
        assert (status, headers["retry-after"]) == (503, "1")
        assert headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
        assert json.loads(answer)["error"]["code"] == "no_endpoint"


def test_ipv6_endpoints_are_reached(tmp_path: Path, shell: str) -> None:
    if (
        not os.path.exists("/proc/net/if_inet6")
        or "00000000000000000000000000000001" not in Path("/proc/net/if_inet6").read_text()
    ):
        pytest.skip("this machine has no IPv6 loopback")
    with running(tmp_path, shell=shell, servers=1, server_flags=["--host", "::1"]) as stack:
        status, headers, _ = post(f"{stack.url}/v1/chat/completions", chat(KIB))
        assert (status, headers["x-served-by"]) == (200, stack.upstreams[0])
        assert headers["x-served-by"].startswith("[::1]:")
