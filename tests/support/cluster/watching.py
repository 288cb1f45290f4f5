"""Watches: lists that go on, as lines of JSON."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from tests.support.cluster.faults import Faults
from tests.support.cluster.kinds import Kind
from tests.support.cluster.refusals import Refusal
from tests.support.cluster.store import Change, Store, Stored

Json = dict[str, Any]
MOST_S = 3600.0
_ENDS_LIST = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a list or watch is of."""

    kind: Kind
    version: str
    namespace: str  # "" is all
    selects: Callable[[Stored], bool]

    def holds(self, key: tuple[str, str], stored: Stored | None) -> bool:
        return stored is not None and self.namespace in ("", key[0]) and self.selects(stored)

    def json(self, stored: Stored) -> bytes:
        """In the version that was asked for."""
        if self.version == self.kind.versions[0]:
            return stored.json
        return msgspec.json.encode({**stored.data, "apiVersion": self.kind.api_version(self.version)})


class Watch:
    """One that is open. Lives on the loop; `command` may be called from there only."""

    def __init__(self, scope: Scope, request: web.BaseRequest, store: Store, faults: Faults, bookmark_s: float) -> None:
        query = request.query
        self.path = request.path
        self.resource = scope.kind.resource
        self.wake = asyncio.Event()
        self._scope, self._request, self._store, self._faults = scope, request, store, faults
        self._commands: list[str] = []
        self._bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        self._list_first = query.get("sendInitialEvents") in ("1", "true")
        self._from = query.get("resourceVersion", "")
        self._ends_s = time.monotonic() + float(query.get("timeoutSeconds") or MOST_S)
        self._bookmark_s = bookmark_s
        self._next_bookmark_s = time.monotonic() + bookmark_s
        self._at = 0
        self._wrong = False
        self._response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._response.enable_chunked_encoding()

    def command(self, what: str) -> None:
        """Something is to happen at once: one of `EVENT_FAULTS`."""
        self._commands.append(what)
        self.wake.set()

    async def run(self, wrong_json: bool) -> web.StreamResponse:
        """Until it ends, however it does."""
        self._wrong = wrong_json
        await self._response.prepare(self._request)
        try:
            await self._send_first()
            while await self._step():
                pass
        except Refusal as refusal:
            await self._send(_line("ERROR", msgspec.json.encode(refusal.status())))
        return self._response

    async def _send_first(self) -> None:
        if self._from not in ("", "0") and not self._list_first:
            self._at = int(self._from)
            return
        with self._store.lock:
            self._at = self._store.version
            objects = sorted(self._store.at(self.resource, self._at).items())
        for key, stored in objects:
            if self._scope.holds(key, stored):
                await self._send(_line("ADDED", self._scope.json(stored)))
        if self._list_first and self._bookmarks:
            await self._send(self._bookmark(self._at, _ENDS_LIST))

    async def _step(self) -> bool:
        """Sends what there is, or waits for it. Whether to go on."""
        self.wake.clear()
        while self._commands:
            if not await self._happens(self._commands.pop(0)):
                return False
        with self._store.lock:
            changes, now = self._store.since(self.resource, self._at), self._store.version
        for change in changes:
            if not await self._tell(change):
                return False
        self._at = max(now, self._at)
        return await self._rest()

    async def _rest(self) -> bool:
        now_s = time.monotonic()
        over = now_s >= self._ends_s
        if self._bookmarks and (over or now_s >= self._next_bookmark_s):
            self._next_bookmark_s = now_s + self._bookmark_s
            await self._send(self._bookmark(self._at))
        if over:
            return False
        until_s = min(self._ends_s, self._next_bookmark_s if self._bookmarks else self._ends_s)
        try:
            async with asyncio.timeout(until_s - now_s):
                await self.wake.wait()
        except TimeoutError:
            pass
        return True

    async def _tell(self, change: Change) -> bool:
        line = self._event(change)
        if line is None:
            return True
        what = self._faults.of_event(self.path)
        if what and not await self._happens(what, line):
            return False
        await self._send(line)
        self._at = change.version
        return True

    def _event(self, change: Change) -> bytes | None:
        """None for what does not concern this watch."""
        was, holds = self._scope.holds(change.key, change.before), self._scope.holds(change.key, change.now)
        if change.now is None:
            return _line("DELETED", self._scope.json(change.last)) if was else None
        if holds:
            return _line("MODIFIED" if was else "ADDED", self._scope.json(change.now))
        if not was or change.before is None:
            return None
        left = change.before.copy()  # no longer selected: as it was when it last was, with the version of the change
        left["metadata"]["resourceVersion"] = str(change.version)
        return _line("DELETED", self._scope.json(Stored(left, change.version)))

    async def _happens(self, what: str, line: bytes = b"") -> bool:
        """Whether the watch goes on."""
        if what == "silence":
            await asyncio.Event().wait()  # until the client goes, or the server
        if what == "expire":
            version = self._store.version
            raise Refusal(410, f"too old resource version: {self._at} ({version})")
        if what == "wrong_json":
            await self._send(b'{"type":"MODIFIED","object":{"metadata":\n')
        if what in ("same_bookmark", "old_bookmark") and self._bookmarks:
            await self._send(self._bookmark(self._at - 7 * (what == "old_bookmark")))
        if what == "cut_line":
            await self._send((line or self._bookmark(self._at))[:-9])
            self._close(abruptly=False)
        if what == "cut":
            self._close(abruptly=True)
        return what in ("same_bookmark", "old_bookmark")

    def _close(self, *, abruptly: bool) -> None:
        transport = self._request.transport
        if transport is not None:
            transport.abort() if abruptly else transport.close()

    def _bookmark(self, version: int, annotations: Json | None = None) -> bytes:
        kind = self._scope.kind
        metadata: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        metadata |= {"annotations": annotations} if annotations else {}
        mark: Json = {"kind": kind.kind, "apiVersion": kind.api_version(self._scope.version), "metadata": metadata}
        if kind.kind == "Pod":  # what is left of one that says nothing
            mark |= {"spec": {"containers": None}, "status": {}}
        return _line("BOOKMARK", msgspec.json.encode(mark))

    async def _send(self, line: bytes) -> None:
        if self._wrong:
            self._wrong, line = False, b"\x00 this is no JSON }\n"
        rate = self._faults.bytes_per_s
        step = max(1, int(rate / 10)) if rate else len(line)
        for start in range(0, len(line), step):
            await self._response.write(line[start : start + step])
            if rate:
                await asyncio.sleep(step / rate)


def _line(what: str, encoded: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (what.encode(), encoded)
