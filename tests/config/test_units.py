"""Go durations and Kubernetes quantities."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.config.units import duration_s, format_duration, quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("50ms", 0.05),
        ("2s", 2.0),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("7ns", 7e-9),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-1s", "+1s", "1 s", "s", "1x", "1s ", "1e3s", "٣s", "s" * 100, "1d", "1s2"])
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a number and a unit"):
        duration_s(text)


def test_a_duration_has_an_end() -> None:
    assert duration_s("2562047h") > 0
    with pytest.raises(ValueError, match="292 years"):
        duration_s("2562048h")


@given(st.integers(0, 10**7))
def test_a_duration_written_reads_back(milliseconds: int) -> None:
    assert duration_s(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("500", 500),
        ("1k", 1000),
        ("1Ki", 1024),
        ("10Mi", 10 << 20),
        ("10MiB", 10 << 20),
        ("25MB", 25_000_000),
        ("1.5G", 1_500_000_000),
        ("0.3", 1),
        (".5Ki", 512),
        ("7Ei", 7 << 60),
    ],
)
def test_quantities(text: str, number: int) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1 Mi", "Mi", "1mi", "1K", "1e3", "x", "1MiBB", "9" * 65, "١"])
def test_not_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity(text)


def test_a_quantity_has_an_end() -> None:
    with pytest.raises(ValueError, match="too large"):
        quantity("8Ei")
