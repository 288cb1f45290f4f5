"""An event loop whose clock jumps: when nothing is ready, time moves to the next timer instead of passing.

Sockets are real. Before each jump the loop waits `GRACE_S` of real time for I/O, so a loopback peer served by the same
loop always gets to answer first. Waiting for ever raises RuntimeError instead of hanging.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

GRACE_S = 0.001
STUCK_S = 10.0


class JumpingSelector(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
    """Says that a timeout has passed without waiting for it; `now` is the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        ready = super().select(STUCK_S if timeout is None else GRACE_S)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen: no timer is set and no socket is ready")
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)
        self._clock_resolution = 1e-6  # sums of floats may fall short of the timer jumped to

    def time(self) -> float:
        return self.selector.now


async def pass_time(seconds: float) -> None:
    """Returns when the loop's clock has moved on by `seconds`; everything due until then has happened."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, passed.set)
    await passed.wait()


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes a test function of a coroutine function: runs it on a virtual loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
