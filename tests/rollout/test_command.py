"""`picker rollout` as people call it, against a fake API server and pods that a test makes."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from picker.cli.main import main
from picker.demo.processes import Child, picker_command
from tests.rollout.objects import pool_ref, rewrite, route, target
from tests.rollout.pages import Counted, PodServer, models
from tests.support.cluster import Cluster
from tests.support.readme import blocks
from tests.support.shared import ROOT

POOLS = ("--route=llm", "--from=old", "--to=new")
QUICK = ("--steps=50,100", "--every=20ms", "--check-interval=5ms", "--heartbeat=10ms", "--min-requests=10")


@dataclass
class Scene:
    """Two pools with a picker and a server each."""

    cluster: Cluster
    kubeconfig: Path
    capture: pytest.CaptureFixture[str]
    pods: dict[str, PodServer]

    def call(self, action: str, *flags: str) -> tuple[int, str, str]:
        """Exit code, output, errors on one line."""
        code = main(["rollout", action, f"--kubeconfig={self.kubeconfig}", *flags])
        said = self.capture.readouterr()
        return code, said.out, " ".join(said.err.split())

    def status(self) -> dict[str, Any]:
        code, out, _ = self.call("status", "--route=llm", "--output=json")
        assert code == 0
        found: dict[str, Any] = json.loads(out)
        return found

    def weights(self) -> dict[str, int]:
        refs = self.cluster.get("HTTPRoute", "llm")["spec"]["rules"][0]["backendRefs"]
        return {ref["name"]: ref["weight"] for ref in refs}


def pool(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}]}
    spec["endpointPickerRef"] = {"name": f"picker-{name}", "port": {"number": 9002}}
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def scene(server: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Scene]:
    server.apply(route([pool_ref("old")]))
    server.apply(rewrite(target("review-v1")))
    server.proxied.clear()
    with ExitStack() as stack:
        made = Scene(server, server.kubeconfig(tmp_path), capsys, {})
        for name, requests in (("old", 90), ("new", 10)):
            server.apply(pool(name))
            made.pods[f"picker-{name}"] = stack.enter_context(PodServer({"/metrics": Counted(requests)}))
            made.pods[f"server-{name}"] = stack.enter_context(PodServer({"/v1/models": models("m", "a", "b")}))
            server.pod(f"picker-{name}", "127.0.0.1", labels={"app": f"picker-{name}"})
            server.pod(f"server-{name}", "127.0.0.1", labels={"app": name})
            server.proxied["default", f"picker-{name}", 9090] = made.pods[f"picker-{name}"].address
            server.proxied["default", f"server-{name}", 8000] = made.pods[f"server-{name}"].address
            spec = {"selector": {"app": f"picker-{name}"}, "ports": [{"port": 9002}]}
            server.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"picker-{name}"}, "spec": spec})
        yield made


def checks(scene: Scene, *flags: str) -> dict[str, tuple[bool | None, str]]:
    _, out, _ = scene.call("plan", "--output=json", *(flags or POOLS))
    return {each["what"]: (each["is_good"], each["found"]) for each in json.loads(out)["checks"]}


# --- plan ---


def test_plan_shows_each_step_and_what_was_checked(scene: Scene) -> None:
    code, out, _ = scene.call("plan", *POOLS)
    assert code == 0
    for said in ("10 %", "default/old 90, default/new 10", "100 %", "10m", "all 2 are on every server", "readable"):
        assert said in out
    found = json.loads(scene.call("plan", "--output=json", *POOLS, *QUICK)[1])
    assert found["weights"] == [
        {"0": {"default/old": 50, "default/new": 50}},
        {"0": {"default/old": 0, "default/new": 100}},
    ]
    assert found["can_start"] is True


def test_adapters_that_the_new_servers_lack_are_named(scene: Scene) -> None:
    scene.pods["server-new"].pages["/v1/models"] = models("n", "a")
    found = checks(scene)
    is_good, said = found["adapters of the old pool in the new"]
    assert (is_good, said.partition(";")[0]) == (False, "not on every server of the new pool: b")
    is_good, said = found["base models"]
    assert (is_good, "does not serve m of the old pool, but n" in said) == (None, True)
    code, _, err = scene.call("start", *POOLS)
    assert (code, "cannot start: adapters of the old pool in the new: not on every server" in err) == (1, True)
    assert scene.weights() == {"old": 1}


def test_servers_that_list_no_models_are_only_a_warning(scene: Scene) -> None:
    scene.pods["server-old"].pages.clear()
    assert checks(scene)["adapters of the old pool in the new"][0] is None


@pytest.mark.parametrize("page", ["<html>", "inference_objective_request_total many\n"])
def test_metrics_that_cannot_be_read_are_told(scene: Scene, page: str) -> None:
    scene.pods["picker-new"].pages["/metrics"] = lambda: page
    assert checks(scene)["metrics"][0] is False


def test_an_old_side_without_requests_is_a_warning(scene: Scene) -> None:
    scene.pods["picker-old"].pages["/metrics"] = Counted(0)
    is_good, said = checks(scene)["metrics"]
    assert (is_good, "the old side has counted no requests" in said) == (None, True)


def test_a_picker_that_is_not_ready_is_told(scene: Scene) -> None:
    scene.cluster.pod("picker-new", "127.0.0.1", labels={"app": "picker-new"}, ready=False)
    assert checks(scene)["metrics"] == (False, "no pod of Service default/picker-new is ready")


def test_a_pool_without_ready_pods_is_told(scene: Scene) -> None:
    scene.cluster.pod("server-new", "127.0.0.1", labels={"app": "new"}, ready=False)
    said = "InferencePool default/new has no ready pod, of 1"
    assert checks(scene)["servers of the new side"] == (False, said)


def test_a_new_pool_that_has_traffic_is_told(scene: Scene) -> None:
    scene.cluster.apply(route([pool_ref("old", weight=9), pool_ref("new", weight=1)]))
    is_good, said = checks(scene)["weights"]
    assert (is_good, said.partition(" (")[0]) == (False, "default/new has traffic already")


def test_two_pools_of_one_picker_must_be_told_apart(scene: Scene) -> None:
    shared = pool("new")
    shared["spec"]["endpointPickerRef"]["name"] = "picker-old"
    scene.cluster.apply(shared)
    assert "do not tell pools apart" in checks(scene)["metrics"][1]
    scene.pods["picker-old"].pages["/metrics"] = lambda: 'inference_objective_request_total{pool="default/old"} 5\n'
    is_good, said = checks(scene)["metrics"]
    assert (is_good, said.startswith("readable on both sides; the old one has counted 5 requests")) == (True, True)


def test_an_adapter_must_be_loaded_everywhere(scene: Scene) -> None:
    flags = ("--rewrite=review", "--model=review", "--from=review-v1", "--to=a")
    assert checks(scene, *flags)["adapter a"] == (True, "loaded on every server")
    assert checks(scene, *flags[:3], "--to=c")["adapter c"][0] is False
    found = checks(scene, "--rewrite=review", "--model=another", *flags[2:])
    assert found["weights"] == (False, "no rule for another sends traffic to review-v1; check --from")


# --- start, status, promote, rollback ---


def test_it_is_started_shown_and_not_done_twice(scene: Scene) -> None:
    assert scene.call("start", *POOLS, *QUICK)[0] == 0
    assert scene.weights() == {"old": 0, "new": 100}
    assert scene.status()["phase"] == "completed"
    code, out, _ = scene.call("start", *POOLS, *QUICK)
    assert (code, "completed" in out) == (0, True)
    assert scene.call("rollback", "--route=llm")[0] == 0
    assert scene.weights() == {"old": 1, "new": 0}
    code, out, err = scene.call("start", *POOLS, *QUICK)
    assert "give --from, --to and --again" in err
    assert (code, "rolled back by hand" in out, scene.weights()) == (3, True, {"old": 1, "new": 0})
    assert scene.call("start", *POOLS, *QUICK, "--again")[0] == 0
    assert scene.weights() == {"old": 0, "new": 100}


def test_what_went_wrong_stands_in_the_status(scene: Scene) -> None:
    scene.pods["picker-new"].pages["/metrics"] = Counted(20, failing=10)
    code, out, _ = scene.call("start", *POOLS, *QUICK)
    assert code == 3
    assert "rolled-back" in out
    found = scene.status()
    assert found["reason"].startswith("at 50 %: error rate 50.0 %")
    assert (found["new"]["error_rate"], found["old"]["error_rate"]) == (0.5, 0.0)
    code, out, _ = scene.call("status", "--route=llm")
    assert (code, "error rate 50.0 %" in out) == (0, True)


def test_one_that_is_held_stays_held_until_it_is_said_again(scene: Scene) -> None:
    scene.pods["picker-new"].pages["/metrics"] = Counted(0)
    assert scene.call("start", *POOLS, *QUICK, "--hold-limit=10ms")[0] == 4
    code, _, err = scene.call("start", *POOLS)
    assert (code, "go on with --again" in err) == (4, True)
    assert scene.weights() == {"old": 50, "new": 50}
    scene.pods["picker-new"].pages["/metrics"] = Counted(10)
    assert scene.call("start", "--route=llm", "--again")[0] == 0


def test_one_that_is_under_way_is_gone_on_with_as_it_began(scene: Scene) -> None:
    scene.pods["picker-new"].pages["/metrics"] = Counted(0)
    assert scene.call("start", *POOLS, *QUICK, "--hold-limit=10ms")[0] == 4
    code, _, err = scene.call("start", *POOLS, "--steps=20,100", "--min-requests=5", "--again")
    assert (code, "with other --steps, --min-requests; go on with the same flags or with none" in err) == (2, True)
    code, _, err = scene.call("start", "--route=llm", "--from=old", "--to=third", "--again")
    assert (code, "a rollout from default/old to default/new is under way, with other --to" in err) == (2, True)


def test_one_that_is_told_to_stop_lets_go(scene: Scene, tmp_path: Path) -> None:
    flags = [f"--kubeconfig={scene.kubeconfig}", *POOLS, *QUICK, "--every=1h", "--heartbeat=1h"]
    child = Child("rollout", picker_command("rollout", "start", *flags), tmp_path / "rollout.log")
    try:
        child.wait_until(lambda: scene.weights().get("new") == 50, 30)
    finally:
        child.stop()
    assert (child.returncode, "'picker rollout start' goes on from here" in child.log_text()) == (143, True)
    found = scene.status()
    assert (found["phase"], found["holder"], scene.weights()) == ("progressing", None, {"old": 50, "new": 50})


def test_without_a_rollout_nothing_is_promoted(scene: Scene) -> None:
    for action in ("status", "promote", "rollback"):
        code, _, err = scene.call(action, "--route=llm")
        assert (code, "no rollout was started on HTTPRoute default/llm" in err) == (2, True)
    assert scene.call("start", "--route=llm")[0] == 2


@pytest.mark.parametrize("via", ["--metrics-via=api", "--metrics-via=pods", "--metrics"])
def test_pages_that_want_a_token_are_read_straight(scene: Scene, tmp_path: Path, via: str) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    flags = [via, f"--metrics-token-file={token}"]
    for name in ("old", "new"):
        scene.pods[f"picker-{name}"].token = "secret"
        if via == "--metrics":
            flags = [*flags[1:], f"--metrics={name}=http://{scene.pods[f'picker-{name}'].address}/metrics"]
    if via == "--metrics-via=pods":
        port = scene.pods["picker-old"].address.rpartition(":")[2]
        flags.append(f"--metrics-port={port}")
    flags = [flag for flag in flags if flag != "--metrics"] + [f"--metrics-token-file={token}"]
    is_good, said = checks(scene, *POOLS, *flags)["metrics"]
    if via == "--metrics-via=api":
        assert (is_good, "wants a token for its metrics, which an API server does not pass on" in said) == (False, True)
    else:
        assert is_good is True, said
        token.write_text("wrong")
        is_good, said = checks(scene, *POOLS, *flags)["metrics"]
        assert (is_good, "answers 401; give a token" in said) == (False, True)


def test_a_page_that_comes_in_pieces_is_read_to_its_end(scene: Scene) -> None:
    flags = []
    for name in ("old", "new"):
        long = "".join(f'picker_filler{{number="{number}"}} 1\n' for number in range(50_000))
        page = Counted(10)
        scene.pods[f"picker-{name}"].pages["/metrics"] = lambda page=page, long=long: long + page()
        flags.append(f"--metrics={name}=http://{scene.pods[f'picker-{name}'].address}/metrics")
    assert scene.call("start", *POOLS, *QUICK, *flags)[0] == 0
    assert scene.status()["new"]["requests"] >= 10  # they stand at the end


# --- flags ---


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["plan"], "either --route NAME (pools) or --rewrite NAME (adapters)"),
        (["plan", "--route=a", "--rewrite=b"], "either --route NAME"),
        (["plan", "--route=a"], "--from OLD --to NEW"),
        (["start", "--route=a", "--from=b"], "--from and --to go together"),
        (["plan", "--route=a", "--from=b", "--to=b"], "--from and --to are both b"),
        (["plan", "--rewrite=a", "--from=b", "--to=c"], "--model ALIAS"),
        (["plan", "--route=a", "--from=b", "--to=c", "--model=m"], "--model goes with --rewrite"),
        (["plan", "--route=a", "--from=b", "--to=c", "--steps=10,5,100"], "rise to 100"),
        (["plan", "--route=a", "--from=b", "--to=c", "--steps=10,50"], "rise to 100"),
        (["plan", "--route=a", "--from=b", "--to=c", "--steps=0,100"], "rise to 100"),
        (["plan", "--route=a", "--from=b", "--to=c", "--every=10"], "write a number and a unit"),
        (["plan", "--route=a", "--from=b", "--to=c", "--every=0"], "--every must be more than 0"),
        (["plan", "--route=a", "--from=b", "--to=c", "--max-error-rate-increase=2"], "a share of requests"),
        (["plan", "--route=a", "--from=b", "--to=c", "--max-ttft-ratio=0.5"], "a ratio of 1 or more"),
        (["plan", "--route=a", "--from=b", "--to=c", "--ttft-quantile=nan"], "a quantile"),
        (["pause", "--route=a"], "invalid choice: 'pause'"),
    ],
)
def test_wrong_flags_say_what_to_write(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("given", ["x", "old=x", "ftp://x"])
def test_metrics_are_urls(scene: Scene, given: str) -> None:
    code, _, err = scene.call("plan", *POOLS, f"--metrics={given}")
    assert (code, "give a URL, old=URL or new=URL" in err) == (2, True)
    code, _, err = scene.call("plan", *POOLS, "--metrics=old=http://127.0.0.1:1/")
    assert (code, "no page of the new side; give new=URL too" in err) == (2, True)


# --- what the documentation says it may do ---


def granted() -> set[tuple[str, str]]:
    """(verb, resource) of the Role in docs/rollouts.md."""
    (text, _) = blocks((ROOT / "docs" / "rollouts.md").read_text(), "yaml")
    (role,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "Role")
    return {(verb, name) for rule in role["rules"] for verb in rule["verbs"] for name in rule["resources"]}


def asked(method: str, path: str) -> tuple[str, str]:
    """The same of a request."""
    parts = path.partition("?")[0].split("/")
    resource, *rest = parts[parts.index("namespaces") + 2 :]
    verb = {"GET": "get" if rest else "list", "PATCH": "patch"}[method]
    return verb, f"{resource}/proxy" if "proxy" in rest else resource


def test_the_role_that_is_shown_is_what_it_needs(scene: Scene) -> None:
    before = len(scene.cluster.requests)
    assert scene.call("start", *POOLS, *QUICK)[0] == 0
    assert scene.call("plan", "--rewrite=review", "--model=review", "--from=review-v1", "--to=a")[0] == 0
    needed = {asked(method, path) for method, path in scene.cluster.requests[before:]}
    assert needed | {("patch", "inferencemodelrewrites")} == granted()
