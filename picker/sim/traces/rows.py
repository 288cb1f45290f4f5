"""What readers of traces have in common: lines with their numbers, bounds, and errors that say where."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picker.errors import printable
from picker.sim.traces.errors import TraceError

MAX_REQUESTS = 1_000_000
MAX_LINE = 16 << 20  # bytes of a line
MAX_TOKENS = 10_000_000  # of a prompt, or an answer
MAX_TIME_S = 366 * 86_400.0


class Row:
    """One line of a trace, and the one to complain about it."""

    def __init__(self, path: Path, number: int, values: dict[str, Any]) -> None:
        self.path = path
        self.number = number
        self.values = values

    def wrong(self, why: str) -> TraceError:
        return TraceError(f"{self.path}, line {self.number}: {why}")

    def find(self, *names: str) -> Any:
        """The value of the first of these names that is there; None if none is."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def tokens(self, least: int, *names: str) -> int:
        value = self.find(*names)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_TOKENS:
            raise self.wrong(f"{names[0]} must be a whole number from {least} to {MAX_TOKENS}, not {shown(value)}")
        return value

    def milliseconds(self, *names: str) -> float | None:
        """In seconds; None if it is not there."""
        value = self.find(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME_S * 1e3:
            raise self.wrong(f"{names[0]} must be milliseconds from 0 to a year, not {shown(value)}")
        return value / 1e3


def shown(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def lines(path: Path | None, kind: str, limit: int = MAX_REQUESTS) -> Iterator[tuple[Path, int, str]]:
    """The lines of a file that are not blank, with their numbers. Raises TraceError if it cannot be read."""
    if path is None:
        raise TraceError(f"a trace of format {kind} is a file: name it with --trace")
    left = limit
    try:
        with path.open("rb") as file:
            number = 0
            while left and (line := file.readline(MAX_LINE + 1)):
                number += 1
                if len(line) > MAX_LINE:
                    raise TraceError(f"{path}, line {number}: longer than {MAX_LINE >> 20} MiB")
                if line.strip():
                    left -= 1
                    yield path, number, decoded(path, number, line)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error


def decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}, line {number}: not UTF-8") from error


def objects(path: Path | None, kind: str) -> Iterator[Row]:
    """The lines of a file of JSON objects, one a line."""
    for file, number, line in lines(path, kind):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise TraceError(f"{file}, line {number}: a request is a JSON object, not {shown(values)}")
        yield Row(file, number, values)
