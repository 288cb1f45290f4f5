"""Flow control as clients meet it, through a real Envoy; a model server is busy for as long as the test wants."""

import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from picker.demo.envoy import Gateway
from tests.e2e.stack import Stack, running
from tests.e2e.test_failures import faults
from tests.e2e.test_gateway import post
from tests.support.upstream import Upstream

pytestmark = pytest.mark.e2e

Answer = tuple[int, dict[str, str], bytes]
EVENT, END = b'data: {"choices": []}\n\n', b""
QUEUED = "inference_extension_flow_control_queue_size"
GATEWAYS = {
    "full duplex": Gateway(message_timeout_s=0.2),  # which counts for nothing there
    "buffered": Gateway("BUFFERED", "BUFFERED", message_timeout_s=60),
}
OBJECTIVES = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: high}
spec: {priority: 10, poolRef: {name: pool}}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -10, poolRef: {name: pool}}
"""
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: concurrency-detector, parameters: {maxConcurrency: 1}}
flowControl:
  saturationDetector: {pluginRef: concurrency-detector}
"""
"""One request at a time, so that it is known who waits."""


class Scene:
    """A stack in front of one model server that the test drives, and clients that wait beside it."""

    def __init__(self, stack: Stack, upstream: Upstream, clients: concurrent.futures.Executor) -> None:
        self.stack, self.upstream, self._clients = stack, upstream, clients

    def ask(self, name: str, *, objective: str = "", tenant: str = "", stream: bool = False) -> "Future[Answer]":
        """A request that the model server will know by its name."""
        body = json.dumps({"model": "m", "prompt": name, "stream": stream}).encode()
        headers = {"x-llm-d-inference-objective": objective, "x-llm-d-inference-fairness-id": tenant}
        given = {key: value for key, value in headers.items() if value}
        return self._clients.submit(lambda: post(f"{self.stack.url}/v1/completions", body, **given))  # type: ignore[arg-type]

    def occupy(self) -> "Future[Answer]":
        """A request that runs until `free`."""
        running = self.ask("occupies", stream=True)
        self.stack.wait_until(lambda: "occupies" in self.served())
        return running

    def free(self) -> None:
        self.upstream.leave.put(EVENT)
        self.upstream.leave.put(END)

    def wait(self, name: str, *, queued: int, **given: Any) -> "Future[Answer]":
        """A request that waits, as the last of `queued`."""
        waiting = self.ask(name, **given)
        self.stack.wait_until(lambda: self.queued() == queued)
        return waiting

    def queued(self) -> float:
        return self.stack.total(QUEUED)

    def served(self) -> list[str]:
        """What the model server was asked, in order."""
        return [str(json.loads(each.body)["prompt"]) for each in self.upstream.received if each.body]


@contextlib.contextmanager
def staged(
    directory: Path, shell: str, *, config: str = CONFIG, gateway: Gateway | None = None, endpoints: bool = True
) -> Iterator[Scene]:
    """With `endpoints` False picker does not know of the model server yet."""
    (directory / "config.yaml").write_text(config)
    (directory / "objectives.yaml").write_text(OBJECTIVES)
    upstream = Upstream("model")
    flags = (f"--config-file={directory / 'config.yaml'}", f"--resources-file={directory / 'objectives.yaml'}")
    stack = Stack(directory, shell, upstreams=[upstream.address], flags=flags)
    clients = concurrent.futures.ThreadPoolExecutor(max_workers=16)
    try:
        stack.write_endpoints(stack.upstreams if endpoints else [])
        stack.start_picker()
        stack.start_envoy(gateway)
        yield Scene(stack, upstream, clients)
    finally:
        for _ in range(16):
            upstream.leave.put(END)
        stack.stop()
        upstream.stop()
        clients.shutdown(cancel_futures=True)


def refusal(answer: Answer) -> dict[str, Any]:
    """What an OpenAI client reads of it; and it says when to come back."""
    status, headers, body = answer
    error: dict[str, Any] = json.loads(body)["error"]
    assert headers["content-type"].startswith("application/json")
    assert int(headers["retry-after"]) >= 1
    assert error["message"] and error["code"]
    assert (error["type"] == "rate_limit_error") == (status == 429)
    return error


def dropped(answer: Answer) -> str | None:
    return answer[1].get("x-llm-d-request-dropped-reason")


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_the_high_go_first_and_tenants_take_turns(tmp_path: Path, shell: str, gateway: Gateway) -> None:
    with staged(tmp_path, shell, gateway=gateway) as scene:
        running = scene.occupy()
        waiting = [scene.wait(f"greedy {number}", queued=number + 1, tenant="greedy") for number in range(4)]
        waiting.append(scene.wait("modest", queued=5, tenant="modest"))
        waiting.append(scene.wait("high", queued=6, objective="high"))
        scene.free()
        assert [each.result()[0] for each in (running, *waiting)] == [200] * 7
        occupies, first, *others = scene.served()
        assert (occupies, first) == ("occupies", "high")
        assert others.index("modest") <= 1
        assert [name for name in others if name != "modest"] == [f"greedy {number}" for number in range(4)]
        assert scene.queued() == 0


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_batch_work_is_refused_at_once(tmp_path: Path, shell: str, gateway: Gateway) -> None:
    with staged(tmp_path, shell, gateway=gateway) as scene:
        running = scene.occupy()
        answer = scene.ask("batch", objective="batch").result()
        assert (answer[0], dropped(answer)) == (429, "rejected-saturated")
        refusal(answer)
        scene.free()
        assert running.result()[0] == 200
        scene.stack.wait_until(lambda: scene.ask("batch again", objective="batch").result()[0] == 200)
        assert "batch" not in scene.served()


def test_a_full_queue_refuses(tmp_path: Path, shell: str) -> None:
    with staged(tmp_path, shell, config=CONFIG + "  defaultPriorityBand: {maxRequests: 1}\n") as scene:
        running = scene.occupy()
        waiting = scene.wait("waits", queued=1)
        answer = scene.ask("one too many").result()
        assert (answer[0], dropped(answer)) == (429, "rejected-saturated")
        refusal(answer)
        scene.free()
        assert [running.result()[0], waiting.result()[0]] == [200, 200]
        assert scene.served() == ["occupies", "waits"]


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_nobody_waits_longer_than_the_configuration_says(tmp_path: Path, shell: str, gateway: Gateway) -> None:
    with staged(tmp_path, shell, config=CONFIG + "  defaultRequestTTL: 300ms\n", gateway=gateway) as scene:
        running = scene.occupy()
        answer = scene.ask("waits too long").result()
        assert (answer[0], dropped(answer)) == (429, "rejected-ttl-expired")
        refusal(answer)
        scene.free()
        assert running.result()[0] == 200
        assert scene.served() == ["occupies"]


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_who_goes_away_waits_no_more(tmp_path: Path, shell: str, gateway: Gateway) -> None:
    with staged(tmp_path, shell, gateway=gateway) as scene:
        running = scene.occupy()
        body = json.dumps({"model": "m", "prompt": "goes away"}).encode()
        gone = threading.Event()

        def leave() -> None:
            with contextlib.suppress(OSError):  # its own time is over
                post(f"{scene.stack.url}/v1/completions", body, timeout_s=0.5)
            gone.set()

        threading.Thread(target=leave, daemon=True).start()
        scene.stack.wait_until(lambda: scene.queued() == 1)
        assert gone.wait(20)
        scene.stack.wait_until(lambda: scene.queued() == 0)
        waiting = scene.wait("stays", queued=1)
        scene.free()
        assert [running.result()[0], waiting.result()[0]] == [200, 200]
        assert scene.served() == ["occupies", "stays"]


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_whom_the_gateway_gives_up_waits_no_more(tmp_path: Path, shell: str, gateway: Gateway) -> None:
    """Envoy's own answer passes through picker while the request still waits there."""
    with staged(tmp_path, shell, gateway=replace(gateway, idle_timeout_s=1.0)) as scene:
        running = scene.occupy()
        waiting = scene.ask("waits in silence")
        while not waiting.done():
            scene.upstream.leave.put(EVENT)  # what runs is not silent
            concurrent.futures.wait([waiting], timeout=0.2)
        assert waiting.result()[0] == 504
        scene.stack.wait_until(lambda: scene.queued() == 0)
        scene.free()
        assert running.result()[0] == 200
        assert scene.served() == ["occupies"]


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_requests_wait_for_the_first_endpoint(tmp_path: Path, shell: str, gateway: Gateway) -> None:
    config = CONFIG + "  noEndpointRequestTTL: 60s\n"
    with staged(tmp_path, shell, config=config, gateway=gateway, endpoints=False) as scene:
        waiting = [scene.wait("first", queued=1), scene.wait("batch", queued=2, objective="batch")]
        scene.stack.write_endpoints(scene.stack.upstreams)
        assert [each.result()[0] for each in waiting] == [200, 200]


def test_without_an_endpoint_it_is_503_in_the_end(tmp_path: Path, shell: str) -> None:
    config = CONFIG + "  noEndpointRequestTTL: 200ms\n"
    with staged(tmp_path, shell, config=config, endpoints=False) as scene:
        answer = scene.ask("waits in vain").result()
        assert (answer[0], dropped(answer)) == (503, "rejected-no-endpoints")
        refusal(answer)


def test_a_picker_that_stops_lets_the_queue_go_on(tmp_path: Path, shell: str) -> None:
    with staged(tmp_path, shell) as scene:
        running = scene.occupy()
        waiting = scene.wait("waits", queued=1)
        assert scene.stack.picker is not None
        scene.stack.picker.terminate()
        scene.free()
        assert [running.result()[0], waiting.result()[0]] == [200, 200]
        scene.stack.wait_until(lambda: scene.stack.picker is not None and not scene.stack.picker.alive)


def test_metrics_that_stop_stop_nothing(tmp_path: Path, shell: str) -> None:
    """Flow control as it is by default, over model servers that show metrics until they do not."""
    with running(tmp_path, shell=shell, flags=("--metrics-staleness-threshold=1s",)) as stack:
        clients = concurrent.futures.ThreadPoolExecutor(max_workers=32)
        url, body = f"{stack.url}/v1/completions", b'{"model": "sim", "prompt": "hello", "max_tokens": 5}'

        def answers() -> set[int]:
            return {asked.result()[0] for asked in [clients.submit(post, url, body) for _ in range(100)]}

        assert answers() == {200}
        for address in stack.upstreams:
            faults(address, refuse_metrics=True)
        stack.wait_until(lambda: stack.total("picker_endpoint_metrics_stale") == len(stack.upstreams))
        assert answers() == {200}
        clients.shutdown()
