"""Runs a rollout: looks at the figures, asks the state machine, and makes what it says true in the object.

Weights and annotations change in one write, guarded by the version last read, so a controller that dies at any moment
leaves an object that says what is in force, and two never act on one view.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeAlias

from msgspec.structs import replace

from picker.errors import KubernetesError, PickerError
from picker.rollout.machine import Phase, Plan, Sight, State, advance, begin, hold, resume
from picker.rollout.metrics import Metrics
from picker.rollout.record import Holder, Record, RecordError, annotations_of, read_record
from picker.rollout.store import Store, last_writer
from picker.rollout.weights import Json, are_same, current, expected, in_words, original_of, with_weights

__all__ = ["Controller", "Ended", "TakenError", "now_text", "write"]

MISSED_BEATS = 3
_HINT = "watch it with 'picker rollout status', or end it with promote or rollback"
CONFLICTS = 8
"""Writes in a row that somebody may come before."""

Say: TypeAlias = Callable[[Record], None]


class TakenError(PickerError):
    """Another controller runs this rollout."""


class Ended(Exception):
    """Somebody else ended or took over the rollout; carries what the object says now."""

    def __init__(self, record: Record | None, reason: str) -> None:
        super().__init__(reason)
        self.record, self.reason = record, reason


def now_text() -> str:
    """RFC 3339, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Controller:
    """One rollout of one object, run by `name`: a new one, or one that `goes_on`, `again` even if it was held.

    `say` is told every record that is in force, at each look.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        plan: Plan,
        name: str,
        *,
        goes_on: bool = False,
        again: bool = False,
        say: Say = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store, self._metrics, self._plan, self._name = store, metrics, plan, name
        self._goes_on, self._again = goes_on, again
        self._say, self._clock, self._sleep = say, clock, sleep
        self._beat = 0
        self._beat_at = -1e9

    async def run(self) -> Record:
        """Until it is over, held, or taken away; returns what is then in force.

        Raises TakenError if another controller is alive, KubernetesError if it cannot even begin, Ended if somebody
        else took it over. When canceled it lets go of the object, so that another need not wait.
        """
        await self._metrics.look(0.0)
        record = await self._claim()
        try:
            record = await self._watch(record)
        except asyncio.CancelledError:
            await asyncio.shield(self._let_go())
            raise
        record = replace(record, holder=None)
        self._say(record)
        return record

    async def _watch(self, record: Record) -> Record:
        """What was seen but could not be acted on is kept, and judged again with what comes after it."""
        looked, kept = self._clock(), Sight(elapsed_s=0.0, old=None, new=None)
        while record.state.phase is Phase.PROGRESSING:
            self._say(record)
            await self._sleep(self._plan.check_s)
            looked, before = self._clock(), looked
            sight = kept.then(await self._metrics.look(looked - before))
            wanted = replace(record, state=advance(self._plan, record.state, sight))
            try:
                record = await self._settle(wanted)
                kept = Sight(elapsed_s=0.0, old=None, new=None)
            except KubernetesError as problem:
                record = replace(record, state=replace(record.state, note=f"cannot write: {problem}"))
                kept = sight
        return record

    # --- taking it ---

    async def _claim(self) -> Record:
        seen: Holder | None = None
        while True:
            found = await self._store.read()
            record = read_record(found)
            if self._goes_on:
                holder = self._to_go_on_with(record).holder
                if holder is not None and seen is None:  # it has time to show that it lives
                    seen = holder
                    await self._sleep(MISSED_BEATS * max(self._plan.heartbeat_s, self._plan.check_s))
                    continue
                if holder is not None and holder != seen:
                    raise TakenError(f"{holder.name} runs this rollout (its last sign of life: {holder.at}); {_HINT}")
            elif record is not None and _is_open(record):
                raise TakenError(f"another controller began a rollout of {self._store} just before; {_HINT}")
            mine = self._begun(found) if record is None or not self._goes_on else self._continued(found, record)
            if await self._write(found, mine, moves=True):
                return mine

    def _to_go_on_with(self, record: Record | None) -> Record:
        """Raises Ended if a person, or another controller, ended the rollout that was to go on."""
        if record is None or not _is_open(record) or (record.state.phase is Phase.HELD and not self._again):
            raise Ended(record, record.state.reason if record is not None else "the rollout is gone from the object")
        return record

    def _begun(self, found: Json) -> Record:
        baseline = self._metrics.totals[0]
        return Record(
            plan=self._plan,
            state=begin(self._plan, baseline),
            original=original_of(found, self._plan),
            started=now_text(),
            since=now_text(),
            holder=self._sign(),
        )

    def _continued(self, found: Json, record: Record) -> Record:
        self._plan = record.plan
        state = resume(record.state)
        if record.state.phase is Phase.PROGRESSING:
            state = _interfered(found, record) or state
        return replace(record, state=state, holder=self._sign() if state.phase is Phase.PROGRESSING else None)

    # --- keeping it true ---

    async def _settle(self, wanted: Record) -> Record:
        """Writes what changed, or a sign of life; what else is in the object wins over it. Raises KubernetesError."""
        for _ in range(CONFLICTS):
            found = await self._store.read()
            in_force = self._mine(found)
            if in_force.state.phase is not Phase.PROGRESSING:
                return in_force
            problem = _interfered(found, in_force)
            mine = _dated(in_force, wanted if problem is None else replace(wanted, state=problem))
            is_moved = _place(mine) != _place(in_force)
            if not is_moved and self._clock() - self._beat_at < self._plan.heartbeat_s:
                return mine
            if await self._write(found, mine, moves=is_moved):
                return mine
        raise KubernetesError("somebody else writes the object all the time")

    def _mine(self, found: Json) -> Record:
        """What the object says. Raises Ended if it is not this controller's to go on with."""
        try:
            record = read_record(found)
        except RecordError as problem:
            raise Ended(None, str(problem)) from None
        if record is None:
            raise Ended(None, "the annotations of the rollout are gone from the object; the weights stay as they are")
        if record.state.phase is Phase.PROGRESSING and (record.holder is None or record.holder.name != self._name):
            other = record.holder.name if record.holder else "nobody"
            raise Ended(record, f"another controller has taken over: {other}")
        return record

    def _sign(self) -> Holder:
        self._beat += 1
        return Holder(name=self._name, beat=self._beat, at=now_text())

    async def _write(self, found: Json, record: Record, *, moves: bool) -> bool:
        """Whether it could be written: False if the object has changed meanwhile."""
        is_going = record.state.phase is Phase.PROGRESSING
        if not await write(self._store, found, replace(record, holder=self._sign() if is_going else None), moves=moves):
            return False
        self._beat_at = self._clock()
        return True

    async def _let_go(self) -> None:
        """Leaves the rollout as it is, for whoever comes next."""
        try:
            found = await self._store.read()
            record = self._mine(found)
            if record.state.phase is Phase.PROGRESSING:
                await write(self._store, found, replace(record, holder=None), moves=False)
        except (PickerError, Ended):
            return  # the next one waits until the missing beats tell


def _is_open(record: Record) -> bool:
    return record.state.phase in (Phase.PROGRESSING, Phase.HELD)


def _place(record: Record) -> tuple[Phase, int]:
    return record.state.phase, record.state.step


def _dated(before: Record, after: Record) -> Record:
    return replace(after, since=before.since if _place(before) == _place(after) else now_text())


async def write(store: Store, found: Json, record: Record, *, moves: bool) -> bool:
    """Writes the record and, if the rollout `moves`, the weights it says, at once. When it is held weights stay.

    False if the object has changed since it was `found`. Raises KubernetesError.
    """
    rules = None
    if moves and record.state.phase is not Phase.HELD:
        rules = with_weights(found, record.plan, record.original, record.state.share)
    return await store.write(found, annotations_of(record), rules) is not None


def _interfered(found: Json, record: Record) -> State | None:
    """Held, if the weights are not those that this rollout set."""
    now = current(found, record.plan, record.original)
    ours = expected(found, record.plan, record.original, record.state.share)
    if are_same(now, ours):
        return None
    who = last_writer(found)
    by = f" by {who}" if who else ""
    reason = f"at {record.state.share} %: the weights were changed{by} to {in_words(now)}, from {in_words(ours)}"
    return hold(record.state, reason)
