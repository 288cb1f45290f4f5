"""YAML text to values with lines: what is read, what is refused, and the limits."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from picker.config.document import (
    MAX_BYTES,
    Document,
    compose,
    compose_all,
    decode_text,
    drain,
    field_name,
    read_text,
)
from picker.errors import ConfigError, EndpointsFileError
from tests.support.config_samples import line_count


def read(text: str, *, keep_null: bool = False) -> Document:
    return drain(compose(text, source="f.yaml", keep_null=keep_null))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def test_values_and_lines() -> None:
    document = read("a: 1\nb:\n  - x\n  - c: [1, 2]\n    d: {e: 'q'}\n")
    assert document.value == {"a": 1, "b": ["x", {"c": [1, 2], "d": {"e": "q"}}]}
    assert document.line(()) == 1
    assert document.line(("b",)) == 2
    assert document.line(("b", 0)) == 3
    assert document.line(("b", 1)) == 4
    assert document.line(("b", 1, "d", "e")) == 5
    assert document.line(("b", 1, "d", "missing", 7)) == 5  # the nearest that exists


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("0x1f", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-2.5E-2", -0.025),
        ("true", True),
        ("Off", False),
        ("007", "007"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-01-01", "2026-01-01"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("! 12", "12"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read(f"k: {text}").value["k"]
    assert (type(found), found) == (type(value), value)


def test_null_members_are_absent_unless_asked_for() -> None:
    assert read("a:\nb: ~\nc: [null]").value == {"c": [None]}
    assert read("a:\nb: 1", keep_null=True).value == {"a": None, "b": 1}


def test_aliases_share_values_but_have_their_own_line() -> None:
    document = read("a: &x {b: 1}\nc: *x\nd: &s text\ne: *s\n")
    assert document.value == {"a": {"b": 1}, "c": {"b": 1}, "d": "text", "e": "text"}
    assert document.line(("c",)) == 2
    assert document.line(("c", "b")) == 1


def test_a_repeated_key_names_both_lines() -> None:
    message = "f.yaml:4: b: 'c' is written twice; the first is on line 3; remove one"
    assert refusal("a: 1\nb:\n  c: 1\n  c: 2\n") == message
    assert "twice" in refusal("a: ~\na: 1\n")  # a null member counts too


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", None, "is empty"),
        ("# only a comment\n", None, "is empty"),
        ("null\n", None, "is empty"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: [1,\n", 2, "not valid YAML"),
        ("a:\n\t- b\n", 2, "spaces, not tabs"),
        ("a: 'open\n", 2, "not valid YAML"),
        ("\0", 1, "not valid YAML"),
        ("a: é\nb: x\x07\n", 2, "control characters are not allowed; remove it, or write it as an escape"),
        ("a: !!python/object:os.system x\n", 1, "tag tag:yaml.org,2002:python/object:os.system"),
        ("a: !!binary aGk=\n", 1, "is not supported"),
        ("a: !!map {}\n", 1, "is not supported"),
        ("a: *nothing\n", 1, "alias *nothing"),
        ("a: &a [*a]\n", 1, "alias *a"),
        ("a: 1\n<<: {b: 1}\n", 2, "merge keys"),
        ("1: x\n", 1, 'key 1 is not text; quote it: "1"'),
        ("on: x\n", 1, "key on is not text"),
        ("a: 1e999\n", 1, "out of range"),
        ("a: &x k\n*x : 1\n", 2, "a key is an alias"),
        ("? [a]\n: b\n", 1, "a key is a mapping or a list"),
        ("\ud800", None, "not Unicode"),
    ],
)
def test_refused(text: str, line: int | None, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.line == line
    assert part in str(caught.value)
    assert caught.value.source == "f.yaml"


def test_an_alias_bomb_is_counted_not_built() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    assert "holds more than 250000 values" in refusal(bomb)


def test_depth_is_limited_also_through_aliases() -> None:
    assert "nested deeper than 64" in refusal("[" * 100_000)
    assert "nested deeper than 64" in refusal("{a: " * 65)
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100))
    assert "deeper ones than 64" in refusal(chain)
    assert read("[" * 60 + "]" * 60).value is not None


def read_all(text: str) -> tuple[Document, ...]:
    return drain(compose_all(text, source="f.yaml"))


def test_documents_are_read_one_by_one() -> None:
    first, second = read_all("---\na: &x 1\n--- # nothing\n---\nb:\n- c\n...\n---\n~\n")
    assert (first.value, second.value) == ({"a": 1}, {"b": ["c"]})
    assert (first.line(("a",)), second.line(()), second.line(("b", 0))) == (2, 5, 6)
    assert read_all("") == read_all("---\n---\n") == ()


def test_documents_know_nothing_of_each_other_s_anchors() -> None:
    with pytest.raises(ConfigError, match=r"f.yaml:3: b: alias \*x names nothing before it"):
        read_all("a: &x 1\n---\nb: *x\n")


def test_limits_are_those_of_all_documents() -> None:
    one = "[" + "x," * 50_000 + "]\n---\n"
    assert len(read_all(one * 4)) == 4
    with pytest.raises(ConfigError, match="more than 250000 values"):
        read_all(one * 5)
    assert "holds a second document" in refusal("a: 1\n---\n")


def test_size_is_limited() -> None:
    assert "larger than 1024 KiB" in refusal("# " + "x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than 1024 KiB"):
        decode_text(b"#" * (MAX_BYTES + 1), source="f")


def test_bytes_must_be_utf8() -> None:
    assert decode_text(b"\xef\xbb\xbfa: \xc3\xa9", source="f") == "a: é"
    with pytest.raises(EndpointsFileError, match="f:2: is not UTF-8"):
        decode_text(b"a: 1\nb: \xff", source="f", error=EndpointsFileError)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory; check the path"):
        read_text(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_field_names() -> None:
    assert field_name(("plugins", 2, "parameters", "foo")) == "plugins[2].parameters.foo"
    assert field_name(()) == ""


# YAML refuses control characters and folds Unicode line ends, JSON takes them raw: the one place they differ
TEXT = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="\ufeff\ufffe\uffff"), max_size=6
)
WORDS = st.text("abnoyes :-#,[]{}'\"\n!&*é", max_size=6)


def trees(words: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, object]]:
    leaves = st.booleans() | st.integers(-(10**18), 10**18) | words | st.floats(allow_nan=False, allow_infinity=False)
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
    )
    return st.dictionaries(words, values, max_size=5)


@given(trees(TEXT))
def test_json_reads_as_json(value: dict[str, object]) -> None:
    assert read(json.dumps(value, ensure_ascii=False)).value == value


@given(trees(WORDS))
def test_what_pyyaml_writes_reads_back(value: dict[str, object]) -> None:
    assert read(yaml.safe_dump(value, allow_unicode=True)).value == value


@given(st.text(max_size=200) | st.text("[]{}&*a:-,'\"#!|>? \n\t%@`0", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read(text)
    except ConfigError as error:
        assert error.line is None or 1 <= error.line <= line_count(text) + 1
