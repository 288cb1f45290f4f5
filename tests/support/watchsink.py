"""A sink of what is watched, as strict as a contract can be: it keeps what it was told, refuses what makes no sense."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from picker.resources.objects import Resource
from picker.types import Endpoint

LIMIT_S = 20.0


class Sink:
    """`endpoints` by pool and target; `synced` is every word about it, in order; `changes` counts what was told."""

    def __init__(self, known: Mapping[str, Sequence[Endpoint]] | None = None) -> None:
        self.pools: dict[str, tuple[str, ...]] = {}
        self.endpoints: dict[str, dict[str, Endpoint]] = {
            pool: {each.target: each for each in endpoints} for pool, endpoints in (known or {}).items()
        }
        self.objects: dict[str, tuple[Resource, ...]] = {}
        self.base_models: Mapping[str, str] | None = None
        self.synced: list[bool] = []
        self._synced = None if known else False  # whoever watched before may have said so, or not
        self.changes: list[tuple[str, tuple[Endpoint, ...], tuple[Endpoint, ...]]] = []
        self._told = asyncio.Event()

    def open_pool(self, pool: str, authorities: tuple[str, ...]) -> None:
        assert self.pools.get(pool) != authorities, "nothing has changed"
        self.pools[pool] = authorities
        self.endpoints.setdefault(pool, {})
        self._told.set()

    def close_pool(self, pool: str) -> None:
        self.pools.pop(pool, None)
        del self.endpoints[pool]
        self.objects.pop(pool, None)
        self._told.set()

    def change_endpoints(self, pool: str, gone: Sequence[Endpoint], come: Sequence[Endpoint]) -> None:
        assert gone or come
        mine = self.endpoints[pool]
        for endpoint in gone:
            assert mine.pop(endpoint.target) == endpoint, "it was not as told before"
        for endpoint in come:
            before = mine.get(endpoint.target)
            assert before is None or (before.key == endpoint.key and before != endpoint), "one came beside another"
            mine[endpoint.target] = endpoint
        self.changes.append((pool, tuple(gone), tuple(come)))
        self._told.set()

    def set_objects(self, pool: str, objects: tuple[Resource, ...]) -> None:
        self.objects[pool] = objects
        self._told.set()

    def set_base_models(self, claims: Mapping[str, str]) -> None:
        self.base_models = claims
        self._told.set()

    def set_synced(self, synced: bool) -> None:
        before = self.synced[-1] if self.synced else self._synced
        assert synced is not before, "nothing has changed"
        self.synced.append(synced)
        self._told.set()

    def names(self, pool: str = "default/pool") -> dict[str, str]:
        """Target and name of the endpoints of a pool."""
        return {target: each.name for target, each in sorted(self.endpoints.get(pool, {}).items())}

    async def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Returns when something was told that makes it true. TimeoutError says what was told instead."""
        try:
            async with asyncio.timeout(limit_s):
                while not condition():
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            told = {pool: list(endpoints.values()) for pool, endpoints in self.endpoints.items()}
            raise TimeoutError(f"not within {limit_s} s; told: {told}, {self.pools}, synced {self.synced}") from None
