"""What a group hands back: times and ratios as rows of the published results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.pairs import Taken
from benchmarks.results import Row

COMMAND = "make bench-peers"


@dataclass(frozen=True)
class Case:
    """One piece of work done in several ways. `note`: what is in the way's favour, in a few words."""

    group: str
    what: str

    def time(self, taken: Taken, who: str, note: str = "") -> Row:
        """Microseconds of one call."""
        value, low, high = taken.us(who)
        return Row(self.group, self.what, who, value, "µs", COMMAND, low, high, note=note)

    def times(self, taken: Taken, who: str, *, than: str, target: str = "") -> Row:
        """How many times as long `who` takes as `than`."""
        value, low, high = taken.ratio(who, than)
        noise = f"A/A within {taken.noise:.1%}"
        return Row(self.group, self.what, f"{who} / {than}", value, "×", COMMAND, low, high, target, note=noise)


Ratio = tuple[str, str, str]
"""Of two ways how many times as long the first takes as the second, and the target of that, if any."""


def rows(case: Case, taken: Taken, notes: Mapping[str, str], ratios: Sequence[Ratio]) -> list[Row]:
    """The time of each way that `notes` names, then the ratios."""
    made = [case.time(taken, who, note) for who, note in notes.items()]
    return made + [case.times(taken, above, than=below, target=target) for above, below, target in ratios]
