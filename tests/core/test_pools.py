"""Which pool a stream is for, by name or authority."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picker._core.pools import MANY, UNKNOWN, PoolNames
from tests.model import pools as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

POOLS = (
    ("ml/a", ("picker-a.ml",)),
    ("ml/b", ("picker-b.ml", "other.ml")),
    ("web/a", ("picker-a.web",)),
    ("web/c", ("PICKER-C.web.svc.cluster.local:9002",)),
    ("alone", ("plain",)),
)


@pytest.mark.parametrize(
    ("authority", "found"),
    [
        ("picker-a.ml", 0),
        ("picker-a.ml:9002", 0),
        ("picker-a.ml.svc", 0),
        ("picker-a.ml.svc.cluster.local.:9002", 0),
        ("picker-a.ml.", 0),
        ("Picker-A.ML.svc", 0),
        ("outbound|9002||picker-a.ml.svc.cluster.local", 0),
        ("outbound_.9002_._.|picker-b.ml", 1),
        ("other.ml:1", 1),
        ("picker-b", 1),
        ("picker-b:9002", 1),
        ("picker-a.web", 2),
        ("picker-a", MANY),
        ("picker-c", 3),
        ("picker-c.web", 3),
        ("plain", 4),
        ("plain.:80", 4),
        ("plain.ml", UNKNOWN),
        ("picker-a.other", UNKNOWN),
        ("picker", UNKNOWN),
        ("picker-a.m", UNKNOWN),
        ("picker-a.mlx", UNKNOWN),
        ("picker-a.ml:http", UNKNOWN),
        ("picker-a.ml|", UNKNOWN),
        ("10.0.0.1:9002", UNKNOWN),
        ("[::1]:9002", UNKNOWN),
        ("::1", UNKNOWN),
        ("9002", UNKNOWN),
        (":9002", UNKNOWN),
        (".", UNKNOWN),
        ("..", UNKNOWN),
        ("|", UNKNOWN),
        ("", UNKNOWN),
        ("=ml/a", UNKNOWN),
        ("@picker-a.ml", UNKNOWN),
        ("picker-a\0.ml", UNKNOWN),
    ],
)
def test_by_authority(authority: str, found: int) -> None:
    assert PoolNames(POOLS).find(b"", authority.encode()) == found
    assert model.PoolNames(POOLS).find(b"", authority.encode()) == found


@pytest.mark.parametrize("authority", [b"", b"picker-b.ml", b"nonsense"])
@pytest.mark.parametrize(
    ("pool", "found"), [(b"ml/a", 0), (b"web/a", 2), (b"alone", 4), (b"a", UNKNOWN), (b"ML/A", UNKNOWN), (b"@a", -1)]
)
def test_a_name_counts_alone(pool: bytes, authority: bytes, found: int) -> None:
    assert PoolNames(POOLS).find(pool, authority) == found


def test_what_is_longer_than_any_name_is_not_looked_at() -> None:
    name, service = "n" * 320, "s" * 320
    names = PoolNames([(name, [service])])
    assert (names.find(name.encode(), b""), names.find(b"", service.encode())) == (0, 0)
    assert (names.find(name.encode() + b"n", b""), names.find(b"", service.encode() + b"s")) == (UNKNOWN, UNKNOWN)
    assert names.find(b"", b"x|" * 160 + service.encode()) == UNKNOWN


@pytest.mark.parametrize(
    ("pools", "error", "text"),
    [
        ([("a", ()), ("a", ())], ValueError, "two pools 'a'"),
        ([("a" * 321, ())], ValueError, "more than 320 bytes"),
        ([("a", ("b" * 321,))], ValueError, "more than 320 bytes"),
        ([("a", ("",))], ValueError, "authority '' of pool 'a' names no service"),
        ([("a", (":80",))], ValueError, "names no service"),
        ([("a", [f"s{number}" for number in range(65)])], OverflowError, "more than 64 authorities"),
    ],
)
def test_what_cannot_be(pools: list[tuple[str, tuple[str, ...]]], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        PoolNames(pools)


def test_there_may_be_none_and_one_without_a_name() -> None:
    assert PoolNames([]).find(b"", b"a") == UNKNOWN
    names = PoolNames([("", ())])
    names._check()
    assert (len(names), names.find(b"", b""), names.find(b"x", b"")) == (1, UNKNOWN, UNKNOWN)


def test_hundreds_of_pools() -> None:
    names = PoolNames([(f"ns/{number}", [f"p{number}.ns", f"p{number}.other"]) for number in range(1000)])
    names._check()
    assert [names.find(b"", b"p%d.other.svc:9002" % number) for number in range(1000)] == list(range(1000))
    assert [names.find(b"", b"p%d" % number) for number in range(1000)] == list(range(1000))


# --- against the model ---

LABEL = st.sampled_from(["a", "b", "A", "", "a-b"])
HOST = st.lists(LABEL, max_size=4).map(".".join)
AUTHORITY = st.tuples(
    st.sampled_from(["", "", "|", "outbound|9002||", "a|b.a|"]),
    HOST,
    st.sampled_from(["", ".", ":", ":80", ".:80", ":x"]),
).map("".join)
NAMED = AUTHORITY.filter(lambda authority: model.service_of(authority.encode()) is not None)
NAME = st.sampled_from(["a/a", "a/b", "b/a", "a", ""])
SEVERAL = st.lists(st.tuples(NAME, st.lists(NAMED, max_size=3)), max_size=4, unique_by=lambda pool: pool[0])


@given(SEVERAL, st.lists(st.tuples(NAME, AUTHORITY), min_size=1, max_size=8))
@example([("a/a", ["a.a"]), ("b/a", ["a"])], [("", "a"), ("", "a.a")])
@example([("a/a", ["a.a", "a.b"])], [("", "a")])
@example([("a/a", []), ("", [])], [("a/a", "")])
def test_finds_what_the_model_finds(pools: list[tuple[str, list[str]]], asked: list[tuple[str, str]]) -> None:
    names, wanted = PoolNames(pools), model.PoolNames(pools)
    names._check()
    assert len(names) == len(pools)
    for pool, authority in asked:
        assert names.find(pool.encode(), authority.encode()) == wanted.find(pool.encode(), authority.encode())


@given(st.binary(max_size=12), st.binary(max_size=400))
def test_whatever_is_asked(pool: bytes, authority: bytes) -> None:
    assert PoolNames(POOLS).find(pool, authority) == model.PoolNames(POOLS).find(pool, authority)


def test_leaves_nothing_behind() -> None:
    def churn() -> None:
        PoolNames(POOLS).find(b"", b"picker-a.ml")
        with pytest.raises(ValueError, match="names no service"):
            PoolNames([*POOLS, ("x", ("",))])

    assert_flat(churn)


@debug_build_only
def test_memory_that_is_not_there() -> None:
    assert failing_allocations(lambda: PoolNames(POOLS)) > 1
