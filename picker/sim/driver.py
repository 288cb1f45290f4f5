"""Drives an engine model in real time on the running loop: its virtual seconds are those of the monotonic clock, or,
when it has been slowed down, a share of them.

Lateness of the loop does not add up: steps begin where the model says, not when the timer fired.
"""

import asyncio
import time
from collections.abc import Callable, Hashable

from picker.sim.engine import Engine, EngineMetrics, Progress, Request

TIMER_GRAIN_S = 0.001  # uvloop's timers count whole milliseconds


class EngineDriver:
    """Owns the engine's timer; to be used from one loop only."""

    def __init__(self, engine: Engine, observe: Callable[[Progress], None]) -> None:
        """`observe` sees the progress of all requests as well."""
        self._engine = engine
        self._observe = observe
        self._queues: dict[Hashable, asyncio.Queue[Progress]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._speed = 1.0
        self._since_s = self._began_s = time.monotonic()  # when this speed began, on the clock and for the engine

    def set_speed(self, speed: float) -> None:
        """Engine seconds per second, from now on: 0.5 is half as fast. Positive."""
        self._began_s, self._since_s = self._catch_up(), time.monotonic()
        self._speed = speed
        self._arm()

    def submit(self, request: Request) -> asyncio.Queue[Progress]:
        """Starts `request`; its progress comes through the queue. `forget` must be called when it is over.

        Raises ValueError or EngineFull as `Engine.submit` does.
        """
        now_s = self._catch_up()
        self._engine.submit(request, now_s)
        self._arm()
        queue = self._queues[request.request_id] = asyncio.Queue()
        return queue

    def forget(self, request_id: Hashable) -> None:
        """Cancels the request if it is still on its way, and drops its queue."""
        now_s = self._catch_up()
        if self._queues.pop(request_id, None) is not None:
            self._engine.cancel(request_id, now_s)
        self._arm()

    def metrics(self) -> EngineMetrics:
        self._catch_up()
        self._arm()
        return self._engine.metrics()

    def reset_prefix_cache(self) -> bool:
        """False, and nothing happens, while requests are running."""
        self._catch_up()
        self._arm()
        return self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Stops the timer; requests on their way get no further progress."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now_s(self) -> float:
        return self._began_s + (time.monotonic() - self._since_s) * self._speed

    def _catch_up(self) -> float:
        now_s = self._now_s()
        for event in self._engine.step(now_s):
            self._observe(event)
            queue = self._queues.get(event.request_id)
            if queue is not None:
                queue.put_nowait(event)
        return now_s

    def _arm(self) -> None:
        self.close()
        at_s = self._engine.next_step_at()
        if at_s is not None:
            delay_s = max((at_s - self._now_s()) / self._speed, TIMER_GRAIN_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._catch_up()
        self._arm()
