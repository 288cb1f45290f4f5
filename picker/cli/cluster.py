"""What of a cluster is served, as the flags say: pools by name or by labels, or pods by labels."""

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

from picker.config.settings import KubernetesSettings
from picker.config.suggest import quoted
from picker.errors import UsageError
from picker.kube.objects import MOST_PORTS

__all__ = ["cluster_settings", "pool_id"]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_POD = re.compile(r"(?P<deployment>.+)-[a-z0-9]+-[a-z0-9]+", re.ASCII)
_NO_CLUSTER: dict[str, Any] = {
    "pool_selector": "",
    "endpoint_selector": "",
    "target_ports": (),
    "kubeconfig": "",
    "base_models": False,
}
"""What has no effect beside a file of endpoints."""


def cluster_settings(
    given: KubernetesSettings, *, endpoints_file: str, base_models: bool
) -> tuple[KubernetesSettings, tuple[str, ...]]:
    """The settings with names in full, and what to warn of. Raises UsageError for what goes not together.

    `base_models`: whether the body-based router needs a cluster's ConfigMaps.
    """
    namespace = given.pool_namespace or os.environ.get("NAMESPACE", "") or "default"
    pools = tuple(dict.fromkeys(pool_id(name, namespace) for name in given.pools))
    found = dataclasses.replace(
        given,
        pools=pools,
        pool_namespace=namespace,
        target_ports=tuple(dict.fromkeys(given.target_ports)),
        deployment=_deployment(given.deployment),
        base_models=base_models,
    )
    if endpoints_file:
        return dataclasses.replace(found, **_NO_CLUSTER), tuple(_beside_a_file(found))
    _check(found)
    warnings = []
    if found.target_ports and not found.endpoint_selector:
        warnings.append("--endpoint-target-ports has no effect: the ports are those of the InferencePool")
    return found, tuple(warnings)


def pool_id(name: str, namespace: str) -> str:
    """`namespace/name`; a name may bring its own namespace. Raises UsageError for what no object can be called."""
    own, slash, short = name.rpartition("/")
    parts = (own if slash else namespace, short)
    for part in parts:
        if not all(map(_LABEL.fullmatch, part.split("."))):
            raise UsageError(
                f"picker serve: --pool-name: {quoted(name)} is no name of a pool; write NAME or NAMESPACE/NAME"
            )
    return "/".join(parts)


def _beside_a_file(found: KubernetesSettings) -> Iterator[str]:
    if len(found.pools) > 1:
        raise UsageError("picker serve: --endpoints-file is one pool; give --pool-name once, as its name")
    if found.pools:
        yield "--pool-name labels metrics and chooses objects: endpoints come from the endpoints file"
    for flag, value in (
        ("pool-selector", found.pool_selector),
        ("endpoint-selector", found.endpoint_selector),
        ("endpoint-target-ports", found.target_ports),
        ("kubeconfig", found.kubeconfig),
    ):
        if value:
            yield f"--{flag} has no effect: endpoints come from the endpoints file"


def _check(found: KubernetesSettings) -> None:
    ways = {
        "--pool-name": found.pools,
        "--pool-selector": found.pool_selector,
        "--endpoint-selector": found.endpoint_selector,
    }
    asked = [flag for flag, value in ways.items() if value]
    if not asked:
        raise UsageError(
            "picker serve: nothing to route to; pass --pool-name NAME in a cluster with an InferencePool, "
            "--endpoint-selector and --endpoint-target-ports in one without, or --endpoints-file FILE"
        )
    if len(asked) > 1:
        raise UsageError(f"picker serve: {' and '.join(asked)} exclude each other; give one")
    if found.endpoint_selector and not 1 <= len(found.target_ports) <= MOST_PORTS:
        given = len(found.target_ports)
        raise UsageError(
            f"picker serve: --endpoint-selector needs 1 to {MOST_PORTS} --endpoint-target-ports, not {given}"
        )


def _deployment(default: str) -> str:
    """Picker's own, of whose pods each has a name with two hashes behind it."""
    match = _POD.fullmatch(os.environ.get("POD_NAME", ""))
    return match["deployment"] if match else default
