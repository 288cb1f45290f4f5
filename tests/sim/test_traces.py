"""Readers of traces, and generators of loads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from picker.sim.arrivals import Arrivals
from picker.sim.asked import Asked, Load
from picker.sim.figures import ceiling
from picker.sim.traces import FORMATS, GENERATED, TraceError
from picker.sim.traces.agentic import AGENTIC, generate
from picker.sim.traces.dice import Stage
from tests.support.shared import SHARED, needs_shared

Rows = Sequence[Mapping[str, object]]


def written(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mooncake(path: Path, rows: Rows, kind: str = "mooncake") -> tuple[Asked, ...]:
    return FORMATS[kind](written(path / "trace.jsonl", rows), 1).asked


def row(**given: object) -> dict[str, object]:
    return {"timestamp": 0, "input_length": 1_024, "output_length": 10, "hash_ids": [1, 2], **given}


def check(load: Load) -> None:
    """What every load must be, whatever it was read from."""
    assert [one.index for one in load.asked] == list(range(len(load.asked)))
    assert all(before.at_s <= after.at_s for before, after in zip(load.asked, load.asked[1:], strict=False))
    Arrivals(load)
    for one in load.asked:
        assert one.prompt_tokens >= 1 and one.output_tokens >= 1
        assert len(one.keys) <= -(-one.prompt_tokens // load.key_tokens)
        whole = one.prompt_tokens // load.key_tokens
        assert not one.answer_keys or len(one.keys) >= whole
        assert whole + len(one.answer_keys) <= one.tokens // load.key_tokens


# --- Mooncake ---


def test_mooncake_rows_are_read_by_arrival(tmp_path: Path) -> None:
    rows = [row(timestamp=2_500.5, hash_ids=[3]), {**row(), "output_length": 0}]
    asked = mooncake(tmp_path, rows)
    assert asked == (Asked(0, 0.0, 1_024, 1, (1, 2)), Asked(1, 2.5005, 1_024, 10, (3,)))


def test_mooncake_takes_the_other_names_of_fields(tmp_path: Path) -> None:
    asked = mooncake(tmp_path, [{"created_time": 1_000, "input_tokens": 7, "output_tokens": 8}])
    assert asked == (Asked(0, 1.0, 7, 8),)


def test_turns_of_a_session_wait_for_the_answer_before(tmp_path: Path) -> None:
    rows = [
        row(session_id="a", timestamp=1_000),
        row(timestamp=1_200),
        row(session_id="a", delay=500, timestamp=None),
        row(session_id="a", timestamp=4_000),
    ]
    first, other, second, third = mooncake(tmp_path, rows)
    assert (first.after, other.after, second.after, third.after) == (-1, -1, 0, 2)
    assert (first.session, other.session, second.session, third.session) == (0, -1, 0, 0)
    assert (second.at_s, second.think_s, third.at_s, third.think_s) == (1.5, 0.5, 4.0, 2.5)


def test_a_turn_tells_what_the_blocks_of_the_answer_are_called(tmp_path: Path) -> None:
    rows = [
        row(session_id=7, input_length=1_200, output_length=600, hash_ids=[1, 2, 9]),
        row(session_id=7, input_length=2_000, delay=0, hash_ids=[1, 2, 3, 4]),
    ]
    first, second = mooncake(tmp_path, rows)
    assert first.answer_keys == (3,)
    assert first.cacheable(512) == (1, 2, 3)
    assert second.answer_keys == ()


def test_deltas_add_to_the_prompt_and_answer_before(tmp_path: Path) -> None:
    """1,000 and 500 to answer, then 600 more: a prompt of 2,100, whose first block is the one that is named."""
    rows = [
        row(session_id="a", input_length=1_000, output_length=500, hash_ids=[5, 6]),
        row(session_id="a", input_length=600, output_length=300, hash_ids=[7, 8], delay=2_000),
        row(session_id="b", input_length=1_000, output_length=500, hash_ids=[5, 6]),
    ]
    first, other, second = sorted(mooncake(tmp_path, rows, "mooncake-delta"), key=lambda one: one.prompt_tokens)
    assert second.prompt_tokens == 2_100
    assert first.keys[0] == second.keys[0] == other.keys[0] == 5
    assert (*first.keys, *first.answer_keys) == second.keys[:2]
    assert len(second.keys) == 4 and len(second.answer_keys) == 0
    assert not set(first.answer_keys) & set(other.answer_keys)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a request is a JSON object, not [1]"),
        ('{"timestamp": 0, "output_length": 1}', "line 2: input_length must be a whole number from 1"),
        ('{"timestamp": 0, "input_length": true, "output_length": 1}', "not True"),
        ('{"timestamp": 0, "input_length": 1e99, "output_length": 1}', "input_length must be a whole number"),
        ('{"timestamp": 0, "input_length": 5, "output_length": -1}', "output_length must be a whole number from 0"),
        ('{"input_length": 5, "output_length": 1}', "timestamp is missing"),
        ('{"timestamp": -1, "input_length": 5, "output_length": 1}', "timestamp must be milliseconds"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 1}', "timestamp must be milliseconds"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1, 2]}',
            "more than input_length 5 holds",
        ),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": ["a"]}', "hash_ids must be a list"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "session_id": []}', "session_id must be"),
    ],
)
def test_mooncake_says_which_line_is_wrong_and_why(tmp_path: Path, line: str, why: str) -> None:
    path = written(tmp_path / "trace.jsonl", [row()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TraceError) as caught:
        FORMATS["mooncake"](path, 1)
    assert str(caught.value).startswith(f"{path}, line 2: ") and why in str(caught.value)


def test_a_later_turn_without_delay_and_time_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="line 2: a later turn of a session needs a delay"):
        mooncake(tmp_path, [row(session_id=1), {**row(session_id=1), "timestamp": None}])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        FORMATS["mooncake"](tmp_path / "trace.jsonl", 1)
    with pytest.raises(TraceError, match="name it with --trace"):
        FORMATS["azure"](None, 1)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"\n\xff\n")
    with pytest.raises(TraceError, match="line 2: not UTF-8"):
        FORMATS["mooncake"](path, 1)


@needs_shared
def test_the_public_conversation_trace_is_read_whole() -> None:
    load = FORMATS["mooncake"](SHARED / "traces" / "mooncake_conversation.jsonl", 1)
    check(load)
    assert len(load.asked) == 12_031
    assert sum(one.prompt_tokens for one in load.asked) // len(load.asked) == 12_035
    assert ceiling(load) == pytest.approx(0.374, abs=0.001)


# --- Azure ---

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:47.1805900,808,0
2023-11-16 18:15:46.6805900,374,44
"""


def azure(path: Path, text: str) -> Load:
    file = path / "azure.csv"
    file.write_text(text)
    return FORMATS["azure"](file, 1)


def test_azure_begins_with_its_first_request(tmp_path: Path) -> None:
    load = azure(tmp_path, AZURE)
    check(load)
    assert [(one.prompt_tokens, one.output_tokens) for one in load.asked] == [(374, 44), (808, 1)]
    assert load.asked[0].at_s == 0 and load.asked[1].at_s == pytest.approx(0.5)
    assert ceiling(load) == 0


def test_azure_of_2024_tells_the_time_zone(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
    assert azure(tmp_path, text).asked == (Asked(0, 0.0, 2_162, 5),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b\n", "line 1: the header must be TIMESTAMP,ContextTokens,GeneratedTokens"),
        (AZURE + "2023-11-16 18:15:46,5\n", "line 4: 2 fields, not 3"),
        (AZURE + "yesterday,5,6\n", "line 4: TIMESTAMP must be like"),
        (AZURE + "2023-11-16 18:15:46,-5,6\n", "line 4: ContextTokens must be a whole number"),
        (AZURE + "2023-11-16 18:15:46,5,99999999999\n", "line 4: GeneratedTokens must be a whole number"),
        (AZURE + "2025-11-16 18:15:46,5,6\n", "more than a year apart"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request in it"),
        ("", "no request in it"),
    ],
)
def test_azure_says_which_line_is_wrong_and_why(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(TraceError, match="azure") as caught:
        azure(tmp_path, text)
    assert why in str(caught.value)


# --- generated ---


@pytest.mark.parametrize("name", GENERATED)
def test_generated_loads_are_the_same_for_a_seed_and_no_other(name: str) -> None:
    load = FORMATS[name](None, 3)
    check(load)
    assert load == FORMATS[name](None, 3)
    assert load != FORMATS[name](None, 4)
    with pytest.raises(TraceError, match="is generated: give no --trace"):
        FORMATS[name](Path("file"), 3)


def test_shared_prefix_has_150_groups_and_a_rising_rate() -> None:
    load = FORMATS["shared-prefix"](None, 1)
    assert {(one.prompt_tokens, one.output_tokens) for one in load.asked} == {(7_200, 1_000)}
    assert len({one.keys[:30] for one in load.asked}) == len({one.keys[0] for one in load.asked}) == 150
    assert len({one.keys[30] for one in load.asked}) == len(load.asked)
    begin, end = (sum(since <= one.at_s < since + 20 for one in load.asked) / 20 for since in (0, 380))
    assert begin == pytest.approx(3, abs=1.5) and end == pytest.approx(60, abs=6)


def test_zero_reuse_shares_nothing() -> None:
    assert ceiling(FORMATS["zero-reuse"](None, 1)) == 0


def test_agents_say_again_what_was_said() -> None:
    load = FORMATS["agentic"](None, 1)
    assert max(one.prompt_tokens for one in load.asked) > 200_000
    assert max(one.tokens for one in load.asked) <= 240_000
    for one in load.asked:
        if one.after >= 0:
            before = load.asked[one.after]
            whole = before.tokens // load.key_tokens
            said = (*before.keys[: before.prompt_tokens // load.key_tokens], *before.answer_keys)
            assert one.session == before.session and one.prompt_tokens > before.tokens
            assert tuple(one.keys[:whole]) == said and one.think_s > 0
    assert ceiling(load) > 0.9


def test_a_context_that_is_full_ends_the_session() -> None:
    small = replace(AGENTIC, kinds=(4_096,), context=50_000, stages=(Stage(1.0, 60.0),))
    load = generate(small, 1)
    check(load)
    assert 40_000 < max(one.tokens for one in load.asked) <= 50_000
    with pytest.raises(ValueError, match="whole blocks"):
        replace(AGENTIC, kinds=(4_000,))
