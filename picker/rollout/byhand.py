"""What a person says to a rollout, whether or not a controller runs it: all of it now, or nothing of it."""

from msgspec.structs import replace

from picker.errors import KubernetesError, UsageError
from picker.rollout.controller import CONFLICTS, now_text, write
from picker.rollout.machine import Phase, end
from picker.rollout.record import Record, read_record
from picker.rollout.store import Store

__all__ = ["finish", "status"]

_WORDS = {Phase.COMPLETED: "promoted by hand", Phase.ROLLED_BACK: "rolled back by hand"}


async def status(store: Store) -> Record:
    """The rollout of the object. Raises UsageError if there is none, RecordError, KubernetesError."""
    return _there(read_record(await store.read()), store)


async def finish(store: Store, phase: Phase) -> Record:
    """Gives all traffic to the new side (COMPLETED), or makes it what it was (ROLLED_BACK). A controller notices.

    Raises UsageError if there is no rollout, RecordError, KubernetesError.
    """
    for _ in range(CONFLICTS):
        found = await store.read()
        record = _there(read_record(found), store)
        reason = _WORDS[phase] if record.state.phase is not phase else record.state.reason
        record = replace(record, state=end(record.state, phase, reason), since=now_text(), holder=None)
        if await write(store, found, record, moves=True):
            return record
    raise KubernetesError(f"somebody else writes {store} all the time; try again")


def _there(record: Record | None, store: Store) -> Record:
    if record is None:
        raise UsageError(f"no rollout was started on {store}; begin with 'picker rollout plan'")
    return record
