"""Keeps the control process alive. Without it picker goes on with the endpoints and loads it knows."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from picker.control.answers import Answers
from picker.control.link import Link
from picker.control.messages import FromControl, FromData, Known, Start
from picker.errors import PickerError
from picker.types import Endpoint

__all__ = ["ControlProcess"]

BACKOFF_S = (0.1, 10.0)
"""Pause before the first restart, and the longest; each further one doubles unless the process has lasted."""

LASTED_S = 30.0
SILENT_S = 30.0
"""A control process says something every second or oftener; one that is silent for so long hangs and is killed."""

START_S = 60.0
"""As long may it take to say its first word."""

CHECK_S = 1.0
STOP_S = 5.0
KNOWN = 32  # endpoints in one message

_LOG = logging.getLogger("picker.control")


class ControlProcess:
    """The control process of one data plane.

    `listeners` are the sockets of the admin port: they outlive the process, so that a restart refuses no connection.
    `start(restarts, confirmed_ns)` says what it is to do, `known()` which endpoints it need not tell of, by pool.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        listeners: Sequence[socket.socket],
        start: Callable[[int, int], Start],
        known: Callable[[], Mapping[str, Sequence[Endpoint]]],
    ) -> None:
        self.restarts = 0
        self.pid = 0
        """Of the process that runs now; 0 while there is none."""
        self._answers = answers
        self._listeners = listeners
        self._start = start
        self._known = known
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._link: Link[FromControl] | None = None

    def start(self) -> asyncio.Task[None]:
        """Starts it, without waiting for it."""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="control process")
        return self._task

    async def wait_up(self) -> None:
        """Until it works. Raises PickerError if its first start fails."""
        task = self._task or self.start()
        up = asyncio.ensure_future(self._up.wait())
        await asyncio.wait([up, task], return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if not self._up.is_set():
            await task

    def send(self, messages: Iterable[FromData]) -> None:
        """Tells the process that runs now, if there is one; the next one is told by `start`."""
        if self._link is not None:
            self._link.send(messages)

    async def stop(self) -> None:
        """Ends it and waits until it has gone; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # told by `wait_up`

    async def _keep(self) -> None:
        pause_s = BACKOFF_S[0]
        while True:
            started = time.monotonic()
            code = await self._run()
            if not self._up.is_set():
                raise PickerError(f"the control process ended at its start with status {code}; the lines above say why")
            pause_s = BACKOFF_S[0] if time.monotonic() - started > LASTED_S else pause_s
            _LOG.error("the control process ended, going on with what is known: status=%d restart_s=%g", code, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_S[1])
            self.restarts += 1

    async def _run(self) -> int:
        """One life of the process; its exit status."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = _spawn(theirs, self._listeners)
        link: Link[FromControl] = Link(FromControl, lambda message: self._take(message, link))
        try:
            await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
            self.pid = process.pid
            link.send(self._first())
            self._link = link
            await self._watch(link)
        finally:
            self.pid = 0
            self._link = None
            link.close()
            code = await asyncio.to_thread(_end, process)
        return code

    def _first(self) -> Iterator[FromData]:
        """What the process must know before it begins."""
        for pool, endpoints in self._known().items():
            for at in range(0, max(1, len(endpoints)), KNOWN):
                yield Known(pool, tuple(endpoints[at : at + KNOWN]))
        yield self._start(self.restarts, self._answers.confirmed_ns)

    def _take(self, message: FromControl, link: Link[FromControl]) -> None:
        self._up.set()
        link.send(self._answers.take(message))

    async def _watch(self, link: Link[FromControl]) -> None:
        """Until the process has gone, or says nothing any more."""
        started_ns = time.monotonic_ns()
        while not link.closed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.closed.wait(), CHECK_S)
            heard_ns = max(self._answers.confirmed_ns, started_ns)
            silent_s = (time.monotonic_ns() - heard_ns) * 1e-9
            if silent_s > (START_S if heard_ns == started_ns else SILENT_S):
                _LOG.error("the control process says nothing any more and is killed: silent_s=%g", round(silent_s, 1))
                return


def _spawn(link: socket.socket, listeners: Sequence[socket.socket]) -> subprocess.Popen[bytes]:
    """A fresh interpreter: a fork of this one would share the state of its libraries' threads.

    It has a session of its own, so that Ctrl-C ends it through the data plane, after draining.
    """
    numbers = [link.fileno(), *(listener.fileno() for listener in listeners)]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "picker.control", *map(str, numbers)],
        stdin=subprocess.DEVNULL,
        pass_fds=numbers,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # as found here
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process that was told to stop by the end of its link; its exit status."""
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
