"""Base models from ConfigMaps: what they come to, and a file of them followed while the router runs."""

from pathlib import Path

import pytest

from picker.bbr.models import LABEL, BaseModelsFile, Claim, ConfigMap, base_models, claim_of, parse_base_models
from picker.config.document import drain
from picker.errors import BaseModelsError
from picker.resources.objects import Metadata


def config_map(base: str, *adapters: str, name: str = "one", label: str = '"true"') -> str:
    lines = "".join(f"    - {adapter}\n" for adapter in adapters)
    data = f"data:\n  baseModel: {base}\n" + (f"  adapters: |\n{lines}" if adapters else "")
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  labels: {{{LABEL}: {label}}}\n{data}"


def parsed(*documents: str) -> dict[str, str]:
    return drain(parse_base_models("---\n".join(documents).encode(), source="file"))


def refusal(*documents: str) -> str:
    with pytest.raises(BaseModelsError) as caught:
        parsed(*documents)
    return str(caught.value)


def made(data: dict[str, str], **labels: str) -> ConfigMap:
    return ConfigMap(metadata=Metadata(name="x", labels=labels or {LABEL: "true"}), data=data)


def test_adapters_belong_to_their_base_and_a_base_to_itself() -> None:
    found = parsed(config_map("llama", "food", "travel"), config_map("qwen", name="two"))
    assert found == {"llama": "llama", "food": "llama", "travel": "llama", "qwen": "qwen"}


def test_several_may_name_the_same_base() -> None:
    assert parsed(config_map("b", "x"), config_map("b", "y", name="two")) == {"b": "b", "x": "b", "y": "b"}


def test_a_list_and_other_objects_of_the_same_file_are_read() -> None:
    inside = "".join(f"  {line}\n" for line in config_map("b", "x").splitlines())
    text = "apiVersion: v1\nkind: ConfigMapList\nitems:\n-" + inside[1:]
    other = "apiVersion: inference.networking.x-k8s.io/v1alpha2\nkind: InferenceObjective\nmetadata: {name: o}\n"
    assert parsed(text, other) == {"b": "b", "x": "b"}
    assert parsed("") == {}


def test_only_labelled_ones_count(caplog: pytest.LogCaptureFixture) -> None:
    assert parsed(config_map("b", label='"false"')) == {}
    assert "has no label" in caplog.text
    assert claim_of(made({}, other="x")) is None


def test_an_adapter_of_two_bases_belongs_to_the_first(caplog: pytest.LogCaptureFixture) -> None:
    claims = [Claim("d/1", "a", ("x", "b")), Claim("d/2", "b", ("x",))]
    assert base_models(claims) == {"a": "a", "b": "b", "x": "a"}
    assert "x of d/2 belongs to base model a already" in caplog.text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, "baseModel: it is missing or empty"),
        ({"baseModel": " "}, "baseModel: it is missing or empty"),
        ({"baseModel": "a\nb"}, "baseModel: no header can hold"),
        ({"baseModel": "b", "adapters": "a"}, "adapters: expected a YAML list"),
        ({"baseModel": "b", "adapters": "- 1"}, "adapters: expected a YAML list"),
        ({"baseModel": "b", "adapters": "- ''"}, "adapters: expected a YAML list"),
        ({"baseModel": "b", "adapters": "[a"}, "adapters: it is not YAML"),
        ({"baseModel": "b", "adapters": '["\\0"]'}, "adapters: no header can hold"),
    ],
)
def test_what_a_config_map_must_say(data: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match="^" + why):
        claim_of(made(data))


def test_errors_name_the_line() -> None:
    assert refusal(config_map('""')).startswith("file:7: data.baseModel: it is missing or empty")
    assert refusal(config_map("b", "1")).startswith("file:8: data.adapters: expected a YAML list")
    assert "file:2: kind" in refusal("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n")
    assert "unknown field" in refusal(config_map("b") + "extra: 1\n")


class Looks:
    """A followed file whose looks a test makes itself."""

    def __init__(self, path: Path) -> None:
        self.taken: list[dict[str, str]] = []
        self.file = BaseModelsFile(path, on_change=lambda models: self.taken.append(dict(models)))
        self.file.load()

    def look(self) -> None:
        for _ in range(2):
            drain(self.file.look())


def test_a_file_is_followed_and_a_bad_edit_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(config_map("b", "x"))
    looks = Looks(path)
    assert looks.file.content == {"b": "b", "x": "b"}
    path.write_text(config_map('""'))
    looks.look()
    assert (looks.taken, looks.file.reload_errors, looks.file.content) == ([], 1, {"b": "b", "x": "b"})
    assert f"{path}:7: data.baseModel" in caplog.text
    path.write_text(config_map("b", "y"))
    looks.look()
    assert looks.taken == [{"b": "b", "y": "b"}]


def test_a_bad_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BaseModelsError, match="cannot be read"):
        BaseModelsFile(tmp_path / "none").load()
