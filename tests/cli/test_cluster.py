"""What of a cluster is served, by flags as people and charts give them."""

from pathlib import Path

import pytest

from picker.cli import serve
from picker.cli.flags import FlagParser
from picker.config.settings import ServeSettings
from picker.errors import ConfigError, UsageError
from tests.support.config_samples import HEAD


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NAMESPACE", "POD_NAME"):
        monkeypatch.delenv(name, raising=False)


def settings(*words: str) -> ServeSettings:
    parser = FlagParser(prog="picker serve")
    serve.configure(parser)
    return serve.settings_from(parser.parse(words))


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        settings(*words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "pools"),
    [
        (("--pool-name", "a"), ("default/a",)),
        (("--pool-name=a", "--pool-namespace=prod"), ("prod/a",)),
        (("--pool-name=other/a", "--pool-namespace=prod"), ("other/a",)),
        (("--pool-name=a", "--pool-name=b"), ("default/a", "default/b")),
        (("--pool-name=a,b , x/c",), ("default/a", "default/b", "x/c")),
        (("--pool-name=a,a", "--pool-name=default/a"), ("default/a",)),
        (("--pool-name=llama-3.1",), ("default/llama-3.1",)),
    ],
)
def test_pools_are_named_in_full(words: tuple[str, ...], pools: tuple[str, ...]) -> None:
    found = settings(*words)
    assert found.kubernetes.pools == pools
    assert found.kubernetes.in_use
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["A", "a b", "a/b/c", "-a", "a..b", "/a", "a/"])
def test_what_no_pool_can_be_called_is_refused(name: str) -> None:
    assert "is no name of a pool; write NAME or NAMESPACE/NAME" in refusal(f"--pool-name={name}")


def test_the_namespace_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMESPACE", "prod")
    assert settings("--pool-name=a").kubernetes.pools == ("prod/a",)
    assert settings("--pool-selector=team=chat").kubernetes.pool_namespace == "prod"


@pytest.mark.parametrize(
    ("pod", "deployment"),
    [("epp-vllm-7d9c5b6f48-x2x9p", "epp-vllm"), ("", "picker"), ("lonely", "picker")],
)
def test_pods_may_be_served_without_a_pool(pod: str, deployment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", pod)
    found = settings(
        "--endpoint-selector", "app=vllm", "--endpoint-target-ports", "8000,8001", "--endpoint-target-ports=8000"
    )
    assert (found.kubernetes.deployment, found.kubernetes.pools) == (deployment, ())
    assert found.kubernetes.in_use
    assert found.kubernetes.target_ports == (8000, 8001)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to route to; pass --pool-name NAME in a cluster with an InferencePool"),
        (("--pool-name=a", "--endpoint-selector=b=c"), "--pool-name and --endpoint-selector exclude each other"),
        (("--pool-name=a", "--pool-selector=b"), "--pool-name and --pool-selector exclude each other; give one"),
        (
            ("--endpoint-selector=b=c", "--endpoint-target-ports=1", "--pool-config-file=a=x"),
            "--pool-config-file is of InferencePools",
        ),
        (("--endpoint-selector=a=b",), "--endpoint-selector needs 1 to 8 --endpoint-target-ports, not 0"),
        (("--endpoint-selector=a=b", "--endpoint-target-ports=1,2,3,4,5,6,7,8,9"), "not 9"),
        (("--endpoint-selector=a=b", "--endpoint-target-ports=0"), "port 0 is none that a pod can serve on"),
        (("--pool-name=a,",), "has an empty name in it"),
        (("--pool-name=a", "--pool-group=example.com"), "is not one of: inference.networking.k8s.io"),
        (("--endpoints-file=x", "--pool-name=a,b"), "--endpoints-file is one pool; give --pool-name once"),
    ],
)
def test_what_goes_not_together_is_refused(words: tuple[str, ...], said: str) -> None:
    assert said in refusal(*words)


def test_ports_beside_a_pool_are_warned_of() -> None:
    (warning,) = settings("--pool-name=a", "--endpoint-target-ports=8000").warnings
    assert warning == "--endpoint-target-ports has no effect: the ports are those of the InferencePool"


def test_a_file_of_endpoints_wins_with_a_warning() -> None:
    found = settings("--endpoints-file=x", "--endpoint-selector=a=b", "--kubeconfig=k", "--pool-selector=c")
    assert found.warnings == tuple(
        f"--{flag} has no effect: endpoints come from the endpoints file"
        for flag in ("pool-selector", "endpoint-selector", "kubeconfig")
    )
    assert not found.kubernetes.in_use
    assert not found.kubernetes.serves_several  # or no stream would be let in that names no pool


@pytest.mark.parametrize(
    ("words", "follows"),
    [
        (("--pool-name=a",), False),
        (("--pool-name=a", "--bbr-port=1"), True),
        (("--pool-name=a", "--bbr-port=1", "--base-models-file=x"), False),
        (("--endpoints-file=x", "--bbr-port=1"), False),
    ],
)
def test_base_models_come_from_the_cluster_where_the_router_runs_without_a_file(
    words: tuple[str, ...], follows: bool
) -> None:
    assert settings(*words).kubernetes.base_models is follows


def test_a_pool_may_have_a_configuration_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text(HEAD + "plugins: [{type: queue-scorer}]")
    found = settings("--pool-name=a,b", f"--pool-config-file=b={file}")
    assert {pool: config.source for pool, config in found.pool_configs.items()} == {"default/b": str(file)}
    assert "is none of the pools of --pool-name" in refusal("--pool-name=a", f"--pool-config-file=b={file}")
    assert "write NAME=FILE, once for each pool" in refusal("--pool-name=a", "--pool-config-file=a")
    twice = (f"--pool-config-file=a={file}",) * 2
    assert "write NAME=FILE, once for each pool" in refusal("--pool-name=a", *twice)
    with pytest.raises(ConfigError, match="cannot be read"):
        settings("--pool-name=a", "--pool-config-file=a=/nowhere")
