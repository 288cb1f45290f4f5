"""A small gateway controller: HTTPRoutes and InferencePools of a (fake) cluster, obeyed by a real Envoy.

    pickers = {"default/picker": "127.0.0.1:9002"}         # Services that endpointPickerRefs name, and where they are
    with InferenceGateway(cluster, directory, pickers) as gateway:
        gateway.url                                        # of the listener that all HTTPRoutes are attached to
        gateway.wait_synced()                              # Envoy does what the cluster says now
        gateway.envoy.stats()
        gateway.set_picker("default/other", "127.0.0.1:9012")   # and so for a Service that is made later

A thread follows the cluster and rewrites what Envoy reads (RDS and CDS from files, replaced in one step). Clusters come
before routes to them and go after, so a change of weights costs no request. What is in force is told in the status of
routes and pools, as gateways do: conditions `Accepted` and `ResolvedRefs` with `observedGeneration`, per parentRef.

A share is decided by Envoy, by weight, before any picker is asked; then the pool's own picker is asked (ext_proc of
that weighted cluster, `:authority` `<service>.<namespace>.svc:<port>`, full duplex in both directions) and obeyed as
`settings.steering` says. With `body_router` (its `ip:port`) that is asked first of all, so that routes may match the
headers it sets. Backends are InferencePools of both groups, and Services (their ready pods in turn).
Of filters only RequestHeaderModifier; of timeouts only `request`. No ReferenceGrants, no listeners' rules: one Gateway.
"""

import json
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from picker.demo.envoy import EnvoyProcess, Gateway, add_body_router, gateways_config
from tests.support.cluster import Cluster
from tests.support.gateway_routes import Backend, Unresolved, route_table

Json = dict[str, Any]
EXT_PROC = "envoy.filters.http.ext_proc"
NO_MESSAGES = {
    "request_header_mode": "SKIP",
    "response_header_mode": "SKIP",
    "request_body_mode": "NONE",
    "response_body_mode": "NONE",
    "request_trailer_mode": "SKIP",
    "response_trailer_mode": "SKIP",
}
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
POLL_S = 0.02
APPLIED_S = 20.0
POOL_GROUPS = ("inference.networking.k8s.io", "inference.networking.x-k8s.io")
CONTROLLER = "example.com/test-gateway"


class InferenceGateway:
    """Started by `with`, or `start` and `stop`.

    `settings` hold for every pool; FailOpen is each pool's own, and wants a steering that has somewhere else to go.
    """

    def __init__(
        self,
        cluster: Cluster,
        directory: Path,
        pickers: Mapping[str, str],
        *,
        body_router: str = "",
        settings: Gateway | None = None,
    ) -> None:
        self._cluster = cluster
        self._directory = directory
        self._pickers = dict(pickers)
        self._settings = settings or Gateway()
        self._body_router = body_router
        self._lock = threading.Condition()
        self._applied = (-1, 0)  # the version of the cluster that Envoy runs, and how often a picker was set by then
        self._moves = 0
        self._ended = threading.Event()
        self._problem: BaseException | None = None
        self._clusters: dict[str, Json] = {}
        self._revision = 0
        self._thread = threading.Thread(target=self._follow, name="inference gateway", daemon=True)
        self.envoy: EnvoyProcess

    # --- life ---

    def start(self) -> "InferenceGateway":
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write("cds", [])
        self._write("rds", [_routes([])])
        self.envoy = EnvoyProcess(self._bootstrap(), self._directory)
        try:
            self.envoy.wait_ready()
        except BaseException:
            self.envoy.stop()
            raise
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(APPLIED_S)
        self.envoy.stop()

    def __enter__(self) -> "InferenceGateway":
        self.start()
        try:
            self.wait_synced()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what tests use ---

    @property
    def url(self) -> str:
        return f"http://{self.envoy.addresses['picker']}"

    def set_picker(self, service: str, address: str) -> None:
        """Where the picker of a Service (`namespace/name`) is from now on."""
        with self._lock:
            self._pickers[service] = address
            self._moves += 1

    def wait_synced(self, deadline_s: float = APPLIED_S) -> None:
        """Until Envoy runs what the cluster says now. Raises AssertionError, or what went wrong."""
        with self._lock:
            version, moves = self._cluster.store.version, self._moves
            is_synced = self._lock.wait_for(
                lambda: self._problem or (self._applied[0] >= version and self._applied[1] >= moves), deadline_s
            )
            if self._problem:
                raise self._problem
            assert is_synced, f"Envoy does not follow:\n{self.envoy.child.log_tail()}"

    # --- following the cluster ---

    def _follow(self) -> None:
        try:
            while not self._ended.wait(POLL_S):
                with self._lock:
                    now = self._cluster.store.version, self._moves
                if now != self._applied:
                    self._sync()
                    with self._lock:
                        self._applied = now
                        self._lock.notify_all()
        except BaseException as problem:
            with self._lock:
                self._problem = problem
                self._lock.notify_all()

    def _sync(self) -> None:
        """Clusters first, then routes, then what no route leads to any more goes."""
        clusters: dict[str, Json] = {}
        routes = self._cluster.list("HTTPRoute")
        table, problems = route_table(routes, lambda ref, namespace: self._backend(ref, namespace, clusters))
        self._send_clusters({**self._clusters, **clusters})
        self._send("rds", [_routes(table)])
        self._send_clusters(clusters)
        self._tell_status(routes, problems)

    def _send_clusters(self, clusters: dict[str, Json]) -> None:
        self._clusters = clusters
        self._send("cds", list(clusters.values()))

    def _backend(self, ref: Json, namespace: str, clusters: dict[str, Json]) -> Backend:
        """Where a backendRef leads; its clusters are added. Raises Unresolved."""
        namespace = ref.get("namespace", namespace)
        if ref.get("kind") == "InferencePool" and ref.get("group") in POOL_GROUPS:
            pool = self._find(f"InferencePool.{ref['group']}", ref["name"], namespace)
            return self._pool_backend(pool, namespace, clusters)
        if ref.get("kind", "Service") == "Service" and not ref.get("group"):
            service = self._find("Service", ref["name"], namespace)
            return self._service_backend(service, int(ref.get("port", 80)), namespace, clusters)
        raise Unresolved("InvalidKind", f"{ref.get('group')}/{ref.get('kind')} is no backend here")

    def _find(self, kind: str, name: str, namespace: str) -> Json:
        found = [each for each in self._cluster.list(kind, namespace) if each["metadata"]["name"] == name]
        if not found:
            raise Unresolved("BackendNotFound", f"there is no {kind} {namespace}/{name}")
        return found[0]

    def _pool_backend(self, pool: Json, namespace: str, clusters: dict[str, Json]) -> Backend:
        spec, name = pool["spec"], pool["metadata"]["name"]
        selector = spec["selector"].get("matchLabels", spec["selector"])
        ports = [each["number"] for each in spec.get("targetPorts", ())] or [spec["targetPortNumber"]]
        ref = spec.get("endpointPickerRef") or spec.get("extensionRef") or {}
        service, port = str(ref.get("name")), (ref.get("port") or {}).get("number", ref.get("portNumber", 9002))
        with self._lock:
            address = self._pickers.get(f"{namespace}/{service}")
        if address is None:
            raise Unresolved("InvalidExtensionRef", f"nobody said where Service {namespace}/{service} is")
        fails_open = ref.get("failureMode") == "FailOpen"
        settings = replace(self._settings, failure_mode_allow=fails_open)
        servers = self._endpoints(selector, ports, namespace)
        config = gateways_config(servers, {"picker": (address, settings)})["static_resources"]
        _, picked, picker = config["clusters"]
        group = pool["apiVersion"].partition("/")[0]
        pool_cluster, picker_cluster = f"pool/{namespace}/{name}.{group}", f"picker/{namespace}/{service}:{port}"
        clusters[pool_cluster], clusters[picker_cluster] = _named(picked, pool_cluster), _named(picker, picker_cluster)
        asked = _manager(config["listeners"][1])["http_filters"][0]["typed_config"]
        authority = f"{service}.{namespace}.svc:{port}"
        return Backend(pool_cluster, {EXT_PROC: _per_route(asked, picker_cluster, authority)})

    def _service_backend(self, service: Json, port: int, namespace: str, clusters: dict[str, Json]) -> Backend:
        spec, name = service["spec"], service["metadata"]["name"]
        targets = [each.get("targetPort", each["port"]) for each in spec.get("ports", ()) if each["port"] == port]
        servers = self._endpoints(spec.get("selector") or {}, [int(target) for target in targets], namespace)
        made = gateways_config(servers, {})["static_resources"]["clusters"][0]
        cluster = f"service/{namespace}/{name}:{port}"
        clusters[cluster] = _named(made, cluster)
        return Backend(cluster, {})

    def _endpoints(self, selector: Mapping[str, str], ports: list[int], namespace: str) -> list[str]:
        pods = [pod for pod in self._cluster.list("Pod", namespace) if _is_ready(pod)]
        chosen = [pod for pod in pods if selector.items() <= (pod["metadata"].get("labels") or {}).items()]
        return [f"{pod['status']['podIP']}:{port}" for pod in chosen for port in ports]

    # --- Envoy ---

    def _bootstrap(self) -> Json:
        config = gateways_config([], {"picker": ("127.0.0.1:1", self._settings)})
        resources = config["static_resources"]
        resources["listeners"] = resources["listeners"][1:]
        manager = _manager(resources["listeners"][0])
        asked = manager["http_filters"][0]["typed_config"]
        asked["processing_mode"] = NO_MESSAGES  # where the route says nothing else
        if self._body_router:
            add_body_router(config, "picker", self._body_router, self._settings, {})
        del manager["route_config"]
        manager["rds"] = {"route_config_name": "routes", "config_source": self._source("rds")}
        config["dynamic_resources"] = {"cds_config": self._source("cds")}
        config["node"] = {"id": "gateway", "cluster": "gateway"}
        return config

    def _source(self, kind: str) -> Json:
        directory = {"path": str(self._directory)}
        path = {"path": str(self._directory / f"{kind}.json"), "watched_directory": directory}
        return {"path_config_source": path, "resource_api_version": "V3"}

    def _send(self, kind: str, resources: list[Json]) -> None:
        """Returns when Envoy runs it; at once if it does."""
        written = json.loads((self._directory / f"{kind}.json").read_text())["resources"]
        if written != resources:
            version = self._write(kind, resources)
            section = "dynamic_active_clusters" if kind == "cds" else "dynamic_route_configs"
            self.envoy.child.wait_until(lambda: self._runs(section, version, resources), APPLIED_S)

    def _write(self, kind: str, resources: list[Json]) -> str:
        self._revision += 1
        version = str(self._revision)
        fresh = self._directory / f"{kind}.new"
        fresh.write_text(json.dumps({"version_info": version, "resources": resources}))
        fresh.replace(self._directory / f"{kind}.json")
        return version

    def _runs(self, section: str, version: str, resources: list[Json]) -> bool:
        """Clusters that did not change keep the version they came with, so for them the answer as a whole counts."""
        admin = (self._directory / "envoy-admin").read_text().strip()
        try:
            with urllib.request.urlopen(f"http://{admin}/config_dump", timeout=5) as response:
                dumped = json.load(response)["configs"]
        except OSError:  # Envoy is slow to answer; whether it lives is asked elsewhere
            return False
        parts = {name: part for each in dumped for name, part in each.items() if name != "@type"}
        if section == "dynamic_route_configs":
            return any(each.get("version_info") == version for each in parts.get(section, ()))
        names = {each["cluster"]["name"] for each in parts.get(section, ())}
        dumps = [each for each in dumped if "ClustersConfigDump" in each["@type"]]
        return dumps[0].get("version_info") == version and names == {each["name"] for each in resources}

    # --- status ---

    def _tell_status(self, routes: list[Json], problems: Mapping[str, list[Unresolved]]) -> None:
        for route in routes:
            metadata = route["metadata"]
            found = problems.get(f"{metadata['namespace']}/{metadata['name']}", [])
            conditions = [_condition("Accepted", metadata, "", ""), _resolved(metadata, found)]
            self._put_parents("HTTPRoute", route, route["spec"].get("parentRefs") or [], conditions)
        for group in POOL_GROUPS:
            kind = f"InferencePool.{group}"
            if any(each.kind == "InferencePool" and each.group == group for each in self._cluster.kinds):
                self._tell_pools(kind, group, routes)

    def _tell_pools(self, kind: str, group: str, routes: list[Json]) -> None:
        for pool in self._cluster.list(kind):
            metadata = pool["metadata"]
            parents = [
                {**parent, "namespace": parent.get("namespace", route["metadata"]["namespace"])}
                for route in routes
                if any(
                    _refers(ref, route, metadata, group)
                    for rule in route["spec"].get("rules", ())
                    for ref in rule.get("backendRefs", ())
                )
                for parent in route["spec"].get("parentRefs", ())
            ]
            distinct = list({json.dumps(parent, sort_keys=True): parent for parent in parents}.values())
            conditions = [_condition("Accepted", metadata, "", ""), _condition("ResolvedRefs", metadata, "", "")]
            self._put_parents(kind, pool, distinct, conditions)

    def _put_parents(self, kind: str, each: Json, parents: list[Json], conditions: list[Json]) -> None:
        metadata = each["metadata"]
        others = [
            entry for entry in (each.get("status") or {}).get("parents", ()) if entry["controllerName"] != CONTROLLER
        ]
        mine = [{"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions} for parent in parents]
        if mine or each.get("status"):
            status = {"status": {"parents": [*others, *mine]}}
            with self._cluster.store.lock:
                if self._cluster.store.get(
                    self._cluster.kinds.named(kind).resource, (metadata["namespace"], metadata["name"])
                ):
                    self._cluster.patch(kind, metadata["name"], status, metadata["namespace"])


def _routes(virtual_hosts: list[Json]) -> Json:
    return {"@type": ROUTES, "name": "routes", "virtual_hosts": virtual_hosts}


def _manager(listener: Json) -> Json:
    found: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _named(cluster: Json, name: str) -> Json:
    made = {"@type": CLUSTER, **cluster, "name": name}
    if "load_assignment" in made:
        made["load_assignment"] = {**made["load_assignment"], "cluster_name": name}
    return made


def _per_route(asked: Json, cluster: str, authority: str) -> Json:
    """The filter's own configuration as what one route overrides."""
    service = {**asked["grpc_service"], "envoy_grpc": {"cluster_name": cluster, "authority": authority}}
    overrides = {
        "processing_mode": asked["processing_mode"],
        "grpc_service": service,
        "metadata_options": asked["metadata_options"],
        "failure_mode_allow": asked["failure_mode_allow"],
    }
    return {"@type": PER_ROUTE, "overrides": overrides}


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return is_ready and "deletionTimestamp" not in pod["metadata"] and bool(pod["status"].get("podIP"))


def _refers(ref: Json, route: Json, pool: Json, group: str) -> bool:
    namespace = ref.get("namespace", route["metadata"]["namespace"])
    return (ref.get("group"), ref.get("kind"), namespace, ref["name"]) == (
        group,
        "InferencePool",
        pool["namespace"],
        pool["name"],
    )


def _resolved(metadata: Json, problems: list[Unresolved]) -> Json:
    reason = problems[0].reason if problems else ""
    return _condition("ResolvedRefs", metadata, reason, "; ".join(map(str, problems)))


def _condition(kind: str, metadata: Json, reason: str, message: str) -> Json:
    """True if there is no `reason`."""
    made = {"type": kind, "status": "False" if reason else "True", "reason": reason or kind, "message": message}
    return made | {"observedGeneration": metadata["generation"], "lastTransitionTime": metadata["creationTimestamp"]}
