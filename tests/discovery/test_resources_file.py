"""The resources file is followed as the endpoints file is (test_following.py); what differs stands here."""

import logging
from pathlib import Path

import pytest

from picker.discovery.resources import ResourcesFile
from picker.errors import ResourcesError
from picker.resources.objects import Resource
from picker.resources.rules import rewrite_rules

HEAD = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\n"


def text(*names: str) -> str:
    spec = "spec: {poolRef: {name: p}, rules: [{targets: [{modelRewrite: m}]}]}\n"
    return "---\n".join(f"{HEAD}metadata: {{name: {name}}}\n{spec}" for name in names)


class Followed:
    def __init__(self, path: Path) -> None:
        self.changes: list[list[str]] = []
        self.file = ResourcesFile(path, on_change=self.note)

    def note(self, resources: tuple[Resource, ...]) -> None:
        self.changes.append([resource.metadata.name for resource in resources])

    def look(self) -> None:
        """As often as a change takes to count."""
        for _ in range(2):
            for _ in self.file.look():
                pass


def test_edits_are_taken_over_and_bad_ones_kept_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "resources.yaml"
    path.write_text(text("a"))
    followed = Followed(path)
    assert rewrite_rules(followed.file.load()) == (("a", None, (("m", None),)),)
    path.write_text(text("a", "b"))
    followed.look()
    path.write_text(text("a", "b").replace("name: b", "nam: b"))
    followed.look()
    assert followed.changes == [["a", "b"]]
    assert (len(followed.file.content), followed.file.reload_errors) == (2, 1)
    assert isinstance(followed.file.last_error, ResourcesError)
    assert "resources file read: path=" in caplog.text
    assert "resources file not usable, keeping the last good resources: resources=2 error=" in caplog.text
    assert 'resources.yaml:8: metadata: required field "name" is missing; add name' in caplog.text
    path.write_text("")
    followed.look()
    assert followed.changes == [["a", "b"], []]
    assert "resources file is good again" in caplog.text
