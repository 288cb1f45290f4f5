"""Mooncake traces: JSON lines of `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of 512 tokens each."""

import json
from pathlib import Path

from picker.sim.asked import Asked, Load
from picker.sim.traces.errors import TraceError

KEY_TOKENS = 512
MAX_REQUESTS = 1_000_000


def read(path: Path | None, seed: int) -> Load:
    """The first million requests, by arrival. Raises TraceError for a line that is no such request, or no file."""
    if path is None:
        raise TraceError("a mooncake trace is a file: name it with --trace")
    try:
        with path.open(encoding="utf-8") as lines:
            found = [
                _asked(path, number, line) for number, line in zip(range(1, MAX_REQUESTS + 1), lines, strict=False)
            ]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: {error}") from error
    found.sort(key=lambda one: one[0])
    asked = [Asked(index, at_s, prompt, output, keys) for index, (at_s, prompt, output, keys) in enumerate(found)]
    return Load(path.stem, tuple(asked), KEY_TOKENS)


def _asked(path: Path, number: int, line: str) -> tuple[float, int, int, tuple[int, ...]]:
    try:
        entry = json.loads(line)
        # Real traces hold a few requests without output; an engine always yields a token.
        output = max(int(entry["output_length"]), 1)
        return entry["timestamp"] / 1e3, int(entry["input_length"]), output, tuple(entry["hash_ids"])
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}, line {number}: no Mooncake request: {error!r}") from error
