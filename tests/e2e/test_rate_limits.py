"""Rate limits as clients meet them, through a real Envoy: by header, by a claim that Envoy has verified, and shared."""

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from picker.demo.envoy import EnvoyProcess, Gateway, envoy_config
from tests.e2e.stack import Stack, running
from tests.e2e.test_gateway import post
from tests.support.polling import DEADLINE_S, wait_until
from tests.support.redisserver import RedisServer

pytestmark = pytest.mark.e2e

JWT = "envoy.filters.http.jwt_authn"
BODY = json.dumps(
    {"model": "sim", "messages": [{"role": "user", "content": "hello " * 40}], "max_tokens": 5, "ignore_eos": True}
).encode()
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nrateLimits:\n"
BY_KEY = (
    HEAD + "  rules:\n  - {name: per-key, key: {header: x-api-key}, limits: {requestsPerDay: 2, tokensPerDay: 10k}}\n"
)
BY_CLAIM = HEAD + (
    "  rules:\n  - name: per-user\n"
    f"    key: {{claim: {{namespace: {JWT}, path: [payload, sub]}}}}\n    limits: {{requestsPerDay: 1}}\n"
)
GATEWAYS = {"full duplex": Gateway(), "buffered": Gateway("BUFFERED", "BUFFERED")}


def ask(stack: Stack, **headers: str) -> tuple[int, dict[str, str], Any]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    status, found, body = post(f"{stack.url}/v1/chat/completions", BODY, **given)  # type: ignore[arg-type]
    return status, found, json.loads(body)


def limits(headers: dict[str, str]) -> dict[str, str]:
    return {
        name.removeprefix("x-ratelimit-"): text for name, text in headers.items() if name.startswith("x-ratelimit-")
    }


@contextlib.contextmanager
def limited(directory: Path, shell: str, config: str, gateway: Gateway | None = None) -> Iterator[Stack]:
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text(config)
    flags = [f"--config-file={directory / 'config.yaml'}"]
    with running(directory, shell=shell, servers=1, flags=flags, gateway=gateway) as stack:
        yield stack


@pytest.fixture(autouse=True)
def no_midnight() -> None:
    """A day that ends in the middle of a test would give everybody a new allowance: better wait for it."""
    wait_until(lambda: 86_400 - time.time() % 86_400 > DEADLINE_S - 1)


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_each_key_has_its_own_limit(tmp_path: Path, shell: str, gateway: Gateway) -> None:
    with limited(tmp_path, shell, BY_KEY, gateway) as stack:
        told = []
        for _ in range(2):
            status, headers, answer = ask(stack, x_api_key="sk-one")
            assert status == 200
            told.append(limits(headers))
        used = answer["usage"]["total_tokens"]
        assert [each["remaining-requests"] for each in told] == ["1", "0"]
        assert told[1]["limit-tokens"] == "10000" and told[1]["reset-requests"].endswith("s")
        status, headers, answer = ask(stack, x_api_key="sk-one")
        assert (status, answer["error"]["code"], answer["error"]["type"]) == (429, "rate_limit_exceeded", "requests")
        assert "per-key, 2 requests per day" in answer["error"]["message"]
        assert int(headers["retry-after"]) > 0
        assert headers["x-llm-d-request-dropped-reason"] == "rejected-quota"
        assert limits(headers)["remaining-tokens"] == str(10_000 - 2 * used), "charged is what was used, to the token"
        assert [ask(stack, **key)[0] for key in ({"x_api_key": "sk-two"}, {}, {}, {})] == [200] * 4
        assert stack.total("picker_rate_limit_rejected_total", rule="per-key") == 1
        stack.wait_until(lambda: stack.total("picker_rate_limit_tokens_total", rule="per-key", type="input") > 0)
        assert stack.picker is not None
        assert "sk-" not in stack.picker.log_text() + stack.admin("/metrics")


def test_counters_outlast_an_edit(tmp_path: Path, shell: str) -> None:
    with limited(tmp_path, shell, BY_KEY) as stack:
        assert [ask(stack, x_api_key="a")[0] for _ in range(3)] == [200, 200, 429]
        (tmp_path / "config.yaml").write_text(BY_KEY.replace("requestsPerDay: 2", "requestsPerDay: 4"))
        stack.wait_until(lambda: stack.metric("picker_config_reloads_total") == 1)
        assert [ask(stack, x_api_key="a")[0] for _ in range(3)] == [200, 200, 429]


def token(subject: str, secret: bytes) -> str:
    """A JWT by HS256."""

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"iss": "tests", "sub": subject, "exp": 4_000_000_000})
    return (signed + b"." + part(hmac.digest(secret, signed, hashlib.sha256))).decode()


def verifying(config: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """With Envoy's own JWT filter before picker, which is shown what that has found out."""
    (listener,) = (each for each in config["static_resources"]["listeners"] if each["name"] == "picker")
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    key = {"kty": "oct", "alg": "HS256", "k": base64.urlsafe_b64encode(secret).decode().rstrip("=")}
    provider = {
        "issuer": "tests",
        "payload_in_metadata": "payload",
        "local_jwks": {"inline_string": json.dumps({"keys": [key]})},
    }
    filters.insert(
        0,
        {
            "name": JWT,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": {"tests": provider},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "tests"}}],
            },
        },
    )
    filters[1]["typed_config"]["metadata_options"]["forwarding_namespaces"]["untyped"].append(JWT)
    return config


def test_keys_that_envoy_has_verified(tmp_path: Path, shell: str) -> None:
    secret = bytes(range(32))
    (tmp_path / "config.yaml").write_text(BY_CLAIM)
    stack = Stack(tmp_path, shell, flags=(f"--config-file={tmp_path / 'config.yaml'}",))
    try:
        stack.start_servers(1)
        stack.write_endpoints(stack.upstreams)
        stack.start_picker()
        config = envoy_config(stack.upstreams, f"127.0.0.1:{stack.ports[0]}", Gateway())
        stack.envoy = EnvoyProcess(verifying(config, secret), tmp_path)
        stack.envoy.wait_ready()
        found = [ask(stack, authorization=f"Bearer {token(name, secret)}")[0] for name in ("ann", "bob", "ann")]
        assert found == [200, 200, 429]
        url = f"{stack.url}/v1/chat/completions"
        assert post(url, BODY, authorization=f"Bearer {token('eve', b'other')}")[0] == 401
    finally:
        stack.stop()


def test_two_replicas_share_a_store_that_goes_and_comes(tmp_path: Path, shell: str) -> None:
    with RedisServer() as server, contextlib.ExitStack() as replicas:
        store = f"  store: {{redis: {{url: '{server.url}'}}, timeout: 2s}}\n"
        first, second = (
            replicas.enter_context(limited(tmp_path / name, shell, BY_KEY + store)) for name in ("first", "second")
        )
        assert [ask(stack, x_api_key="a")[0] for stack in (first, second, first, second)] == [200, 200, 429, 429]
        assert limits(ask(first, x_api_key="b")[1])["remaining-requests"] == "1"
        assert limits(ask(second, x_api_key="b")[1])["remaining-requests"] == "0"
        server.kill()
        assert [ask(first, x_api_key="c")[0] for _ in range(3)] == [200, 200, 429], "each for itself"
        assert ask(second, x_api_key="c")[0] == 200
        assert first.total("picker_rate_limit_store_up") == 0
        server.start()
        for stack in (first, second):
            stack.wait_until(lambda stack=stack: stack.total("picker_rate_limit_store_up") == 1)
        assert [ask(stack, x_api_key="d")[0] for stack in (first, second, first)] == [200, 200, 429]
