from typing import final

from picker._core.calls import Methods
from picker._core.engine import Engine

@final
class ExtProc:
    """The ExternalProcessor service over `engine`; give its `methods()` to a server.

    `timeout_ns`: how long a request body may take; then the client is answered 408. ValueError if not above 0.
    """

    def __new__(cls, engine: Engine, *, timeout_ns: int) -> ExtProc: ...
    def methods(self) -> Methods:
        """Process."""

    @property
    def opened(self) -> int:
        """Streams so far."""

    @property
    def picked(self) -> int:
        """Requests answered with an endpoint so far."""

    def _check(self) -> None: ...
