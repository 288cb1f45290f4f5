"""The rules of the house that a linter does not know. Each failure names what is missing, and where it belongs."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import picker
from tests.support.shared import ROOT

CORE = ROOT / "_core"
MODULES = sorted(path.stem for path in CORE.glob("*.pyx"))

# --- the core ---

BELONGS = {
    "stub": "_core/{}.pyi",
    "declarations": "_core/{}.pxd",
    "model": "tests/model/{}.py",
    "tests": "tests/core/test_{}.py",
}
PART_OF = {
    "admission": "engine",
    "bbrrequest": "bbr",
    "bbrresponse": "bbr",
    "bbrsteps": "bbr",
    "digests": "prompt",
    "dispatch": "engine",
    "edits": "bbr",
    "feeds": "prompt",
    "fields": "bbr",
    "flow": "engine",
    "heads": "h2",
    "lanes": "queue",
    "metering": "session",
    "quota": "quotas",
    "quotarules": "quotas",
    "reading": "session",
    "records": "queue",
    "renaming": "session",
    "replies": "session",
    "request": "session",
    "response": "session",
    "schedule": "queue",
    "turns": "session",
}
"""Kernels without a class of their own: modelled and tested through another module's."""

EXEMPT: dict[tuple[str, str], str] = {
    ("alloc", "model"): "the exact leak and failing-allocation tests of every module are its model",
    ("calls", "model"): "of what a connection carries: tests/model/h2.py",
    ("copies", "model"): "Engine.stats() and Engine.endpoints() are its model",
    ("decisions", "model"): "a dict, in its test",
    ("flowcopies", "model"): "Engine.flow() is its model",
    ("extproc", "model"): "the session whose messages it passes on, and tests/extproc/test_streams.py on every shell",
    ("view", "model"): "of what becomes of bodies and events: tests/model/bbr.py",
    ("usage", "tests"): "a part of sse, through which tests/core/test_sse.py tests it",
}
"""What need not be there, and why. Not a place for what is still to be done."""


@pytest.mark.parametrize("part", BELONGS)
@pytest.mark.parametrize("module", MODULES)
def test_each_core_module_has_its_parts(module: str, part: str) -> None:
    path = BELONGS[part].format(PART_OF.get(module, module) if part in ("model", "tests") else module)
    if (module, part) in EXEMPT:
        assert not (ROOT / path).exists(), f"{path} is there: take it from EXEMPT"
    else:
        assert (ROOT / path).exists(), f"_core/{module}.pyx lacks {path}"


def test_exemptions_are_of_modules_there_are() -> None:
    assert {module for module, _ in EXEMPT} | set(PART_OF) <= set(MODULES)
    for module in PART_OF:
        assert not classes(definition(module)), f"_core/{module}.pyx has a class: give it a model and tests"


IMMUTABLE = {"codec.Message": "a view of a message, made once", "endpoints.Booking": "checked by Endpoints._check"}


def classes(source: str) -> dict[str, str]:
    """The bodies of extension types by name."""
    found = re.split(r"^cdef class (\w+)[^\n]*:\n", source, flags=re.M)
    return {
        name: re.split(r"^\S", body, maxsplit=1, flags=re.M)[0]
        for name, body in zip(found[1::2], found[2::2], strict=True)
    }


def definition(module: str) -> str:
    return (CORE / f"{module}.pyx").read_text()


@pytest.mark.parametrize("module", MODULES)
def test_classes_check_their_invariants(module: str) -> None:
    for name, body in classes(definition(module)).items():
        if f"{module}.{name}" not in IMMUTABLE:
            assert "    def _check(self)" in body, f"_core/{module}.pyx: class {name} has no _check()"


@pytest.mark.parametrize("module", MODULES)
def test_classes_are_final_and_not_pickled(module: str) -> None:
    for decorators, name in re.findall(r"((?:^@[^\n]+\n)*)^cdef class (\w+)", definition(module), re.M):
        for wanted in ("@cython.final", "@cython.auto_pickle(False)"):
            assert wanted in decorators, f"_core/{module}.pyx: class {name} lacks {wanted}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_say_what_they_are_and_have_two_halves(module: str) -> None:
    head = definition(module).partition('"""\n')[0]
    for word in ("Invariants:", "Cost:", "Memory:", "Threads:"):
        assert word in head, f"_core/{module}.pyx: the docstring does not say {word}"
    if re.search(r"^(def|cdef class) ", definition(module), re.M):
        assert "# --- Python face ---" in definition(module), f"_core/{module}.pyx marks no Python face"


CIMPORTS = re.compile(r"^(?:from\s+([\w.]+)\s+)?cimport\s+([\w.]+)", re.M)
ALLOWED = ("libc", "cpython", "cython", "picker._core")


@pytest.mark.parametrize("path", sorted(CORE.glob("*.p[yx][xd]")), ids=lambda path: path.name)
def test_the_core_stands_on_c_and_itself(path: Path) -> None:
    for source, name in CIMPORTS.findall(path.read_text()):
        module = source or name
        assert module.split(".")[0] in ALLOWED or module.startswith("picker._core"), f"{path.name} cimports {module}"


FORBIDDEN = {
    r"^\s*(?:include|DEF|IF)\s": "include, DEF and IF are not used",
    r"^\s*cpdef\s": "no cpdef: one name, one calling convention",
    r"\bexcept \*": "no bare `except *`: give a typed error value or noexcept",
    r"^\s*(?:import|from) (?!picker\._core)": "the core imports no Python module but its own",
}


@pytest.mark.parametrize("path", sorted(CORE.glob("*.p[yx][xd]")), ids=lambda path: path.name)
def test_the_core_does_without(path: Path) -> None:
    code = re.sub(r'"""(?s:.*?)"""', "", path.read_text())
    for pattern, why in FORBIDDEN.items():
        found = [line.strip() for line in code.splitlines() if re.search(pattern, line)]
        found = [line for line in found if not line.startswith("#") and "cimport" not in line]
        assert not found, f"{path.name}: {why}: {found[0]}"


# --- tests ---

SLEEPERS = {
    "tests/e2e/stack.py": "polls processes it cannot wait on",
    "tests/e2e/test_failures.py": "the sleep is that of a plugin under test",
    "tests/extproc/test_tls.py": "polls, under the deadline of each test, what sets no event: files, connections",
    "tests/protocol/server.py": "polls the metrics of a server it cannot wait on, with a deadline",
}
SLEEP = re.compile(r"\bsleep\((?!0\))")  # sleep(0) only gives way


def test_tests_do_not_sleep() -> None:
    """They wait on events or in virtual time; polling is done in one place, with a deadline."""
    here = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}
    found = {name for name, text in here.items() if SLEEP.search(text) and not name.startswith("tests/support/")}
    found.discard("tests/test_house_rules.py")
    assert found == set(SLEEPERS)


SKIPS = re.compile(r"pytest\.(?:mark\.)?(skip|xfail|skipif)\(((?s:.)*?)\)\n")


def test_whoever_skips_says_why() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for kind, arguments in SKIPS.findall(path.read_text()):
            reasons = re.findall(r'"([^"]{12,})"', arguments)
            assert reasons, f"{path.relative_to(ROOT)}: {kind} without a reason"


def test_no_two_tests_of_a_file_have_one_name() -> None:
    """The second would silently replace the first."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        names = re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, f"{path.relative_to(ROOT)}: {twice}"


# --- the project ---


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "picker.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", picker.__version__)


def test_the_build_script_stays_small() -> None:
    assert len((ROOT / "setup.py").read_text().splitlines()) < 100


def test_every_make_target_has_a_help_text() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", text, re.M)
    assert phony
    helped = set(re.findall(r"^([a-z][\w-]*):.*## \S", text, re.M))
    targets = set(re.findall(r"^([a-z][\w-]*):", text, re.M))
    assert targets == helped, f"without help: {targets - helped}"
    assert targets == set(phony[1].split()), f"not in .PHONY or gone: {targets ^ set(phony[1].split())}"


PACKAGES = sorted(path.parent for path in (ROOT / "picker").rglob("__init__.py") if "_core" not in path.parts)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_and_module_says_what_it_is(package: Path) -> None:
    for path in package.glob("*.py"):
        text = path.read_text()
        assert text.startswith('"""'), f"{path.relative_to(ROOT)} begins without a docstring"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_what_a_module_exports_is_there(package: Path) -> None:
    for path in package.glob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", ())
        missing = [each for each in exported if not hasattr(module, each)]
        assert not missing, f"{name}.__all__ names {missing}"


def test_floors_know_every_package() -> None:
    """import-linter checks only what its contract names."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    there = {f"picker.{path.stem}" for path in (ROOT / "picker").iterdir() if _is_module(path)}
    assert there == named, f"not in the floors: {there - named}; gone: {named - there}"


def _is_module(path: Path) -> bool:
    return (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
