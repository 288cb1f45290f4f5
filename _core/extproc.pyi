from collections.abc import Iterable
from typing import Any, final

from picker._core.calls import Methods
from picker._core.engine import Engine

@final
class ExtProc:
    """The ExternalProcessor service over engines, one for each pool; give its `methods()` to a server.

    `engine`: that of the only pool; None: there are none until `set_pools`. `timeout_ns`: how long a request body may
    take; then the client is answered 408. ValueError if not above 0. `by_name`: a stream must be for a pool by name or
    authority, even while there is one alone.
    """

    def __new__(cls, engine: Engine | None = None, *, timeout_ns: int, by_name: bool = False) -> ExtProc: ...
    def set_pools(self, pools: Iterable[tuple[Engine, Iterable[str], str]]) -> None:
        """Serve these from the next stream on: (engine, authorities, name) each; streams that are open go on.

        One pool alone gets every stream (but see `by_name`). Of several, a stream says which it is for: see
        `pools.PoolNames`. One that is for none of them is answered 503. An engine that is served no longer is let go of
        by the `sweep` behind its last stream. ValueError, OverflowError and TypeError as there and for an engine that
        is there twice, MemoryError; nothing has changed then.
        """

    def sweep(self) -> int:
        """Let go of engines that are served no longer and have no streams; how many have some left."""

    def due(self) -> int:
        """2: `dispatch` is due. 1: time may bring somebody's turn: look again in 10 ms. 0: nobody waits."""

    def dispatch(self, now_ns: int) -> list[Any]:
        """Give turns to those who wait and can have them, and tell those whose wait is over.

        The owners of the connections that have something to write now, each once.
        """

    def turn_out(self, failure: int, now_ns: int) -> None:
        """Refuse all who wait, with one of `session`'s FAIL_*: `dispatch` then tells them."""

    def methods(self) -> Methods:
        """Process."""

    def count_dispatch(self, took_s: float) -> None:
        """What `dispatch` did since this was last called took so long, in seconds: one round of each engine."""

    def count_scheduling(self, took_s: float) -> None:
        """The picks made since this was last called took so long, in seconds: each an equal share of it."""

    @property
    def open(self) -> int:
        """Streams under way, with all there are on the engines."""

    @property
    def opened(self) -> int:
        """Streams so far."""

    @property
    def picked(self) -> int:
        """Requests answered with an endpoint so far."""

    @property
    def unknown(self) -> int:
        """Streams so far for a pool that was not known."""

    def _check(self) -> None: ...
