import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core import jsonnumber
from tests.model import jsonnumber as model
from tests.support.leaks import assert_flat

# Digits that make trailing zeros, leading zeros, whole fractions and 64-bit edges likely.
DIGITS = st.text("0159", max_size=6)
EXPONENTS = st.sampled_from(["", "e0", "E+2", "e-2", "e1", "e19", "e-19", "e20", "E-0003"])
NUMBERS = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}".encode(),
    st.sampled_from(["", "-"]),
    st.one_of(DIGITS, st.integers(2**64 - 3, 2**64 + 3).map(str), st.integers(0, 2**70).map(str)),
    st.one_of(st.just(""), DIGITS.map(lambda digits: f".{digits}")),
    EXPONENTS,
)
PLAIN = st.integers(0, 10**9) | st.integers(2**32 - 2, 2**32 - 1) | st.integers(0, 9)
OTHERS = [
    "00",
    "007",
    "0123456789",
    "-1",
    "1.0",
    "1e2",
    "4294967296",
    "9" * 19,
    "",
    "x",
    "1:",
    "/1",
    "[]",
    "1 1",
    "1\v",
]
SPACES = st.sampled_from(["", " ", "\n\t", "\r"])


@given(NUMBERS)
def test_whole_equals_the_model(token: bytes) -> None:
    try:
        expected = model.whole(token)
    except ValueError:
        with pytest.raises(ValueError, match="not a JSON number"):
            jsonnumber.whole(token)
    else:
        assert jsonnumber.whole(token) == expected


@pytest.mark.parametrize(
    ("token", "value"),
    [
        (b"0", 0),
        (b"-0", 0),
        (b"-0.0e5", 0),
        (b"5.0", 5),
        (b"1e3", 1000),
        (b"10e-1", 1),
        (b"1.5e1", 15),
        (b"0.001e3", 1),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", None),
        (b"1844674407370955161500e-2", 2**64 - 1),
        (b"1e19", 10**19),
        (b"1e20", None),
        (b"19000000000000000000", None),
        (b"20000000000000000001e-1", None),
        (b"-1", None),
        (b"0.5", None),
        (b"1e-1", None),
        (b"0e999999999999999999999", 0),
        (b"1e999999999999999999999", None),
        (b"1e-999999999999999999999", None),
        (b"1" + b"0" * 5000 + b"e-5000", 1),
        (b"0." + b"0" * 5000 + b"7e5001", 7),
    ],
)
def test_whole_numbers(token: bytes, value: int | None) -> None:
    assert jsonnumber.whole(token) == value


@pytest.mark.parametrize(
    "token", [b"", b"-", b"01", b"1.", b".5", b"1e", b"1e+", b"+1", b"1 ", b"0x1", b"NaN", b"1.e5"]
)
def test_refuses_what_is_no_number(token: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON number"):
        jsonnumber.whole(token)


@given(st.lists(PLAIN.map(str), max_size=6), SPACES, SPACES)
def test_integers_equal_the_model(items: list[str], before: str, after: str) -> None:
    token = f"[{','.join(before + item + after for item in items)}]".encode()
    assert jsonnumber.integers(token) == model.integers(token)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("behind", ["", ",1", ",123456789"])
def test_one_other_item_makes_it_no_array_of_integers(other: str, behind: str) -> None:
    assert jsonnumber.integers(f"[1,{other}{behind}]".encode()) is None
    assert jsonnumber.integers(f"[{other}{behind}]".encode()) is None


@pytest.mark.parametrize(
    "token", [b"", b"[", b"[]", b"[ ]", b"[1", b"[1,", b"[1,]", b"[1]]", b"[1] ", b"1]", b'{"a":1}']
)
def test_refuses_what_is_no_array_of_integers(token: bytes) -> None:
    assert jsonnumber.integers(token) is None


def test_integers_of_every_length_near_the_end_and_far_from_it() -> None:
    for digits in range(1, 13):
        item = b"1234567890123"[:digits]
        for token in (b"[" + item + b"]", b"[" + item + b",1,2,3,4,5,6]"):
            assert jsonnumber.integers(token) == model.integers(token)


def test_leaks_nothing() -> None:
    def each() -> None:
        jsonnumber.whole(b"1.5e1")
        jsonnumber.integers(b"[1, 123456789]")
        with pytest.raises(ValueError, match="not a JSON number"):
            jsonnumber.whole(b"1.")

    assert_flat(each)
