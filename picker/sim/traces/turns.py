"""Turns of conversations on their way to requests: readers and generators know the order of all only at the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from picker.sim.asked import Asked


@dataclass(slots=True, eq=False)
class Turn:
    """A request before the places of all are known; `before`: the turn of its session before it."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    keys: Sequence[int]
    answer_keys: Sequence[int] = ()
    before: Self | None = None
    think_s: float = 0.0
    session: int = -1
    index: int = -1

    def asked(self) -> Asked:
        """The request, when `index` is known, also that of the turn before."""
        return Asked(
            self.index,
            self.at_s,
            self.prompt_tokens,
            self.output_tokens,
            tuple(self.keys),
            tuple(self.answer_keys),
            session=self.session,
            after=self.before.index if self.before else -1,
            think_s=self.think_s,
        )
