import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core.names import Names
from tests.model import names as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

KEYS = st.binary(max_size=2)
TEN = {b"adapter-%d" % i: b"base-%d" % (i % 3) for i in range(10)}


@given(st.dictionaries(KEYS, st.binary(max_size=3), max_size=20), st.lists(KEYS, max_size=10))
def test_finds_what_a_dict_finds(mapping: dict[bytes, bytes], asked: list[bytes]) -> None:
    names, wanted = Names(mapping), model.Names(mapping)
    names._check()
    assert len(names) == len(wanted)
    for key in [*mapping, *asked]:
        assert names.find(key) == wanted.find(key)


def test_an_empty_map_finds_nothing() -> None:
    names = Names({})
    names._check()
    assert (len(names), names.find(b""), names.find(b"x")) == (0, None, None)


def test_many_names() -> None:
    many = {b"%d" % number: b"%d" % -number for number in range(5000)}
    names = Names(many)
    names._check()
    assert all(names.find(key) == value for key, value in many.items())
    assert names.find(b"5000") is None


@pytest.mark.parametrize("mapping", [{"a": b"b"}, {b"a": "b"}, {b"a": None}])
def test_refuses_what_is_not_bytes(mapping: dict[bytes, bytes]) -> None:
    with pytest.raises(TypeError, match="names are bytes"):
        Names(mapping)
    with pytest.raises(TypeError):
        Names(None)  # type: ignore[arg-type]


def test_leaves_nothing_behind() -> None:
    assert_flat(lambda: Names(TEN).find(b"adapter-3"))


@debug_build_only
def test_memory_that_is_not_there() -> None:
    assert failing_allocations(lambda: Names(TEN)) > 1
