"""The objects beside the pools of a namespace, in whichever API group they are; and the body-based router's.

None of them need be there. A kind that two groups offer is read from the newer one wherever that is installed.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from picker.kube.objects import read_claim, read_model, read_objective, read_rewrite
from picker.kube.pools import LLM_D, OLD_GROUP, base_models_source, object_sources
from picker.kube.reflector import Listener, Presence, Reflector, Source
from picker.kube.store import Change, Key
from picker.resources.basemodels import Claim, base_models
from picker.resources.objects import Resource

__all__ = ["BaseModels", "Make", "NamespaceObjects"]

_LOG = logging.getLogger("picker.kube")

_READERS: dict[str, Callable[[bytes], Any]] = {
    "InferenceObjective": read_objective,
    "InferenceModelRewrite": read_rewrite,
    "InferenceModel": read_model,
}


class Make(Protocol):
    """Makes a reflector and starts it; it tells nothing before this returns."""

    def __call__(
        self, source: Source, decode: Callable[[bytes], Any], listener: Listener[Any], /
    ) -> Reflector[Any]: ...


class _Bell:
    """A listener that looks for itself what there is."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring

    def replaced(self, objects: Mapping[Key, Any]) -> None:
        self._ring()

    def changed(self, key: Key, change: Change[Any]) -> None:
        self._ring()

    def settled(self) -> None:
        self._ring()


_Group: TypeAlias = tuple[Reflector[Resource], ...]
"""Of one kind, the one that goes before first."""


class NamespaceObjects:
    """`on_change` is called when they may be others than before, and not before all of them were looked for: what the
    data plane knows from before a restart must not be taken from it only because it comes in piece by piece."""

    def __init__(self, namespace: str, make: Make, on_change: Callable[[str], None]) -> None:
        self.namespace = namespace
        self._on_change = on_change
        self._kinds: dict[str, _Group] = {}
        self._passed_over: dict[str, int] = {}  # as was told
        bell = _Bell(self._rung)
        for kind, sources in object_sources(namespace).items():
            self._kinds[kind] = tuple(make(source, _READERS[kind], bell) for source in sources)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waited for."""
        return all(each.is_settled for group in self._kinds.values() for each in group)

    @property
    def objects(self) -> tuple[Resource, ...]:
        """All that count."""
        return tuple(each for group in self._kinds.values() for each in _counting(group))

    def _rung(self) -> None:
        if self.is_settled:
            self._on_change(self.namespace)
            self._tell_passed_over()

    def _tell_passed_over(self) -> None:
        """Objects without effect must not be a riddle."""
        for kind, group in self._kinds.items():
            there = [each for each in group if each.presence is Presence.PRESENT]
            count = sum(len(each.store.objects) for each in there[1:])
            if count and not self._passed_over.get(kind):
                what = f"{count} of {kind} of {OLD_GROUP} in namespace {self.namespace} have no effect"
                _LOG.warning("%s: the cluster has that kind of %s too, which goes before; move them there", what, LLM_D)
            self._passed_over[kind] = count


def _counting(group: _Group) -> tuple[Resource, ...]:
    there = next((each for each in group if each.presence is Presence.PRESENT), None)
    return tuple(there.store.objects.values()) if there else ()


class BaseModels:
    """Tells `on_change` the base model of each adapter, of the ConfigMaps in the namespace."""

    def __init__(self, namespace: str, make: Make, on_change: Callable[[Mapping[str, str]], None]) -> None:
        self._on_change = on_change
        self._reflector: Reflector[Claim] = make(base_models_source(namespace), read_claim, _Bell(self._rung))

    def _rung(self) -> None:
        if self._reflector.presence is not Presence.UNKNOWN:
            claims = sorted(self._reflector.store.objects.values(), key=lambda claim: claim.source)
            self._on_change(base_models(claims))
