"""What discovery finds, told to the data plane and to the scraper: each costs what changes."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from picker._core.engine import check_objectives
from picker._core.rewrite import Rewrites
from picker.control.messages import Change, Close, Naming, Open, Prioritising, Rewriting, Synced
from picker.resources.objects import Resource
from picker.resources.rules import objectives, rewrite_rules
from picker.scrape.scraper import Scraper
from picker.types import Endpoint, EndpointKey

__all__ = ["PIECE", "Reports", "pieces"]

PIECE = 16
"""Endpoints, loads or rules in one message: some 200 us of the data plane's time."""

NAMES = 256  # of models or objectives in one message

_LOG = logging.getLogger("picker.control")
T = TypeVar("T")


def pieces(items: Sequence[T], size: int = PIECE) -> Iterator[Sequence[T]]:
    """`items` in order, a few at a time."""
    return (items[at : at + size] for at in range(0, len(items), size))


class Reports:
    """`send` takes messages to the data plane, which has the endpoints `known` already, by pool."""

    def __init__(
        self, send: Callable[[Iterable[Any]], None], scraper: Scraper, known: Mapping[str, Sequence[Endpoint]]
    ) -> None:
        self.changes = 0
        """Endpoints that came, went or changed."""
        self.send = send
        """Takes messages to the data plane."""
        self.known = asyncio.Event()
        """Set once what is to be served is known."""
        self._scraper = scraper
        self._pools = {pool: {endpoint.target: endpoint for endpoint in endpoints} for pool, endpoints in known.items()}
        self._holders: dict[EndpointKey, set[str]] = {}
        for pool, members in self._pools.items():
            self._hold(pool, members.values())
        scraper.set_endpoints([endpoint for members in self._pools.values() for endpoint in members.values()])

    def pools_of(self, key: EndpointKey) -> Iterable[str]:
        """Those with that endpoint."""
        return self._holders.get(key, ())

    def open_pool(self, pool: str, authorities: tuple[str, ...]) -> None:
        """There is this pool, and gateways call its picker by these authorities."""
        self._pools.setdefault(pool, {})
        self.send([Open(pool, authorities)])

    def close_pool(self, pool: str) -> None:
        """There is no such pool any more."""
        gone = self._pools.pop(pool, {}).values()
        self.changes += len(gone)
        self._scraper.change(gone=[endpoint.key for endpoint in gone if self._release(pool, endpoint.key)])
        self.send([Close(pool)])  # its endpoints go with it: requests under way may still be placed

    def set_endpoints(self, pool: str, endpoints: Sequence[Endpoint]) -> None:
        """These and no others."""
        coming = {endpoint.target: endpoint for endpoint in endpoints}
        before = self._pools.get(pool, {})
        gone = [endpoint for target, endpoint in before.items() if target not in coming]
        come = [new for target, new in coming.items() if (old := before.get(target)) is not new and old != new]
        self.change_endpoints(pool, gone, come)

    def change_endpoints(self, pool: str, gone: Sequence[Endpoint], come: Sequence[Endpoint]) -> None:
        """These went; these came, changed, or took the place of others."""
        members = self._pools.setdefault(pool, {})
        were = len(members)
        replaced = [old for new in come if (old := members.get(new.target)) and old.key != new.key]
        for endpoint in gone:
            members.pop(endpoint.target, None)
        members.update((endpoint.target, endpoint) for endpoint in come)
        self.changes += len(gone) + len(come)
        if bool(members) != bool(were):
            level = logging.INFO if members else logging.WARNING
            _LOG.log(level, "pool %s has %d endpoints, after %d", pool, len(members), were)
        left = [endpoint.key for endpoint in (*gone, *replaced) if self._release(pool, endpoint.key)]
        self._hold(pool, come)
        self._scraper.change(gone=left, come=come)
        self.send(Change(pool, tuple(old.target for old in piece), ()) for piece in pieces(gone))
        self.send(Change(pool, (), tuple(piece)) for piece in pieces(come))

    def set_objects(self, pool: str, objects: tuple[Resource, ...]) -> None:
        """Sends what the pool's objects come to. Raises OverflowError if that is too much."""
        rules, priorities = rewrite_rules(objects), objectives(objects)
        Rewrites(rules)  # what no engine takes is refused here: over there it would end the link
        check_objectives(priorities)
        _LOG.info("objects: pool=%s objects=%d rules=%d objectives=%d", pool, len(objects), len(rules), len(priorities))
        self.send(Rewriting(pool, tuple(piece), first, last) for piece, first, last in _marked(rules, PIECE))
        rows = tuple(priorities.items())
        self.send(Prioritising(pool, tuple(piece), first, last) for piece, first, last in _marked(rows, NAMES))

    def set_base_models(self, models: Mapping[str, str]) -> None:
        """The base model of each model there is."""
        rows = tuple(models.items())
        self.send(Naming(tuple(piece), first, last) for piece, first, last in _marked(rows, NAMES))

    def set_synced(self, synced: bool) -> None:
        """Whether what is to be served is known."""
        self.send([Synced(synced)])
        if synced:
            self.known.set()

    def _hold(self, pool: str, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            self._holders.setdefault(endpoint.key, set()).add(pool)

    def _release(self, pool: str, key: EndpointKey) -> bool:
        """Whether no pool has that endpoint any more."""
        holders = self._holders.get(key, set())
        holders.discard(pool)
        if not holders:
            self._holders.pop(key, None)
        return not holders


def _marked(items: Sequence[T], size: int) -> Iterator[tuple[Sequence[T], bool, bool]]:
    """The pieces, and whether each is the first and the last; one empty piece of nothing."""
    parts = tuple(pieces(items, size)) or ((),)
    return ((part, at == 0, at == len(parts) - 1) for at, part in enumerate(parts))
