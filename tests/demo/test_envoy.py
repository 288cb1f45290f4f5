"""The configuration picker writes, read by a real Envoy. Through picker itself: see the end-to-end tests."""

import asyncio
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import get_args

import aiohttp
import pytest

from picker.demo.envoy import BodyMode, EnvoyProcess, Gateway, envoy_config, gateways_config, validate
from picker.sim.engine import EngineConfig, TimingModel
from picker.sim.model_server import ModelServer, ServerConfig, serve

pytestmark = pytest.mark.e2e
SERVERS = ["127.0.0.1:1", "[::1]:2"]
PICKER = "127.0.0.1:9002"


@contextmanager
def envoy(servers: list[str], picker: str | None, directory: Path) -> Iterator[EnvoyProcess]:
    process = EnvoyProcess(envoy_config(servers, picker), directory)
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


@pytest.mark.parametrize("response_body", get_args(BodyMode))
@pytest.mark.parametrize("request_body", get_args(BodyMode))
def test_envoy_accepts_every_combination_of_body_modes(
    request_body: BodyMode, response_body: BodyMode, tmp_path: Path
) -> None:
    gateway = Gateway(request_body=request_body, response_body=response_body)
    assert validate(envoy_config(SERVERS, PICKER, gateway), tmp_path / "envoy.json") is None


@pytest.mark.parametrize(
    "gateway",
    [
        Gateway(tls=True),
        Gateway(steering="metadata", reports_served=True, retries=1),
        Gateway(steering="header", http1_trailers=True, allow_mode_override=True),
        Gateway(response_body="NONE", send_response_headers=False),
        Gateway(failure_mode_allow=True, message_timeout_s=0.25, connect_timeout_s=1, buffer_limit_bytes=16 << 20),
    ],
)
def test_envoy_accepts_the_other_settings(gateway: Gateway, tmp_path: Path) -> None:
    assert validate(envoy_config(SERVERS, PICKER, gateway), tmp_path / "envoy.json") is None


def test_validate_says_what_envoy_says(tmp_path: Path) -> None:
    config = {**envoy_config(SERVERS, None), "no_such_field": 1}
    assert "no_such_field" in (validate(config, tmp_path / "envoy.json") or "")


def test_settings_that_matter_are_there() -> None:
    config = envoy_config(SERVERS, PICKER)
    clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
    assert clusters["epp"]["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}
    assert clusters["picked"]["original_dst_lb_config"]["http_header_name"] == "x-gateway-destination-endpoint"
    assert {cluster["connect_timeout"] for cluster in clusters.values()} == {"2s"}
    text = json.dumps(config)
    assert text.count('"SEND"') == 4, "headers and trailers, both directions"
    assert '"message_timeout": "5s"' in text
    assert '"failure_mode_allow": false' in text


def test_gateways_share_what_they_can() -> None:
    gateways = {
        "one": ("127.0.0.1:1", Gateway()),
        "two": ("127.0.0.1:1", Gateway(steering="metadata", request_body="BUFFERED")),
        "three": ("127.0.0.1:2", Gateway()),
    }
    resources = gateways_config(SERVERS, gateways)["static_resources"]
    assert [listener["name"] for listener in resources["listeners"]] == ["round_robin", "one", "two", "three"]
    names = [cluster["name"] for cluster in resources["clusters"]]
    assert sorted(names) == ["epp", "epp-1", "picked", "picked-by-metadata", "servers"]


def test_listens_on_free_ports_and_counts(tmp_path: Path) -> None:
    with envoy(SERVERS, PICKER, tmp_path) as process:
        assert set(process.addresses) == {"round_robin", "picker"}
        assert all(not address.endswith(":0") for address in process.addresses.values())
        assert process.stats()["http.picker.ext_proc.streams_started"] == 0
    assert not process.child.alive


def test_round_robin_reaches_every_server_with_every_byte(tmp_path: Path) -> None:
    engine = EngineConfig(num_blocks=200_000, timing=TimingModel(speedup=1e6))
    text = "z" * 5_000_000
    body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 2}).encode()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(serve(ModelServer(ServerConfig(engine=engine)))) for _ in range(3)
            ]
            process = stack.enter_context(envoy(servers, None, tmp_path))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            url = f"http://{process.addresses['round_robin']}/v1/chat/completions"
            seen = []
            for _ in range(3):
                async with session.post(url, data=io.BytesIO(body)) as response:
                    assert response.status == 200
                    assert response.headers["x-body-sha256"] == hashlib.sha256(body).hexdigest()
                    seen.append(response.headers["x-served-by"])
            assert sorted(seen) == sorted(servers)

    asyncio.run(run())
