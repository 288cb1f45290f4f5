"""The body-based router and the endpoint picker, two ext_proc filters in one chain of a real Envoy.

Two such filters in full duplex are broken before Envoy 1.38: there the router is asked in BUFFERED mode.
"""

import hashlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from picker.demo.envoy import EnvoyProcess, Gateway, add_body_router, envoy_config
from picker.demo.processes import free_port
from tests.e2e.stack import OLD_ENVOYS, Stack, old_envoy
from tests.e2e.test_gateway import NO_SCRAPING, chat, post
from tests.support.bodies import BASE, MODEL, SPOOFED
from tests.support.upstream import Upstream

pytestmark = pytest.mark.e2e

KIB, MIB = 1 << 10, 1 << 20
LABEL = "inference.networking.k8s.io/bbr-managed"
MODELS = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: qwen, labels: {{{LABEL}: "true"}}}}
data:
  baseModel: qwen
  adapters: |
    - travel
    - 世界
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: llama, labels: {{{LABEL}: "true"}}}}
data: {{baseModel: llama}}
"""
DUPLEX = Gateway()
BUFFERED = Gateway(request_body="BUFFERED", response_body="NONE", buffer_limit_bytes=16 * MIB)
REDACTS = "tests.e2e.test_bbr.Redacts"


class Redacts:
    """A plugin that sees bodies of both directions."""

    sees_bodies = True

    def __init__(self, parameters: Any) -> None:
        self._secret = parameters["secret"]

    def on_request(self, message: Any) -> None:
        if self._secret in message.body.decode():
            message.reject(403, "a secret stands in the request", code="secret")

    def on_response(self, message: Any) -> None:
        if message.field("secret") is not None:
            message.set_field("secret", "***")
        if message.field("forbidden"):
            message.reject(451, "nobody may see this")


@dataclass(frozen=True)
class Case:
    """Which Envoy, and how its router filter sends bodies; the picker's is in full duplex."""

    envoy: str  # "" is the newest
    router: Gateway
    plugins: tuple[str, ...] = ()


WITH_PLUGIN = ("body-field-to-header:m", "base-model-to-header:b", f'{REDACTS}:r:{{"secret": "hunter2"}}')
CASES = {
    "newest-duplex": Case("", DUPLEX),
    "newest-buffered": Case("", BUFFERED),
    "newest-duplex-plugin": Case("", DUPLEX, WITH_PLUGIN),
    "newest-buffered-plugin": Case("", replace(BUFFERED, response_body="BUFFERED"), WITH_PLUGIN),
    "1.38.3-duplex": Case(OLD_ENVOYS[1], DUPLEX),
    "1.36.4-buffered": Case(OLD_ENVOYS[0], BUFFERED),
}


def cases(*names: str) -> list[Any]:
    return [pytest.param(CASES[name], id=name, marks=[needs(CASES[name].envoy)]) for name in names or CASES]


def needs(envoy: str) -> pytest.MarkDecorator:
    missing = bool(envoy) and old_envoy(envoy) is None
    return pytest.mark.skipif(missing, reason="this old Envoy is not installed: `make test` does that")


class Routed(Stack):
    """A stack with a router in front, and two upstreams of the test's own: `llama` is picker's, `qwen` is not."""

    def __init__(self, directory: Path, case: Case) -> None:
        self.router_port = free_port()
        file = directory / "models.yaml"
        file.write_text(MODELS)
        flags = (f"--bbr-port={self.router_port}", f"--base-models-file={file}", *NO_SCRAPING)
        super().__init__(directory, "wire", flags=flags + tuple(f"--bbr-plugin={plugin}" for plugin in case.plugins))
        self.case = case
        self.llama, self.qwen = Upstream("llama"), Upstream("qwen")

    def start(self) -> None:
        self.write_endpoints([self.llama.address])
        self.start_picker()
        buffers = replace(DUPLEX, buffer_limit_bytes=16 * MIB)
        config = envoy_config([self.llama.address], f"127.0.0.1:{self.ports[0]}", buffers)
        router = f"127.0.0.1:{self.router_port}"
        add_body_router(config, "picker", router, self.case.router, {"qwen": self.qwen.address})
        binary = old_envoy(self.case.envoy) if self.case.envoy else None
        self.envoy = EnvoyProcess(config, self.directory, binary=binary)
        self.envoy.wait_ready()

    def stop(self) -> None:
        super().stop()
        self.llama.stop()
        self.qwen.stop()

    def chat(
        self, model: Any, *, size: int = KIB, headers: dict[str, str] | None = None, **more: Any
    ) -> tuple[int, Any]:
        body = chat(size, model=model, **more)
        status, _, answer = post(f"{self.url}/v1/chat/completions", body, **(headers or {}))
        self.sha256 = hashlib.sha256(body).hexdigest()
        return status, json.loads(answer)


@pytest.fixture(scope="module", params=cases())
def routed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    made = Routed(tmp_path_factory.mktemp("routed"), request.param)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("model", "upstream", "headers"),
    [
        ("qwen", "qwen", {MODEL: "qwen", BASE: "qwen"}),
        ("travel", "qwen", {MODEL: "travel", BASE: "qwen"}),
        ("llama", "llama", {MODEL: "llama", BASE: "llama"}),
        ("unknown", "llama", {MODEL: "unknown", BASE: ""}),
    ],
)
def test_requests_go_where_their_model_is(routed: Routed, model: str, upstream: str, headers: dict[str, str]) -> None:
    """The header that the router sets chooses the route; a client's own does not."""
    status, answer = routed.chat(model, headers=SPOOFED)
    assert (status, answer["served_by"], answer["sha256"]) == (200, upstream, routed.sha256)
    got = getattr(routed, upstream).received[-1].headers
    assert {name: got.get(name) for name in headers} == headers
    if upstream == "llama":
        assert routed.decisions()[0]["endpoint"] == routed.llama.address


def test_names_that_are_not_ascii_arrive_as_utf8(routed: Routed) -> None:
    status, answer = routed.chat("世界")
    assert (status, answer["served_by"]) == (200, "qwen")
    assert routed.qwen.received[-1].headers[MODEL].encode("latin-1").decode() == "世界"


@pytest.mark.parametrize("size", [400 * KIB, 5 * MIB])
def test_large_bodies_arrive_byte_for_byte(routed: Routed, size: int) -> None:
    status, answer = routed.chat("travel", size=size)
    assert (status, answer["served_by"], answer["sha256"]) == (200, "qwen", routed.sha256)


def test_what_is_no_json_is_400_before_any_model_server_sees_it(routed: Routed) -> None:
    before = len(routed.llama.received) + len(routed.qwen.received)
    status, headers, answer = post(f"{routed.url}/v1/chat/completions", b'{"model": "qwen"')
    assert (status, headers["content-type"]) == (400, "application/json")
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    assert len(routed.llama.received) + len(routed.qwen.received) == before


def test_a_client_cannot_choose_its_route(routed: Routed) -> None:
    """Neither without a model, nor without a body."""
    status, _, answer = post(f"{routed.url}/v1/other", b"{}", **{BASE: "qwen", MODEL: "qwen"})
    assert (status, json.loads(answer)["served_by"]) == (200, "llama")
    got = routed.llama.received[-1].headers
    assert MODEL not in got
    assert BASE not in got
    client = http.client.HTTPConnection(routed.url.removeprefix("http://"), timeout=30)
    client.request("GET", "/v1/models", headers={BASE: "qwen"})
    assert json.loads(client.getresponse().read())["served_by"] == "llama"
    assert BASE not in routed.llama.received[-1].headers
    client.close()


@pytest.mark.parametrize("routed", cases(*(name for name in CASES if name != "newest-buffered-plugin")), indirect=True)
def test_streams_pass_chunk_for_chunk(routed: Routed) -> None:
    """The next event is sent only when the client has the one before."""
    client = http.client.HTTPConnection(routed.url.removeprefix("http://"), timeout=30)
    client.request("POST", "/v1/chat/completions", chat(KIB, model="qwen", stream=True))
    events = [b'data: {"choices": [{"delta": {"content": "%d"}}]}\n\n' % number for number in range(10)]
    routed.qwen.leave.put(events[0])
    response = client.getresponse()
    for sent, following in zip(events, [*events[1:], b""], strict=True):
        assert response.read(len(sent)) == sent
        routed.qwen.leave.put(following)
    assert response.read() == b""
    client.close()


@pytest.mark.parametrize("routed", cases("newest-duplex-plugin", "newest-buffered-plugin"), indirect=True)
def test_plugins_see_both_directions(routed: Routed) -> None:
    status, answer = routed.chat("qwen", lead="my password is hunter2")
    assert (status, answer["error"]["code"]) == (403, "secret")
    routed.qwen.extra = {"secret": "x" * 100}
    status, answer = routed.chat("qwen")
    assert (status, answer["secret"], answer["sha256"]) == (200, "***", routed.sha256)
    routed.qwen.extra = {"forbidden": True}
    status, answer = routed.chat("qwen")
    assert (status, answer["error"]["message"]) == (451, "nobody may see this")
    routed.qwen.extra = {}


@pytest.mark.parametrize("routed", cases("newest-duplex-plugin"), indirect=True)
def test_a_stream_that_is_rejected_too_late_breaks_off(routed: Routed) -> None:
    """The client cannot take it for whole, and does not see what was rejected."""
    client = http.client.HTTPConnection(routed.url.removeprefix("http://"), timeout=30)
    client.request("POST", "/v1/chat/completions", chat(KIB, model="qwen", stream=True))
    good, bad = b'data: {"n": 1}\n\n', b'data: {"forbidden": 1}\n\n'
    routed.qwen.leave.put(good)
    response = client.getresponse()
    assert response.read(len(good)) == good
    routed.qwen.leave.put(bad)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as broken:
        response.read()
    assert b"forbidden" not in getattr(broken.value, "partial", b"")
    routed.qwen.leave.put(b"")
    client.close()


def test_envoy_saw_nothing_spurious(routed: Routed) -> None:
    """After all of the above; and nothing is held any more. A response that was cut counts as failed."""
    assert routed.envoy is not None
    cut = routed.metric("picker_bbr_responses_cut_total") or 0
    stats = {name: value for name, value in routed.envoy.stats().items() if ".ext_proc." in name}
    wanted = {"spurious_msgs_received": 0, "streams_failed": cut, "message_timeouts": 0, "rejected_header_mutations": 0}
    for kind, count in wanted.items():
        assert sum(value for name, value in stats.items() if name.endswith(kind)) == count, kind
    routed.wait_until(lambda: routed.metric("picker_bbr_open_streams") == 0)
    assert routed.metric("picker_bbr_buffered_bytes") == 0
    assert routed.metric("bbr_success_total") > 5
