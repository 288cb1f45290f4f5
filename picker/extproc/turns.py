"""Who waits for a turn, for shells that serve sessions by tasks."""

import asyncio
import time
from collections.abc import Callable, Iterable

from picker._core.engine import Engine
from picker._core.session import FAIL_STOPPING, Session

__all__ = ["TURN_S", "Turns"]

TURN_S = 0.01
"""How often it is looked whose turn has come while requests wait and nothing happens."""


class Turns:
    """Gives turns to the sessions of `engines()`, and tells those that wait for theirs."""

    def __init__(
        self, engines: Callable[[], Iterable[Engine]], clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._engines = engines
        self._clock_ns = clock_ns
        self._waiting: dict[Session, tuple[Engine, asyncio.Event]] = {}
        self._called: set[Session] = set()  # that nobody waited for
        self._timer: asyncio.Handle | None = None
        self.watcher: Callable[[], None] = lambda: None
        """Called whenever the core may have got something to ask others."""

    def expect(self, session: Session, engine: Engine) -> asyncio.Event:
        """Is set when the session is called: `Session.resume` it then. `forget` it when nobody waits any more."""
        event = asyncio.Event()
        if session in self._called:
            self._called.discard(session)
            event.set()
            return event
        self._waiting[session] = engine, event
        return event

    def forget(self, session: Session) -> None:
        self._waiting.pop(session, None)
        self._called.discard(session)

    def look(self) -> None:
        """Something has changed that requests may wait for."""
        self.watcher()
        if not self._waiting:
            return
        if any(engine.is_due for engine in self._all()):
            self._give()
        else:
            self._look_later()

    def turn_out(self) -> None:
        """Refuse all who wait: the shell stops."""
        for engine in self._all():
            engine.turn_out(FAIL_STOPPING, self._clock_ns())
        self._give()

    def _all(self) -> set[Engine]:
        """Those served no longer, too, as long as somebody waits."""
        return {*self._engines(), *(engine for engine, _ in self._waiting.values())}

    def _give(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for engine in self._all():
            self._give_of(engine)
        self._look_later()

    def _look_later(self) -> None:
        """While anybody waits: time alone may bring a turn."""
        if self._timer is None and any(engine.waiting for engine in self._all()):
            self._timer = asyncio.get_running_loop().call_later(TURN_S, self._give)

    def _give_of(self, engine: Engine) -> None:
        started_ns = self._clock_ns()
        called = engine.dispatch(started_ns)
        for session in called:
            if (waits := self._waiting.pop(session, None)) is not None:
                waits[1].set()
            else:
                self._called.add(session)
        if called:
            engine.count_dispatch((self._clock_ns() - started_ns) * 1e-9)
