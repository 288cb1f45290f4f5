from typing import final

FCFS: int
EDF: int
SLO: int
STRICT: int
ROUND_ROBIN: int
TOKENS: int

_Rules = tuple[int, int, int, int, int]
"""(order, fairness, max_requests, max_bytes, ttl_ns); 0 = no cap, no time to live."""

@final
class Queue:
    """Requests 0 to `size` - 1, and whose turn it is; for tests and benchmarks.

    `max_requests` and `max_bytes` cap what waits in all (0 = no cap), `bands` those without rules of their own,
    `flows` those that are told apart. Times are ns, costs tokens. MemoryError.
    """

    def __new__(
        cls, size: int, max_requests: int = 0, max_bytes: int = 0, bands: int = 64, flows: int = 4096, now_ns: int = 0
    ) -> Queue: ...
    def set_rules(self, bands: list[tuple[int, _Rules]], default: _Rules, negative: _Rules) -> None:
        """Rules by priority, and of other bands at or above 0 and below. ValueError, MemoryError: the old stay."""

    def push(
        self,
        key: int,
        priority: int,
        flow: int,
        group: int,
        size: int,
        cost: int,
        slo_ns: int,
        expires_ns: int,
        now_ns: int,
        name: bytes = b"",
    ) -> None:
        """Let it wait. IndexError; ValueError if it waits; OverflowError naming the cap; MemoryError."""

    def holds_before(self, priority: int, group: int) -> bool:
        """Whether anybody of this band or a higher one waits for this group."""

    def begin(self) -> None:
        """A new round: nobody is left out."""

    def peek(self) -> int | None:
        """Who is next in this round."""

    def take(self, key: int) -> None:
        """It goes; its flow is charged. IndexError, ValueError if it does not wait."""

    def skip(self, key: int) -> None:
        """Leave its flow's requests of its group out of this round. IndexError, ValueError if it does not wait."""

    def block(self, key: int) -> None:
        """Leave its group out of this round, in its band and below. IndexError, ValueError if it does not wait."""

    def dispatch(self, most: int) -> list[int]:
        """Begin a round and take up to `most`."""

    def turn_over(self, count: int, step_ns: int = 0) -> None:
        """Take whoever is next and let it wait again, its objective so much later, `count` times; for benchmarks.

        MemoryError.
        """

    def remove(self, key: int) -> None:
        """It goes away; harmless if it does not wait. IndexError."""

    def expired(self, now_ns: int) -> int | None:
        """Take out one whose time has come."""

    def any(self) -> int | None:
        """Any that waits, of the highest band."""

    def expires_ns(self, key: int) -> int:
        """When it was to expire, as its last push said. IndexError."""

    def bands(self) -> list[tuple[int, bool, _Rules, int, int, int, int | None]]:
        """(priority, has rules of its own, rules, requests, bytes, flows, oldest_ns or None), highest first."""

    def flows(self) -> list[tuple[int, int | None, bytes, int, int, int]]:
        """(priority, flow or None for those that share, name, requests, bytes, oldest_ns) of those that wait."""

    @property
    def bytes(self) -> int:
        """Bytes that wait."""

    def __len__(self) -> int:
        """Requests that wait."""

    def _check(self) -> None: ...
