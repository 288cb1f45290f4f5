"""Base models from a file of ConfigMaps, followed while picker runs. What they say: `picker.resources.basemodels`."""

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from pathlib import Path

from picker.config.following import FollowedFile
from picker.config.suggest import quoted
from picker.errors import BaseModelsError
from picker.resources.basemodels import LABEL, Claim, ConfigMap, base_models, claim_of
from picker.resources.documents import Manifest, read_manifests
from picker.resources.parse import KINDS

__all__ = ["LABEL", "BaseModelsFile", "Claim", "ConfigMap", "base_models", "claim_of", "parse_base_models"]

MOST_MODELS = 100_000

_LOG = logging.getLogger("picker.bbr")


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
