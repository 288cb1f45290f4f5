"""The chart under every gateway and the values that change most: what it renders is what Kubernetes and picker take."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from picker.cli.flags import FlagParser
from picker.cli.serve import configure, settings_from
from tests.support.manifests import (
    CHART,
    KUBERNETES,
    NAMESPACE,
    Json,
    RenderError,
    compared,
    containers,
    key,
    needs_helm,
    only,
    picker_args,
    refused,
    render,
)

pytestmark = needs_helm
VERSIONS = ("1.30", "1.34", "1.37")
GATEWAYS = ("none", "istio", "envoy-gateway", "gke", "kgateway", "agentgateway", "standalone")

CONFIG = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: max-score-picker}]\n"

POOL: Json = {"pools": ["chat"]}
PODS: Json = {"endpointSelector": "app=chat"}
EXTRAS: dict[str, Json] = {
    "plain": {},
    "three replicas": {"replicas": 3},
    "three active": {"replicas": 3, "replication": "active-active"},
    "no auth": {"metrics": {"auth": False}},
    "monitored": {
        "metrics": {
            "tlsSecretName": "metrics",
            "readers": [{"name": "prometheus", "namespace": "monitoring"}],
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        }
    },
    "configured": {"config": {"plugins": [{"type": "max-score-picker"}]}},
}
FEW = {name: EXTRAS[name] for name in ("plain", "three replicas")}
ELSEWHERE: dict[str, Json] = {
    "several pools": {"pools": ["chat", "code", "other/math"]},
    "pools by labels": {"pools": [], "poolSelector": "team=chat"},
    "pools of different minds": {
        "pools": ["chat", "other/code"],
        "poolConfigs": {name: {"plugins": [{"type": "max-score-picker"}]} for name in ("chat", "other/code")},
    },
    "a pool made": {"pools": [], "inferencePool": {"create": True, "matchLabels": {"app": "chat"}}},
    "body-based router": {
        "bodyBasedRouter": {"enabled": True, "plugins": ["body-field-to-header:model"]},
        "gke": {"gatewayName": "inference-gateway"},
    },
    "certificates": {"tls": {"secretName": "picker-tls", "clientCaConfigMap": "gateways"}},
    "plaintext": {"tls": {"enabled": False}},
    "buffered": {"envoyGateway": {"bodyMode": "buffered", "bufferLimit": "64Mi", "gatewayName": "inference-gateway"}},
    "retired group": {"poolGroup": "inference.networking.x-k8s.io"},
}
PLACED: Json = {
    "priorityClassName": "high",
    "nodeSelector": {"pool": "cpu"},
    "tolerations": [{"key": "cpu", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "podLabels": {"team": "chat"},
    "podAnnotations": {"example.com/owner": "chat"},
    "imagePullSecrets": [{"name": "registry"}],
    "image": {"repository": "registry.example.com/picker", "digest": "sha256:" + "0" * 64},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraArgs": ["--body-cap=16Mi"],
    "extraVolumes": [{"name": "keys", "secret": {"secretName": "api-keys"}}],
    "extraVolumeMounts": [{"name": "keys", "mountPath": "/etc/picker/keys", "readOnly": True}],
    "service": {"headless": True, "annotations": {"example.com/owner": "chat"}},
    "serviceAccount": {"name": "picker-chat", "annotations": {"example.com/role": "picker"}},
    "strategy": {"type": "Recreate"},
    "networkPolicy": {
        "gatewayFrom": [{"namespaceSelector": {"matchLabels": {"gateway": "yes"}}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"monitoring": "yes"}}}],
        "modelServerPorts": [8000],
        "apiServer": {"cidr": "10.0.0.1/32", "ports": [6443]},
    },
}


def cases() -> dict[str, Json]:
    found: dict[str, Json] = {}
    for gateway in GATEWAYS:
        alone = gateway == "standalone"
        extras = EXTRAS if alone else {**EXTRAS, **ELSEWHERE} if gateway == "none" else {**FEW, **ELSEWHERE}
        source = PODS if alone else POOL
        found |= {f"{gateway}, {name}": {"gateway": gateway, **source, **extra} for name, extra in extras.items()}
    return found | {"placed": {**POOL, **PLACED}}


CASES = cases()


@pytest.fixture(params=CASES, scope="module")
def objects(request: pytest.FixtureRequest) -> list[Json]:
    return render(CASES[request.param])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_and_gateways_take_it(objects: list[Json], version: str) -> None:
    assert refused(objects, version) == {}


def test_names_are_unique_and_namespaced(objects: list[Json]) -> None:
    compared(objects)
    cluster_wide = {"ClusterRole", "ClusterRoleBinding"}
    for kind, namespace, name in map(key, objects):
        assert bool(namespace) != (kind in cluster_wide)
        assert kind not in cluster_wide or NAMESPACE in name, "two releases would share it"


def test_picker_serve_takes_every_flag(objects: list[Json], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).touch()
    for name in ("config.yaml", "pool.chat.yaml", "pool.other.code.yaml"):
        (tmp_path / name).write_text(CONFIG)
    monkeypatch.setenv("NAMESPACE", NAMESPACE)
    parser = FlagParser(prog="picker serve")
    configure(parser)
    words = [re.sub(r"=/etc/picker/[a-z-]+", f"={tmp_path}", word) for word in picker_args(objects)]
    assert settings_from(parser.parse(words)).warnings == (), "a flag without effect"


def test_containers_can_do_nothing_they_need_not(objects: list[Json]) -> None:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in containers(objects):
        security = container["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_probes_ask_for_what_they_mean(objects: list[Json]) -> None:
    (picker,) = (each for each in containers(objects) if each["name"] == "picker")
    assert {name: probe["grpc"] for name, probe in picker.items() if name.endswith("Probe")} == {
        "startupProbe": {"port": 9003, "service": "liveness"},
        "livenessProbe": {"port": 9003, "service": "liveness"},
        "readinessProbe": {"port": 9003, "service": "readiness"},
    }


def test_ports_lead_somewhere(objects: list[Json]) -> None:
    declared = {port["name"]: port["containerPort"] for each in containers(objects) for port in each.get("ports", [])}
    ports = [port for each in objects if each["kind"] == "Service" for port in each["spec"]["ports"]]
    service = {port["port"]: declared[port["targetPort"]] for port in ports}
    assert {9003, 9090} <= set(service)
    policy = [each for each in objects if each["kind"] == "NetworkPolicy"]
    for each in policy:
        open_ports = {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]}
        assert open_ports == set(service.values()) | {port for name, port in declared.items() if name == "envoy-ready"}


def test_volumes_are_directories_that_are_there(objects: list[Json]) -> None:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    mounts = [mount for each in containers(objects) for mount in each.get("volumeMounts", [])]
    assert {mount["name"] for mount in mounts} == set(volumes)
    assert all(mount["readOnly"] and "subPath" not in mount for mount in mounts), (
        "a subPath is never brought up to date"
    )
    ours = {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}
    named = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
    assert ours <= named
    for argument in picker_args(objects):
        _, _, path = argument.partition("=")
        if path.startswith("/etc/"):
            assert any(path.startswith(mount["mountPath"]) for mount in mounts), argument


def test_there_is_time_to_drain(objects: list[Json]) -> None:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    (picker,) = (each for each in pod["containers"] if each["name"] == "picker")
    sleep = picker.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    (drain,) = (word for word in picker["args"] if word.startswith("--drain-timeout="))
    seconds = int(drain.partition("=")[2].removesuffix("s"))
    assert pod["terminationGracePeriodSeconds"] > seconds + sleep


# --- what each value is for ---


def rules(objects: list[Json], kind: str, name: str, namespace: str = NAMESPACE) -> list[Json]:
    found: list[Json] = compared(objects)[kind, namespace, name]["rules"]
    return found


def allowed(objects: list[Json]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) that picker's account has anywhere."""
    bound = {
        each["roleRef"]["name"]
        for each in objects
        if each["kind"].endswith("Binding") and any(who["name"] == "picker" for who in each["subjects"])
    }
    roles = [each for each in objects if each["kind"].endswith("Role") and each["metadata"]["name"] in bound]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


READ = ("get", "list", "watch")
SERVING = {
    *itertools.product([""], ["pods"], READ),
    *itertools.product(["inference.networking.k8s.io", "inference.networking.x-k8s.io"], ["inferencepools"], READ),
    *itertools.product(
        ["inference.networking.x-k8s.io", "llm-d.ai"], ["inferenceobjectives", "inferencemodelrewrites"], READ
    ),
    *itertools.product(["inference.networking.x-k8s.io"], ["inferencemodels"], READ),
}
LEADING = {("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "watch", "update")}
REVIEWING = {
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
}
CONFIG_MAPS = set(itertools.product([""], ["configmaps"], READ))
NO_AUTH: Json = {"metrics": {"auth": False}}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({**POOL, **NO_AUTH}, SERVING),
        (POOL, SERVING | REVIEWING),
        ({**POOL, **NO_AUTH, "replicas": 2}, SERVING | LEADING),
        ({**POOL, **NO_AUTH, "replicas": 2, "replication": "active-active"}, SERVING),
        ({**POOL, **NO_AUTH, "bodyBasedRouter": {"enabled": True}}, SERVING | CONFIG_MAPS),
        ({**PODS, **NO_AUTH}, {each for each in SERVING if each[1] != "inferencepools"}),
    ],
    ids=["least", "metrics auth", "leader", "no leader", "body-based router", "pods by labels"],
)
def test_the_account_may_do_what_it_needs_and_nothing_else(values: Json, wanted: set[tuple[str, str, str]]) -> None:
    assert allowed(render(values)) == wanted


def test_only_the_lease_of_its_own_is_read_and_written() -> None:
    objects = render({**POOL, "replicas": 2, "leaseName": "chat-leader"})
    by_name = {tuple(rule["verbs"]): rule.get("resourceNames") for rule in rules(objects, "Role", "picker-leader")}
    assert by_name == {("create",): None, ("get", "watch", "update"): ["chat-leader"]}
    assert "--leader-election-lease-name=chat-leader" in picker_args(objects)


def test_pools_of_other_namespaces_are_read_there() -> None:
    objects = render({"pools": ["chat", "other/code", "other/math"]})
    roles = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in objects if each["kind"] == "Role"}
    assert roles == {(NAMESPACE, "picker"), ("other", "picker")}
    assert [word for word in picker_args(objects) if "pool" in word] == [
        "--pool-name=chat",
        "--pool-name=other/code",
        "--pool-name=other/math",
    ]
    to = only(objects, "NetworkPolicy")["spec"]["egress"][-1]["to"]
    others = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}
    assert to == [{"podSelector": {}}, others]


def test_gateways_tell_several_pools_by_their_services() -> None:
    objects = render({"pools": ["chat", "code", "other/math"], "gateway": "istio"})
    names = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Service"}
    assert set(names) == {"picker", "picker-chat", "picker-code"}
    assert len({str(each["selector"]) for each in names.values()}) == 1
    hosts = {each["spec"]["host"].partition(".")[0] for each in objects if each["kind"] == "DestinationRule"}
    assert hosts == set(names), "each is called over TLS"


def test_services_that_pools_name_already_can_be_kept() -> None:
    objects = render({"pools": ["chat", "code"], "service": {"names": ["chat-epp", "code-epp"]}})
    names = {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    assert names == {"picker", "chat-epp", "code-epp"}


def test_one_replica_is_replaced_by_one_that_is_ready() -> None:
    spec = only(render(POOL), "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "topologySpreadConstraints" not in spec["template"]["spec"]


def test_a_rollout_does_not_wait_for_followers() -> None:
    objects = render({**POOL, "replicas": 3})
    spec = only(objects, "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": "100%", "maxUnavailable": "100%"}
    keys = [each["topologyKey"] for each in spec["template"]["spec"]["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert only(objects, "PodDisruptionBudget")["spec"]["minAvailable"] == 0
    (picker,) = containers(objects)
    assert "lifecycle" not in picker, "a leader that sleeps keeps its lease"
    assert "--ha-enable-leader-election=true" in picker["args"]


def test_all_serve_only_where_that_is_asked_for() -> None:
    objects = render({**POOL, "replicas": 3, "replication": "active-active"})
    assert not [word for word in picker_args(objects) if "election" in word]
    assert only(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_one_replica_has_no_budget_that_could_never_be_met() -> None:
    assert "PodDisruptionBudget" not in {each["kind"] for each in render(POOL)}


def test_a_pool_that_is_made_is_the_one_served() -> None:
    pool = {"create": True, "name": "chat", "matchLabels": {"app": "chat"}, "targetPorts": [8000, 8001]}
    objects = render({"inferencePool": pool}, release="prod")
    made = only(objects, "InferencePool")
    assert made["metadata"]["name"] == "chat"
    assert made["spec"]["endpointPickerRef"]["name"] == only(objects, "Service")["metadata"]["name"] == "prod-picker"
    assert "--pool-name=chat" in picker_args(objects)


def test_an_existing_name_can_be_kept() -> None:
    objects = render({**POOL, "fullnameOverride": "chat-epp"})
    assert only(objects, "Service")["metadata"]["name"] == "chat-epp"


def test_a_configuration_is_followed_where_it_is_mounted() -> None:
    objects = render({**POOL, "config": {"plugins": [{"type": "random-picker"}]}})
    held = only(objects, "ConfigMap")
    assert set(held["data"]) == {"config.yaml"}
    assert "--config-file=/etc/picker/config/config.yaml" in picker_args(objects)
    annotations = only(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert not any("checksum" in name for name in annotations), "a change would restart it"


def test_one_that_is_there_already_can_be_named() -> None:
    objects = render({**POOL, "existingConfigMap": "routing"})
    (volume,) = only(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volume == {"name": "config", "configMap": {"name": "routing"}}


@pytest.mark.parametrize(("tls", "protocol"), [(True, "http2"), (False, "kubernetes.io/h2c")])
def test_the_service_says_how_it_is_called(tls: bool, protocol: str) -> None:
    objects = render({**POOL, "tls": {"enabled": tls}})
    assert only(objects, "Service")["spec"]["ports"][0]["appProtocol"] == protocol
    assert f"--secure-serving={str(tls).lower()}" in picker_args(objects)


def test_istio_is_told_of_tls_only_where_there_is_some() -> None:
    assert only(render({**POOL, "gateway": "istio"}), "DestinationRule")["spec"]["trafficPolicy"] == {
        "portLevelSettings": [{"port": {"number": 9002}, "tls": {"mode": "SIMPLE", "insecureSkipVerify": True}}]
    }
    plain = render({**POOL, "gateway": "istio", "tls": {"enabled": False}})
    assert "DestinationRule" not in {each["kind"] for each in plain}


def test_envoy_ai_gateway_reads_the_mode_from_the_pool() -> None:
    pool = {"inferencePool": {"create": True, "matchLabels": {"app": "chat"}}}
    objects = render({**pool, "gateway": "envoy-gateway", "envoyGateway": {"bodyMode": "buffered"}})
    assert only(objects, "InferencePool")["metadata"]["annotations"] == {
        "aigateway.envoyproxy.io/processing-body-mode": "buffered"
    }


def test_gke_has_policies_for_each_pool() -> None:
    objects = compared(render({"pools": ["chat", "other/code"], "gateway": "gke"}))
    for kind in ("HealthCheckPolicy", "GCPBackendPolicy"):
        assert {found[1:] for found in objects if found[0] == kind} == {(NAMESPACE, "chat"), ("other", "code")}


def test_standalone_opens_no_port_of_pickers_own() -> None:
    objects = render({**PODS, "gateway": "standalone"})
    assert [port["port"] for port in only(objects, "Service")["spec"]["ports"]] == [80, 9003, 9090]
    assert {"--secure-serving=false", "--endpoint-selector=app=chat"} <= set(picker_args(objects))


def test_pools_can_have_configurations_of_their_own() -> None:
    objects = render({"pools": ["chat", "other/code"], "poolConfigs": {"other/code": {"plugins": []}}})
    held = yaml.safe_load(only(objects, "ConfigMap")["data"]["pool.other.code.yaml"])
    assert held == {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": []}
    named = [word for word in picker_args(objects) if "config" in word]
    assert named == ["--pool-config-file=other/code=/etc/picker/config/pool.other.code.yaml"]


# --- values that cannot be ---


def test_helm_finds_nothing_to_say_of_it(tmp_path: Path) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(POOL))
    command = ["helm", "lint", "--strict", "--quiet", "--kube-version", KUBERNETES, "--values", str(values), str(CHART)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_value_has_its_rule() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(path: str, value: Any, rule: Json) -> None:
        rule = schema["definitions"][rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
        if isinstance(value, dict) and "properties" in rule and rule.get("additionalProperties") is False:
            assert set(value) | {"global", "claims"} >= set(rule["properties"]) >= set(value), path
            for name in value:
                compare(f"{path}.{name}", value[name], rule["properties"][name])

    compare("values", values, schema)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "say what is served with one of inferencePool.create, pools, poolSelector, endpointSelector; given: none"),
        ({**POOL, **PODS}, "given: pools, endpointSelector"),
        ({**POOL, "gateway": "nginx"}, "gateway must be one of"),
        ({**POOL, "replica": 2}, "replica"),
        ({**POOL, "replicas": "two"}, "replicas"),
        ({**POOL, "replicas": 3, "replication": "none"}, "replication must be one of"),
        ({"pools": ["Chat"]}, "pools"),
        ({"pools": ["a/b/c"]}, "pools"),
        ({**PODS, "targetPorts": list(range(8000, 8009))}, "targetPorts"),
        ({**PODS, "targetPorts": [8000, 8000]}, "targetPorts"),
        ({"inferencePool": {"create": True}}, "inferencePool.matchLabels"),
        ({**POOL, "config": {"kind": "Deployment"}}, "EndpointPickerConfig"),
        ({**POOL, "config": {"plugins": []}, "existingConfigMap": "c"}, "exclude each other"),
        ({**POOL, "poolConfigs": {"code": {"plugins": []}}}, "none of pools: chat"),
        (
            {"inferencePool": {"create": True, "matchLabels": {"a": "b"}}, "poolConfigs": {"code": {"plugins": []}}},
            "none of pools: picker",
        ),
        ({**PODS, "poolConfigs": {"code": {"plugins": []}}}, "with endpointSelector"),
        ({**POOL, "tls": {"enabled": False, "secretName": "s"}}, "need tls.enabled"),
        ({**POOL, "metrics": {"auth": False, "readers": [{"name": "p", "namespace": "m"}]}}, "metrics.auth"),
        ({**POOL, "metrics": {"readers": [{"name": "p"}]}}, "namespace is required"),
        ({**POOL, "gateway": "gke", "bodyBasedRouter": {"enabled": True}}, "gke.gatewayName"),
        ({**POOL, "envoyGateway": {"bufferLimit": "64Mi"}}, "envoyGateway.gatewayName"),
        ({**PODS, "gateway": "standalone", "bodyBasedRouter": {"enabled": True}}, "one route"),
        ({"pools": ["a", "b"], "gateway": "standalone"}, "one pool"),
        ({**PODS, "gateway": "standalone", "standalone": {"port": 9002}}, "standalone"),
        ({**PODS, "gateway": "standalone", "tls": {"secretName": "s"}}, "in plaintext"),
        ({**POOL, "image": {"digest": "latest"}}, "digest"),
        ({**POOL, "extraArgs": ["body-cap=1"]}, "extraArgs"),
    ],
)
def test_a_value_that_cannot_be_is_told(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RenderError) as told:
        render(values)
    assert said in str(told.value)
