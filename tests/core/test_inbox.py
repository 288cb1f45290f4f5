import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import alloc
from picker._core.inbox import Inbox
from tests.model import inbox as model
from tests.support.builds import debug_build_only
from tests.support.h2peer import framed
from tests.support.leaks import assert_flat, failing_allocations

LARGEST = 40


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def fed(inbox: Inbox, *pieces: bytes) -> list[bytes]:
    found = []
    for piece in pieces:
        found += inbox.feed(piece)
        inbox._check()
    return found


# --- messages ---


def test_many_messages_in_one_piece() -> None:
    inbox = Inbox(LARGEST)
    assert fed(inbox, framed(b"one") + framed(b"") + framed(b"three")) == [b"one", b"", b"three"]
    assert inbox.is_empty


@pytest.mark.parametrize("size", range(1, 14))
def test_a_message_in_pieces_of_any_size(size: int) -> None:
    sent = framed(b"first") + framed(b"") + framed(b"x" * LARGEST)
    inbox = Inbox(LARGEST)
    assert fed(inbox, *in_pieces(sent, size)) == [b"first", b"", b"x" * LARGEST]
    assert inbox.is_empty


def test_a_message_is_under_way_from_its_first_byte_on() -> None:
    inbox = Inbox(LARGEST)
    assert inbox.is_empty
    for part in (b"\0", b"\0\0\0\2", b"x"):
        assert fed(inbox, part) == []
        assert not inbox.is_empty
    assert fed(inbox, b"y") == [b"xy"]
    assert inbox.is_empty


def test_nothing_completes_nothing() -> None:
    inbox = Inbox(LARGEST)
    assert fed(inbox, b"", framed(b"ab")[:6], b"", b"b") == [b"ab"]


def test_a_gathered_message_and_one_that_lies_whole_behind_it() -> None:
    sent = framed(b"gathered") + framed(b"whole") + framed(b"gathered too")
    assert fed(Inbox(LARGEST), sent[:9], sent[9:30], sent[30:]) == [b"gathered", b"whole", b"gathered too"]


def test_sizes_are_in_network_order() -> None:
    message = bytes(range(256)) * 260  # every byte of the size has something to say
    assert fed(Inbox(1 << 17), *in_pieces(framed(message), 1000)) == [message]
    with pytest.raises(OverflowError, match="at most 131072 bytes, not 16909060"):
        Inbox(1 << 17).feed(b"\0\1\2\3\4")


# --- refusals ---


@pytest.mark.parametrize("size", [LARGEST + 1, 2**32 - 1])
def test_a_message_that_is_too_large_is_refused_at_its_prefix(size: int) -> None:
    with pytest.raises(OverflowError, match=f"at most {LARGEST} bytes, not {size}"):
        fed(Inbox(LARGEST), framed(b"ok"), b"\0" + size.to_bytes(4, "big"))


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_flags_that_are_refused(flag: int) -> None:
    with pytest.raises(ValueError, match=f"flag {flag} instead of 0"):
        fed(Inbox(LARGEST), *in_pieces(framed(b"x", flag), 1))


def test_limits_have_a_domain() -> None:
    for largest in (-1, 2**32):
        with pytest.raises(OverflowError):
            Inbox(largest)
    assert Inbox(0).feed(framed(b"") * 2) == [b"", b""]


# --- against the model ---

PARTS = st.one_of(
    st.binary(max_size=LARGEST).map(framed),
    st.tuples(st.binary(max_size=3), st.sampled_from([0, 0, 0, 0, 1, 2])).map(lambda pair: framed(*pair)),
    st.binary(max_size=8),
    st.just(framed(b"x" * (LARGEST + 1))),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS, max_size=6).map(b"".join), st.lists(st.integers(0, 60), max_size=12))
def test_reads_what_the_model_reads(sent: bytes, cuts: list[int]) -> None:
    core, slow = Inbox(LARGEST), model.Inbox(LARGEST)
    at = 0
    for size in [*cuts, len(sent)]:
        piece, at = sent[at : at + size], at + size
        expected, problem = slow.feed(piece)
        if problem:
            with pytest.raises(problem):
                core.feed(piece)
            return
        assert core.feed(piece) == expected
        assert core.is_empty == slow.is_empty
        core._check()


# --- memory ---


def churn() -> None:
    inbox = Inbox(1 << 20)
    fed(inbox, *in_pieces(framed(b"x" * 300_000) + framed(b"y") + framed(b"cut off")[:-1], 70_000))


def refuse() -> None:
    for last in (b"\0\xff\0\0\0", b"\2\0\0\0\0"):
        inbox = Inbox(LARGEST)
        with pytest.raises((OverflowError, ValueError)):
            fed(inbox, framed(b"begun")[:7], framed(b"begun")[7:] + last)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)
    assert_flat(refuse, calls=20)


def test_a_prefix_that_promises_much_takes_little() -> None:
    """`_check` bounds what is held by what has come."""
    inbox = Inbox(2**32 - 1)
    fed(inbox, b"\0\xff\xff\xff\xff", b"", b"x")


@debug_build_only
def test_a_message_that_lies_whole_is_lent() -> None:
    inbox = Inbox(LARGEST)
    alloc.fail_allocation(0)
    try:
        assert inbox.feed(framed(b"one") + framed(b"") + framed(b"two")) == [b"one", b"", b"two"]
    finally:
        assert alloc.fail_allocation(-1)  # it has not come to that


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) > 2
