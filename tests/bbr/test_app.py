"""The body-based router in one process: it starts, serves, shows what it did, follows its file, and drains."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families

from picker.bbr import app
from picker.bbr.app import App
from picker.bbr.models import LABEL
from picker.bbr.plugins import Message, Plugin
from picker.config.bbr import BbrListenSettings, BbrSettings
from picker.config.settings import BodyRoutingSettings
from picker.errors import BaseModelsError, UsageError
from tests.support import messages as m
from tests.support.bodies import BASE, MODEL
from tests.support.running import Running
from tests.support.running import running as run_app
from tests.support.streams import GrpcStream, within_deadline

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
HERE = "tests.bbr.test_app"


class Tags(Plugin):
    """Tags responses."""

    def on_response(self, message: Message) -> None:
        message.set_header("x-tagged", message.request_headers[MODEL])


def config_map(base: str, adapter: str) -> str:
    labels = f"labels: {{{LABEL}: 'true'}}"
    return (
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, {labels}}}\n"
        f"data: {{baseModel: {base}, adapters: '[{adapter}]'}}\n"
    )


def settings(*plugins: str, file: Path | None = None, **listen: Any) -> BbrSettings:
    """Everything on free loopback ports."""
    plain = {"bind_address": "127.0.0.1", "grpc_port": 0, "grpc_health_port": 0, "metrics_port": 0}
    return BbrSettings(
        listen=BbrListenSettings(**{**plain, "secure_serving": False, "grpc_max_recv_msg_bytes": 16 << 20, **listen}),
        routing=BodyRoutingSettings(plugins=plugins, base_models_file=str(file or "")),
    )


@pytest.fixture(autouse=True)
def soon_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "QUIET_S", 0.01)


def running(given: BbrSettings) -> contextlib.AbstractAsyncContextManager[Running]:
    made = App(given)
    return run_app(made, made.readiness)


async def headers(router: Running, body: bytes) -> dict[str, str]:
    """What becomes of a request's headers."""
    stream, reply = await router.pick(body)
    await stream.half_close()
    return {
        option.header.key: option.header.raw_value.decode()
        for option in reply.request_headers.response.header_mutation.set_headers
    }


def sample(page: str, name: str, **labels: str) -> float:
    """The value of the one series of that name with these labels."""
    found = [
        each.value
        for family in text_string_to_metric_families(page)
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    ]
    (value,) = found
    return float(value)


@within_deadline
async def test_it_serves_and_shows_what_it_did(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(config_map("llama", "food"))
    async with running(settings(file=file)) as router:
        assert await headers(router, b'{"model":"food"}') == {MODEL: "food", BASE: "llama"}
        assert await headers(router, b"{}") == {}
        for name in ("", "bbr", "envoy.service.ext_proc.v3.ExternalProcessor", "liveness", "readiness"):
            assert await router.health(name=name) == SERVING
        assert [(await router.get(path))[0] for path in ("/healthz", "/readyz", "/none")] == [200, 200, 404]
        page = (await router.get("/metrics"))[1]
        step = {"extension_point": "request", "plugin_type": "body-field-to-header", "plugin_name": "model-to-header"}
        assert sample(page, "bbr_info") == 1
        assert sample(page, "bbr_success_total") == 1
        assert sample(page, "bbr_body_field_not_found_total", field="model") == 1
        assert sample(page, "bbr_body_field_empty_total", field="model") == 0
        assert sample(page, "bbr_model_not_in_body_total") == 1
        assert sample(page, "bbr_model_not_parsed_total") == 0
        assert sample(page, "bbr_plugin_duration_seconds_count", **step) == 2
        assert sample(page, "bbr_plugin_errors_total", cause="error", **step) == 0
        assert sample(page, "picker_bbr_base_models") == 2
        assert sample(page, "picker_bbr_requests_total") == 2
        openmetrics = (await router.get("/metrics", Accept="application/openmetrics-text; version=1.0.0"))[1]
        assert openmetrics.endswith("# EOF\n")


@within_deadline
async def test_base_models_change_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(config_map("llama", "food"))
    async with running(settings(file=file)) as router:
        file.write_text(config_map("qwen", "food"))
        while (await headers(router, b'{"model":"food"}'))[BASE] != "qwen":
            pass
        file.write_text("nonsense")
        while not sample((await router.get("/metrics"))[1], "picker_bbr_base_models_errors_total"):
            pass
        assert (await headers(router, b'{"model":"food"}'))[BASE] == "qwen"


@within_deadline
async def test_plugins_see_responses() -> None:
    async with running(settings("body-field-to-header:m", f"{HERE}.Tags:t")) as router:
        stream = GrpcStream(router.extproc)
        await stream.send(m.request_headers(), m.request_body(b'{"model":"a"}'))
        await stream.receive(2)
        await stream.send(m.response_headers())
        (reply,) = await stream.receive(1)
        (option,) = reply.response_headers.response.header_mutation.set_headers
        assert (option.header.key, option.header.raw_value) == ("x-tagged", b"a")
        assert await stream.finish() == "OK"


@within_deadline
async def test_a_signal_drains_it() -> None:
    app = App(settings())
    made = Running(app, app.readiness)
    await app.readiness.wait_ready()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{made.app.ports['ext_proc']}") as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{made.app.ports['health']}") as made.checks,
    ):
        stream = GrpcStream(channel)
        await stream.send(m.request_headers(modes=(m.STREAMED, m.NONE)))
        await stream.receive(1)
        changed = made.app.readiness.changed
        signal.raise_signal(signal.SIGTERM)
        await changed.wait()
        assert (await made.health(name="readiness"), await made.health(name="liveness")) == (NOT_SERVING, SERVING)
        assert not made.task.done()
        await stream.send(m.request_body(b"x"))
        await stream.receive(1)
    await made.task


@within_deadline
async def test_it_speaks_tls_by_default() -> None:
    async with running(settings(secure_serving=True)) as router:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.app.ports["ext_proc"])
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await reader.read())[:1] in (b"\x15", b"")  # an alert of TLS, or nothing: no HTTP/2 in plaintext
        writer.close()


def test_what_is_wrong_is_told_before_it_serves(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no plugin type"):
        App(settings("nothing:x"))
    with pytest.raises(BaseModelsError, match="cannot be read"):
        App(settings(file=tmp_path / "none"))
    with pytest.raises(UsageError, match="picker bbr: cannot listen on"):
        app.serve(settings(bind_address="203.0.113.1"))
