"""The side-car's file: the format of the Inference Extension's lora-syncer, and errors that name line and member."""

from pathlib import Path

import pytest

from picker.config.document import drain
from picker.errors import LoraConfigError
from picker.lora.config import Adapter, LoraConfig, parse_config
from tests.support.fuzz import CASES, mutants

TEXT = """\
vLLMLoRAConfig:
  name: vllm-llama
  port: 8001
  defaultBaseModel: example/base
  ensureExist:
    models:
    - id: review-v1
      source: example/review-v1
    - id: review-v2
      source: /adapters/review-v2
      base-model: example/other
    - id: both
      source: example/both
  ensureNotExist:
    models:
    - id: review-v0
      source: example/review-v0
    - id: both
      source: example/both
"""


def parsed(text: str) -> LoraConfig:
    return drain(parse_config(text.encode(), source="adapters.yaml"))


def test_the_file_of_the_lora_syncer_is_read() -> None:
    assert parsed(TEXT) == LoraConfig(
        address="localhost:8001",
        wanted=(
            Adapter(id="review-v1", source="example/review-v1", base_model="example/base"),
            Adapter(id="review-v2", source="/adapters/review-v2", base_model="example/other"),
        ),
        unwanted=("review-v0",),
        disputed=("both",),
    )


def test_everything_has_a_default() -> None:
    assert parsed("vLLMLoRAConfig: {}") == LoraConfig(address="localhost:8000")
    assert parsed('vLLMLoRAConfig: {host: "::1"}').address == "[::1]:8000"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("- a", "vLLMLoRAConfig is missing"),
        ("vllmLoraConfig: {}", "vLLMLoRAConfig is missing"),
        ("vLLMLoRAConfig: 5", "adapters.yaml:1: vLLMLoRAConfig: expected a mapping"),
        ("vLLMLoRAConfig: {port: '8000'}", "vLLMLoRAConfig.port: expected a whole number"),
        ("vLLMLoRAConfig: {port: 70000}", "vLLMLoRAConfig.port"),
        ("vLLMLoRAConfig:\n  ensureExist:\n    models:\n    - id: a\n", "adapters.yaml:4: "),
        ("vLLMLoRAConfig:\n  ensureExist: {}\n", "models"),
        ("vLLMLoRAConfig: {ensureExist: {models: [{id: '', source: x}]}}", "models[0].id"),
        ("vLLMLoRAConfig: [", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(LoraConfigError) as caught:
        parsed(text)
    assert said in str(caught.value)


def test_unknown_members_are_warned_about() -> None:
    found = parsed(
        "vLLMLoRAConfig:\n  ports: 8000\n  ensureExist:\n    models:\n    - {id: a, source: b, toRemove: true}\n"
    )
    assert found.warnings == (
        'adapters.yaml:2: vLLMLoRAConfig.ports: unknown member "ports" has no effect; did you mean "port"?',
        'adapters.yaml:5: vLLMLoRAConfig.ensureExist.models[0].toRemove: unknown member "toRemove" has no effect; '
        "use one of: base-model, id, source",
    )


def test_whatever_the_text_it_is_a_config_or_an_error(tmp_path: Path) -> None:
    tokens = [
        b"\n",
        b"  ",
        b"- ",
        b": ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"models",
        b"null",
        b"-1",
        b"id",
        b"&a ",
        b"*a",
        b"\xff",
    ]
    for _, data in mutants([TEXT.encode()], tokens, seed=3, cases=CASES // 20):
        try:
            drain(parse_config(data, source="adapters.yaml"))
        except LoraConfigError:
            continue
