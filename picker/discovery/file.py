"""Endpoints from a YAML file, followed while picker runs.

A look at the file is one `stat` while nothing changes. A change counts once two looks in a row see the same content,
so a file that is being written, or replaced by way of a moment without it, is not read half. A bad edit keeps the
last good endpoints, is logged once and counted; a good one recovers. Reading is sliced, so that a file of thousands
of endpoints does not hold up the event loop it is read on.
"""

import asyncio
import hashlib
import json
import logging
import os
import stat as modes
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from picker.config.decode import Decoder
from picker.config.document import MAX_BYTES, Document, compose, decode_text, drain, field_name
from picker.config.suggest import one_of, quoted
from picker.errors import EndpointsFileError
from picker.types import Endpoint

__all__ = ["EndpointsFile", "parse_endpoints", "read_endpoints"]

MAX_ENDPOINTS = 10_000
ENDPOINTS_PER_STEP = 50

_Stat: TypeAlias = tuple[int, int, int, int, int]

log = logging.getLogger(__name__)


def read_endpoints(path: Path | str) -> tuple[Endpoint, ...]:
    """The endpoints in the file. Raises `EndpointsFileError` naming line and field."""
    data = _read(Path(path))[0]
    return drain(parse_endpoints(data, source=str(path)))


def parse_endpoints(
    data: bytes, *, source: str, known: dict[bytes, Endpoint] | None = None
) -> Generator[None, None, tuple[Endpoint, ...]]:
    """The endpoints in `data`, in slices: yields now and then, returns them all. Raises `EndpointsFileError`.

    `known` keeps the entries of a JSON file from one call to the next, so that what stays is not decoded again.
    """
    quick = _quick(data, {} if known is None else known)
    if quick is not None:
        return quick
    text = decode_text(data, source=source, error=EndpointsFileError)
    document = yield from compose(text, source=source, error=EndpointsFileError, keep_null=True)
    decoder = Decoder(document, source=source, error=EndpointsFileError)
    entries = _entries(document, decoder)
    used: dict[str, tuple[str | int, ...]] = {}
    endpoints = []
    for index, entry in enumerate(entries):
        path = ("endpoints", index)
        endpoint = decoder.convert(path, _tidied(entry), Endpoint)
        _claim(used, f"name {quoted(endpoint.name)}", (*path, "name"), decoder)
        _claim(used, f"address {endpoint.target}", (*path, "address"), decoder)
        endpoints.append(endpoint)
        if index % ENDPOINTS_PER_STEP == ENDPOINTS_PER_STEP - 1:
            yield
    return tuple(endpoints)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    endpoints: list[msgspec.Raw]


_decode_file = msgspec.json.Decoder(_File).decode


def _quick(data: bytes, known: dict[bytes, Endpoint]) -> tuple[Endpoint, ...] | None:
    """The endpoints of a file that programs write: JSON, without escapes and right in every way. None for any other.

    It says nothing of what is wrong; the long way does. 2,000 endpoints of which one is new: 3 ms instead of 115.
    """
    if not data.startswith(b"{") or b"\\" in data or data.count(b'"endpoints"') != 1 or len(data) > MAX_BYTES:
        return None
    try:
        raw = [bytes(entry) for entry in _decode_file(data).endpoints]
        found = {entry: known.get(entry) or _entry(entry) for entry in raw}
    except (ValueError, TypeError, RecursionError):  # of msgspec and json alike
        return None
    endpoints = tuple(found.values())
    names, targets = {endpoint.name for endpoint in endpoints}, {endpoint.target for endpoint in endpoints}
    if not len(names) == len(targets) == len(raw) <= MAX_ENDPOINTS:
        return None
    known.clear()
    known.update(found)
    return endpoints


def _entry(raw: bytes) -> Endpoint:
    value = json.loads(raw, object_pairs_hook=_no_repeats, parse_constant=_refuse)
    return msgspec.convert(_tidied(value), Endpoint)


def _no_repeats(members: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(members)) != len(members):
        raise ValueError("a repeated key")
    return dict(members)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _entries(document: Document, decoder: Decoder) -> list[Any]:
    top = document.value
    if not isinstance(top, dict):
        raise decoder.failure("expected a mapping with the member endpoints", (), hint="begin with 'endpoints:'")
    for key in top:
        if key != "endpoints":
            raise decoder.failure("unknown field", (key,), hint=one_of(key, ["endpoints"]))
    entries = top.get("endpoints")
    if not isinstance(entries, list):
        what = "endpoints is missing" if "endpoints" not in top else "expected a list"
        raise decoder.failure(what, ("endpoints",), hint="write [] if there are none")
    if len(entries) > MAX_ENDPOINTS:
        raise decoder.failure(f"{len(entries)} endpoints are given", ("endpoints",), hint=f"at most {MAX_ENDPOINTS}")
    return entries


def _tidied(entry: Any) -> Any:
    """The entry with its port as a number: the peer writes `port: "8000"`, both are taken. Null members are absent."""
    if not isinstance(entry, dict):
        return entry
    present = {key: value for key, value in entry.items() if value is not None}
    port = present.get("port")
    if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) <= 5:
        present["port"] = int(port)
    return present


def _claim(used: dict[str, tuple[str | int, ...]], what: str, path: tuple[str | int, ...], decoder: Decoder) -> None:
    first = used.setdefault(what, path)
    if first is not path:
        where = f"line {decoder.document.line(first)} ({field_name(first)})"
        raise decoder.failure(f"{what} is used twice", path, hint=f"it is taken on {where}")


def _read(path: Path) -> tuple[bytes, _Stat]:
    """Content and the stat of the very file it came from. Raises `EndpointsFileError`."""
    try:
        if not modes.S_ISREG(path.stat().st_mode):  # a pipe would block the loop, and cannot be read twice
            raise OSError(None, "it is not a regular file")
        with path.open("rb") as file:
            stat = _identity(os.fstat(file.fileno()))
            return file.read(MAX_BYTES + 1), stat
    except OSError as problem:
        raise _unreadable(path, problem) from None


def _identity(stat: os.stat_result) -> _Stat:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _unreadable(path: Path, problem: OSError) -> EndpointsFileError:
    reason = problem.strerror or str(problem)
    return EndpointsFileError(f"cannot be read: {reason}", source=str(path), hint="check the path and its permissions")


class EndpointsFile:
    """The endpoints of one file, kept current.

    `load` once at the start (a bad file is an error there), or `resume` with what was loaded elsewhere; then `start`
    and `stop` around the time they are needed;
    `on_change` is called on the event loop with the new endpoints. If it raises, that counts as a bad edit.
    `tick` waits for the time of the next look; tests pass their own.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        on_change: Callable[[tuple[Endpoint, ...]], None] = lambda _: None,
        interval_s: float = 0.5,
        tick: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.path = Path(path)
        self.endpoints: tuple[Endpoint, ...] = ()
        """The last good ones."""
        self.reloads = 0
        """Changes taken over since the start."""
        self.reload_errors = 0
        """Distinct bad contents seen since the start, a missing file included."""
        self.last_error: EndpointsFileError | None = None
        """Why the file as it stands is not in use; None if it is."""
        self.confirmed_s: float | None = None
        """When a look last found the endpoints to be those of the file, by `time.monotonic`."""
        self._on_change = on_change
        self._tick = tick if tick is not None else lambda: asyncio.sleep(interval_s)
        self._task: asyncio.Task[None] | None = None
        self._stat: _Stat | None = None
        self._seen = ""  # fingerprint of the last look
        self._settled = ""  # fingerprint last acted on
        self._applied = ""  # fingerprint the endpoints came from
        self._entries: dict[bytes, Endpoint] = {}

    def load(self) -> tuple[Endpoint, ...]:
        """Reads the file now and returns its endpoints; `on_change` is not called. Raises `EndpointsFileError`."""
        data, _ = _read(self.path)  # the stat is not kept: an edit within one clock tick of this would look the same
        self.endpoints = drain(parse_endpoints(data, source=str(self.path), known=self._entries))
        self._seen = self._settled = self._applied = _digest(data)
        return self.endpoints

    def resume(self, endpoints: tuple[Endpoint, ...], fingerprint: str) -> None:
        """Goes on from endpoints that are in use. `fingerprint`: of the content they came from; "" if not known."""
        self.endpoints = endpoints
        self._seen = self._settled = self._applied = fingerprint

    @property
    def fingerprint(self) -> str:
        """Of the content the endpoints came from."""
        return self._applied

    def look(self) -> Generator[None, None, None]:
        """One look at the file, in slices; takes over a change that two looks agree on."""
        if self._seen == self._settled and self._unchanged():
            return
        try:
            data, self._stat = _read(self.path)
        except EndpointsFileError as problem:
            self._stat = None
            if self._agreed(str(problem)):
                self._reject(problem)
            return
        fingerprint = _digest(data)
        if not self._agreed(fingerprint):
            return
        try:
            if fingerprint != self._applied:
                yield from self._apply(data)
            self._applied = fingerprint
            self._recover()
        except EndpointsFileError as problem:
            self._reject(problem)

    def start(self) -> None:
        """Begins to follow the file on the running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="endpoints file")

    async def stop(self) -> None:
        """Ends following and waits until nothing runs; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self) -> None:
        while True:
            await self._tick()
            try:
                for _ in self.look():
                    await asyncio.sleep(0)
                if self._seen == self._settled == self._applied:
                    self.confirmed_s = time.monotonic()
            except Exception:  # a bug must not end the watch: the pool would silently freeze
                log.exception("looking at the endpoints file failed: path=%s", self.path)

    def _unchanged(self) -> bool:
        try:
            return _identity(self.path.stat()) == self._stat
        except OSError:
            return False

    def _agreed(self, fingerprint: str) -> bool:
        """Whether this look saw what the last one saw, and that is news; it is then acted on once."""
        agreed = fingerprint == self._seen and fingerprint != self._settled
        self._seen = fingerprint
        if agreed:
            self._settled = fingerprint
        return agreed

    def _apply(self, data: bytes) -> Generator[None, None, None]:
        endpoints = yield from parse_endpoints(data, source=str(self.path), known=self._entries)
        try:
            self._on_change(endpoints)
        except Exception as problem:  # the pool refused them; the old ones stay
            what = f"{len(endpoints)} endpoints were refused: {problem}"
            raise EndpointsFileError(what, source=str(self.path), hint="the last good endpoints stay") from problem
        self.endpoints = endpoints
        self.reloads += 1
        log.info("endpoints file read: path=%s endpoints=%d", self.path, len(endpoints))

    def _reject(self, problem: EndpointsFileError) -> None:
        self.last_error = problem
        self.reload_errors += 1
        log.error(
            "endpoints file not usable, keeping the last good endpoints: endpoints=%d error=%s",
            len(self.endpoints),
            problem,
        )

    def _recover(self) -> None:
        if self.last_error is not None:
            log.info("endpoints file is good again: path=%s endpoints=%d", self.path, len(self.endpoints))
        self.last_error = None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
