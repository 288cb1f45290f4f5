"""The pools picker serves: an engine, a policy and the endpoints of each.

The composition root opens and closes them as discovery says. Shells learn by `subscribe` which there are, and choose
one when a stream opens; a pool that is closed meanwhile lives on until its last stream has ended.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from picker._core.engine import Engine
from picker.extproc.route import Route
from picker.policy.compile import Policy
from picker.pool import Pool

__all__ = ["MOST_POOLS", "Pools", "Recipe", "ServedPool"]

MOST_POOLS = 256
"""Pools of one process."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How pools are made; each function may raise PickerError, ValueError, OverflowError or MemoryError.

    `policy(name)` compiles one for the pool of that name: anew each time, as plugins and what is known of them are a
    pool's own. `engine(name, policy)` makes an engine, whatever is in force there. `install(engine, policy)` puts the
    policy in force, all or nothing, whatever engine it is.
    """

    policy: Callable[[str], Policy]
    engine: Callable[[str, Policy], Engine]
    install: Callable[[Engine, Policy], None]


@dataclass(slots=True, eq=False)
class ServedPool:
    """A pool as it is served now; `authorities` and `policy` may change, the rest stays."""

    name: str
    authorities: tuple[str, ...]
    engine: Engine
    policy: Policy
    pool: Pool


class Pools:
    """Pools by name, in the order they were opened. One thread: the one that feeds sessions."""

    def __init__(self, recipe: Recipe, *, most: int = MOST_POOLS) -> None:
        self._recipe = recipe
        self._most = most
        self._pools: dict[str, ServedPool] = {}
        self._listeners: list[Callable[[Sequence[Route]], None]] = []

    def open(self, name: str, authorities: Sequence[str] = ()) -> ServedPool:
        """Serve a pool that has no endpoints yet; one that is open goes by these authorities from now on.

        OverflowError if there are too many; what the recipe and listeners raise. Nothing has changed then.
        """
        known = self._pools.get(name)
        if known is None:
            return self._make(name, tuple(authorities))
        before, known.authorities = known.authorities, tuple(authorities)
        if before != known.authorities:
            try:
                self._tell()
            except Exception:
                known.authorities = before
                self._tell()
                raise
        return known

    def _make(self, name: str, authorities: tuple[str, ...]) -> ServedPool:
        if len(self._pools) >= self._most:
            raise OverflowError(f"at most {self._most} pools: {name!r} is one too many")
        policy = self._recipe.policy(name)
        engine = self._recipe.engine(name, policy)
        self._recipe.install(engine, policy)
        made = self._pools[name] = ServedPool(name, authorities, engine, policy, Pool(engine, policy))
        try:
            self._tell()
        except Exception:
            del self._pools[name]
            self._tell()
            raise
        return made

    def close(self, name: str) -> None:
        """Serve the pool no more; streams that are open on it go on. KeyError if it is not open."""
        del self._pools[name]
        self._tell()

    def subscribe(self, listener: Callable[[Sequence[Route]], None]) -> None:
        """Call `listener` with all pools: now, and whenever one comes, goes, or is called by other authorities."""
        self._listeners.append(listener)
        listener(self.routes)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self.routes)

    @property
    def routes(self) -> tuple[Route, ...]:
        """What a shell chooses from: see `picker.extproc.shell.Shell.set_pools`."""
        return tuple((served.engine, served.authorities, served.name) for served in self._pools.values())

    def reconfigure(self, recipe: Recipe) -> None:
        """Put other policies in force, everywhere or nowhere; pools that come later are made by this recipe too.

        Endpoints stay, and so does what is known of them; decisions of before are dropped, as their scores have other
        names. Engines keep what they were made with (limits, prior rate). Raises what the recipe raises.
        """
        policies = {name: recipe.policy(name) for name in self._pools}
        trial = Engine(hash_seed=0, limits=_TRIAL)
        for policy in policies.values():
            recipe.install(trial, policy)  # a policy that is refused is refused here, before anything has changed
        for name, served in self._pools.items():
            recipe.install(served.engine, policies[name])
            served.policy = policies[name]
            served.pool.set_policy(served.policy)
        self._recipe = recipe

    def __getitem__(self, name: str) -> ServedPool:
        return self._pools[name]

    def get(self, name: str) -> ServedPool | None:
        """The pool of that name, or None if it is not open."""
        return self._pools.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._pools

    def __iter__(self) -> Iterator[ServedPool]:
        return iter(tuple(self._pools.values()))

    def __len__(self) -> int:
        return len(self._pools)


_TRIAL = {"endpoints": 1, "sessions": 1, "models": 1, "prompt_blocks": 1, "index_blocks": 1, "json_values": 1}
"""Limits of an engine that serves nobody."""
