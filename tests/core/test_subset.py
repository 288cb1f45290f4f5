from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from hypothesis import given
from hypothesis import strategies as st

from picker._core.subset import Subset
from tests.model import subset as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

ENDPOINTS = [("10.0.0.1:8000", "10.0.0.1"), ("10.0.0.1:8001", "10.0.0.1"), ("[fd00::1]:80", "fd00::1")]


def metadata(hint: Any, namespace: str = "envoy.lb.subset_hint") -> bytes:
    message = base_pb2.Metadata()
    message.filter_metadata["envoy.lb"].update({"x-gateway-destination-endpoint-subset": "10.9.9.9"})
    message.filter_metadata[namespace].update({"x-gateway-destination-endpoint-subset": hint, "other": 1})
    return message.SerializeToString()


def allowed(subset: Subset) -> list[str]:
    subset._check()
    return [target for target, address in ENDPOINTS if subset.allows(target.encode(), address.encode())]


def read(hint: Any) -> Subset:
    subset = Subset()
    subset.read(metadata(hint))
    return subset


ENTRY = st.sampled_from(
    ["10.0.0.1:8000", "10.0.0.1", "10.0.0.1:8001", "[fd00::1]:80", "[fd00::1]", "fd00::1", "10.0.0", "", "[]", "[", "]"]
)
BLANK = st.sampled_from(["", " ", "\t "])
PADDED = st.tuples(BLANK, ENTRY, BLANK).map("".join)
TEXT = st.lists(PADDED, max_size=4).map(",".join)
HINT = TEXT | st.lists(TEXT | st.none() | st.booleans() | st.floats(0, 1) | st.just({"a": "10.0.0.1"}), max_size=4)


@given(st.lists(HINT, max_size=3), st.none() | TEXT, st.integers(0, 3))
def test_equals_the_model(hints: list[Any], pinned: str | None, pinned_at: int) -> None:
    """With or without a list that is pinned before, between or after the hints."""
    subset = Subset()
    last = None
    for index, hint in enumerate([*hints, None]):
        if pinned is not None and index == min(pinned_at, len(hints)):
            subset.pin(pinned.encode())
        if index < len(hints):
            subset.read(metadata(hint))
            last = hint
        subset.read(b"")
        subset.read(metadata("10.0.0.1", namespace="elsewhere"))
    last = last if pinned is None else pinned
    expected = [target for target, address in ENDPOINTS if model.allows(last, target, address)]
    assert allowed(subset) == expected
    assert len(subset) == (0 if last is None else len(model.entries(last)))


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (["10.0.0.1:8000"], ["10.0.0.1:8000"]),
        (["10.0.0.1"], ["10.0.0.1:8000", "10.0.0.1:8001"]),
        ("10.0.0.1:8001, [fd00::1]", ["10.0.0.1:8001", "[fd00::1]:80"]),
        (["10.0.0.9, fd00::1"], ["[fd00::1]:80"]),
        ([], []),
        ("", []),
        (None, []),
        (7.0, []),
        ({"a": "10.0.0.1"}, []),
        ([None, 1.0, True, ["10.0.0.1"]], []),
    ],
)
def test_forms_of_the_hint(hint: Any, expected: list[str]) -> None:
    assert allowed(read(hint)) == expected


def test_without_a_hint_all_may_be_picked() -> None:
    assert len(allowed(Subset())) == 3


def test_a_later_hint_replaces_an_earlier_one() -> None:
    subset = read(["10.0.0.1"])
    subset.read(metadata(["fd00::1"]))
    assert allowed(subset) == ["[fd00::1]:80"]
    subset.read(metadata([]))
    assert allowed(subset) == []


def test_what_is_pinned_stays() -> None:
    subset = read(["10.0.0.1"])
    subset.pin(b"fd00::1, 10.9.9.9")
    assert (allowed(subset), len(subset)) == (["[fd00::1]:80"], 2)
    subset.read(metadata(["10.0.0.1"]))
    assert allowed(subset) == ["[fd00::1]:80"]
    subset.pin(b"")
    assert allowed(subset) == []


def test_many_entries() -> None:
    hint = [f"10.{i // 250}.{i % 250}.1:80" for i in range(20_000)]
    subset = read(hint)
    subset._check()
    assert len(subset) == 16_384
    for i in (0, 1, 16_383, 16_384, 19_999):
        assert subset.allows(hint[i].encode(), b"") == (i < 16_384)
    assert allowed(subset) == []


def test_refuses_what_cannot_be_read() -> None:
    subset = read(["10.0.0.1"])
    for bad in (b"\x0a", metadata(["x"])[:-1], b"\x0a\x03\x0a\x01"):
        with pytest.raises(ValueError, match="malformed"):
            subset.read(bad)
    assert allowed(subset) == ["10.0.0.1:8000", "10.0.0.1:8001"]


def test_leaks_nothing() -> None:
    large, bad = metadata([f"10.0.0.{i}" for i in range(100)]), metadata(["x"])[:-1]

    def each() -> None:
        subset = Subset()
        subset.read(large)
        subset.pin(b"10.0.0.1,10.0.0.2")
        subset = Subset()
        with pytest.raises(ValueError, match="malformed"):
            subset.read(bad)

    assert_flat(each, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    hint = metadata([f"10.0.0.{i}" for i in range(20)])
    assert failing_allocations(lambda: Subset().read(hint)) == 3
    assert failing_allocations(lambda: Subset().pin(b"10.0.0.1")) == 1
