"""Mooncake traces: JSON lines of `timestamp` (ms), `input_length`, `output_length` and `hash_ids` of 512 tokens each.

Rows of one `session_id` are turns of a conversation: a turn comes `delay` ms after the answer to the one before it, or,
without one, by the difference of their timestamps. What a turn's prompt has in place of that answer names the blocks of
the answer. Names and aliases of fields, and what sessions and deltas mean, are those of `dynamo-data-gen` (ai-dynamo).

With deltas, `input_length` and `hash_ids` of a row tell only what its turn adds: its prompt is the one before it, the
answer to that, and then this. Only the first turn's whole blocks can be shared between conversations then.
"""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from picker.sim.asked import Load
from picker.sim.traces.rows import Row, objects, shown
from picker.sim.traces.turns import Turn

KEY_TOKENS = 512
MAX_KEY = 2**63 - 1
MAX_KEYS = 50_000_000  # of all requests, which bounds the memory that they take


def read(path: Path | None, seed: int = 0) -> Load:
    """The first million requests, by arrival. Raises TraceError for a line that is no such request, or no file."""
    return _load(path, "mooncake", _whole)


def read_deltas(path: Path | None, seed: int = 0) -> Load:
    """The same of a trace with deltas."""
    names = count(-1, -1)  # what only one conversation has; the trace's own are not negative
    return _load(path, "mooncake-delta", lambda turn: _accumulate(turn, names))


def _load(path: Path | None, kind: str, finish: Callable[[Turn], None]) -> Load:
    last: dict[object, Turn] = {}
    turns = []
    left = MAX_KEYS
    for row in objects(path, kind):
        session = row.find("session_id")
        if session is not None and not isinstance(session, str | int):
            raise row.wrong(f"session_id must be a text or a number, not {shown(session)}")
        turn = _turn(row, last.get(session) if session is not None else None)
        if session is not None:
            turn.session = turn.before.session if turn.before else len(last)
            last[session] = turn
        finish(turn)
        turns.append(turn)
        left -= len(turn.keys) + len(turn.answer_keys)
        if left < 0:
            raise row.wrong(f"the prompts up to here have more than {MAX_KEYS} blocks together")
    turns.sort(key=lambda turn: turn.at_s)
    for index, turn in enumerate(turns):
        turn.index = index
    return Load(path.stem if path else kind, tuple(turn.asked() for turn in turns), KEY_TOKENS)


def _turn(row: Row, before: Turn | None) -> Turn:
    prompt_tokens = row.tokens(1, "input_length", "input_tokens")
    # Real traces hold a few requests without output; an engine always yields a token.
    output_tokens = max(row.tokens(0, "output_length", "output_tokens"), 1)
    turn = Turn(0.0, prompt_tokens, output_tokens, _keys(row, prompt_tokens), before=before)
    at_s, delay_s = row.milliseconds("timestamp", "created_time"), row.milliseconds("delay", "delay_ms")
    if before is None:
        if at_s is None:
            raise row.wrong("timestamp is missing: when does the request come, in milliseconds?")
        turn.at_s = at_s
    elif delay_s is None and at_s is None:
        raise row.wrong("a later turn of a session needs a delay or a timestamp, in milliseconds")
    else:
        turn.think_s = delay_s if delay_s is not None else max((at_s or 0.0) - before.at_s, 0.0)
        turn.at_s = before.at_s + turn.think_s
    return turn


def _keys(row: Row, prompt_tokens: int) -> Sequence[int]:
    keys = row.find("hash_ids") or ()
    if not isinstance(keys, list | tuple) or not all(type(key) is int and 0 <= key <= MAX_KEY for key in keys):
        raise row.wrong(f"hash_ids must be a list of whole numbers from 0 on, not {shown(keys)}")
    if len(keys) > -(-prompt_tokens // KEY_TOKENS):
        raise row.wrong(f"{len(keys)} hash_ids of {KEY_TOKENS} tokens are more than input_length {prompt_tokens} holds")
    return tuple(keys)


def _whole(turn: Turn) -> None:
    """Tells the turn before what its answer's blocks are called, where this one has it in its prompt."""
    before = turn.before
    if before is None:
        return
    begin, end = before.prompt_tokens // KEY_TOKENS, (before.prompt_tokens + before.output_tokens) // KEY_TOKENS
    if len(turn.keys) >= end and turn.prompt_tokens >= end * KEY_TOKENS and turn.keys[:begin] == before.keys[:begin]:
        before.answer_keys = turn.keys[begin:end]


def _accumulate(turn: Turn, names: "count[int]") -> None:
    """Makes the prompt of what it adds, and names the blocks up to the end of the answer."""
    before = turn.before
    known: list[int] = []
    if before is None:
        known.extend(turn.keys[: turn.prompt_tokens // KEY_TOKENS])
    else:
        known.extend((*before.keys[: before.prompt_tokens // KEY_TOKENS], *before.answer_keys))
        turn.prompt_tokens += before.prompt_tokens + before.output_tokens
    whole = (turn.prompt_tokens + turn.output_tokens) // KEY_TOKENS
    known.extend(next(names) for _ in range(whole - len(known)))
    end = turn.prompt_tokens // KEY_TOKENS
    turn.keys, turn.answer_keys = tuple(known[:end]), tuple(known[end:])
