"""The whole picker in one process: it starts, serves, shows what it did, and drains."""

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from picker import __version__, app
from picker._core.engine import Engine
from picker._core.session import Session
from picker.app import App, serve
from picker.config import load_config
from picker.config.extras import GROUP, InstalledTypes
from picker.config.settings import (
    BodyRoutingSettings,
    DiscoverySettings,
    KubernetesSettings,
    LimitSettings,
    ListenSettings,
    ScrapeSettings,
    ServeSettings,
)
from picker.errors import ConfigError, EndpointsFileError, ResourcesError, UsageError
from picker.policy.api import Candidate, Request, Scorer
from tests.support import messages as m
from tests.support.config_samples import HEAD
from tests.support.running import Running, until
from tests.support.running import running as run_app
from tests.support.streams import GrpcStream, within_deadline

CONFIG = HEAD + "plugins: [{type: kv-cache-utilization-scorer, name: kv}, {type: decode-filter}]"
FOLLOW_READINESS = ("", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor")
MIB = 1 << 20


def settings(folder: Path, config: str = CONFIG, shell: str = "auto", **limits: Any) -> ServeSettings:
    """Everything on free loopback ports, two endpoints in a file, nothing scraped."""
    file = folder / "endpoints.yaml"
    file.write_text(
        "endpoints:\n- {name: a, address: 10.0.0.1, port: 8000}\n"
        "- {name: b, address: 10.0.0.2, port: 8000, labels: {llm-d.ai/role: prefill}}\n"
    )
    return ServeSettings(
        config=load_config(config, source="epp.yaml"),
        listen=ListenSettings(
            bind_address="127.0.0.1",
            grpc_port=0,
            grpc_health_port=0,
            metrics_port=0,
            secure_serving=False,
            health_checking=True,
            shell=shell,
            grpc_max_recv_msg_bytes=16 * MIB,
            grpc_max_send_msg_bytes=16 * MIB,
        ),
        limits=LimitSettings(**limits),
        scrape=ScrapeSettings(enabled=False),
        kubernetes=KubernetesSettings(pools=("default/pool-a",)),
        discovery=DiscoverySettings(endpoints_file=str(file)),
    )


@pytest.fixture(autouse=True)
def soon_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "QUIET_S", 0.01)


def engine_of(made: App) -> Engine:
    (served,) = made.pools
    return served.engine


def running(given: ServeSettings) -> contextlib.AbstractAsyncContextManager[Running]:
    made = App(given)
    return run_app(made, made.health)


@pytest.fixture(params=["wire", "grpcio"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def given(tmp_path: Path, shell: str) -> ServeSettings:
    return settings(tmp_path, shell=shell)


@within_deadline
async def test_it_serves_and_shows_what_it_did(given: ServeSettings) -> None:
    async with running(given) as picker:
        stream, reply = await picker.pick()
        assert dict(reply.dynamic_metadata["envoy.lb"]) == {"x-gateway-destination-endpoint": "10.0.0.1:8000"}
        await stream.send(m.response_headers(), m.response_body(b"data: {}\n\n", end_of_stream=True))
        await stream.receive(2)
        assert await stream.finish() == "OK"
        (decision,) = json.loads((await picker.get("/debug/decisions"))[1])
        assert decision["scores"] == {"kv": 1.0}
        assert (decision["endpoint"], decision["candidates"]) == ("10.0.0.1:8000", 1)
        assert decision["age_s"] >= 0
        assert "at_ns" not in decision
        _, page = await picker.get("/metrics")
        assert 'inference_pool_ready_pods{name="pool-a"} 2.0' in page
        assert f'inference_extension_info{{build_ref="{__version__}",commit=""}} 1.0' in page
        assert "inference_objective_request_duration_seconds_count{" in page
        assert "picker_endpoints_file_errors_total 0.0" in page
        assert f'picker_shell_info{{shell="{given.listen.shell}"}} 1.0' in page
        assert await picker.get("/readyz") == (200, "ready\n")
        assert await picker.get("/debug/plugins") == (200, "[]\n")
        (queue,) = json.loads((await picker.get("/debug/queue"))[1])
        assert (queue["pool"], queue["detector"], queue["waiting"]) == ("pool-a", "adaptive-detector", 0)
        assert [(one["priority"], one["outcomes"]) for one in queue["bands"]] == [("0", {"Dispatched": 1})]
        assert [one["endpoint"] for one in queue["endpoints"]] == ["10.0.0.1:8000", "10.0.0.2:8000"]


@within_deadline
async def test_health_is_told_on_its_own_port_and_on_that_of_ext_proc(given: ServeSettings) -> None:
    async with running(given) as picker:
        assert await picker.health(picker.checks) == health_pb2.HealthCheckResponse.SERVING
        assert await picker.health(picker.extproc) == health_pb2.HealthCheckResponse.SERVING


@within_deadline
async def test_health_is_told_on_the_port_of_ext_proc_only_if_asked_for(given: ServeSettings) -> None:
    listen = dataclasses.replace(given.listen, health_checking=False)
    async with running(dataclasses.replace(given, listen=listen)) as picker:
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await picker.health(picker.extproc)


@within_deadline
async def test_draining_says_so_first_and_lets_streams_end(given: ServeSettings) -> None:
    async with running(given) as picker:
        stream, _ = await picker.pick()
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
            for channel in (picker.checks, picker.extproc)
            for name in FOLLOW_READINESS
        ]
        assert {(await watch.read()).status for watch in watches} == {health_pb2.HealthCheckResponse.SERVING}
        picker.stop.set()
        assert {(await watch.read()).status for watch in watches} == {health_pb2.HealthCheckResponse.NOT_SERVING}
        assert await picker.health(picker.extproc, "liveness") == health_pb2.HealthCheckResponse.SERVING
        assert await picker.get("/readyz") == (503, "not ready\n")
        late, _ = await picker.pick()  # a gateway that has not noticed yet is served all the same
        await late.finish()
        await stream.send(m.response_headers(end_of_stream=True))
        await stream.receive()
        assert not picker.task.done()
        assert await stream.finish() == "OK"
        await picker.task
        assert engine_of(picker.app).in_flight == 0


@within_deadline
async def test_draining_has_an_end(tmp_path: Path, shell: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running(settings(tmp_path, shell=shell, drain_timeout_s=0.02)) as picker:
        stream, _ = await picker.pick()
        picker.stop.set()
        await picker.task
        assert await stream.ended() in ("CANCELLED", "UNAVAILABLE")
        assert (engine_of(picker.app).sessions, engine_of(picker.app).in_flight) == (0, 0)
    assert "cutting 1 streams after 0.02 s" in caplog.text


@within_deadline
async def test_limits_reach_the_core(tmp_path: Path, shell: str) -> None:
    limits = {"max_streams": 1, "body_cap_bytes": 100, "header_cap_bytes": 1000, "request_timeout_s": 3600}
    async with running(settings(tmp_path, shell=shell, **limits)) as picker:
        first = picker.stream()
        await first.send(m.request_headers(), m.request_body(b"x" * 101, end_of_stream=False))
        assert (await first.receive())[0].immediate_response.status.code == 413
        assert await first.ended() == "OK"
        second, _ = await picker.pick()
        third = picker.stream()
        await third.send(m.request_headers())
        assert (await third.receive())[0].immediate_response.status.code == 429
        assert await third.ended() == "OK"
        await second.finish()
        await picker.app.shell.wait_idle()
        fourth = picker.stream()
        await fourth.send(m.request_headers(headers={"x-long": "x" * 1000}))
        assert (await fourth.receive())[0].immediate_response.status.code == 431
        assert await fourth.ended() == "OK"


@pytest.mark.parametrize("port", ["grpc_port", "metrics_port", "grpc_health_port"])
@within_deadline
async def test_a_taken_port_is_an_error_that_leaves_nothing_running(given: ServeSettings, port: str) -> None:
    async with running(given) as other:
        names = {"grpc_port": "ext_proc", "metrics_port": "metrics", "grpc_health_port": "health"}
        listen = dataclasses.replace(given.listen, **{port: other.app.ports[names[port]]})
        before = asyncio.all_tasks()
        with pytest.raises(OSError, match=r"port taken|already in use"):
            await App(dataclasses.replace(given, listen=listen)).run(asyncio.Event())
        assert {task for task in asyncio.all_tasks() - before if task.get_name() == "endpoints file"} == set()


@within_deadline
async def test_picks_go_on_while_the_control_process_is_away(given: ServeSettings) -> None:
    async with running(given) as picker:
        assert picker.app.control is not None
        first = picker.app.control.pid
        os.kill(first, signal.SIGSTOP)  # it cannot even notice
        stream, reply = await picker.pick()
        assert dict(reply.dynamic_metadata["envoy.lb"]) == {"x-gateway-destination-endpoint": "10.0.0.1:8000"}
        await stream.finish()
        os.kill(first, signal.SIGKILL)
        assert await picker.get("/readyz") == (200, "ready\n")  # its port waits for the next one
        assert picker.app.control.pid != first
        assert "picker_control_restarts_total 1.0" in (await picker.get("/metrics"))[1]


@within_deadline
async def test_a_certificate_for_scraping_that_cannot_be_read_is_an_error(given: ServeSettings) -> None:
    scrape = ScrapeSettings(scheme="https", ca_cert_path="/nowhere")
    with pytest.raises(OSError, match="No such file"):
        await App(dataclasses.replace(given, scrape=scrape)).run(asyncio.Event())


@pytest.mark.parametrize("shell", ["wire", "grpcio"])
def test_a_certificate_that_is_no_good_is_an_error_at_the_start(tmp_path: Path, shell: str) -> None:
    given = settings(tmp_path, shell=shell)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_text("x")
    listen = dataclasses.replace(given.listen, secure_serving=True, cert_path=str(tmp_path))
    wanted = r"picker serve: cannot use .*tls.crt.*; they must hold a PEM"
    with _logging_left_alone(), pytest.raises(UsageError, match=wanted) as caught:
        serve(dataclasses.replace(given, listen=listen))
    assert caught.value.exit_code == 2


class Least(Scorer):
    """Prefers the lowest address."""

    def score(self, request: Request, candidates: Sequence[Candidate]) -> Sequence[float]:
        least = min(candidate.target for candidate in candidates)
        return [float(candidate.target == least) for candidate in candidates]


def test_the_policy_reaches_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("least", "picker_least:Least", GROUP)
    module = types.ModuleType("picker_least")
    module.Least = Least  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("picker.config.extras.entry_points", lambda group: [entry])
    text = HEAD + (
        "plugins: [{type: least}, {type: session-affinity-scorer, parameters: {headerName: x-stick}},"
        " {type: max-score-picker, parameters: {maxNumOfEndpoints: 2}}]"
    )
    given = settings(tmp_path)
    config = load_config(text, source="epp.yaml", extra_types=InstalledTypes())

    @within_deadline
    async def body() -> None:
        async with running(dataclasses.replace(given, config=config)) as picker:
            stream, reply = await picker.pick()
            where = "10.0.0.1:8000,10.0.0.2:8000"
            assert dict(reply.dynamic_metadata["envoy.lb"]) == {"x-gateway-destination-endpoint": where}
            await stream.send(m.response_headers(end_of_stream=True))
            (answer,) = await stream.receive()
            headers = answer.response_headers.response.header_mutation.set_headers
            assert [option.header.key for option in headers] == ["x-stick"]
            await stream.finish()
            (record,) = json.loads((await picker.get("/debug/plugins"))[1])
            assert (record["name"], record["calls"], record["errors"]) == ("least", 1, 0)
            labels = 'extension_point="scorer",plugin_name="least",plugin_type="least"'
            assert f"picker_plugin_calls_total{{{labels}}} 1.0" in (await picker.get("/metrics"))[1]

    body()


# --- the configuration changes ---


SCRAPED = (
    HEAD
    + """plugins:
- {type: metrics-data-source, name: m, parameters: {scheme: https, caCertPath: /nowhere}}
- {type: core-metrics-extractor, name: e}
dataLayer: {sources: [{pluginRef: m, extractors: [{pluginRef: e}]}]}
"""
)


@within_deadline
async def test_certificates_that_the_configuration_names_are_read_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await App(settings(tmp_path, SCRAPED)).run(asyncio.Event())


@within_deadline
async def test_an_edit_of_the_configuration_is_in_force_for_the_next_pick(tmp_path: Path) -> None:
    file = tmp_path / "epp.yaml"
    file.write_text(CONFIG)
    given = dataclasses.replace(settings(tmp_path), config_file=str(file))
    async with running(given) as picker:

        async def scored_by() -> dict[str, float]:
            stream, _ = await picker.pick()
            await stream.finish()
            return dict(json.loads((await picker.get("/debug/decisions?limit=1"))[1])[0]["scores"])

        assert (await scored_by()).keys() == {"kv"}
        file.write_text(HEAD + "plugins: [{type: queue-scorer, name: q}]")
        await until(lambda: picker.counts("picker_config_reloads_total", 1))
        assert (await scored_by()).keys() == {"q"}
        file.write_text(HEAD + "plugins: [{type: queue-scorerer}]")
        await until(lambda: picker.counts("picker_config_errors_total", 1))
        assert (await scored_by()).keys() == {"q"}
        file.write_text(SCRAPED)
        await until(lambda: picker.counts("picker_config_errors_total", 2))
        assert (await scored_by()).keys() == {"q"}
        file.write_text(CONFIG)
        await until(lambda: picker.counts("picker_config_reloads_total", 2))
        assert (await scored_by()).keys() == {"kv"}  # labels are matched anew: b prefills, and is left out
        (decision,) = json.loads((await picker.get("/debug/decisions?limit=1"))[1])
        assert decision["candidates"] == 1


# --- the shell ---


@pytest.mark.parametrize(("asked", "made"), [("auto", "wire"), ("wire", "wire"), ("grpcio", "grpcio")])
def test_the_shell_is_the_one_asked_for_and_auto_is_wire(tmp_path: Path, asked: str, made: str) -> None:
    assert App(settings(tmp_path, shell=asked)).shell.name == made


@pytest.mark.parametrize(("shell", "loaded"), [("wire", False), ("grpcio", True)])
def test_only_the_reference_shell_loads_grpcio(tmp_path: Path, shell: str, loaded: bool) -> None:
    """In a process of its own: this one has long loaded it."""
    settings(tmp_path)
    code = (
        "import sys\n"
        "import picker.cli.main, picker.cli.serve, picker.demo.run, picker.sim.model_server\n"
        "from picker.app import App\n"
        "from picker.config.settings import DiscoverySettings, ListenSettings, ServeSettings\n"
        f"discovery = DiscoverySettings(endpoints_file={str(tmp_path / 'endpoints.yaml')!r})\n"
        f"App(ServeSettings(discovery=discovery, listen=ListenSettings(shell={shell!r})))\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'google', 'grpc', 'grpc_health'}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ("grpc" in ended.stdout) == loaded, ended.stdout
    assert loaded or ended.stdout == "[]\n"


# --- what stops it at the start ---


def test_without_endpoints_it_does_not_start(given: ServeSettings) -> None:
    with _logging_left_alone(), pytest.raises(UsageError, match="pass --endpoints-file FILE"):
        serve(dataclasses.replace(given, discovery=DiscoverySettings(), kubernetes=KubernetesSettings()))


@contextlib.contextmanager
def _logging_left_alone() -> Any:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        logging.captureWarnings(False)


def test_a_bad_endpoints_file_is_an_error_at_the_start(given: ServeSettings) -> None:
    Path(given.discovery.endpoints_file).write_text("endpoints: nowhere\n")
    with pytest.raises(EndpointsFileError, match="expected a list"):
        App(given)


def with_resources(given: ServeSettings, text: str, *pools: str) -> ServeSettings:
    file = Path(given.discovery.endpoints_file).with_name("resources.yaml")
    file.write_text(text)
    discovery = dataclasses.replace(given.discovery, resources_file=str(file))
    return dataclasses.replace(given, discovery=discovery, kubernetes=KubernetesSettings(pools=pools))


REWRITE = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: canary}
spec: {poolRef: {name: pool-a}, rules: [{targets: [{modelRewrite: x}]}]}
"""


@pytest.mark.parametrize(("pool", "rules"), [(["default/pool-a"], 1), ([], 1), (["default/pool-b"], 0)])
def test_rewrite_rules_are_there_from_the_first(given: ServeSettings, pool: list[str], rules: int) -> None:
    engine = engine_of(App(with_resources(given, REWRITE, *pool)))
    assert (engine.rewrite_counts(0, 1) is not None) == bool(rules)


def test_a_bad_resources_file_is_an_error_at_the_start(given: ServeSettings) -> None:
    with pytest.raises(ResourcesError, match=r"resources.yaml:5: spec.rule: unknown field") as caught:
        App(with_resources(given, REWRITE.replace("rules", "rule")))
    assert caught.value.exit_code == 2
    matches = ", ".join(f"{{model: {{value: m{number}}}}}" for number in range(4097))
    with pytest.raises(ResourcesError, match=r"resources.yaml: at most 4096 models can have rules; leave some out"):
        App(with_resources(given, REWRITE.replace("{targets", f"{{matches: [{matches}], targets")))
    with pytest.raises(ResourcesError, match="No such file"):
        App(dataclasses.replace(given, discovery=dataclasses.replace(given.discovery, resources_file="/nowhere")))


def test_a_bad_metric_of_an_engine_is_an_error_at_the_start(tmp_path: Path) -> None:
    text = HEAD + (
        "plugins: [{type: core-metrics-extractor, parameters: {engineConfigs: [{name: x, queuedRequestsSpec: '{'}]}}]"
    )
    with pytest.raises(ConfigError, match="correct its engineConfigs"):
        App(settings(tmp_path, text))


# --- what the configuration says of the core's limits ---


def test_an_index_producer_says_what_an_endpoint_caches(tmp_path: Path) -> None:
    """Two index blocks per endpoint: of the second prompt of three blocks, only two can be known."""
    producer = "{type: approx-prefix-cache-producer, parameters: {lruCapacityPerServer: 2}}"
    picker = App(settings(tmp_path, HEAD + f"plugins: [{producer}, {{type: prefix-cache-scorer}}]"))
    body = json.dumps({"model": "m", "prompt": "x" * 256 * 3}).encode()
    for _ in range(2):
        session = Session(engine_of(picker), 1)
        session.feed(m.request_headers("/v1/completions"), 1)
        session.feed(m.request_body(body), 1)
        session.close(2)
    assert [row["cached_tokens"] for row in engine_of(picker).decisions(2)] == [128, 0]


def test_parsers_limit_what_is_read(tmp_path: Path) -> None:
    """A prompt that is not read leaves nothing in the index."""
    for parsers, cached in (("openai-parser", 128), ("anthropic-parser", 0), ("passthrough-parser", 0)):
        text = HEAD + f"plugins: [{{type: {parsers}}}]\nparser: {{pluginRef: {parsers}}}"
        picker = App(settings(tmp_path, text))
        body = json.dumps({"model": "m", "prompt": "x" * 256 * 3}).encode()
        for _ in range(2):
            session = Session(engine_of(picker), 1)
            session.feed(m.request_headers("/v1/completions"), 1)
            session.feed(m.request_body(body), 1)
            session.close(2)
        assert max(row["cached_tokens"] for row in engine_of(picker).decisions(2)) >= cached
        assert (max(row["cached_tokens"] for row in engine_of(picker).decisions(2)) > 0) == (cached > 0)


@within_deadline
async def test_it_routes_by_bodies_too(tmp_path: Path) -> None:
    plain = settings(tmp_path)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.close()
    async with running(dataclasses.replace(plain, body_routing=BodyRoutingSettings(port=port))) as picker:
        assert picker.app.ports["bbr"] == port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = GrpcStream(channel)
            await stream.send(m.request_headers(), m.request_body(b'{"model": "m"}'))
            reply = (await stream.receive(2))[0]
        headers = reply.request_headers.response.header_mutation.set_headers
        assert [option.header.raw_value for option in headers] == [b"m", b""]
        page = (await picker.get("/metrics"))[1]
        assert "bbr_success_total 1.0" in page
        assert "inference_pool_ready_pods" in page
    async with running(plain) as picker:
        assert "bbr_success_total" not in (await picker.get("/metrics"))[1]
