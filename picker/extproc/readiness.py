"""Whether picker asks for traffic: one flag, and those who are told when it changes."""

import asyncio
from collections.abc import Callable

__all__ = ["Readiness"]


class Readiness:
    """Not ready until told."""

    def __init__(self) -> None:
        self._ready = False
        self._listeners: list[Callable[[bool], None]] = []
        self.changed = asyncio.Event()
        """Set at the next change, and then replaced by a fresh one."""

    @property
    def is_ready(self) -> bool:
        """Whether picker asks for traffic."""
        return self._ready

    def set_ready(self, ready: bool) -> None:
        """Tell everyone who checks or watches."""
        if ready == self._ready:
            return
        self._ready = ready
        self.changed.set()
        self.changed = asyncio.Event()
        for listener in self._listeners:
            listener(ready)

    def subscribe(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` now, and at each change."""
        self._listeners.append(listener)
        listener(self._ready)

    async def wait_ready(self) -> None:
        """Until picker asks for traffic."""
        while not self._ready:
            await self.changed.wait()
