"""The compiled core is required: every way of not having it is told with its fix."""

import sys
from pathlib import Path

import pytest

from picker.cli.core import require_core
from picker.errors import CoreUnavailable


def package(folder: Path, **files: str) -> str:
    """A package on the path with these files; its name."""
    (folder / "fake_core").mkdir()
    for name, text in files.items():
        (folder / "fake_core" / name.replace("__", ".")).write_text(text)
    return "fake_core"


@pytest.fixture(autouse=True)
def _importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("fake_core")]:
        monkeypatch.delitem(sys.modules, name)


def refusal(name: str) -> str:
    with pytest.raises(CoreUnavailable) as caught:
        require_core(name)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_a_whole_core(tmp_path: Path) -> None:
    require_core(package(tmp_path, one__pyi="", one__py="", two__pyi="", two__py=""))


def test_no_core_at_all() -> None:
    assert "the compiled core fake_core is not installed; run 'pip install --force-reinstall picker'" in refusal(
        "fake_core"
    )


def test_a_module_is_missing(tmp_path: Path) -> None:
    message = refusal(package(tmp_path, one__pyi="", one__py="", two__pyi=""))
    assert "the compiled core does not load: fake_core.two: ModuleNotFoundError" in message
    assert "pip install --force-reinstall picker" in message


def test_a_checkout_that_was_not_built(tmp_path: Path) -> None:
    (tmp_path / "setup.py").touch()
    message = refusal(package(tmp_path, one__pyi="", one__pyx=""))
    assert "python setup.py build_ext --inplace" in message


def test_a_module_for_another_build(tmp_path: Path) -> None:
    message = refusal(package(tmp_path, one__pyi="", one__py="raise ValueError('size changed')"))
    assert "fake_core.one: ValueError: size changed" in message


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    import importlib.machinery

    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    name = package(tmp_path, one__pyi="")
    (tmp_path / name / f"one{suffix}").write_bytes(b"not a library")
    assert "fake_core.one: ImportError" in refusal(name)
