"""Base models: which adapters belong to which, as ConfigMaps say.

A ConfigMap labelled `inference.networking.k8s.io/bbr-managed: "true"` names one base model (`data.baseModel`) and its
adapters (`data.adapters`, a YAML list in a string); several may name the same. Where they come from, a file or a watch,
nothing here but `BaseModelsFile` knows.
"""

import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from picker.config.document import compose, drain
from picker.config.following import FollowedFile
from picker.config.suggest import quoted
from picker.errors import BaseModelsError
from picker.resources.documents import Manifest, read_manifests
from picker.resources.objects import Metadata
from picker.resources.parse import KINDS

__all__ = ["LABEL", "BaseModelsFile", "Claim", "ConfigMap", "base_models", "claim_of", "parse_base_models"]

LABEL = "inference.networking.k8s.io/bbr-managed"
MOST_MODELS = 100_000
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


def parse_base_models(data: bytes, *, source: str) -> Generator[None, None, dict[str, str]]:
    """The base models that the manifests in `data` come to, in slices. Raises BaseModelsError naming the line."""
    manifests = yield from read_manifests(data, source=source, error=BaseModelsError)
    claims = []
    for manifest in manifests:
        claim = _claim(manifest)
        if claim is not None:
            claims.append(claim)
        yield
    found = base_models(claims)
    if len(found) > MOST_MODELS:
        raise BaseModelsError(f"{len(found)} models are named", source=source, hint=f"at most {MOST_MODELS}")
    return found


def _claim(manifest: Manifest) -> Claim | None:
    if manifest.kind in KINDS:
        return None  # of the same file as --resources-file
    if manifest.kind != "ConfigMap" or manifest.api_version != "v1":
        what = f"{quoted(manifest.api_version)} {quoted(manifest.kind)} is not a ConfigMap"
        raise manifest.failure(what, ("kind",), hint="base models stand in ConfigMaps, apiVersion v1")
    config_map = manifest.decode(ConfigMap)
    try:
        claim = claim_of(config_map)
    except ValueError as problem:
        member, _, what = str(problem).partition(": ")
        raise manifest.failure(what, ("data", member)) from None
    if claim is None:
        _LOG.warning('ConfigMap %s is passed over: it has no label %s: "true"', config_map.metadata.name, LABEL)
    return claim


class BaseModelsFile(FollowedFile[Mapping[str, str]]):
    """The base models of one file, kept current."""

    holds = "models"
    error = BaseModelsError

    def __init__(
        self,
        path: Path | str,
        *,
        on_change: Callable[[Mapping[str, str]], None] = lambda _: None,
        interval_s: float = 0.5,
        tick: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(path, {}, on_change=on_change, interval_s=interval_s, tick=tick)

    def parse(self, data: bytes) -> Generator[None, None, Mapping[str, str]]:
        """The base models in `data`."""
        return parse_base_models(data, source=str(self.path))
