"""Replies on their way out, against a model that is a string of bytes."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from picker._core.outbox import Outbox
from tests.model import outbox as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations, succeeds

SMALL = st.binary(max_size=20)


def test_replies_come_out_framed_and_in_order() -> None:
    box = Outbox()
    box.write(b"ab")
    box.write(b"")
    assert len(box) == 12
    assert box.send(3) + box.send(100) == b"\0\0\0\0\2ab" + b"\0\0\0\0\0"
    assert (len(box), box.send(1)) == (0, b"")


def test_pieces_of_a_body_stand_where_they_were_lent() -> None:
    box = Outbox()
    box.own(b"0123456789")
    box.lend(b"<", 0, 4, b">")
    box.lend(b"<", 4, 6, b"")
    box.write(b"!")
    expected = b"\0\0\0\0\6<0123>" + b"\0\0\0\0\7<456789" + b"\0\0\0\0\1!"
    assert b"".join(box.send(1) for _ in range(len(box))) == expected


def test_an_empty_piece_is_no_piece() -> None:
    box = Outbox()
    box.own(b"x")
    box.lend(b"a", 1, 0, b"b")
    assert box.send(99) == b"\0\0\0\0\2ab"


def test_a_box_takes_another_body_when_all_was_sent() -> None:
    box = Outbox()
    for body in (b"one", b"two"):
        box.own(body)
        with pytest.raises(ValueError, match="a body already"):
            box.own(b"third")
        box.lend(b"", 0, 3, b"")
        assert box.send(99)[5:] == body


def test_a_piece_must_be_of_the_body() -> None:
    box = Outbox()
    box.own(b"abc")
    for start, size in ((0, 4), (4, 0), (2, 2), (1, 2**63)):
        with pytest.raises(IndexError):
            box.lend(b"head", start, size, b"tail")
    assert len(box) == 0
    box._check()


class Machine(RuleBasedStateMachine):
    """Tiny replies, so that every way of cutting them happens."""

    @initialize()
    def start(self) -> None:
        self.box, self.model, self.marked, self.owns = Outbox(), model.Outbox(), False, False

    @rule(reply=SMALL)
    def write(self, reply: bytes) -> None:
        self.box.write(reply)
        self.model.write(reply)

    @precondition(lambda self: not self.owns)
    @rule(body=st.binary(min_size=1, max_size=20))
    def own(self, body: bytes) -> None:
        self.box.own(body)
        self.model.own(body)
        self.owns = True

    @precondition(lambda self: self.owns)
    @rule(data=st.data(), head=SMALL, tail=SMALL)
    def lend(self, data: st.DataObject, head: bytes, tail: bytes) -> None:
        start = data.draw(st.integers(0, len(self.model.body)))
        size = data.draw(st.integers(0, len(self.model.body) - start))
        self.box.lend(head, start, size, tail)
        self.model.lend(head, start, size, tail)

    @rule()
    def mark(self) -> None:
        self.box.mark()
        self.model.mark()
        self.marked = True

    @precondition(lambda self: self.marked)
    @rule()
    def rewind(self) -> None:
        self.box.rewind()
        self.model.rewind()

    @rule(size=st.integers(0, 60))
    def send(self, size: int) -> None:
        self.marked = self.marked and size == 0
        assert self.box.send(size) == self.model.send(size)
        self.owns = self.owns and len(self.model) > 0  # a box that is empty lets its body go

    @invariant()
    def agree(self) -> None:
        assert len(self.box) == len(self.model)
        self.box._check()


TestMachine = Machine.TestCase


def test_large_boxes_move_up_and_shrink() -> None:
    box, expected = Outbox(), model.Outbox()
    for turn in range(400):
        reply = bytes([turn % 256]) * 1000
        box.write(reply)
        expected.write(reply)
        if turn > 100:
            assert box.send(1700) == expected.send(1700)
            box._check()
    assert box.send(10**6) == expected.send(10**6)


def _use() -> None:
    box = Outbox()
    box.own(b"x" * 100)
    box.write(b"a" * 600)
    box.mark()
    box.lend(b"h", 10, 50, b"t")
    box.rewind()
    box.lend(b"h", 0, 100, b"t")
    box.send(650)


def test_it_leaks_nothing() -> None:
    assert_flat(_use)


@debug_build_only
def test_without_memory_nothing_is_half_written() -> None:
    assert failing_allocations(_use) >= 4
    box = Outbox()
    box.own(b"body")
    assert not succeeds(lambda: box.lend(b"h", 0, 4, b"t"), 1)
    box._check()
    assert len(box) == 0
