import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picker._core import floats
from tests.model import floats as model
from tests.support.leaks import assert_flat

SOUP = st.lists(
    st.sampled_from([b"+", b"-", b".", b"e", b"E", b"0", b"00", b"5", b"9007199254740993", b"nan", b"INF", b"inity"])
).map(b"".join)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def same(text: bytes) -> None:
    expected = model.parse(text)
    if expected is None:
        with pytest.raises(ValueError, match="not a number"):
            floats.parse(text)
    else:
        got = floats.parse(text)
        assert bits(got) == bits(expected) or (got != got and expected != expected)


@given(st.floats())
def test_reads_back_every_double(value: float) -> None:
    for text in (repr(value), f"{value:e}", f"{value:g}", f"{value:.3f}"[:100]):
        same(text.encode())


@given(SOUP)
def test_equals_the_model_on_anything(text: bytes) -> None:
    same(text)


@given(st.integers(0, 10**25), st.integers(-400, 400), st.integers(0, 25))
@example(9007199254740993, 0, 0)  # half way between two doubles
@example(9007199254740992, 22, 0)
@example(2**64, -22, 0)  # the digits do not fit a word
@example(49406564584124654, -340, 0)  # the least subnormal
@example(17976931348623159, 292, 0)  # rounds to infinity
def test_rounds_as_float_does(digits: int, exponent: int, point: int) -> None:
    text = str(digits)
    same(f"{text}e{exponent}".encode())
    same(f"{text[:point]}.{text[point:]}e{exponent:+}".encode())
    same(f"-{text[:point]}.{text[point:]}".encode())


def test_refuses_what_is_too_long_to_be_meant() -> None:
    assert floats.parse(b"1" * 100) == float("1" * 100)
    with pytest.raises(ValueError, match="not a number"):
        floats.parse(b"1" * 101)


@pytest.mark.parametrize("text", [b"", b"0x10", b"1_0", b" 1", b"1 ", b"1.2.3", b"1e", b"infin", b"++1", b"\xff"])
def test_refuses_what_is_no_number(text: bytes) -> None:
    same(text)


def test_exponents_of_any_length_are_read() -> None:
    assert floats.parse(b"1e-" + b"9" * 90) == 0.0
    assert floats.parse(b"1e" + b"9" * 90) == float("inf")
    assert floats.parse(b"0e" + b"9" * 90) == 0.0


def test_leaks_nothing() -> None:
    assert_flat(lambda: floats.parse(b"1.7952940975766084e+09"))
