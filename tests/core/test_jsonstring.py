import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picker._core import jsonstring
from tests.model import jsonstring as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

# Pieces whose every sequence is a string, so that escapes, seams of 8 bytes and surrogate pairs meet.
ESCAPES = [rb"\n", rb"\"", rb"\\", rb"\/", rb"\u0000", rb"\u00e9", rb"\u4E2d", rb"\ud83d", rb"\ude00"]
RAW = [b"a", b"plain text", b"\x7f", *(c.encode("utf-8", "surrogatepass") for c in "é中😀\ud83d\ude00\U0010ffff")]
PIECES = st.sampled_from(ESCAPES + RAW)
STRINGS = st.lists(PIECES, max_size=12).map(lambda pieces: b'"' + b"".join(pieces) + b'"')


@given(STRINGS)
def test_unescape_equals_the_model(token: bytes) -> None:
    assert jsonstring.unescape(token) == model.unescape(token)


@given(st.text(), st.booleans())
def test_unescape_reads_what_json_writes(text: str, ascii_only: bool) -> None:
    token = json.dumps(text, ensure_ascii=ascii_only).encode()
    assert jsonstring.unescape(token) == text.encode()


@given(STRINGS, st.integers(0, 40), st.integers(0, 255))
def test_refuses_what_the_model_refuses(token: bytes, at: int, byte: int) -> None:
    token = token[:at] + bytes((byte,)) + token[at + 1 :]
    try:
        expected = model.unescape(token)
    except ValueError:
        with pytest.raises(ValueError, match="not a JSON string"):
            jsonstring.unescape(token)
    else:
        assert jsonstring.unescape(token) == expected


@given(st.text())
@example("".join(map(chr, range(256))))
def test_quote_is_read_back_by_json(text: str) -> None:
    assert json.loads(jsonstring.quote(text)) == text


@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"])))
def test_quote_writes_no_needless_escape(text: str) -> None:
    assert jsonstring.quote(text) == model.quote(text)


@pytest.mark.parametrize(("before", "behind"), [(0, 20), (5, 20), (7, 20), (8, 20), (15, 20), (20, 20), (0, 0), (9, 2)])
def test_every_byte_at_every_place_in_a_word(before: int, behind: int) -> None:
    for byte in range(256):
        token = b'"' + b"x" * before + bytes((byte,)) + b"y" * behind + b'"'
        if 0x20 <= byte < 0x80 and byte not in b'"\\':
            assert jsonstring.unescape(token) == token[1:-1]
        else:
            with pytest.raises(ValueError, match="not a JSON string"):
                jsonstring.unescape(token)


def test_every_code_point_escaped() -> None:
    for code in range(0x10000):
        assert jsonstring.unescape(b'"\\u%04x"' % code) == chr(code).encode("utf-8", "surrogatepass")
    for code in (0x10000, 0x103FF, 0x10400, 0x1F600, 0x10FC00, 0x10FFFF):
        assert jsonstring.unescape(json.dumps(chr(code)).encode()) == chr(code).encode()


@pytest.mark.parametrize("rest", [b"", b"pppppppp"])
def test_utf8_by_its_definition(rest: bytes) -> None:
    """Every lead byte with second and third bytes at the edges of what is allowed, near the end and far from it."""
    edges = (0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    for lead in range(0x80, 0x100):
        for second in edges:
            for third in edges:
                for sequence in (
                    bytes((lead, second)),
                    bytes((lead, second, third)),
                    bytes((lead, second, third, 0x80)),
                ):
                    _same_verdict(sequence, rest)


def _same_verdict(sequence: bytes, rest: bytes) -> None:
    token = b'"' + sequence + rest + b'"'
    try:
        expected = model.unescape(token)
    except ValueError:
        with pytest.raises(ValueError, match="not a JSON string"):
            jsonstring.unescape(token)
    else:
        assert jsonstring.unescape(token) == expected


@pytest.mark.parametrize(
    "token", [b"", b'"', b'""x', b'"\\', b'"\\"', b'"\\u', b'"\\u123', b'"\\u12G4"', b"'a'", b' ""']
)
def test_refuses_what_is_no_string(token: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON string"):
        jsonstring.unescape(token)


def test_quote_refuses_lone_surrogates() -> None:
    with pytest.raises(UnicodeEncodeError):
        jsonstring.quote("\ud800")


def test_leaks_nothing() -> None:
    def both() -> None:
        jsonstring.unescape(jsonstring.quote('a\n"é'))
        with pytest.raises(ValueError, match="not a JSON string"):
            jsonstring.unescape(b'"\\x"')

    assert_flat(both)


@debug_build_only
def test_allocates_nothing_of_its_own() -> None:
    assert failing_allocations(lambda: jsonstring.unescape(jsonstring.quote("text"))) == 0
