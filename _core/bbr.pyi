from collections.abc import Callable, Iterable
from typing import Any, final

from typing_extensions import Buffer

from picker._core.calls import Methods
from picker._core.names import Names
from picker._core.view import View

STEP_FIELD: int
STEP_BASE: int
STEP_PYTHON: int
STATE_NEW: int
STATE_BODY: int
STATE_PLUGINS: int
STATE_PASSED: int
STATE_RESPONSE: int
STATE_ENDED: int
MOST_STEPS: int
MOST_HEADERS: int
FAIL_TIMEOUT: int
FAIL_INTERNAL: int
FAIL_EXHAUSTED: int

_Step = tuple[int, bytes, bytes, bytes] | tuple[int, bool, bool]

class ExchangeError(ValueError):
    """The gateway sent what no gateway may: the stream must be ended with INVALID_ARGUMENT."""

@final
class Router:
    """What all exchanges share; give its `methods()` to a server.

    `request` and `response` are the steps in their order: (STEP_FIELD or STEP_BASE, field, header, refusal), all bytes:
    the header gets the text of the body's top-level field, or the name that `set_names` knows for it, and a text that
    no header can have is answered 400 with the JSON `refusal`; or (STEP_PYTHON, sees_body, is_closed): `host(number,
    is_response, view)` is called, `number` counting all steps of the direction. `headers`: further headers that
    clients may not set. Names of headers are lower-case.

    `body_bytes`: largest body that is held; `buffered_bytes`: of all; `event_bytes`: of one event of a stream;
    `sessions`: exchanges at once; `timeout_ns`: how long a request's body may take.
    ValueError, OverflowError or TypeError for what cannot be.
    """

    def __new__(
        cls,
        request: Iterable[_Step],
        response: Iterable[_Step] = (),
        *,
        headers: Iterable[bytes] = (),
        host: Callable[[int, bool, View], object] | None = None,
        body_bytes: int = ...,
        buffered_bytes: int = ...,
        event_bytes: int = ...,
        chunk_bytes: int = ...,
        sessions: int = ...,
        timeout_ns: int = ...,
    ) -> Router: ...
    def methods(self) -> Methods:
        """Process."""

    def set_names(self, names: Names) -> None:
        """What STEP_BASE looks up from now on."""

    @property
    def sessions(self) -> int:
        """Exchanges under way."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes of bodies held."""

    @property
    def requests(self) -> int:
        """Exchanges so far."""

    @property
    def answered(self) -> int:
        """Requests that went on so far."""

    def figures(self) -> dict[str, Any]:
        """What happened so far: requests; answered (they went on); routed (with headers of the router); bad_requests,
        too_large, timeouts, exhausted, failed (refused); rejected (by plugins, or for a field that no header can hold);
        cut (responses); `request` and `response` step by step: runs, missing, empty, unusable, skipped."""

    def _protect(self, names: Iterable[bytes]) -> None: ...
    def _check(self) -> None: ...

@final
class Exchange:
    """One ext_proc stream through `router`, message by message; for tests and for shells in Python. Close it.

    OverflowError when there are far more than there may be.
    """

    def __new__(cls, router: Router) -> Exchange: ...
    def feed(self, message: Buffer) -> list[bytes]:
        """Serialised ProcessingRequest in, serialised ProcessingResponses out, to be sent in this order.

        ExchangeError for what is not a message, comes out of order, or after `close`; MemoryError; what the host
        raises. After any of them end the stream: by `refuse` if that may be, else with an error.
        """

    def refuse(self, failure: int) -> list[bytes]:
        """Answer the client in picker's own name: FAIL_TIMEOUT, FAIL_EXHAUSTED or FAIL_INTERNAL.

        Nothing if that was done already. ExchangeError if it is too late; MemoryError.
        """

    def close(self) -> None:
        """The stream has ended, by whatever cause. Closing twice is harmless."""

    @property
    def state(self) -> int:
        """Where it stands: STATE_NEW, STATE_BODY, STATE_PLUGINS, STATE_PASSED, STATE_RESPONSE or STATE_ENDED."""

    @property
    def is_over(self) -> bool:
        """Has picker no more to say? Then the stream must be ended, without an error unless `is_cut`."""

    @property
    def is_cut(self) -> bool:
        """Must the stream end with an error, so that the client does not take the response for whole?"""

    def _check(self) -> None: ...
