"""When picker asks for traffic: it knows what it serves, leads if only one may, and is not about to stop."""

import asyncio
import logging
import time
from collections.abc import Callable

from picker.extproc.readiness import Readiness

__all__ = ["Standing"]

_LOG = logging.getLogger("picker")


class Standing:
    """Keeps `readiness` equal to what is known.

    `must_lead`: whether others stand by, and only the leader serves. A lead ends by itself, so that two never lead
    although the process that renews it has died. `clock_ns` is that of `lead`.
    """

    def __init__(
        self, readiness: Readiness, *, must_lead: bool = False, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._readiness = readiness
        self._must_lead = must_lead
        self._clock_ns = clock_ns
        self._is_synced = False
        self._is_draining = False
        self._until_ns = 0
        self._end: asyncio.TimerHandle | None = None

    @property
    def leads(self) -> bool:
        """Whether no other picker serves in this one's place."""
        return not self._must_lead or self._clock_ns() < self._until_ns

    @property
    def is_draining(self) -> bool:
        """Whether this picker is about to stop."""
        return self._is_draining

    def set_synced(self, is_synced: bool) -> None:
        """Whether what is to be served is known."""
        self._is_synced = is_synced
        self._tell()

    def lead(self, until_ns: int) -> None:
        """Until then, by the clock, this picker leads; 0: it does not."""
        before, self._until_ns = self.leads, until_ns
        if self.leads != before:
            _LOG.info("this picker leads" if self.leads else "this picker leads no more")
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if until_ns:
            left_s = max(0.0, (until_ns - self._clock_ns()) * 1e-9)
            self._end = asyncio.get_running_loop().call_later(left_s, self._expire)
        self._tell()

    def drain(self) -> None:
        """Ask for no more traffic, whatever comes."""
        self._is_draining = True
        self._tell()

    def _expire(self) -> None:
        self._end = None
        if self.leads:  # the loop's clock is coarser than ours
            self.lead(self._until_ns)
        else:
            _LOG.warning("the lead was not renewed in time: this picker leads no more")
            self._tell()

    def _tell(self) -> None:
        self._readiness.set_ready(self._is_synced and self.leads and not self._is_draining)
