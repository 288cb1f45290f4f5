import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picker._core import holders
from tests.model import holders as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

SLOTS = st.sampled_from([0, 1, 2, 5, 62, 63, 64, 65, 127, 128, 200])


class HoldersMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = holders.Holders(3)
        self.model = model.Holders()

    @rule(slot=SLOTS, id=st.integers(1, 2**32 - 1), whole=st.booleans())
    def join(self, slot: int, id: int, whole: bool) -> None:
        if self.model.find(slot):
            with pytest.raises(KeyError):
                self.core.join(slot, id, whole)
        else:
            self.core.join(slot, id, whole)
            self.model.join(slot, id, whole)

    @rule(slot=SLOTS, whole=st.booleans())
    def change_one_who_may_be_absent(self, slot: int, whole: bool) -> None:
        if not self.model.find(slot):
            with pytest.raises(KeyError):
                self.core.mark(slot, whole)
            with pytest.raises(KeyError):
                self.core.leave(slot)
        else:
            self.core.mark(slot, whole)
            self.model.mark(slot, whole)

    @precondition(lambda self: self.model.by_slot)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.model.by_slot)))
        self.core.leave(slot)
        self.model.leave(slot)

    @rule(slot=SLOTS)
    def find(self, slot: int) -> None:
        assert self.core.find(slot) == self.model.find(slot)

    @invariant()
    def equal(self) -> None:
        assert self.core.items() == self.core.copied() == self.model.items()
        assert len(self.core) == len(self.model.by_slot)
        self.core._check()


HoldersMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestHolders = HoldersMachine.TestCase


def churn() -> None:
    group = holders.Holders(64)
    for slot in range(130):
        group.join(slot, slot + 1, slot % 2 == 0)
    for slot in range(0, 130, 3):
        group.leave(slot)
    group.copied()


def test_one_holder_needs_no_memory() -> None:
    group = holders.Holders(256)
    group.join(200, 7, False)
    assert group.memory_bytes == 0
    group.join(3, 8, True)
    assert group.memory_bytes == 8 + 2 * 32 + 4 * 4
    group.leave(200)
    assert group.memory_bytes == 0 and group.items() == [(3, 8, True)]


def test_refuses_the_id_that_means_nobody() -> None:
    with pytest.raises(ValueError, match="nobody"):
        holders.Holders(1).join(0, 0, True)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) > 5
