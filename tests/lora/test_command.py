"""`picker lora-sync` as a process: it begins without a file, follows it, shows its metric, and ends on SIGTERM."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from picker.cli.main import main
from picker.demo.processes import Child, picker_command

READY_S = 30.0
FILE = """\
vLLMLoRAConfig:
  host: 127.0.0.1
  port: {port}
  defaultBaseModel: sim
  ensureExist:
    models:
{models}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    child = Child("model server", picker_command("model-server", "--port", "0"), tmp_path / "server.log")
    try:
        child.wait_until(lambda: "listening on " in child.log_text(), READY_S)
        yield child.log_text().partition("listening on ")[2].split()[0]
    finally:
        child.stop()


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Child]:
    flags = ["--metrics-port=0", "--reconcile-trigger=1", "--health-check-interval=1", "--v=3"]
    environment = {"DYNAMIC_LORA_ROLLOUT_CONFIG": str(tmp_path / "adapters.yaml")}
    child = Child("side-car", picker_command("lora-sync", *flags), tmp_path / "sidecar.log", environment)
    try:
        yield child
    finally:
        child.stop()


def page(child: Child) -> str:
    found = re.search(r"metrics on port (\d+)", child.log_text())
    if found is None:
        return ""
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=5) as response:
        return str(response.read().decode())


def write(path: Path, server: str, *names: str) -> None:
    models = "\n".join(f"    - {{id: {name}, source: example/{name}}}" for name in names)
    fresh = path.with_suffix(".new")
    fresh.write_text(FILE.format(port=server.rpartition(":")[2], models=models))
    fresh.replace(path)


def test_it_follows_its_file_and_ends_when_told(server: str, sidecar: Child, tmp_path: Path) -> None:
    path = tmp_path / "adapters.yaml"
    sidecar.wait_until(lambda: "no adapters yet" in sidecar.log_text(), READY_S)
    write(path, server, "v1", "v2")
    sidecar.wait_until(lambda: 'lora_syncer_adapter_status{adapter_name="v2"} 1.0' in page(sidecar), READY_S)
    with urllib.request.urlopen(f"http://{server}/v1/models", timeout=5) as response:
        assert b'"v1"' in response.read()
    path.write_text("vLLMLoRAConfig: {port: many}")
    sidecar.wait_until(lambda: "picker_lora_sync_config_errors_total 1.0" in page(sidecar), READY_S)
    assert 'lora_syncer_adapter_status{adapter_name="v1"} 1.0' in page(sidecar)  # the last good file holds
    sidecar.stop()  # SIGTERM, and SIGKILL if that is not enough
    assert sidecar.returncode == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--reconcile-trigger", "0"], "--reconcile-trigger must be more than 0"),
        (["--health-check-timeout", "-5"], "is not a duration"),
        (["--config-validation=false"], "--config-validation=false is not possible"),
        (["--metrics-port", "70000"], "is not a port"),
        (["--reconcile", "5"], "did you mean --reconcile-trigger?"),
    ],
)
def test_wrong_flags_are_told(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lora-sync", *flags]) == 2
    assert said in capsys.readouterr().err
