"""What a rollout keeps in annotations of the object whose weights it moves: enough for anybody to go on from there."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from picker.errors import PickerError, printable
from picker.rollout.machine import Phase, Plan, State
from picker.rollout.weights import Json

__all__ = ["PREFIX", "Holder", "Record", "RecordError", "annotations_of", "read_record"]

PREFIX = "rollout.picker.dev/"

T = TypeVar("T")


class RecordError(PickerError):
    """The annotations are not what a rollout wrote."""


class Holder(Struct, frozen=True, kw_only=True):
    """The controller that runs the rollout, and its last sign of life."""

    name: str
    beat: int = 0
    """Counts up while it lives."""
    at: str = ""
    """When that was (RFC 3339), for people: clocks differ, so nothing is decided by it."""


class Record(Struct, frozen=True, kw_only=True):
    """One rollout. `original`: the entries of each rule it moves, by the number of the rule, as they were before."""

    plan: Plan
    state: State
    original: dict[int, list[Json]]
    started: str = ""
    since: str = ""
    """When the step, or what came after it, began (RFC 3339)."""
    holder: Holder | None = None


class _State(Struct, frozen=True, kw_only=True):
    """The state without what has an annotation of its own."""

    state: State
    started: str
    since: str


def annotations_of(record: Record) -> dict[str, str | None]:
    """All annotations, as a merge patch: None takes one away."""
    state = _State(state=record.state, started=record.started, since=record.since)
    return {
        f"{PREFIX}phase": record.state.phase.value,
        f"{PREFIX}reason": record.state.reason or record.state.note,
        f"{PREFIX}plan": _text(record.plan),
        f"{PREFIX}state": _text(state),
        f"{PREFIX}original": _text(record.original),
        f"{PREFIX}holder": None if record.holder is None else _text(record.holder),
    }


def read_record(found: Mapping[str, Any]) -> Record | None:
    """The rollout that the object tells of; None if it tells of none. Raises RecordError."""
    metadata = found.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    if not isinstance(annotations, Mapping) or f"{PREFIX}plan" not in annotations:
        return None
    kept = _decoded(annotations, "state", _State)
    state = kept.state
    if annotations.get(f"{PREFIX}phase") != state.phase.value:
        raise RecordError(f"{PREFIX}phase and {PREFIX}state say different things; {_HINT}")
    plan = _decoded(annotations, "plan", Plan)
    _check(plan, state)
    holder = _decoded(annotations, "holder", Holder) if annotations.get(f"{PREFIX}holder") else None
    return Record(
        plan=plan,
        state=state,
        original=_decoded(annotations, "original", dict[int, list[Json]]),
        started=kept.started,
        since=kept.since,
        holder=holder,
    )


_HINT = f"take the annotations {PREFIX}* from the object, set the weights by hand, and start anew"


def _decoded(annotations: Mapping[str, Any], name: str, kind: type[T]) -> T:
    text = annotations.get(PREFIX + name)
    if not isinstance(text, str):
        raise RecordError(f"the annotation {PREFIX}{name} is not there; {_HINT}")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        what = printable(str(problem))[:200]
        raise RecordError(f"the annotation {PREFIX}{name} cannot be read: {what}; {_HINT}") from None


def _check(plan: Plan, state: State) -> None:
    steps = plan.steps
    if not steps or steps[-1] != 100 or not all(low < high for low, high in pairwise((0, *steps))):
        raise RecordError(f"the annotation {PREFIX}plan has steps that do not rise to 100; {_HINT}")
    if not (0 <= state.step < len(steps) and 0 <= state.share <= 100):
        raise RecordError(f"the annotation {PREFIX}state tells of a step that is not in the plan; {_HINT}")
    if state.phase is Phase.PROGRESSING and state.share != steps[state.step]:
        raise RecordError(f"the annotation {PREFIX}state has another share than its step; {_HINT}")


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
