"""Endpoints from a YAML file, followed while picker runs."""

import json
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import msgspec

from picker.config.decode import Decoder
from picker.config.document import MAX_BYTES, Document, compose, decode_text, drain, field_name
from picker.config.following import FollowedFile, read_file
from picker.config.suggest import one_of, quoted
from picker.errors import EndpointsFileError
from picker.types import Endpoint

__all__ = ["EndpointsFile", "parse_endpoints", "read_endpoints"]

MAX_ENDPOINTS = 10_000
ENDPOINTS_PER_STEP = 50


def read_endpoints(path: Path | str) -> tuple[Endpoint, ...]:
    """The endpoints in the file. Raises `EndpointsFileError` naming line and field."""
    data = read_file(Path(path), error=EndpointsFileError)
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


class EndpointsFile(FollowedFile[tuple[Endpoint, ...]]):
    """The endpoints of one file, kept current."""

    holds = "endpoints"
    error = EndpointsFileError

    def __init__(
        self,
        path: Path | str,
        *,
        on_change: Callable[[tuple[Endpoint, ...]], None] = lambda _: None,
        interval_s: float = 0.5,
        tick: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(path, (), on_change=on_change, interval_s=interval_s, tick=tick)
        self._entries: dict[bytes, Endpoint] = {}

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The last good ones."""
        return self.content

    def parse(self, data: bytes) -> Generator[None, None, tuple[Endpoint, ...]]:
        """The endpoints in `data`, as `parse_endpoints`."""
        return parse_endpoints(data, source=str(self.path), known=self._entries)
