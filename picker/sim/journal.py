"""What a simulated server was asked and how each request ended, in a file that outlives the server.

A line for each event, written at once: `begin ID`, then one of `end ID` (answered whole), `refused ID` and `cut ID`
(the client or the server went away). IDs are those of the `x-journal-id` header; requests without one are left out.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

HEADER = "x-journal-id"


class Journal:
    """Appends to one file; several servers may share it, as lines are written whole."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        """What is written afterwards is lost: a request that has begun and not ended was cut."""
        os.close(self._file)
        self._file = -1

    def write(self, event: str, request_id: str) -> None:
        """The id is cut, and blanks in it replaced, so that it is one word of one line."""
        if self._file < 0:
            return
        os.write(self._file, f"{event} {'_'.join(request_id[:200].split()) or '_'}\n".encode())

    @contextlib.contextmanager
    def entry(self, request_id: str, refusals: type[Exception]) -> Iterator[None]:
        """Writes the beginning and, whatever it is, the end."""
        end = "cut"
        self.write("begin", request_id)
        try:
            yield
            end = "end"
        except refusals:
            end = "refused"
            raise
        finally:
            self.write(end, request_id)


def read(path: Path) -> list[tuple[str, str]]:
    """(event, id) in order; a line that was cut off by the end of the machine is left out."""
    words = (line.split() for line in path.read_text().splitlines()) if path.exists() else ()
    return [(pair[0], pair[1]) for pair in words if len(pair) == 2]
