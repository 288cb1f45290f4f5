"""The Azure LLM inference traces of 2023 and 2024: CSV of TIMESTAMP, ContextTokens, GeneratedTokens.

Source: Azure/AzurePublicDataset, `data/AzureLLMInferenceTrace_{code,conv}.csv` and the releases of 2024. They say
nothing of what prompts have in common, so that nothing is shared here.
"""

from datetime import UTC, datetime
from pathlib import Path

from picker.sim.asked import Asked, Load
from picker.sim.traces.errors import TraceError
from picker.sim.traces.rows import MAX_TIME_S, MAX_TOKENS, lines, shown

KEY_TOKENS = 512
HEADER = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


def read(path: Path | None, seed: int = 0) -> Load:
    """The first million requests, the first of them at second 0. Raises TraceError for a line that is none."""
    found = []
    for file, number, line in lines(path, "azure"):
        fields = [field.strip() for field in line.split(",")]
        if number == 1:
            if [field.lstrip("\ufeff") for field in fields] != HEADER:
                raise TraceError(f"{file}, line 1: the header must be {','.join(HEADER)}, not {shown(line.strip())}")
            continue
        try:
            found.append(_row(fields))
        except ValueError as error:
            raise TraceError(f"{file}, line {number}: {error}") from error
    if path is not None and not found:
        raise TraceError(f"{path}: no request in it; a file begins with {','.join(HEADER)}")
    found.sort()
    first_s = found[0][0]
    if found[-1][0] - first_s > MAX_TIME_S:
        raise TraceError(f"{path}: its requests are more than a year apart")
    asked = tuple(Asked(index, at_s - first_s, *tokens) for index, (at_s, tokens) in enumerate(found))
    return Load(path.stem if path else "azure", asked, KEY_TOKENS)


def _row(fields: list[str]) -> tuple[float, tuple[int, int]]:
    if len(fields) != len(HEADER):
        raise ValueError(f"{len(fields)} fields, not {len(HEADER)}: {','.join(HEADER)}")
    return _seconds(fields[0]), (_tokens(fields[1], HEADER[1]) or 1, _tokens(fields[2], HEADER[2]) or 1)


def _seconds(text: str) -> float:
    """2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"TIMESTAMP must be like 2023-11-16 18:15:46.6805900, not {shown(text)}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _tokens(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > MAX_TOKENS:
        raise ValueError(f"{name} must be a whole number from 0 to {MAX_TOKENS}, not {shown(text)}")
    return int(text)
