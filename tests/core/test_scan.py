import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import Buffer

from picker._core import alloc, scan
from picker._core.scan import Scanner
from tests.model import scan as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(0, 2**33),
    st.floats(),
    st.text('aé\n"\\中😀', max_size=12),
)
KEYS = st.text('ab"', max_size=2)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(KEYS, inner, max_size=4), st.lists(st.integers(0, 9), max_size=5)
    ),
    max_leaves=20,
)
STYLES: list[dict[str, Any]] = [{}, {"ensure_ascii": False}, {"indent": 1}, {"separators": (",", ":")}]
BODIES = st.builds(lambda tree, style: json.dumps(tree, **style).encode(), TREES, st.sampled_from(STYLES))
EDITS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.binary(max_size=3)), max_size=3)


def scanned(body: Buffer, **limits: int) -> Scanner:
    scanner = Scanner(**limits)
    scanner.scan(body)
    scanner._check()
    return scanner


@given(BODIES)
@example(b'{"a":1,"a":[],"a":[1,2]}')
@example(b"\xef\xbb\xbf [NaN,[-Infinity],{}]")
def test_tape_equals_the_model(body: bytes) -> None:
    scanner = scanned(body)
    assert scanner.values() == model.tape(body)
    assert model.rebuild(scanner, body) == model.loads(body)


@given(BODIES, EDITS)
def test_takes_and_refuses_what_json_does(body: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for at, width, piece in edits:
        body = body[:at] + piece + body[at + width :]
    try:
        json.loads(body) if json.detect_encoding(body).startswith("utf-8") else json.loads("UTF-16")
    except ValueError:
        with pytest.raises(ValueError, match=r"^not JSON"):
            scanned(body)
    else:
        assert scanned(body).values() == model.tape(body)


def test_one_scanner_serves_many_bodies() -> None:
    scanner = Scanner()
    for body in (b"[1, [2.5]]", b"{", b'{"a": "b"}', b"", b"7"):
        try:
            scanner.scan(body)
        except ValueError:
            assert scanner.values() == []
        else:
            assert scanner.values() == model.tape(body)
        scanner._check()


def test_tape_by_example() -> None:
    body = b'{"m":"x\\n","p":[1,2],"q":[1,-2]}'
    assert scanned(body).values() == [
        (0, 32, 9, model.OBJECT, 0),
        (1, 4, 2, model.STRING, 0),
        (5, 10, 3, model.STRING, model.ESCAPED),
        (11, 14, 4, model.STRING, 0),
        (15, 20, 5, model.ARRAY, model.INTS),
        (21, 24, 6, model.STRING, 0),
        (25, 31, 9, model.ARRAY, 0),
        (26, 27, 8, model.NUMBER, 0),
        (28, 30, 9, model.NUMBER, 0),
    ]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"", 0),
        (b" ", 1),
        (b"\xef\xbb\xbf", 3),
        (b"\xef\xbb\xbf\xef\xbb\xbf1", 3),
        (b"\xef\xbb", 0),
        (b'{"a"', 4),
        (b'{"a" 1}', 5),
        (b'{"a":}', 5),
        (b'{"a":1,}', 7),
        (b"{1:2}", 1),
        (b"[1,]", 3),
        (b"[1 2]", 3),
        (b"[1}", 2),
        (b'{"a":1]', 6),
        (b"[,1]", 1),
        (b"1 2", 2),
        (b"]", 0),
        (b"01", 1),
        (b"-x", 1),
        (b"1.x", 2),
        (b"1e+x", 3),
        (b"+1", 0),
        (b"nulL", 3),
        (b"nu", 2),
        (b"-Infinitx", 8),
        (b"-I", 2),
        (b'"abc', 4),
        (b'"a\nb"', 2),
        (b'"\\x"', 2),
        (b'"\\u12G4"', 5),
        (b'"\\ud83d\\uzzzz"', 9),
        (b'"\xff"', 1),
        (b'"\xc0\x80"', 1),
        (b'"\xe0\x80\x80"', 2),
        (b'"\xf0\x80\x80\x80"', 2),
        (b'"\xf4\x90\x80\x80"', 2),
        (b'"\xe4\xb8"', 3),
        (b'"\xe4\xb8', 3),
        (b"\x00", 0),
        (b"1\x00", 1),
        (b"[\x0c1]", 1),
        ("[1]".encode("utf-16"), 0),
        ("[1]".encode("utf-16-le"), 1),
    ],
)
def test_names_the_first_wrong_byte(body: bytes, wrong: int) -> None:
    tail = f"it stops too early, at byte {wrong}" if wrong == len(body) else f"byte {wrong} is wrong"
    with pytest.raises(ValueError, match=f"^not JSON: {tail}$"):
        scanned(body)


def test_longer_integers_than_json_takes() -> None:
    body = b"9" * (sys.get_int_max_str_digits() + 1)
    with pytest.raises(ValueError, match="Exceeds the limit"):
        json.loads(body)
    assert scanned(body).values() == [(0, len(body), 1, model.NUMBER, 0)]


@given(TREES, st.integers(0, 8), st.integers(0, 4))
def test_limits_are_exact(tree: Any, values: int, depth: int) -> None:
    body = json.dumps(tree).encode()
    if len(model.tape(body)) > values or model.depth(body) > depth:
        with pytest.raises(OverflowError, match="JSON beyond a limit"):
            scanned(body, max_values=values, max_depth=depth)
    else:
        scanned(body, max_values=values, max_depth=depth)


@pytest.mark.parametrize(
    ("body", "limits", "at"),
    [
        (b"[[ [1]]]", {"max_depth": 2}, 3),
        (b"[[],[ 3.5]]", {"max_depth": 1}, 1),
        (b'{"a": "b"}', {"max_values": 2}, 6),
        (b"[[0.5, 1]]", {"max_values": 3}, 7),
        (b"7", {"max_values": 0}, 0),
    ],
)
def test_names_the_value_beyond_a_limit(body: bytes, limits: dict[str, int], at: int) -> None:
    scanner = Scanner(**limits)
    with pytest.raises(OverflowError, match=f"^JSON beyond a limit at byte {at}: "):
        scanner.scan(body)
    scanner._check()
    assert len(scanner) == 0


@pytest.mark.parametrize("opening", [b"[", b'{"":'])
def test_deep_nesting_costs_no_stack(opening: bytes) -> None:
    body = opening * 1_000_000
    with pytest.raises(OverflowError, match="at byte 256" if opening == b"[" else "at byte 1024"):
        scanned(body)
    with pytest.raises(ValueError, match="stops too early"):
        scanned(body, max_values=2_000_000, max_depth=1_000_000)
    scanned(b"[" * 100_000 + b"]" * 100_000, max_depth=100_000)


def test_integer_arrays_cost_one_value() -> None:
    ids = list(range(100_000))
    scanner = scanned(json.dumps({"prompt": ids}).encode(), max_values=3)
    assert scanner.ints(2) == ids


@pytest.mark.parametrize("items", ["[]", "[-1]", "[1.0]", "[1e2]", "[4294967296]", "[1,[2]]", '[1,"2"]', "[1,null]"])
def test_other_arrays_are_not_integer_arrays(items: str) -> None:
    scanner = scanned(items.encode())
    assert scanner.values() == model.tape(items.encode())
    with pytest.raises(ValueError, match="not an array of plain integers"):
        scanner.ints(0)


@given(st.lists(st.tuples(st.text("ab", max_size=2), SCALARS), max_size=6), st.text("abé", max_size=2))
def test_member_is_the_last_of_its_name(pairs: list[tuple[str, Any]], name: str) -> None:
    body = f"{{{','.join(json.dumps(key) + ':' + json.dumps(value) for key, value in pairs)}}}".encode()
    scanner = scanned(body)
    index = scanner.member(0, name.encode())
    members = zip(model.tape(body)[1::2], model.tape(body)[2::2], strict=True)
    named = [value for key, value in members if json.loads(body[key[0] : key[1]]) == name]
    assert (scanner.values()[index] if index else None) == (named[-1] if named else None)


def test_member_compares_what_is_meant() -> None:
    scanner = scanned(b'{"mod\\u0065l": 1, "\\ud83d\\ude00": 2, "": 3, "a\\nb": {"model": 4}}')
    assert [scanner.member(0, name) for name in (b"model", "😀".encode(), b"", b"a\nb")] == [2, 4, 6, 8]
    assert [scanner.member(0, name) for name in (b"mode", b"modell", b"m", b"a\\nb", b"a\n")] == [None] * 5
    assert scanner.member(8, b"model") == 10
    assert scanner.equals(1, b"model") and not scanner.equals(1, b"mod\\u0065l") and not scanner.equals(5, b"x")
    assert scanner.equals(5, b"")


def test_reads_texts_and_numbers() -> None:
    scanner = scanned(b'["a\\u00e9\\n", "\\ud800", 1e3, 0.5, NaN, -0]')
    assert [scanner.text(1), scanner.text(2)] == ["aé\n".encode(), b"\xed\xa0\x80"]
    assert [scanner.uint(index) for index in (3, 4, 5, 6)] == [1000, None, None, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda scanner, index: scanner.member(index, b""),
        lambda scanner, index: scanner.equals(index, b""),
        lambda scanner, index: scanner.text(index),
        lambda scanner, index: scanner.ints(index),
        lambda scanner, index: scanner.uint(index),
    ],
)
def test_refuses_wrong_indexes(call: Callable[[Scanner, int], object]) -> None:
    scanner = scanned(b"true")
    with pytest.raises(ValueError, match="value 0 is of kind 2"):
        call(scanner, 0)
    with pytest.raises(IndexError):
        call(scanner, 1)
    with pytest.raises(OverflowError):
        call(scanner, -1)


def test_holds_the_body_while_the_tape_points_into_it() -> None:
    body = bytearray(b'["text"]')
    scanner = scanned(body)
    with pytest.raises(BufferError):
        body.clear()
    scanner.scan(b"1")
    body.clear()
    body += b"[1"
    with pytest.raises(ValueError, match="stops too early"):
        scanner.scan(body)
    body.clear()


@given(st.data())
def test_a_body_that_changes_is_harmless(data: st.DataObject) -> None:
    """Answers may be nonsense; the sanitized build sees that no read leaves the body."""
    body = bytearray(b'["te\\u00e9xt\\n",[1,23,456],12.5e1]')
    scanner = scanned(body)
    junk = data.draw(st.binary(min_size=len(body), max_size=len(body)) | st.sampled_from([b"\\", b"1", b"-"]))
    body[:] = (junk * len(body))[: len(body)]
    scanner.equals(1, b"te")
    scanner.ints(2)
    scanner.uint(3)
    try:
        scanner.text(1)
    except RuntimeError:
        assert body[1:14].count(b"\\")


def test_refuses_what_is_not_contiguous_bytes() -> None:
    with pytest.raises((BufferError, ValueError)):
        scanned(memoryview(b"[[11]]")[::2])
    with pytest.raises(TypeError):
        scanned("[1]")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        scanned(None)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        Scanner(max_values=-1)


@given(st.dictionaries(KEYS, SCALARS, max_size=4), st.sampled_from(STYLES), KEYS, st.text('x"\\\té中', max_size=6))
def test_splice_equals_the_model(members: dict[str, Any], style: dict[str, Any], name: str, value: str) -> None:
    body = json.dumps(members, **style).encode()
    if name in members:
        assert json.loads(scan.splice(body, name.encode(), value)) == json.loads(model.splice(body, name, value))
    else:
        with pytest.raises(KeyError):
            scan.splice(body, name.encode(), value)


def test_splice_leaves_every_other_byte() -> None:
    body = b'\xef\xbb\xbf {"model" : 1, "x":{"model":2 },\n "mod\\u0065l"\t: {"old": [ ]} , "n":1.50}  '
    new = b'\xef\xbb\xbf {"model" : 1, "x":{"model":2 },\n "mod\\u0065l"\t: "a\\"b" , "n":1.50}  '
    assert scan.splice(body, b"model", 'a"b') == new
    assert scan.splice(bytearray(b'{"":0}'), b"", "é\n") == '{"":"é\\u000a"}'.encode()


def test_splice_refuses() -> None:
    for body in (b"[]", b'"model"', b'{"x":{"model":1}}', b"{}"):
        with pytest.raises(KeyError, match="model"):
            scan.splice(body, b"model", "x")
    with pytest.raises(ValueError, match="byte 1 is wrong"):
        scan.splice(b"{model:1}", b"model", "x")
    with pytest.raises(ValueError, match="surrogates not allowed"):
        scan.splice(b'{"model":1}', b"model", "\ud800")
    with pytest.raises(OverflowError):
        scan.splice(b"[" * 300, b"model", "x")


def test_leaks_nothing() -> None:
    def each() -> None:
        scanner = scanned(b'{"a": [0.5, {"b": "c"}, [1, 2]], "d": "\\n"}')
        scanner.text(scanner.member(0, b"d") or 0)
        scan.splice(b'{"a": 1}', b"a", "x")
        for body in (b'["a", {"b": }]', b"[" * 300):
            with pytest.raises((ValueError, OverflowError)):
                scanner.scan(body)

    assert_flat(each, calls=50)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(lambda: scanned(b'{"a": [1.5, 2, 3, 4, 5, 6, 7, 8, 9]}')) == 2


@debug_build_only
def test_a_tape_that_cannot_grow_is_empty() -> None:
    scanner = scanned(b"[1, 2.5]")
    body = b"[" + b"0.5," * 100 + b"1]"
    alloc.fail_allocation(0)
    with pytest.raises(MemoryError, match="JSON tape"):
        scanner.scan(body)
    scanner._check()
    assert len(scanner) == 0
    scanner.scan(body)
    assert scanner.values() == model.tape(body)
