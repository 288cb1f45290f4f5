"""What is asked of a simulated cluster: one request, and a load of them. Traces are read into it, policies see it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    `keys` name the blocks of its prompt, `Load.key_tokens` tokens each, from the start on; they are chained: equal keys
    mean equal prefixes up to there. The last may name a block that the prompt fills in part. What is behind the last
    key is shared with nobody. `answer_keys` go on where the prompt's whole blocks end: they name the whole blocks that
    its end and the answer fill together, for those who come back with both (a prompt that ends amid a block has the
    same key for it last in `keys` and first in `answer_keys`).
    A policy may look at everything but `output_tokens`, `answer_keys`, `after` and `think_s`: no gateway knows these.
    """

    index: int  # its place in the load
    at_s: float  # when it arrives; of one that comes `after` another: not before
    prompt_tokens: int
    output_tokens: int  # at least 1
    keys: Sequence[int] = ()
    answer_keys: Sequence[int] = ()
    max_tokens: int = 0  # what the request says; 0: nothing
    lora: str = ""
    band: str = ""
    priority: int = 0
    tenant: str = ""
    session: int = -1  # conversation; -1: none
    after: int = -1  # index of the request of its conversation that must have been answered; -1: none
    think_s: float = 0.0  # from that answer to this request

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    def cacheable(self, key_tokens: int) -> Sequence[Hashable]:
        """An engine's names for the whole blocks of prompt and answer; each adapter has names of its own."""
        names = (*self.keys[: self.prompt_tokens // key_tokens], *self.answer_keys)
        return [(self.lora, name) for name in names] if self.lora else names


@dataclass(frozen=True)
class Load:
    """Requests in order of `at_s`, each at its `index`; keys name blocks of `key_tokens` tokens, a multiple of 4."""

    name: str
    asked: tuple[Asked, ...]
    key_tokens: int

    def __post_init__(self) -> None:
        """Raises ValueError for blocks that no text can be made of."""
        if self.key_tokens < 4 or self.key_tokens % 4:
            raise ValueError(f"keys name blocks of a multiple of 4 tokens, not {self.key_tokens}")

    def scaled(self, speed: float) -> "Load":
        """Arrivals `speed` times as fast; times to think stay what they are."""
        return replace(self, asked=tuple(replace(one, at_s=one.at_s / speed) for one in self.asked))

    def first(self, most: int) -> "Load":
        """At most so many of them."""
        return replace(self, asked=self.asked[:most])

    def part(self, begin: float, end: float) -> "Load":
        """The requests between two shares (0 to 1) of its length in time, from second 0 on.

        Those whose predecessor is left out come at their own time.
        """
        last_s = self.asked[-1].at_s if self.asked else 0.0
        until_s = end * last_s if end < 1.0 else float("inf")
        kept = [one for one in self.asked if begin * last_s <= one.at_s < until_s]
        places = {one.index: place for place, one in enumerate(kept)}
        moved = (
            replace(one, index=places[one.index], at_s=one.at_s - begin * last_s, after=places.get(one.after, -1))
            for one in kept
        )
        return replace(self, asked=tuple(moved))
