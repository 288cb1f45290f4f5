"""Base models: which adapters belong to which, as ConfigMaps say. Where those are from, nothing here knows.

A ConfigMap labelled `inference.networking.k8s.io/bbr-managed: "true"` names one base model (`data.baseModel`) and its
adapters (`data.adapters`, a YAML list in a string); several may name the same.
"""

import logging
from collections.abc import Iterable
from typing import Any

import msgspec

from picker.config.document import compose, drain
from picker.config.suggest import quoted
from picker.errors import BaseModelsError
from picker.resources.objects import Metadata

__all__ = ["LABEL", "Claim", "ConfigMap", "base_models", "claim_of"]

LABEL = "inference.networking.k8s.io/bbr-managed"
_LONGEST = 4096  # of what a header may say

_LOG = logging.getLogger("picker.bbr")


class ConfigMap(msgspec.Struct, frozen=True, kw_only=True):
    """A ConfigMap of the core API, v1."""

    metadata: Metadata
    data: dict[str, str] = {}
    binaryData: dict[str, str] = {}
    immutable: bool = False


class Claim(msgspec.Struct, frozen=True):
    """What one ConfigMap (`source`) says: these adapters belong to this base model."""

    source: str
    base: str
    adapters: tuple[str, ...]


def claim_of(config_map: ConfigMap) -> Claim | None:
    """What it says; None if it is not for the router. Raises ValueError naming the member that is wrong."""
    metadata = config_map.metadata
    if metadata.labels.get(LABEL) != "true":
        return None
    base = config_map.data.get("baseModel", "").strip()
    if not base:
        raise ValueError("baseModel: it is missing or empty; write the name of the base model")
    adapters = _adapters(config_map.data.get("adapters", ""))
    for name in (base, *adapters):
        if not name.isprintable() or len(name.encode()) > _LONGEST:
            raise ValueError(f"{'baseModel' if name is base else 'adapters'}: no header can hold {quoted(name)}")
    return Claim(f"{metadata.namespace or 'default'}/{metadata.name}", base, adapters)


def _adapters(text: str) -> tuple[str, ...]:
    if not text.strip():
        return ()
    try:
        listed: Any = drain(compose(text, source="adapters", error=BaseModelsError, keep_null=True)).value
    except BaseModelsError as problem:
        raise ValueError(f"adapters: it is not YAML: {problem.message}") from None
    if not isinstance(listed, list) or not all(isinstance(name, str) and name for name in listed):
        raise ValueError("adapters: expected a YAML list of names in a string; quote names that look like numbers")
    return tuple(listed)


def base_models(claims: Iterable[Claim]) -> dict[str, str]:
    """The base model of every model there is: of adapters as claimed, of a base model itself.

    An adapter that several base models claim belongs to the first of them, which is logged.
    """
    claims = tuple(claims)
    found = {claim.base: claim.base for claim in claims}
    bases = frozenset(found)
    for claim in claims:
        for adapter in claim.adapters:
            if adapter not in bases and found.setdefault(adapter, claim.base) != claim.base:
                _LOG.warning("adapter %s of %s belongs to base model %s already", adapter, claim.source, found[adapter])
    return found
