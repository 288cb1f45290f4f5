"""An adapter is rolled out through a real Envoy: clients ask for one name all the time, and get it back."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from picker.demo.envoy import Gateway
from tests.e2e.stack import SHELLS, Stack, running
from tests.e2e.test_gateway import FULL_DUPLEX, KIB, MIB, MODES, REQUEST_ONLY, chat, post

pytestmark = pytest.mark.e2e

ASKED = "food-review"
ADAPTERS = ("v1", "an-adapter-of-a-longer-name")
RULES = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: rollout}
spec:
  poolRef: {name: pool-a}
  rules:
  - matches: [{model: {value: food-review}}]
    targets:
"""


@dataclass
class Rollout:
    """Two servers that hold both adapters, and picker's rules for them in a file."""

    directory: Path
    is_restored: bool
    stack: Stack

    @staticmethod
    def write(directory: Path, *targets: str) -> Path:
        """Rules that send requests to these adapters, each with the same share."""
        file = directory / "resources.yaml"
        fresh = file.with_suffix(".new")
        fresh.write_text(RULES + "".join(f"    - {{modelRewrite: {name}, weight: 50}}\n" for name in targets))
        fresh.replace(file)
        return file

    def asks(self, body: bytes) -> tuple[str, bytes]:
        """The adapter that served the body, which came to it with another name and not a byte else; its answer."""
        status, headers, answer = post(f"{self.stack.url}/v1/chat/completions", body)
        assert status == 200, answer
        sums = {hashlib.sha256(renamed(body, name)).hexdigest(): name for name in (*ADAPTERS, ASKED)}
        return sums[headers["x-body-sha256"]], answer

    def says(self, served: str) -> str:
        """What the client reads as the model's name."""
        return ASKED if self.is_restored else served

    def decided(self) -> float:
        return self.stack.total("llm_d_epp_model_rewrite_decisions_total", model_name=ASKED)


def renamed(body: bytes, name: str) -> bytes:
    before, found, after = body.partition(f'"model": "{ASKED}"'.encode())
    assert found
    return before + f'"model": "{name}"'.encode() + after


@contextlib.contextmanager
def rollout(directory: Path, shell: str, gateway: Gateway, *flags: str) -> Iterator[Rollout]:
    file = Rollout.write(directory, *ADAPTERS)
    flags = (f"--resources-file={file}", "--pool-name=pool-a", *flags)
    servers = [f"--lora={name}" for name in ADAPTERS]
    with running(directory, shell=shell, gateway=gateway, flags=flags, server_flags=servers) as stack:
        yield Rollout(directory, gateway is not REQUEST_ONLY and "--response-model=served" not in flags, stack)


BOTH = [pytest.param((shell, gateway), id=f"{shell}-{name}") for shell in SHELLS for name, gateway in MODES.items()]


@pytest.fixture(scope="module", params=BOTH)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    with rollout(tmp_path_factory.mktemp("rollout"), *request.param) as made:
        yield made


@pytest.mark.parametrize("size", [KIB, 400 * KIB, 5 * MIB], ids=["1KB", "400KB", "5MB"])
def test_only_the_name_changes_and_comes_back(made: Rollout, size: int) -> None:
    served, answer = made.asks(chat(size, model=ASKED))
    assert served in ADAPTERS
    assert json.loads(answer)["model"] == made.says(served)


def test_the_name_comes_back_in_every_event_of_a_stream(made: Rollout) -> None:
    served, answer = made.asks(chat(KIB, model=ASKED, stream=True, max_tokens=20))
    *events, done = (event.removeprefix(b"data: ") for event in answer.split(b"\n\n") if event)
    assert done == b"[DONE]"
    assert len(events) >= 20
    assert {json.loads(event)["model"] for event in events} == {made.says(served)}


def test_both_adapters_get_their_share_and_decisions_are_counted(made: Rollout) -> None:
    before = made.decided()
    served = [made.asks(chat(KIB, model=ASKED))[0] for _ in range(60)]
    assert set(served) == set(ADAPTERS)
    assert made.decided() == before + 60


def test_other_models_are_let_alone(made: Rollout) -> None:
    body = chat(KIB, model="sim")
    status, headers, answer = post(f"{made.stack.url}/v1/chat/completions", body)
    assert (status, headers["x-body-sha256"]) == (200, hashlib.sha256(body).hexdigest())
    assert json.loads(answer)["model"] == "sim"


def test_an_edit_of_the_file_moves_all_requests(made: Rollout) -> None:
    last = ADAPTERS[1]
    made.stack.wait_until(lambda: made.asks(chat(KIB, model=ASKED))[0] != last)  # so that it counts both
    made.write(made.directory, last)
    counted = 'llm_d_epp_model_rewrite_decisions_total{model_name="%s",model_rewrite_name="rollout",target_model="%s"}'
    made.stack.wait_until(lambda: made.stack.metric(counted % (ASKED, ADAPTERS[0])) is None)  # its rule is gone
    assert {made.asks(chat(KIB, model=ASKED))[0] for _ in range(20)} == {last}


def test_a_bad_edit_is_told_and_the_rules_stay(made: Rollout) -> None:
    file = made.write(made.directory, ADAPTERS[1])
    file.write_text(file.read_text().replace("weight: 50", "weight: 0"))
    made.stack.wait_until(lambda: made.stack.metric("picker_resources_file_errors_total") == 1)
    assert made.stack.picker is not None
    assert "spec.rules[0].targets[0].weight: 0 is out of range" in made.stack.picker.log_text()
    assert made.asks(chat(KIB, model=ASKED))[0] in ADAPTERS


def test_envoy_saw_nothing_spurious(made: Rollout) -> None:
    stats = made.stack.ext_proc_stats()
    assert stats["streams_started"] > 60
    assert (stats["spurious_msgs_received"], stats["streams_failed"]) == (0, 0)


def test_the_served_name_can_be_told(tmp_path: Path, shell: str) -> None:
    with rollout(tmp_path, shell, FULL_DUPLEX, "--response-model=served") as made:
        served, answer = made.asks(chat(KIB, model=ASKED))
        assert (served in ADAPTERS, json.loads(answer)["model"]) == (True, served)
