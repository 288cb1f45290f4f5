from typing import Any, Final, final

from typing_extensions import Buffer

from picker._core.engine import Engine

C_API: Final[Any]
"""PyCapsule of the function table; readers compare its first field, the version, before anything else."""

FAIL_TIMEOUT: Final[int]
FAIL_INTERNAL: Final[int]
FAIL_EXHAUSTED: Final[int]
FAIL_STOPPING: Final[int]
STATE_NEW: Final[int]
STATE_BODY: Final[int]
STATE_WAITING: Final[int]
STATE_PICKED: Final[int]
STATE_RESPONSE: Final[int]
STATE_ENDED: Final[int]

class SessionError(ValueError):
    """The gateway sent what no gateway may: the stream must be ended with INVALID_ARGUMENT."""

@final
class Session:
    """One ext_proc stream on `engine`, opened at `now_ns` (any monotonic clock, the same in every call).

    OverflowError when the engine has too many of them even to answer 429. Close it, whatever happens. One thread at a
    time feeds the sessions of an engine.
    """

    def __new__(cls, engine: Engine, now_ns: int) -> Session: ...
    def feed(self, message: Buffer, now_ns: int) -> list[bytes]:
        """Serialised ProcessingRequest in, serialised ProcessingResponses out, to be sent in this order.

        SessionError for what is not a message, comes out of order, or after `close`; MemoryError; what a plugin host
        raises. After any of them end the stream: by `refuse` if the request was not answered yet, else with an error.
        """

    def resume(self, now_ns: int) -> list[bytes]:
        """Its wait is over, as `Engine.dispatch` says: the replies, as of `feed`; nothing if it still waits.

        MemoryError; what a plugin host raises. After any of them end the stream by `refuse`.
        """

    def refuse(self, failure: int) -> list[bytes]:
        """Answer the client in picker's own name: `failure` is FAIL_TIMEOUT, FAIL_EXHAUSTED or FAIL_INTERNAL.

        Nothing if that was done already. MemoryError.
        """

    def close(self, now_ns: int) -> None:
        """The stream has ended, by whatever cause. Closing twice is harmless."""

    @property
    def state(self) -> int:
        """Where it stands: STATE_NEW, STATE_BODY, STATE_WAITING, STATE_PICKED, STATE_RESPONSE or STATE_ENDED."""

    @property
    def is_waiting(self) -> bool:
        """Does it wait for its turn? `Engine.dispatch` says when it does no longer."""

    @property
    def is_evictable(self) -> bool:
        """May `Engine.dispatch` name it though it does not wait? It is to make room for another then."""

    @property
    def is_over(self) -> bool:
        """Has picker no more to say? Then the stream must be ended, without an error."""

    @property
    def destination(self) -> str:
        """The endpoint(s) picked, "" when none was."""

    def _check(self) -> None:
        """Assert the invariants."""
