"""The examples do what they say: their own files, applied with kubectl, behind a real Envoy and a real picker."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.example import EXAMPLES, Example, kubectl, running
from tests.support.manifests import NAMESPACE, needs_helm, picker_args, render
from tests.support.readme import blocks

pytestmark = pytest.mark.e2e
OBJECTIVE = "x-gateway-inference-objective"
REQUESTS = 500
FEWEST, MOST = 17, 87  # of a canary: 50 expected, 5 standard deviations


def manifests() -> list[Path]:
    return sorted(EXAMPLES.glob("*/manifests/*.yaml"))


@pytest.mark.parametrize("file", manifests(), ids=lambda file: f"{file.parts[-3]}/{file.name}")
def test_manifests_of_kubernetes_itself_are_valid(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        if ".networking." not in document["apiVersion"]:  # those are held to their schemas when they are applied
            kubernetes_validate.validate(document, "1.34", strict=True)


@pytest.mark.parametrize("page", sorted(EXAMPLES.glob("**/README.md")), ids=lambda page: page.parent.name)
def test_pages_name_files_that_are_there(page: Path) -> None:
    text = page.read_text()
    links = [page.parent / link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    paths = [
        EXAMPLES.parent / path for path in re.findall(r"(?:examples|deploy)/[\w./-]+", "".join(blocks(text, "bash")))
    ]
    listed = [page.parent / path for path in re.findall(r"^\| (?:.*, )?`([\w./-]+)` \|", text, re.M)]
    assert [str(path) for path in (*links, *paths, *listed) if not path.exists()] == []


@needs_helm
@pytest.mark.parametrize("name", ["chatbot-recommender", "lora-adapters"])
def test_the_chart_makes_what_the_pools_name(name: str) -> None:
    """A Service for each endpoint picker, and a picker that serves just the pools there are."""
    values = yaml.safe_load((EXAMPLES / name / "picker-values.yaml").read_text())
    objects = render(values)
    services = {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    here = [each for file in manifests() if name in file.parts for each in yaml.safe_load_all(file.read_text())]
    pools = {each["metadata"]["name"]: each["spec"] for each in here if each["kind"] == "InferencePool"}
    assert {spec["endpointPickerRef"]["name"] for spec in pools.values()} <= services
    served = [flag.partition("=")[2] for flag in picker_args(objects) if flag.startswith("--pool-name=")]
    assert set(served) == pools.keys()


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with running("chatbot-recommender", tmp_path_factory.mktemp("two-models")) as example:
        yield example


@pytest.mark.parametrize("model", ["chatbot", "recommender"])
def test_each_model_is_served_by_its_own_pools_90_to_10(two_models: Example, model: str) -> None:
    before = two_models.served()
    with closing(two_models.connect()) as connection:
        assert Counter(two_models.ask(connection, model)[0] for _ in range(REQUESTS)) == {200: REQUESTS}
    served = {name: count - before[name] for name, count in two_models.served().items() if count > before[name]}
    assert served.keys() == {model, f"{model}-canary"}
    assert sum(served.values()) == REQUESTS
    assert FEWEST <= served[f"{model}-canary"] <= MOST


def test_a_model_that_nobody_serves_has_no_route(two_models: Example) -> None:
    before = two_models.served()
    with closing(two_models.connect()) as connection:
        assert two_models.ask(connection, "nobody")[0] == 404
    assert two_models.served() == before


@pytest.mark.parametrize(("named", "pools"), [("chatbot", "chatbot"), ("chatbot-canary", "chatbot-canary")])
def test_requests_that_name_an_objective_have_its_priority(two_models: Example, named: str, pools: str) -> None:
    """In the pool the objective is for; to others it is unknown, which is priority 0."""
    with closing(two_models.connect()) as connection:
        for _ in range(100):
            assert two_models.ask(connection, "chatbot", **{OBJECTIVE: named})[0] == 200
    of_pool = {address: name.rpartition("-")[0] for name, address in two_models.addresses.items()}
    found = [each for each in two_models.decisions() if each["objective"] == named]
    seen = {(of_pool[each["endpoint"]], each["priority"]) for each in found}
    others = {"chatbot", "chatbot-canary"} - {pools}
    assert len(found) == 100
    assert seen == {(pools, 10), *((other, 0) for other in others)}


def test_weights_are_changed_as_the_page_says(two_models: Example) -> None:
    text = (EXAMPLES / "chatbot-recommender" / "README.md").read_text()
    (command,) = (block for block in blocks(text, "bash") if "patch httproute" in block)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "kubectl"
    as_applied = ("apply", "-f", str(EXAMPLES / "chatbot-recommender" / "manifests" / "routes.yaml"))
    for arguments, wanted in ((words[1:], [50, 50]), (as_applied, [90, 10])):
        kubectl(two_models.admin_kubeconfig, *arguments)
        two_models.wait_synced()
        (rule,) = two_models.cluster.get("HTTPRoute", "chatbot", NAMESPACE)["spec"]["rules"]
        assert [ref["weight"] for ref in rule["backendRefs"]] == wanted


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with running("lora-adapters", tmp_path_factory.mktemp("adapters"), speedup=1.0) as example:
        yield example


@contextmanager
def talk(example: Example, model: str) -> Iterator[str]:
    """A request that is answered for as long as this lasts. The endpoint, once picker has seen it at work there."""
    with closing(example.connect()) as connection:
        body = {"model": model, "prompt": f"a long story, {model}", "max_tokens": 100_000, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        response.readline()
        where = str(example.decisions()[0]["endpoint"])
        wait_until(example, lambda: running_requests(example)[where] == 1)
        yield where


def running_requests(example: Example) -> dict[str, float]:
    """By endpoint, as the model servers said when they were last asked."""
    return {each["target"]: each["running"] for each in json.loads(example.admin("/debug/endpoints"))}


def test_requests_go_where_their_adapter_runs(adapters: Example) -> None:
    with talk(adapters, "english-bot") as english, talk(adapters, "spanish-bot") as spanish:
        where = {"english-bot": english, "spanish-bot": spanish}
        assert english != spanish  # there is room for one
        with closing(adapters.connect()) as connection:
            for model in [*where] * 10:
                status, answer = adapters.ask(connection, model)
                assert (status, answer["model"]) == (200, model)
                assert adapters.decisions()[0]["endpoint"] == where[model]


def test_the_base_model_is_served_too(adapters: Example) -> None:
    with closing(adapters.connect()) as connection:
        assert adapters.ask(connection, "qwen")[0] == 200
        assert adapters.ask(connection, "french-bot")[0] == 404


def wait_until(example: Example, condition: Any) -> None:
    assert example.picker is not None
    example.picker.wait_until(condition, 20.0)
