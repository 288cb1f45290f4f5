from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

OTHER_RULES: str

@final
class Quota:
    """Counts what requests use, by the rules it is given. Engines that share it share its limits.

    `seed`: of the hashes of keys; replicas that share a store share it, else it is a secret of the process.
    `counters`: room for so many of them at once (keys x limits). MemoryError, ValueError.
    """

    def __new__(cls, *, seed: int, counters: int = 65536, most_settling: int = 65536) -> Quota: ...
    def set_rules(self, rules: Iterable[Mapping[str, Any]], *, bounds_output: bool = True) -> None:
        """Replace the rules, at once; requests under way are settled by those they began with, counters go on.

        Each a dict: `name`; `source` of keys, None (all requests are counted together), ("header", name) or ("claim",
        namespace, path); `tiers`, each a list of limits (window, amount, (price of a request, of an input token, of a
        cached one, of an output token)); `keys`, the tier of keys with one of their own; `default`, the tier of others;
        `absent`, that of requests without a key (None: not limited); `models`, None or the names of those it is about;
        `per_model`, whether each has counters of its own. A limit goes on where its rule's name, window and prices are
        what they were. `bounds_output`: what a client says an answer is at most is reserved for it; else no more than
        answers usually have. ValueError, OverflowError for what no rules can be, MemoryError; the old ones then stay.
        """

    def set_clock(self, wall_ns: int) -> None:
        """What to add to the clock of sessions for UTC since 1970, both in nanoseconds."""

    def set_store(self, is_used: bool, *, is_reachable: bool = True, fallback: str = "local") -> None:
        """Whether a store counts, and whether it can be asked; if not, `fallback` is the rule: local, failOpen or
        failClosed. In force from the next request on. ValueError for another rule."""

    @property
    def is_due(self) -> bool:
        """Has the store something to be asked or told?"""

    def asked(self, most: int) -> list[tuple[int, tuple[tuple[int, int, int, int], ...]]]:
        """Requests to ask the store about: (ticket, ((counter, window's length in ms, cost, amount), ...)) each.

        Each is answered once, by `answer` or `fail`. Costs and amounts in thousandths.
        """

    def answer(
        self, ticket: int, refused: int, used: Sequence[int], ends_ms: Sequence[int], store_ms: int, now_ns: int
    ) -> bool:
        """The store's answer at `store_ms` of its clock, which is `now_ns` here.

        `refused`: the index of the limit that is reached, -1 if the request may go; `used` of each limit, with this
        request if it goes; `ends_ms`, when its window ends. False if nobody asked. ValueError for more or fewer.
        """

    def wake(self) -> int:
        """Let the sessions that have been answered or failed go on, with those whose turn has come; how many."""

    def fail(self, ticket: int) -> None:
        """The store did not answer; harmless if nobody asked."""

    def settled(self, most: int) -> list[tuple[int, int, int, int]]:
        """What the store is to be told of so many requests: (counter, window's length, its end, change) each, in ms."""

    def tallies(self) -> list[dict[str, Any]]:
        """Figures by rule: dicts with `rule`, `requests`, `rejected`, `unavailable` and tokens of `input`, `cached` (of
        these) and `output`."""

    @property
    def figures(self) -> dict[str, int]:
        """`counters` in use, `crowded` (charges that shared one for want of room), `lost` settlements, `holds`."""

    def hold(self, headers: Iterable[tuple[bytes, bytes]] = (), metadata: bytes = b"") -> Hold | None:
        """For tests: what a session has from its request headers ((name, value) in bytes) on; None without rules."""

    def _check(self) -> None: ...

@final
class Hold:
    """What is reserved for one request; made by `Quota.hold`, for tests. Given back when it is let go of unsettled."""

    def reserve(self, model: bytes, input: int, output: int, now_ns: int) -> str:
        """May it go, if it has so many tokens: ok, limit, unavailable or waits."""

    def verdict(self, now_ns: int) -> str:
        """What has become of `waits`."""

    def settle(self, input: int, output: int, now_ns: int, *, cached: int = 0) -> None:
        """It has used so many tokens. ValueError if it is settled."""

    def give_back(self, now_ns: int) -> None:
        """It did not go."""

    def shown(self, now_ns: int) -> dict[str, dict[str, Any]]:
        """`requests` and `tokens`: `limit`, `remaining` and `reset_s` of the limits that are used up first."""

    @property
    def refused(self) -> tuple[str, str, float] | None:
        """(rule, window, amount) of the limit that has refused it."""

    def _check(self) -> None: ...
