"""A file that is followed while picker runs; what it holds, its subclasses say.

A look at the file is one `stat` while nothing changes. A change counts once two looks in a row see the same content,
so a file that is being written, or replaced by way of a moment without it, is not read half. A bad edit keeps the
last good content, is logged once and counted; a good one recovers. Reading is sliced, so that a large file does not
hold up the event loop it is read on.
"""

import asyncio
import hashlib
import logging
import os
import stat as modes
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sized
from pathlib import Path
from typing import ClassVar, Generic, TypeAlias, TypeVar

from picker.config.document import MAX_BYTES, drain
from picker.errors import ConfigError

__all__ = ["FollowedFile", "digest", "read_file"]

C = TypeVar("C", bound=Sized)

_Stat: TypeAlias = tuple[int, int, int, int, int]


def read_file(path: Path, *, error: type[ConfigError]) -> bytes:
    """The file's bytes, at most one more than a text may have. Raises `error`."""
    return _read(path, error)[0]


def _read(path: Path, error: type[ConfigError]) -> tuple[bytes, _Stat]:
    """Content and the stat of the very file it came from."""
    try:
        if not modes.S_ISREG(path.stat().st_mode):  # a pipe would block the loop, and cannot be read twice
            raise OSError(None, "it is not a regular file")
        with path.open("rb") as file:
            stat = _identity(os.fstat(file.fileno()))
            return file.read(MAX_BYTES + 1), stat
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error(f"cannot be read: {reason}", source=str(path), hint="check the path and its permissions") from None


def _identity(stat: os.stat_result) -> _Stat:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class FollowedFile(ABC, Generic[C]):
    """What one file holds, kept current.

    `load` once at the start (a bad file is an error there), or `resume` with what was loaded elsewhere; then `start`
    and `stop` around the time it is needed;
    `on_change` is called on the event loop with the new content. If it raises, that counts as a bad edit.
    `tick` waits for the time of the next look; tests pass their own.
    """

    holds: ClassVar[str]
    """What is in it, in the plural."""
    counts: ClassVar[str] = ""
    """What its length counts, where that is something else."""
    error: ClassVar[type[ConfigError]]
    """What `parse` and `load` raise."""

    def __init__(
        self,
        path: Path | str,
        empty: C,
        *,
        on_change: Callable[[C], None] = lambda _: None,
        interval_s: float = 0.5,
        tick: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.path = Path(path)
        self.content = empty
        """The last good one."""
        self.reloads = 0
        """Changes taken over since the start."""
        self.reload_errors = 0
        """Distinct bad contents seen since the start, a missing file included."""
        self.last_error: ConfigError | None = None
        """Why the file as it stands is not in use; None if it is."""
        self.confirmed_s: float | None = None
        """When a look last found the content to be that of the file, by `time.monotonic`."""
        self._on_change = on_change
        self._tick = tick if tick is not None else lambda: asyncio.sleep(interval_s)
        self._task: asyncio.Task[None] | None = None
        self._stat: _Stat | None = None
        self._seen = ""  # fingerprint of the last look
        self._settled = ""  # fingerprint last acted on
        self._applied = ""  # fingerprint the content came from
        self._log = logging.getLogger(type(self).__module__)

    @abstractmethod
    def parse(self, data: bytes) -> Generator[None, None, C]:
        """What `data` holds, in slices. Raises `error`."""

    def load(self) -> C:
        """Reads the file now and returns what it holds; `on_change` is not called. Raises `error`."""
        # The stat is not kept: an edit within one clock tick of this would look the same.
        data = read_file(self.path, error=self.error)
        self.content = drain(self.parse(data))
        self._seen = self._settled = self._applied = digest(data)
        return self.content

    def resume(self, content: C, fingerprint: str) -> None:
        """Goes on from what is in use. `fingerprint`: of the bytes it came from; "" if not known."""
        self.content = content
        self._seen = self._settled = self._applied = fingerprint

    @property
    def fingerprint(self) -> str:
        """Of the bytes the content came from."""
        return self._applied

    def look(self) -> Generator[None, None, None]:
        """One look at the file, in slices; takes over a change that two looks agree on."""
        if self._seen == self._settled and self._unchanged():
            return
        try:
            data, self._stat = _read(self.path, self.error)
        except self.error as problem:
            self._stat = None
            if self._agreed(str(problem)):
                self._reject(problem)
            return
        fingerprint = digest(data)
        if not self._agreed(fingerprint):
            return
        try:
            if fingerprint != self._applied:
                yield from self._apply(data)
            self._applied = fingerprint
            self._recover()
        except self.error as problem:
            self._reject(problem)

    def start(self) -> None:
        """Begins to follow the file on the running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"{self.holds} file")

    async def stop(self) -> None:
        """Ends following and waits until nothing runs; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self) -> None:
        while True:
            await self._tick()
            try:
                for _ in self.look():
                    await asyncio.sleep(0)
                if self._seen == self._settled == self._applied:
                    self.confirmed_s = time.monotonic()
            except Exception:  # a bug must not end the watch: the pool would silently freeze
                self._log.exception("looking at the %s file failed: path=%s", self.holds, self.path)

    @property
    def _counts(self) -> str:
        return self.counts or self.holds

    def _unchanged(self) -> bool:
        try:
            return _identity(self.path.stat()) == self._stat
        except OSError:
            return False

    def _agreed(self, fingerprint: str) -> bool:
        """Whether this look saw what the last one saw, and that is news; it is then acted on once."""
        agreed = fingerprint == self._seen and fingerprint != self._settled
        self._seen = fingerprint
        if agreed:
            self._settled = fingerprint
        return agreed

    def _apply(self, data: bytes) -> Generator[None, None, None]:
        content = yield from self.parse(data)
        try:
            self._on_change(content)
        except Exception as problem:  # whoever uses it refused it; the old one stays
            what = f"{len(content)} {self._counts} were refused: {problem}"
            raise self.error(what, source=str(self.path), hint=f"the last good {self.holds} stay") from problem
        self.content = content
        self.reloads += 1
        self._log.info("%s file read: path=%s %s=%d", self.holds, self.path, self._counts, len(content))

    def _reject(self, problem: ConfigError) -> None:
        self.last_error = problem
        self.reload_errors += 1
        self._log.error(
            "%s file not usable, keeping the last good %s: %s=%d error=%s",
            self.holds,
            self.holds,
            self._counts,
            len(self.content),
            problem,
        )

    def _recover(self) -> None:
        if self.last_error is not None:
            count = len(self.content)
            self._log.info("%s file is good again: path=%s %s=%d", self.holds, self.path, self._counts, count)
        self.last_error = None


def digest(data: bytes) -> str:
    """The fingerprint of a content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
