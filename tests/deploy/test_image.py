"""The Dockerfile, as far as it can be read without Docker: what it copies is there and enough, how it runs, as who."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from picker import __version__
from picker.cli.main import COMMANDS, main
from picker.demo.processes import Child, picker_command
from tests.support.shared import ROOT

Step = tuple[str, str]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()


def stages() -> list[list[Step]]:
    """The instructions of each stage; lines that go on are joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    steps = [line.partition(" ")[::2] for line in text.splitlines() if line.strip()]
    starts = [number for number, (word, _) in enumerate(steps) if word == "FROM"]
    return [steps[start:end] for start, end in zip(starts, [*starts[1:], len(steps)], strict=True)]


BUILD, IMAGE = stages()


def said(stage: list[Step], word: str) -> list[str]:
    return [rest.strip() for name, rest in stage if name == word]


def copied() -> list[str]:
    """What the build stage takes of this directory."""
    return [source for line in said(BUILD, "COPY") for source in line.split()[:-1]]


def test_what_is_copied_is_there() -> None:
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def is_let_in(path: str) -> bool:
    """As Docker reads .dockerignore, for the patterns used there: the last one that matches decides."""
    let_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        parents = [PurePosixPath(path), *PurePosixPath(path).parents]
        if any(parent.match(pattern.removeprefix("**/")) for parent in parents if str(parent) != "."):
            let_in = line.startswith("!")
    return let_in


def test_what_is_copied_is_not_ignored() -> None:
    assert [source for source in copied() if not is_let_in(source)] == []
    assert not is_let_in("picker/_core/scan.c") and not is_let_in("_core/scan.cpython-311-x86_64-linux-gnu.so")
    assert not is_let_in("tests/conftest.py") and not is_let_in(".git/config")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="which files are the project's is asked of git")
def test_the_whole_package_is_copied() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    needed = [path for path in listed if path.split("/")[0] in ("picker", "_core", "proto", "tools")]
    needed += ["setup.py", "pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    arrives = [path for path in needed if is_let_in(path) and any(_is_in(path, source) for source in copied())]
    assert sorted(set(needed) - set(arrives)) == []


def _is_in(path: str, source: str) -> bool:
    return path == source or path.startswith(f"{source}/")


def test_it_is_built_as_make_wheel_builds() -> None:
    steps = " ".join(said(BUILD, "RUN"))
    (pip,) = set(re.findall(r"'(pip==[\d.]+)'", MAKEFILE))
    assert pip in steps
    assert "--group build" in steps and "build" in PROJECT["dependency-groups"]
    assert "python -m build" in steps and "auditwheel repair" in steps
    (library,) = re.findall(r"deb=(\S*nghttp2\S*)", (ROOT / "tools" / "libraries.sh").read_text())
    assert library in steps


def test_it_runs_as_nobody_in_particular() -> None:
    (user,) = said(IMAGE, "USER")
    assert all(int(number) > 0 for number in user.split(":"))
    assert not said(IMAGE, "RUN"), "the image itself has no layer of its own making"


def test_args_of_another_picker_are_its_args(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said(IMAGE, "ENTRYPOINT")
    program, command = json.loads(line)
    assert program in PROJECT["project"]["scripts"] and command in COMMANDS
    assert main([command, "--pool-name", "chat", "--no-such-flag"]) == 2
    assert "unknown flag" in capsys.readouterr().err


def test_ports_are_those_of_the_flags() -> None:
    (ports,) = said(IMAGE, "EXPOSE")
    assert ports.split() == ["9002", "9003", "9090"]


def test_versions_are_of_one_piece() -> None:
    chart = (ROOT / "deploy" / "helm" / "picker" / "Chart.yaml").read_text()
    assert f'appVersion: "{__version__}"' in chart
    base = (ROOT / "deploy" / "kustomize" / "base" / "kustomization.yaml").read_text()
    assert f"newTag: {__version__}" in base
    python = re.search(r"^ARG PYTHON=(\d+\.\d+)", (ROOT / "Dockerfile").read_text(), re.M)
    assert python and f">={python[1]}" == PROJECT["project"]["requires-python"], "the version the tests run on"


# What a security context takes away: a root that can be written to, every capability, every right to more.
CONFINED = "mount --make-rprivate / && mount -o remount,bind,ro / && exec setpriv --no-new-privs --bounding-set=-all"


def may_be_confined() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"{CONFINED} true"]
    return not subprocess.run(command, capture_output=True, timeout=10, check=False).returncode


@pytest.mark.e2e
@pytest.mark.skipif(not may_be_confined(), reason="namespaces of one's own are not allowed here")
def test_it_serves_where_nothing_can_be_written(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.write_text("endpoints:\n- {name: a, address: 127.0.0.1, port: 1}\n")
    flags = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", f"--endpoints-file={endpoints}"]
    serve = shlex.join(picker_command("serve", *flags))
    log = tmp_path / "picker.log"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"{CONFINED} {serve}"]
    picker = Child("picker", command, log)
    try:
        picker.wait_until(lambda: "serving ext_proc on port" in picker.log_text(), 30.0)
    finally:
        picker.stop()
    assert "Read-only" not in picker.log_text() and "Errno" not in picker.log_text()
