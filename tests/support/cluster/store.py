"""Objects and their history: what etcd and the watch cache are to an API server.

One counter gives every change its resourceVersion. The history of each resource lets a watch begin in the past, and a
list show it, until the history is compacted. All of it may be called from any thread.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.support.cluster.refusals import expired

Json = dict[str, Any]
Resource = tuple[str, str]  # group, plural
Key = tuple[str, str]  # namespace, name
FIRST_VERSION = 1000
HISTORY = 10_000


class Stored:
    """One state of one object. Never changes; `data` is not to be written to."""

    __slots__ = ("data", "json", "version")

    def __init__(self, data: Json, version: int) -> None:
        self.json = msgspec.json.encode(data)
        self.data: Json = msgspec.json.decode(self.json)
        self.version = version

    def copy(self) -> Json:
        return dict(msgspec.json.decode(self.json))

    @property
    def labels(self) -> dict[str, str]:
        return self.data["metadata"].get("labels") or {}


@dataclass(frozen=True, slots=True)
class Change:
    """`now` is None where the object went; its last state, with the version of the deletion, is `last` then."""

    version: int
    key: Key
    before: Stored | None
    now: Stored | None
    last: Stored


class Store:
    """`on_change` is called, with the lock held, after each change."""

    def __init__(self, on_change: Callable[[Resource], None], history: int = HISTORY) -> None:
        self.lock = threading.RLock()
        self.version = FIRST_VERSION
        self._on_change = on_change
        self._length = history
        self._objects: dict[Resource, dict[Key, Stored]] = {}
        self._history: dict[Resource, deque[Change]] = {}
        self._compacted: dict[Resource, int] = {}
        self._all_compacted = 0

    def get(self, resource: Resource, key: Key) -> Stored | None:
        return self._objects.get(resource, {}).get(key)

    def put(self, resource: Resource, key: Key, data: Json) -> Stored:
        """Under the next version, which is written into `data`."""
        with self.lock:
            self.version += 1
            data["metadata"]["resourceVersion"] = str(self.version)
            now = Stored(data, self.version)
            objects = self._objects.setdefault(resource, {})
            change = Change(self.version, key, objects.get(key), now, now)
            objects[key] = now
            self._remember(resource, change)
            return now

    def remove(self, resource: Resource, key: Key) -> Stored:
        """Its last state."""
        with self.lock:
            before = self._objects[resource].pop(key)
            self.version += 1
            data = before.copy()
            data["metadata"]["resourceVersion"] = str(self.version)
            last = Stored(data, self.version)
            self._remember(resource, Change(self.version, key, before, None, last))
            return last

    def _remember(self, resource: Resource, change: Change) -> None:
        history = self._history.setdefault(resource, deque())
        history.append(change)
        while len(history) > self._length:
            self._compacted[resource] = history.popleft().version
        self._on_change(resource)

    def compact(self) -> None:
        """Every version up to now is too old from here on: watches and lists may begin only after it."""
        with self.lock:
            self.version += 1
            self._all_compacted = self.version
            self._history.clear()

    def oldest(self, resource: Resource) -> int:
        """The version a watch may begin at, at the earliest."""
        return max(self._all_compacted, self._compacted.get(resource, 0))

    def since(self, resource: Resource, version: int) -> list[Change]:
        """The changes after it, in order. Raises Refusal 410."""
        with self.lock:
            if version < self.oldest(resource):
                raise expired(f"too old resource version: {version} ({self.oldest(resource)})")
            found = []
            for change in reversed(self._history.get(resource, ())):
                if change.version <= version:
                    break
                found.append(change)
            return found[::-1]

    def at(self, resource: Resource, version: int) -> dict[Key, Stored]:
        """The objects as they were. Raises Refusal 410."""
        with self.lock:
            found = dict(self._objects.get(resource, {}))
            if version >= self.version:
                return found
            for change in reversed(self.since(resource, version)):
                if change.before is None:
                    found.pop(change.key, None)
                else:
                    found[change.key] = change.before
            return found
