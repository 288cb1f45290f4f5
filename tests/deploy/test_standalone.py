"""The Envoy of the standalone overlay: the very configuration it ships, in a real Envoy, in front of a real picker."""

import contextlib
import copy
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from picker.demo.envoy import DESTINATION, EnvoyProcess, envoy_binary, validate
from picker.demo.processes import Child, picker_command, stop_all
from tests.e2e.stack import OLD_ENVOYS, Stack, old_envoy, running
from tests.support.cluster import Cluster
from tests.support.manifests import (
    KUSTOMIZE,
    NAMESPACE,
    build,
    needs_helm,
    needs_kubectl,
    only,
    picker_args,
    render,
)
from tests.support.ports import EXT_PROC, free_port, ports_in

pytestmark = pytest.mark.e2e
CHAT = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}).encode()


def shipped() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((KUSTOMIZE / "overlays" / "standalone" / "envoy.yaml").read_text())
    return config


def named(config: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in config["static_resources"][part] if each["name"] == name)
    return dict(found)


def moved(config: dict[str, Any], picker_port: int) -> dict[str, Any]:
    """The same on ports of this test's own: nothing else is touched."""
    admin = free_port()
    places = {8081: 0, 19001: 0, 19000: admin, 9002: picker_port}
    fresh = copy.deepcopy(config)

    def visit(thing: Any) -> None:
        if isinstance(thing, dict):
            if "port_value" in thing:
                thing |= {"port_value": places[thing["port_value"]], "address": "127.0.0.1"}
            for value in thing.values():
                visit(value)
        elif isinstance(thing, list):
            for value in thing:
                visit(value)

    visit(fresh)
    return fresh


@pytest.mark.parametrize("version", ["1.40.0", *OLD_ENVOYS])
def test_envoy_takes_it(version: str, tmp_path: Path) -> None:
    binary = old_envoy(version) if version in OLD_ENVOYS else envoy_binary()
    if binary is None:
        pytest.skip(f"Envoy {version} is not installed: `make test` does that")
    assert validate(shipped(), tmp_path / "envoy.json", binary=binary) is None


@needs_helm
@pytest.mark.parametrize("standalone", [{}, {"bindAddress": "::", "port": 10000, "idleTimeout": "60s"}])
def test_envoy_takes_what_values_make_of_it(standalone: dict[str, Any], tmp_path: Path) -> None:
    objects = render({"endpointSelector": "app=chat", "gateway": "standalone", "standalone": standalone})
    config = yaml.safe_load(only(objects, "ConfigMap")["data"]["envoy.yaml"])
    assert validate(config, tmp_path / "envoy.json") is None


def test_nothing_waits_for_hours() -> None:
    config = shipped()
    for cluster in config["static_resources"]["clusters"]:
        assert float(cluster["connect_timeout"].removesuffix("s")) <= 10
    picker = named(config, "clusters", "picker")
    assert picker["common_lb_config"]["healthy_panic_threshold"]["value"] == 0
    for name in ("picker", "picked"):
        (limits,) = named(config, "clusters", name)["circuit_breakers"]["thresholds"]
        assert limits["max_requests"] > 20_000, "more than picker itself takes"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("standalone")
    with running(directory, shell="wire", flags=["--health-checking=true"]) as started:
        started.envoy = swapped(started, directory)
        yield started


def swapped(stack: Stack, directory: Path) -> EnvoyProcess:
    """The shipped Envoy in place of the tests' own."""
    assert stack.envoy is not None
    stack.envoy.stop()
    envoy = EnvoyProcess(moved(shipped(), stack.ports[0]), directory)
    envoy.wait_ready()
    return envoy


def ask(stack: Stack, body: bytes = CHAT, **headers: str) -> tuple[int, str]:
    assert stack.envoy is not None
    request = urllib.request.Request(
        f"http://{stack.envoy.addresses['clients']}/v1/chat/completions",
        data=body,
        headers={
            "content-type": "application/json",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with contextlib.closing(refused):
            return refused.code, refused.read().decode()


def test_requests_are_served(stack: Stack) -> None:
    status, body = ask(stack)
    assert status == 200 and json.loads(body)["choices"]
    assert stack.decisions()[0]["endpoint"] in stack.upstreams


def test_a_client_cannot_say_where_to_go(stack: Stack) -> None:
    assert ask(stack, **{DESTINATION: "127.0.0.1:1"})[0] == 200


def test_a_client_cannot_say_how_envoy_is_to_wait(stack: Stack) -> None:
    long = json.dumps({**json.loads(CHAT), "max_tokens": 2000}).encode()
    assert ask(stack, long, x_envoy_upstream_rq_timeout_ms="1")[0] == 200


def test_kubelet_sees_when_envoy_is_ready(stack: Stack) -> None:
    assert stack.envoy is not None
    address = stack.envoy.addresses["ready"]
    with urllib.request.urlopen(f"http://{address}/ready", timeout=10) as answer:
        assert answer.read().strip() == b"LIVE"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{address}/quitquitquit", timeout=10)
    refused.value.close()
    assert refused.value.code == 404, "no other page of the admin port is let out"


def test_a_picker_that_hangs_holds_no_requests(stack: Stack) -> None:
    """In full duplex ext_proc has no timeout: only the health check finds out."""
    assert stack.picker is not None and stack.envoy is not None
    os.kill(stack.picker.pid, signal.SIGSTOP)
    try:
        stack.wait_until(lambda: healthy(stack) == 0)
        assert ask(stack)[0] in (500, 503)
    finally:
        os.kill(stack.picker.pid, signal.SIGCONT)
    stack.wait_until(lambda: ask(stack)[0] == 200)


def healthy(stack: Stack) -> int:
    assert stack.envoy is not None
    return stack.envoy.stats()["cluster.picker.membership_healthy"]


def test_a_picker_that_ends_refuses_at_once(stack: Stack) -> None:
    assert stack.picker is not None
    stack.picker.stop()
    assert ask(stack)[0] in (500, 503)
    stack.start_picker()
    stack.wait_until(lambda: ask(stack)[0] == 200)


@needs_kubectl
def test_from_pods_with_a_label_to_an_answer(tmp_path: Path) -> None:
    """The overlay's own args and Envoy, an API server, and model servers where its pods are."""
    args = picker_args(build(KUSTOMIZE / "overlays" / "standalone"))
    port = free_port()
    with Cluster() as cluster, contextlib.ExitStack() as ending:
        children: list[Child] = []
        ending.callback(stop_all, children)
        for number in (2, 3):
            children.append(model_server(f"127.0.0.{number}", port, tmp_path))
            cluster.pod(f"chat-{number}", f"127.0.0.{number}", labels={"app": "chat"}, namespace=NAMESPACE)
        own = [f"--endpoint-target-ports={port}", f"--kubeconfig={cluster.kubeconfig(tmp_path, namespace=NAMESPACE)}"]
        own += ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"]
        environment = {"NAMESPACE": NAMESPACE, "POD_NAME": "picker-5d8f7c9b6d-x2x7k"}
        fixed = [word for word in args if not word.startswith(("--endpoint-target-ports", "--grpc", "--metrics-port"))]
        children.append(Child("picker", picker_command("serve", *fixed, *own), tmp_path / "picker.log", environment))
        stack = Stack(tmp_path, "wire", picker=children[-1])
        children[-1].wait_until(lambda: EXT_PROC in ports_in(children[-1].log_text()), 30.0)
        stack.envoy = EnvoyProcess(moved(shipped(), ports_in(children[-1].log_text())[EXT_PROC]), tmp_path)
        ending.callback(stack.envoy.stop)
        stack.envoy.wait_ready()
        stack.wait_until(lambda: ask(stack)[0] == 200)
        cluster.delete("Pod", "chat-2", NAMESPACE)
        cluster.delete("Pod", "chat-3", NAMESPACE)
        stack.wait_until(lambda: ask(stack)[0] == 503)


def model_server(host: str, port: int, directory: Path) -> Child:
    command = picker_command("model-server", "--host", host, "--port", str(port), "--speedup", "1000")
    child = Child(f"model server {host}", command, directory / f"{host}.log")
    child.wait_until(lambda: "listening on" in child.log_text(), 30.0)
    return child
