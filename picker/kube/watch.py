"""The cluster as picker serves it: pools, their pods and the objects beside them, told to a sink as they change.

What is told is always the difference to what was told before, be it after an event, a list, or a restart of the process
(`known`). While the API server is away everything stays as it was; `figures` says how old it is.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from picker.config.settings import KubernetesSettings
from picker.kube.beside import BaseModels, NamespaceObjects
from picker.kube.objects import Pod, PoolSpec, read_pod
from picker.kube.pace import Timing
from picker.kube.pods import EndpointTable
from picker.kube.pools import (
    named_pools,
    one_pool_source,
    pod_source,
    pool_reader,
    pools_source,
    standalone_pool,
)
from picker.kube.reflector import Api, Counts, Listener, Presence, Reflector, Source, Surroundings
from picker.kube.store import Change, Key
from picker.resources.objects import Resource
from picker.resources.rules import of_pool
from picker.types import Endpoint

__all__ = ["KindFigures", "KubernetesWatch", "WatchSink"]

_LOG = logging.getLogger("picker.kube")


class WatchSink(Protocol):
    """Who is told; on the loop, so that nothing may block. OverflowError, for what is too much, is logged and counted.

    A pool is called `<namespace>/<name>`."""

    def open_pool(self, pool: str, authorities: tuple[str, ...]) -> None:
        """There is this pool, its endpoint picker called so by gateways. Again when those change."""

    def close_pool(self, pool: str) -> None:
        """There is no such pool any more."""

    def change_endpoints(self, pool: str, gone: Sequence[Endpoint], come: Sequence[Endpoint]) -> None:
        """First `gone` (also those that others took the place of), then `come` (also those with other labels)."""

    def set_objects(self, pool: str, objects: tuple[Resource, ...]) -> None:
        """All objects for this pool, in no order."""

    def set_base_models(self, claims: Mapping[str, str]) -> None:
        """Adapter or base model -> base model: all there are."""

    def set_synced(self, synced: bool) -> None:
        """Whether pools asked for are there and their pods known. Of several that were asked for by name one is enough.
        Once it is so, it stays, until none of them is left."""


@dataclass(frozen=True, slots=True)
class KindFigures:
    """What happened to one kind of objects (`plural.group`) so far, and how it stands.

    `age_s`: since the objects were last known to be all there are; None for a kind that is not there. `faults`: by
    cause."""

    kind: str
    objects: int
    lists: int
    watches: int
    events: int
    stale_events: int
    unusable: int
    faults: Mapping[str, int]
    age_s: float | None


class _Pods:
    """The pods of one pool."""

    def __init__(self, watch: "KubernetesWatch", spec: PoolSpec, selector: str, told: Sequence[Endpoint]) -> None:
        self.spec = spec
        self.table = EndpointTable(spec, told)
        self.is_listed = False
        self.objects: tuple[Resource, ...] | None = None
        """Those that were told."""
        self._watch, self._selector = watch, selector
        self.reflector = self._follow()

    def _follow(self) -> Reflector[Pod]:
        return self._watch.follow(pod_source(self.spec, self._selector), read_pod, self)

    def respec(self, spec: PoolSpec, selector: str) -> None:
        """The pool is another. Pods of another selector are listed first; until then those there were stay."""
        self.spec = spec
        if selector != self._selector:
            self._watch.unfollow(self.reflector)
            self._selector = selector
            self.reflector = self._follow()
        elif self.reflector.presence is Presence.PRESENT:
            self.replaced(self.reflector.store.objects)

    def replaced(self, objects: Mapping[Key, Pod]) -> None:
        self.table.replace(self.spec, objects)
        self._watch.tell_endpoints(self)
        self.is_listed = True
        self._watch.tell_synced()

    def changed(self, key: Key, change: Change[Pod]) -> None:
        self.table.change(key, change.after)
        self._watch.tell_endpoints(self)

    def settled(self) -> None:
        pass


class _NamedPool:
    """A pool that was asked for by name."""

    def __init__(self, watch: "KubernetesWatch", key: Key) -> None:
        self._watch, self._key = watch, key
        self._is_there: bool | None = None

    def replaced(self, objects: Mapping[Key, PoolSpec]) -> None:
        self._be(objects.get(self._key))

    def changed(self, key: Key, change: Change[PoolSpec]) -> None:
        if key == self._key:
            self._be(change.after)

    def settled(self) -> None:
        pass

    def _be(self, spec: PoolSpec | None) -> None:
        self._watch.looked_for.add(self._key)
        if spec is not None:
            self._watch.put_pool(spec, spec.selector)
        elif self._is_there is not False:
            self._watch.empty_pool("/".join(self._key))
        self._is_there = spec is not None


class _SelectedPools:
    """All pools with certain labels."""

    def __init__(self, watch: "KubernetesWatch") -> None:
        self._watch = watch

    def replaced(self, objects: Mapping[Key, PoolSpec]) -> None:
        there = {spec.id for spec in objects.values()}
        for pool in self._watch.pools - there:
            self._watch.close_pool(pool)
        for spec in objects.values():
            self._watch.put_pool(spec, spec.selector)
        self._watch.are_pools_known = True
        self._watch.tell_synced()

    def changed(self, key: Key, change: Change[PoolSpec]) -> None:
        if change.after is None:
            self._watch.close_pool("/".join(key))
        else:
            self._watch.put_pool(change.after, change.after.selector)

    def settled(self) -> None:
        pass


class KubernetesWatch:
    """Follows what the settings ask for. `known`: the endpoints that the sink has already, by pool.

    Raises ValueError for settings that make no sense."""

    def __init__(
        self,
        settings: KubernetesSettings,
        client: Api,
        sink: WatchSink,
        *,
        known: Mapping[str, Sequence[Endpoint]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        timing: Timing | None = None,
    ) -> None:
        self.kept_out = 0
        """Changes that were too much for the sink."""
        self.are_pools_known = not settings.pool_selector
        self._settings, self._client, self._sink = settings, client, sink
        self._around = Surroundings(clock, sleep, jitter, timing or Timing())
        self._named = named_pools(settings)
        self._standalone = standalone_pool(settings) if settings.endpoint_selector else None
        self._known = {pool: tuple(endpoints) for pool, endpoints in (known or {}).items()}
        self._pools: dict[str, _Pods] = {}
        self._opened: dict[str, tuple[str, ...]] = {}  # with their authorities; a deleted one stays, but empty
        self._beside: dict[str, NamespaceObjects] = {}
        self._counts: dict[str, Counts] = {}
        self._running: dict[Reflector[Any], tuple[str, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._is_synced: bool | None = None
        self._is_resumed = bool(known)  # the sink may think that all is well
        self.looked_for: set[Key] = set()
        """Pools named by the settings that are known to be there, or not."""

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._begin()
            await asyncio.get_running_loop().create_future()  # for ever

    def figures(self) -> tuple[KindFigures, ...]:
        """By kind, in the order of their names."""
        return tuple(self._figures(kind) for kind in sorted(self._counts))

    def _begin(self) -> None:
        settings = self._settings
        chosen = [settings.pool_namespace] if settings.pool_selector or self._standalone else []
        for namespace in dict.fromkeys((*chosen, *(namespace for namespace, _ in self._named))):
            self._beside[namespace] = NamespaceObjects(namespace, self.follow, self._tell_objects)
        if settings.base_models:
            BaseModels(settings.pool_namespace, self.follow, self._tell_base_models)
        read = pool_reader(settings.pool_group)
        for namespace, name in self._named:
            source = one_pool_source(settings.pool_group, namespace, name)
            self.follow(source, read, _NamedPool(self, (namespace, name)))
        if settings.pool_selector:
            self.follow(pools_source(settings), read, _SelectedPools(self))
        if self._standalone is not None:
            self.put_pool(self._standalone, settings.endpoint_selector)
        self.tell_synced()

    # Reflectors.

    def follow(self, source: Source, decode: Callable[[bytes], Any], listener: Listener[Any]) -> Reflector[Any]:
        """A reflector, at work until `unfollow`."""
        if self._group is None:
            raise RuntimeError("not running")
        counts = self._counts.setdefault(source.kind, Counts())
        made = Reflector(source, decode, listener, client=self._client, counts=counts, around=self._around)
        self._running[made] = source.kind, self._group.create_task(made.run(), name=source.path)
        return made

    def unfollow(self, reflector: Reflector[Any]) -> None:
        """It tells nothing any more."""
        _, task = self._running.pop(reflector)
        task.cancel()

    def _figures(self, kind: str) -> KindFigures:
        counts = self._counts[kind]
        running = [each for each, (of, _) in self._running.items() if of == kind]
        ages = [each.age_s for each in running if each.presence is not Presence.ABSENT]
        return KindFigures(
            kind=kind,
            objects=sum(len(each.store) for each in running),
            lists=counts.lists,
            watches=counts.watches,
            events=counts.events,
            stale_events=counts.stale_events,
            unusable=counts.unusable,
            faults=dict(counts.faults),
            age_s=max(ages, default=None),
        )

    # Pools.

    @property
    def pools(self) -> set[str]:
        """Those that the sink has."""
        return {*self._pools, *self._known}

    def put_pool(self, spec: PoolSpec, selector: str) -> None:
        """There is this pool, new or other than before."""
        pool = self._pools.get(spec.id)
        if self._opened.get(spec.id) != spec.authorities:
            self._tell(self._sink.open_pool, spec.id, spec.authorities)
            self._opened[spec.id] = spec.authorities
        if pool is None:
            _LOG.info("pool %s: ports %s of the pods with %s", spec.id, ", ".join(map(str, spec.ports)), selector)
            told = self._known.pop(spec.id, ())
            self._pools[spec.id] = _Pods(self, spec, selector, told)
            self._tell_objects(spec.namespace)
        elif pool.spec != spec:
            pool.respec(spec, selector)

    def empty_pool(self, pool: str) -> None:
        """A pool that was asked for is not there, or not any more: it has no endpoints then."""
        gone = self._pools.pop(pool, None)
        _LOG.warning("pool %s %s", pool, "is waited for: there is none of that name" if gone is None else "is deleted")
        if gone is not None:
            self.unfollow(gone.reflector)
        told = gone.table.told if gone is not None else self._known.pop(pool, ())
        if told:
            self._tell(self._sink.change_endpoints, pool, told, ())
        self.tell_synced()

    def close_pool(self, pool: str) -> None:
        """A pool that labels had chosen is gone."""
        gone = self._pools.pop(pool, None)
        self._known.pop(pool, None)
        self._opened.pop(pool, None)
        if gone is not None:
            self.unfollow(gone.reflector)
        _LOG.info("pool %s is gone", pool)
        self._tell(self._sink.close_pool, pool)
        self.tell_synced()

    # What the sink is told.

    def tell_endpoints(self, pool: _Pods) -> None:
        """What is other than told."""
        difference = pool.table.difference()
        if difference.gone or difference.come:
            self._tell(self._sink.change_endpoints, pool.spec.id, *difference)
        pool.table.confirm(difference)

    def tell_synced(self) -> None:
        """If it has changed."""
        if not (self.are_pools_known and self.looked_for.issuperset(self._named)):
            return
        is_synced = not self._named or bool(self._pools)  # one that is missing is no reason not to serve the others
        if is_synced and not (self._is_synced or all(pool.is_listed for pool in self._pools.values())):
            return
        if is_synced != self._is_synced and (is_synced or self._is_synced or self._is_resumed):
            level, what = (logging.INFO, "can be served") if is_synced else (logging.WARNING, "cannot: there is none")
            _LOG.log(level, "what was asked for %s; readiness goes by that", what)
            self._tell(self._sink.set_synced, is_synced)
            self._is_synced = is_synced

    def _tell_objects(self, namespace: str) -> None:
        beside = self._beside.get(namespace)
        if beside is None or not beside.is_settled:
            return
        found = beside.objects
        for pool in self._pools.values():
            if pool.spec.namespace == namespace:
                self._tell_objects_of(pool, found)

    def _tell_objects_of(self, pool: _Pods, found: tuple[Resource, ...]) -> None:
        group = "" if self._standalone is not None else self._settings.pool_group
        ours = of_pool(found, pool=pool.spec.name, namespace=pool.spec.namespace, group=group)
        if ours != pool.objects:
            self._tell(self._sink.set_objects, pool.spec.id, ours)
            pool.objects = ours

    def _tell_base_models(self, claims: Mapping[str, str]) -> None:
        self._tell(self._sink.set_base_models, claims)

    def _tell(self, what: Callable[..., None], *content: Any) -> None:
        try:
            what(*content)
        except OverflowError as problem:
            self.kept_out += 1
            _LOG.error("kept out: %s", problem)
