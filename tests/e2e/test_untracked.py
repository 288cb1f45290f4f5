"""`responseTracking: off` through a real Envoy: picker leaves when it has picked, and no response is the poorer."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.e2e.stack import SHELLS, Stack, running
from tests.e2e.test_gateway import KIB, MIB, MODES, chat, post

pytestmark = pytest.mark.e2e

CONFIG = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\nresponseTracking: off\n"


BOTH = [pytest.param((shell, gateway), id=f"{shell}-{name}") for shell in SHELLS for name, gateway in MODES.items()]


@pytest.fixture(scope="module", params=BOTH)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("untracked")
    shell, gateway = request.param
    with running(directory, shell=shell, gateway=gateway, flags=[f"--config-text={CONFIG}"]) as made:
        yield made


@pytest.mark.parametrize("size", [KIB, 400 * KIB, 5 * MIB], ids=["1KB", "400KB", "5MB"])
def test_bodies_arrive_whole_in_both_directions(stack: Stack, size: int) -> None:
    body = chat(size, stream=True, max_tokens=50)
    status, headers, answer = post(f"{stack.url}/v1/chat/completions", body)
    assert (status, headers["x-body-sha256"]) == (200, hashlib.sha256(body).hexdigest())
    assert headers["x-served-by"] == stack.decisions()[0]["endpoint"]
    assert answer.endswith(b"data: [DONE]\n\n")


def test_picker_is_not_there_any_more_when_the_response_comes(stack: Stack) -> None:
    stack.wait_until(lambda: stack.metric("picker_open_streams") == 0)
    assert all(entry["requests"] == 0 for entry in stack.endpoints().values())
    stats = stack.ext_proc_stats()
    assert (stats["streams_failed"], stats["spurious_msgs_received"]) == (0, 0)
    assert stats["streams_started"] >= 3
