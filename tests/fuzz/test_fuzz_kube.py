"""Whatever the bytes of a list or a watch: the store takes them, or says that they are garbage and stays as it was."""

import json
from typing import Any

import pytest

from picker.kube.objects import Pod, PoolSpec, read_pod, read_pool
from picker.kube.pods import EndpointTable
from picker.kube.store import Expired, Garbage, ServerTrouble, Store, WentBack
from tests.kube.test_objects import a_pod
from tests.support.fuzz import CASES, mutants

SEED_PODS = [a_pod(podIP=f"10.0.0.{number}") for number in range(1, 4)]
for number, each in enumerate(SEED_PODS):
    each["metadata"] |= {"name": f"pod-{number}", "uid": f"uid-{number}", "resourceVersion": str(number + 5)}


def event(kind: str, of: Any) -> bytes:
    return json.dumps({"type": kind, "object": of}).encode()


def listed() -> bytes:
    return json.dumps({"metadata": {"resourceVersion": "10"}, "items": SEED_PODS}).encode()


def later(version: int, **status: Any) -> dict[str, Any]:
    made = a_pod(**status)
    made["metadata"] |= {"name": "pod-1", "uid": "uid-1", "resourceVersion": str(version)}
    return made


EVENTS = [
    event("ADDED", later(11)),
    event("MODIFIED", later(12, podIP="fd00::9", phase="Failed")),
    event("DELETED", later(13)),
    event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "20"}}),
    event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}),
    event("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError"}),
]
WORDS = '" { } [ ] , : null true -1 1e9 18446744073709551616 99999999999999999999999 \\u0000 ADDED DELETED BOOKMARK'
TOKENS = [*map(str.encode, WORDS.split()), b"\xff", b"\n", b'"resourceVersion": "9"', b'"uid": ""', b'"items": null']
SPEC = PoolSpec(namespace="models", name="pool", ports=(8000, 8001), labels={"app": "server"})


def full() -> Store[Pod]:
    made = Store("pods", read_pod)
    made.begin()
    made.page(listed())
    made.finish()
    return made


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "picker.kube")


def test_mutated_events() -> None:
    store, table = full(), EndpointTable(SPEC)
    taken = 0
    for case, line in mutants(EVENTS, TOKENS):
        before, mark = dict(store.objects), store.mark
        try:
            change = store.take(line)
            taken += 1
        except (Garbage, Expired, WentBack, ServerTrouble) as problem:
            assert str(problem)
            assert (store.objects, store.mark) == (before, mark), case
            continue
        if change is not None:
            table.change(change[0], change[1].after)
            table.confirm(table.difference())
        if len(store) > 50 or case % 500 == 0:
            store, table = full(), EndpointTable(SPEC)
    assert taken > CASES // 50  # small accidents often do no harm


def test_mutated_lists() -> None:
    taken = 0
    for _, body in mutants(
        [listed(), b'{"metadata": {"resourceVersion": "1"}, "items": null}'], TOKENS, cases=CASES // 10
    ):
        store = full()
        store.begin()
        try:
            store.page(body)
        except Garbage:
            assert len(store) == 3
            continue
        store.finish()
        EndpointTable(SPEC).replace(SPEC, store.objects)
        assert store.mark
        taken += 1
    assert taken


def test_mutated_pools() -> None:
    members = {"selector": {"matchLabels": {"app": "m"}}, "targetPorts": [{"number": 8000}]}
    raw = json.dumps({"metadata": {"name": "p", "namespace": "n"}, "spec": members}).encode()
    taken = 0
    for _, mutant in mutants([raw], TOKENS, cases=CASES // 10):
        try:
            made = read_pool(mutant)
        except ValueError:
            continue
        assert made.labels
        assert all(1 <= port <= 65535 for port in made.ports)
        taken += 1
    assert taken
