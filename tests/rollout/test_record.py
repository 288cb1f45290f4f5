"""What is kept in annotations: it comes back as it was, and whatever else stands there is an error that says so."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from picker.rollout.figures import Figures
from picker.rollout.machine import Phase, begin, end, hold
from picker.rollout.record import PREFIX, Holder, Record, RecordError, annotations_of, read_record
from picker.rollout.weights import original_of
from tests.rollout.objects import ADAPTERS, PLAN, pool_ref, rewrite, route, target
from tests.support.fuzz import CASES, mutants

FIGURES = Figures(requests=5, errors=1, ttft_bounds_s=(0.1, 2.0), ttft_counts=(1.0, 2.0, 0.5))
STATE = replace(begin(PLAN, FIGURES), new=FIGURES, watched_s=12.5, note="watching")
RECORD = Record(
    plan=PLAN,
    state=STATE,
    original=original_of(route([pool_ref("old")], [pool_ref("old", weight=3)]), PLAN),
    started="2026-01-01T00:00:00Z",
    since="2026-01-01T00:10:00Z",
    holder=Holder(name="a/1", beat=7, at="2026-01-01T00:11:00Z"),
)


def annotated(record: Record, **changes: str | None) -> dict[str, Any]:
    notes = annotations_of(record) | {PREFIX + name: value for name, value in changes.items()}
    return {"metadata": {"annotations": {name: value for name, value in notes.items() if value is not None}}}


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, holder=None, state=hold(STATE, "weights were changed")),
        replace(RECORD, state=end(STATE, Phase.ROLLED_BACK, "errors")),
        replace(RECORD, plan=ADAPTERS, original=original_of(rewrite(target("review-v1")), ADAPTERS)),
    ],
)
def test_it_comes_back_as_it_was(record: Record) -> None:
    assert read_record(annotated(record)) == record


def test_people_read_phase_and_reason() -> None:
    notes = annotations_of(replace(RECORD, state=end(STATE, Phase.ROLLED_BACK, "too many errors")))
    assert (notes[f"{PREFIX}phase"], notes[f"{PREFIX}reason"]) == ("rolled-back", "too many errors")
    assert len(json.dumps(notes)) < 4096  # of 256 KiB that an object's annotations may have


def test_an_object_without_a_rollout_has_none() -> None:
    assert read_record({}) is None
    assert read_record({"metadata": {"annotations": {"a": "b"}}}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"state": None},
        {"original": None},
        {"plan": "{"},
        {"plan": '{"kind": "Pod"}'},
        {"state": "null"},
        {"phase": "completed"},
        {"holder": "me"},
        {"original": '{"x": []}'},
        {"plan": annotations_of(replace(RECORD, plan=replace(PLAN, steps=(50, 10, 100))))[f"{PREFIX}plan"]},
        {"plan": annotations_of(replace(RECORD, plan=replace(PLAN, steps=(20, 100))))[f"{PREFIX}plan"]},
        {"state": annotations_of(replace(RECORD, state=replace(STATE, step=9)))[f"{PREFIX}state"]},
    ],
)
def test_what_no_rollout_wrote_is_an_error_that_says_what_to_do(changes: dict[str, str | None]) -> None:
    with pytest.raises(RecordError, match=r"take the annotations rollout\.picker\.dev/\* from the object"):
        read_record(annotated(RECORD, **changes))


def test_annotations_somebody_edited_never_do_harm() -> None:
    names = ("plan", "state", "original", "holder")
    texts = [str(annotations_of(RECORD)[PREFIX + name]).encode() for name in names]
    tokens = [b"null", b"-1", b"1e999", b"[]", b"{}", b'"', b",", b":", b"[[" * 2000, b"\xff"]
    for number, name in enumerate(names):
        for _, data in mutants([texts[number]], tokens, seed=number, cases=CASES // 20):
            try:
                read_record(annotated(RECORD, **{name: data.decode(errors="replace")}))
            except RecordError:
                continue
