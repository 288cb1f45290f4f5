"""Plugin types found by entry point."""

import importlib.metadata
import sys
import types
from collections.abc import Iterator

import msgspec
import pytest

from picker.config import Role, load_config
from picker.config.extras import GROUP, InstalledTypes
from picker.errors import ConfigError
from tests.support.config_samples import HEAD


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int = 3


class Good:
    role = "filter"
    parameters = Size


class FreeForm:
    role = "scorer"
    parameters = None


class NoRole:
    parameters = Size


class OddParameters:
    role = "scorer"
    parameters = dict


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[InstalledTypes]:
    """The classes above as another package would bring them."""
    module = types.ModuleType("somebodys_plugins")
    for plugin in (Good, FreeForm, NoRole, OddParameters):
        setattr(module, plugin.__name__, plugin)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entries = [
        importlib.metadata.EntryPoint(name, f"somebodys_plugins:{attribute}", GROUP)
        for name, attribute in [
            ("good", "Good"),
            ("free", "FreeForm"),
            ("no-role", "NoRole"),
            ("odd", "OddParameters"),
            ("gone", "Gone"),
        ]
    ]
    monkeypatch.setattr("picker.config.extras.entry_points", lambda group: entries if group == GROUP else [])
    yield InstalledTypes()


def test_they_load_like_built_in_ones(installed: InstalledTypes) -> None:
    text = HEAD + "plugins: [{type: good, parameters: {size: 5}}, {type: free, parameters: {x: [1]}}]"
    plugins = load_config(text, extra_types=installed).profile.plugins
    assert [(p.spec.role, p.spec.parameters) for p in plugins[:2]] == [
        (Role.FILTER, Size(size=5)),
        (Role.SCORER, {"x": [1]}),
    ]
    assert installed.load("good") is Good


def test_a_broken_one_hurts_only_who_names_it(installed: InstalledTypes) -> None:
    assert set(installed) == {"good", "free", "no-role", "odd", "gone"}
    assert len(installed) == 5
    load_config(HEAD + "plugins: [{type: good}]", extra_types=installed)
    for name, message in [
        ("gone", r"plugin 'gone' \(somebodys_plugins:Gone\) cannot be used: importing it failed: AttributeError"),
        ("no-role", "its role attribute is not"),
        ("odd", "its parameters attribute is not a msgspec.Struct class"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(HEAD + f"plugins: [{{type: {name}}}]", extra_types=installed)


def test_none_are_installed_here() -> None:
    assert dict(InstalledTypes("picker.no-such-group")) == {}
