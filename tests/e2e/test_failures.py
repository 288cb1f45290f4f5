"""What picker answers when things fail, through a real Envoy."""

import itertools
import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from picker.demo.processes import picker_command
from tests.e2e.stack import Stack, running
from tests.e2e.test_gateway import KIB, chat, post

pytestmark = pytest.mark.e2e

CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: max-score-picker
"""


COUNTER = itertools.count()


def completion(stack: Stack, timeout_s: float = 60) -> tuple[int, dict[str, str], bytes]:
    """A request with a prompt of its own, so that no server is preferred for what it has cached."""
    body = chat(KIB, lead=f"conversation {next(COUNTER):09d} ")
    return post(f"{stack.url}/v1/chat/completions", body, timeout_s=timeout_s)


def faults(address: str, **switches: Any) -> None:
    request = urllib.request.Request(f"http://{address}/admin/faults", json.dumps(switches).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def served_by(stack: Stack, count: int) -> list[str]:
    """Who answers `count` requests, one after another; all must be answered."""
    names = []
    for _ in range(count):
        status, headers, answer = completion(stack)
        assert status == 200, answer
        names.append(headers["x-served-by"])
    return names


def test_a_killed_picker_fails_requests_until_it_is_back(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell) as stack:
        assert completion(stack)[0] == 200
        assert stack.picker is not None
        stack.picker.kill()
        assert completion(stack)[0] in (500, 503)  # failure_mode_allow is off: the gateway fails closed
        stack.start_picker()
        stack.wait_until(lambda: completion(stack)[0] == 200)
        assert set(served_by(stack, 4)) <= set(stack.upstreams)


def test_a_killed_picker_leaves_no_process_behind(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell) as stack:
        assert stack.picker is not None
        (child,) = children(stack.picker.pid)
        stack.picker.kill()
        stack.wait_until(lambda: not Path(f"/proc/{child}").exists())


def children(pid: int) -> list[int]:
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize(
    ("flag", "text", "says"),
    [
        ("--config-file", CONFIG.replace("queue-scorer", "queue-score"), ("bad.yaml:4", "queue-score")),
        ("--config-file", CONFIG + "colour: red\n", ("bad.yaml:6", "colour")),
        ("--config-file", "kind: [", ("bad.yaml:", "YAML")),
        ("--endpoints-file", "endpoints:\n- {name: a, address: 10.0.0.1, port: 99999}\n", ("bad.yaml:2", "99999")),
    ],
)
def test_a_broken_file_at_the_start_says_where_and_exits_2(
    tmp_path: Path, flag: str, text: str, says: tuple[str, ...]
) -> None:
    bad, good = tmp_path / "bad.yaml", tmp_path / "good.yaml"
    bad.write_text(text)
    good.write_text("endpoints: []\n")
    flags = [f"{flag}={bad}", *([] if flag == "--endpoints-file" else [f"--endpoints-file={good}"])]
    ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--secure-serving=false"]
    ended = subprocess.run(picker_command("serve", *ports, *flags), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert all(part in ended.stderr for part in says), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_bad_edit_of_the_endpoints_file_keeps_the_last_good_pool(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell) as stack:
        good = stack.endpoints_file.read_text()
        stack.endpoints_file.write_text(good + "- {name: x, address: not an address, port: 1}\n")
        stack.wait_until(lambda: stack.metric("picker_endpoints_file_errors_total") == 1)
        assert set(served_by(stack, 6)) <= set(stack.upstreams)
        assert stack.picker is not None
        assert "keeping the last good endpoints" in stack.picker.log_text()
        stack.write_endpoints(stack.upstreams[:1])
        stack.wait_until(lambda: list(stack.endpoints()) == stack.upstreams[:1])
        assert set(served_by(stack, 4)) == {stack.upstreams[0]}


def test_a_server_that_answers_500_is_ejected_and_comes_back(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell) as stack:
        sick, well = stack.upstreams
        faults(sick, error_status=500, error_rate=1.0)
        stack.wait_until(lambda: completion(stack)[0] >= 0 and stack.endpoints()[sick]["ejected"])
        assert (stack.metric("picker_endpoint_ejections_total") or 0) >= 1
        faults(sick, error_rate=0.0)
        stack.wait_until(lambda: sick in served_by(stack, 2))
        assert not stack.endpoints()[sick]["ejected"]
        assert well in stack.endpoints()


def test_a_server_that_refuses_connections_is_ejected(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell) as stack:
        gone, well = stack.upstreams
        stack.servers[0].kill()
        stack.wait_until(lambda: completion(stack)[0] >= 0 and stack.endpoints()[gone]["ejected"])
        status, headers, _ = completion(stack)
        assert (status, headers["x-served-by"]) == (200, well)


def test_a_server_that_hangs_gets_no_more_than_its_share(tmp_path: Path, shell: str) -> None:
    """Requests it swallowed stay booked on it, so that new ones go elsewhere; metrics that hang stop nothing."""
    with running(tmp_path, shell=shell) as stack:
        hung, well = stack.upstreams
        faults(hung, hang=True, slow_metrics_s=30)
        swallowed = [threading.Thread(target=_abandoned, args=(stack,), daemon=True) for _ in range(4)]
        for thread in swallowed:
            thread.start()
        stack.wait_until(lambda: len(stack.decisions()) == len(swallowed))
        stack.wait_until(lambda: stack.endpoints()[well]["requests"] == 0)
        assert stack.endpoints()[hung]["requests"] >= 1
        assert served_by(stack, 8) == [well] * 8
        for thread in swallowed:
            thread.join()
        stack.wait_until(lambda: stack.endpoints()[hung]["requests"] == 0)  # clients gave up: nothing stays booked


def _abandoned(stack: Stack) -> None:
    try:
        completion(stack, timeout_s=3)
    except OSError:
        return


def test_stale_metrics_are_shown_and_stop_nothing(tmp_path: Path, shell: str) -> None:
    with running(tmp_path, shell=shell, flags=["--metrics-staleness-threshold=300ms"]) as stack:
        blind = stack.upstreams[0]
        faults(blind, refuse_metrics=True)
        line = f'picker_endpoint_metrics_stale{{endpoint="{blind}"}}'
        stack.wait_until(lambda: stack.metric(line) == 1)
        stack.wait_until(lambda: blind in served_by(stack, 4))
        stack.wait_until(lambda: stack.total("picker_scrape_failures_total") > 0)


def test_a_core_that_does_not_load_is_an_error_at_the_start(tmp_path: Path) -> None:
    """A broken wheel must say so; there is no slower stand-in."""
    code = (
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'picker._core.session':\n"
        "            raise ImportError('undefined symbol: pk_alloc')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "from picker.cli.main import main\n"
        f"sys.exit(main(['serve', '--secure-serving=false', '--endpoints-file={tmp_path}/none.yaml']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "picker._core" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_python_plugins_that_fail_cost_no_request(tmp_path: Path, shell: str) -> None:
    """A scorer that raises and one that overruns, found by entry point, in the process itself."""
    package = tmp_path / "site"
    (package / "broken_plugins-1.0.dist-info").mkdir(parents=True)
    (package / "broken_plugins-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-plugins\nVersion: 1.0\n"
    )
    (package / "broken_plugins-1.0.dist-info" / "entry_points.txt").write_text(
        "[picker.plugins]\nraising-scorer = broken_plugins:Raising\nslow-scorer = broken_plugins:Slow\n"
    )
    (package / "broken_plugins.py").write_text(
        "import time\nfrom picker.policy.api import Scorer\n\n\n"
        "class Raising(Scorer):\n    def score(self, request, candidates):\n        raise RuntimeError('boom')\n\n\n"
        "class Slow(Scorer):\n    def score(self, request, candidates):\n"
        "        time.sleep(0.05)\n        return [1.0 for _ in candidates]\n"
    )
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("- type: queue-scorer", "- type: raising-scorer\n- type: slow-scorer"))
    with running(
        tmp_path, shell=shell, flags=[f"--config-file={config}"], environment={"PYTHONPATH": str(package)}
    ) as stack:
        assert len(served_by(stack, 6)) == 6
        assert stack.plugin_failures("raising-scorer", "error") == 5  # then it is left alone for a while
        assert stack.plugin_failures("raising-scorer", "resting") == 1
        assert stack.plugin_failures("slow-scorer", "overrun") == 5
