from collections.abc import Sequence
from typing import final

_Rule = tuple[str, str | None, Sequence[tuple[str, int | None]]]

@final
class Rewrites:
    """Rules as they are made, a piece at a time, to be given to an engine.

    `limit`: models that the generic rule counts by name, 2**20 at most; further ones are `other`. `rules`: (name of the
    object, model or None for any, ((target, weight or None), ...)) each, by precedence: the first for a model counts.
    ValueError or OverflowError for what no rules can be, MemoryError.
    """

    def __new__(cls, rules: Sequence[_Rule] = (), *, limit: int = 1000) -> Rewrites: ...
    def replace(self, rules: Sequence[_Rule]) -> None:
        """Other rules from now on. What was counted for an object, a model and a target that stay is kept.

        ValueError or OverflowError for what no rules can be, MemoryError; the old ones then stay.
        """

    def extend(self, rules: Sequence[_Rule]) -> None:
        """More rules, below those there are. ValueError, OverflowError or MemoryError; there are none then."""

    def choose(self, model: bytes, random: int) -> bytes | None:
        """The model to ask for instead of `model` (plain UTF-8, b"" if there is none), or None; counts."""

    def counts(self) -> list[tuple[str, str, str, int]]:
        """(name of the object, model asked for, target, decisions) for all that has been decided."""

    def __len__(self) -> int:
        """Rules in force."""

    def _check(self) -> None:
        """Assert the invariants."""
