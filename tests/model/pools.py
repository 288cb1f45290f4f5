"""Slow model of `picker._core.pools`: every pool is asked whether it is meant."""

import re
from collections.abc import Iterable, Sequence

UNKNOWN, MANY = -1, -2
LONGEST = 320


def service_of(authority: bytes) -> tuple[bytes, bytes | None] | None:
    """Service and namespace (None: not said) of an authority; None if it names no service."""
    host = re.sub(rb":[0-9]*\Z", b"", authority.rpartition(b"|")[2])
    labels = host.removesuffix(b".").lower().split(b".")
    return (labels[0], labels[1] if len(labels) > 1 else None) if labels[0] else None


class PoolNames:
    def __init__(self, pools: Iterable[tuple[str, Iterable[str]]]) -> None:
        self._pools: list[tuple[bytes, Sequence[tuple[bytes, bytes | None] | None]]] = []
        for name, authorities in pools:
            assert name.encode() not in [known for known, _ in self._pools]
            self._pools.append((name.encode(), [service_of(authority.encode()) for authority in authorities]))

    def find(self, pool: bytes, authority: bytes) -> int:
        if max(len(pool), len(authority)) > LONGEST:
            return UNKNOWN
        wanted = service_of(authority)
        meant = [
            place
            for place, (name, services) in enumerate(self._pools)
            if (name == pool if pool else wanted is not None and any(_is(wanted, service) for service in services))
        ]
        return UNKNOWN if not meant else MANY if len(meant) > 1 else meant[0]


def _is(wanted: tuple[bytes, bytes | None], service: tuple[bytes, bytes | None] | None) -> bool:
    """Without a namespace it is the service of that name, whatever its own."""
    return service is not None and (wanted == service or wanted == (service[0], None))
