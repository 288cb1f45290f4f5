"""Counters of several processes, which come, go and begin anew, as one growth since the last look. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from picker.rollout.figures import NOTHING, Figures, sum_of

__all__ = ["Counting", "Source"]


class Source(NamedTuple):
    """A process that counts: the place it is found at, and which of those that were there it is."""

    place: str
    incarnation: str = ""


class Counting:
    """Adds up what grew. What a process counted before it was first seen is not growth, unless its place was known."""

    def __init__(self) -> None:
        self._last: dict[Source, Figures] = {}
        self._places: set[str] = set()

    def look(self, pages: Mapping[Source, Figures]) -> Figures:
        """What all of them counted since they were last looked at."""
        grown = sum_of([page.since(self._before(source, page)) for source, page in pages.items()])
        self._last |= pages  # those that are gone may come back
        self._places |= {source.place for source in pages}
        return grown

    def _before(self, source: Source, page: Figures) -> Figures:
        """A process that took the place of another has counted only since."""
        return self._last.get(source, NOTHING if source.place in self._places else page)

    @property
    def totals(self) -> Figures:
        """All that they have counted in their lives, as last seen."""
        return sum_of(self._last.values())
