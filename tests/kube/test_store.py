"""What a list and the watch after it come to: by example, and against a server that is obviously right."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.kube.store import Change, Expired, Garbage, ServerTrouble, Store, WentBack


def value_of(raw: bytes) -> str:
    """The objects of these tests: what `spec` says. A ValueError for what cannot be used."""
    spec = json.loads(raw)["spec"]
    if spec == "bad":
        raise ValueError("the spec is bad")
    return str(spec)


def item(name: str, version: int | str, spec: str = "one", uid: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": spec}


def page(*items: dict[str, Any], mark: int | str = 10, rest: str = "") -> bytes:
    return json.dumps({"metadata": {"resourceVersion": str(mark), "continue": rest}, "items": items}).encode()


def event(kind: str, of: Any) -> bytes:
    return json.dumps({"type": kind, "object": of}).encode()


def bookmark(version: int | str) -> bytes:
    return event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(version)}})


def store(*items: dict[str, Any], mark: int | str = 10) -> Store[str]:
    made = Store("things", value_of)
    made.begin()
    assert made.page(page(*items, mark=mark)) == ""
    made.finish()
    return made


def shown(made: Store[str]) -> dict[str, str]:
    return {name: value for (_, name), value in made.objects.items()}


# --- lists ---


def test_a_list_takes_the_place_of_what_was_known_only_when_it_is_whole() -> None:
    made = store(item("a", 1), item("b", 2))
    made.begin()
    assert made.page(page(item("b", 12, "two"), mark=20, rest="more")) == "more"
    assert (shown(made), made.mark) == ({"a": "one", "b": "one"}, "10")
    assert made.page(page(item("c", 3), mark=25)) == ""  # the first page's mark is that of all
    made.finish()
    assert (shown(made), made.mark) == ({"b": "two", "c": "one"}, "20")


def test_pages_of_a_list_that_was_given_up_are_forgotten() -> None:
    made = store(item("a", 1))
    made.begin()
    made.page(page(item("b", 2), rest="more"))
    made.begin()
    made.page(page(item("c", 3), mark=12))
    made.finish()
    assert (shown(made), made.mark) == ({"c": "one"}, "12")


@pytest.mark.parametrize("items", ["null", "[]"])
def test_a_list_may_be_empty(items: str) -> None:
    made = store(item("a", 1))
    made.begin()
    made.page(b'{"metadata": {"resourceVersion": "30"}, "items": %s}' % items.encode())
    made.finish()
    assert (shown(made), made.mark, len(made)) == ({}, "30", 0)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"metadata": {}}', b'{"items": []}', page()[:-3], b'{"metadata": ' + b"[" * 9999]
)
def test_what_is_no_list_is_garbage(body: bytes) -> None:
    made = store(item("a", 1))
    made.begin()
    with pytest.raises(Garbage):
        made.page(body)
    assert (shown(made), made.mark) == ({"a": "one"}, "10")


def test_what_a_list_has_unchanged_is_not_decoded_again() -> None:
    decoded = []
    made = Store("things", lambda raw: decoded.append(value_of(raw)))
    for _ in range(2):
        made.begin()
        made.page(page(item("a", 1), item("b", 2)))
        made.finish()
    assert len(decoded) == 2


# --- events ---


def test_events_change_what_there_is() -> None:
    made = store(item("a", 1))
    assert made.take(event("ADDED", item("b", 11))) == (("n", "b"), Change(None, "one"))
    assert made.take(event("MODIFIED", item("b", 12, "two"))) == (("n", "b"), Change("one", "two"))
    assert made.take(event("DELETED", item("a", 13))) == (("n", "a"), Change("one", None))
    assert (shown(made), made.mark, made.events) == ({"b": "two"}, "13", 3)


def test_an_event_that_changes_nothing_we_read_is_none() -> None:
    made = store(item("a", 1))
    assert made.take(event("MODIFIED", item("a", 11))) is None
    assert made.mark == "11"
    assert made.take(event("DELETED", item("gone", 12))) is None
    assert made.mark == "12"


def test_another_object_of_the_same_name_is_a_change() -> None:
    made = store(item("a", 1))
    assert made.take(event("ADDED", item("a", 11, uid="other"))) == (("n", "a"), Change("one", "one"))


def test_what_comes_twice_counts_once() -> None:
    made = store(item("a", 1))
    line = event("MODIFIED", item("a", 11, "two"))
    assert made.take(line) is not None
    assert made.take(line) is None
    assert (made.stale, made.mark) == (1, "11")


def test_what_is_older_than_the_mark_is_passed_over() -> None:
    made = store(item("a", 9, "new"))
    assert made.take(event("MODIFIED", item("a", 5, "old"))) is None
    assert made.take(event("ADDED", item("deleted-since", 8))) is None
    assert made.take(event("DELETED", item("a", 7, "old"))) is None
    assert (shown(made), made.mark, made.stale) == ({"a": "new"}, "10", 3)


def test_a_deletion_may_bear_the_version_of_the_object() -> None:
    """As some servers beside the main one do."""
    made = store(item("a", 9))
    assert made.take(event("DELETED", item("a", 9))) == (("n", "a"), Change("one", None))


def test_the_deletion_of_one_that_has_come_again_is_passed_over() -> None:
    made = store()
    made.take(event("ADDED", item("a", 12, uid="second")))
    assert made.take(event("DELETED", item("a", 11, uid="first"))) is None
    assert shown(made) == {"a": "one"}


def test_bookmarks_move_the_mark_and_never_back() -> None:
    made = store(item("a", 1))
    assert made.take(bookmark(15)) is None
    assert made.take(bookmark(15)) is None
    assert made.mark == "15"
    with pytest.raises(WentBack):
        made.take(bookmark(14))
    assert (made.mark, shown(made)) == ("15", {"a": "one"})


def test_versions_need_not_be_numbers() -> None:
    made = store(item("a", "x1"), mark="m1")
    assert made.take(event("MODIFIED", item("a", "x0", "two"))) == (("n", "a"), Change("one", "two"))
    assert made.take(event("MODIFIED", item("a", "x0", "two"))) is None
    assert made.take(event("DELETED", item("a", "x9"))) == (("n", "a"), Change("two", None))
    made.take(bookmark("b7"))
    assert made.mark == "b7"


def status(code: int, reason: str) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": "it says why"}


@pytest.mark.parametrize("said", [status(410, "Expired"), status(410, "Gone"), status(0, "Expired")])
def test_the_server_says_that_the_mark_is_too_old(said: dict[str, Any]) -> None:
    with pytest.raises(Expired, match="it says why"):
        store().take(event("ERROR", said))


def test_the_server_says_that_something_else_is_wrong() -> None:
    with pytest.raises(ServerTrouble, match="500 InternalError: it says why"):
        store().take(event("ERROR", status(500, "InternalError")))


NO_UID = {"metadata": {"name": "a", "resourceVersion": "12"}, "spec": "two"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        event("ADDED", item("a", 12))[:-9],
        b'{"type": "ADDED"}',
        event("LATER", item("a", 12)),
        event("ADDED", None),
        event("MODIFIED", NO_UID),
        event("DELETED", NO_UID),
        event("ADDED", {"metadata": {"name": "a", "uid": "u"}}),
        event("ADDED", {"metadata": {"uid": "u", "resourceVersion": "12"}}),
        event("BOOKMARK", {"metadata": {}}),
        event("ERROR", [1]),
        b'{"type": "ADDED", "object": ' + b"[" * 9999,
        b"\xff\xfe",
    ],
)
def test_garbage_changes_nothing(line: bytes) -> None:
    made = store(item("a", 1))
    with pytest.raises(Garbage):
        made.take(line)
    assert (shown(made), made.mark, made.events) == ({"a": "one"}, "10", 0)


# --- objects that cannot be used ---


def test_an_object_that_cannot_be_used_is_left_out_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    made = store(item("a", 1, "bad"), item("b", 2), {"metadata": {"name": "no-uid"}})
    assert (shown(made), made.unusable, len(made)) == ({"b": "one"}, 2, 2)
    assert "things n/a is left out: the spec is bad; resource version 1" in caplog.text
    assert "an object without a resourceVersion" in caplog.text


def test_it_is_logged_once_for_each_version(caplog: pytest.LogCaptureFixture) -> None:
    made = store(item("a", 1, "bad"))
    for _ in range(3):
        made.begin()
        made.page(page(item("a", 1, "bad"), rest="more"))
    made.page(page())
    made.finish()
    assert (made.unusable, caplog.text.count("left out")) == (1, 1)
    made.take(event("MODIFIED", item("a", 11, "bad")))
    assert (made.unusable, caplog.text.count("left out")) == (2, 2)
    made.take(event("DELETED", item("a", 12)))
    assert not made._left_out


def test_an_object_may_get_worse_and_better() -> None:
    made = store(item("a", 1))
    assert made.take(event("MODIFIED", item("a", 11, "bad"))) == (("n", "a"), Change("one", None))
    assert made.take(event("MODIFIED", item("a", 12, "bad"))) is None
    assert made.take(event("MODIFIED", item("a", 13, "two"))) == (("n", "a"), Change(None, "two"))
    made.take(event("MODIFIED", item("a", 14, "bad")))
    assert made.take(event("DELETED", item("a", 15, "bad"))) is None
    assert len(made) == 0


# --- against a server that is obviously right ---


class Server:
    """Every change is an event; the state at the end is what the watch must come to."""

    def __init__(self) -> None:
        self.version = 10
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[bytes] = []

    def put(self, name: str, spec: str) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        uid = self.objects[name]["metadata"]["uid"] if name in self.objects else f"uid-{self.version}"
        self.objects[name] = item(name, self.version, spec, uid)
        self.history.append(event(kind, self.objects[name]))

    def drop(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            gone = self.objects.pop(name)
            self.history.append(event("DELETED", item(name, self.version, uid=gone["metadata"]["uid"])))

    def expected(self) -> dict[str, str]:
        return {name: of["spec"] for name, of in sorted(self.objects.items()) if of["spec"] != "bad"}


CHANGES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["one", "two", "bad", None])), max_size=30)


@given(CHANGES, CHANGES, st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_whatever_is_repeated_the_store_is_the_servers(before: Any, after: Any, rng: random.Random) -> None:
    server = Server()
    for name, spec in before:
        server.put(name, spec) if spec else server.drop(name)
    made = store(*server.objects.values(), mark=server.version)
    told = shown(made)
    heard = len(server.history)
    for name, spec in after:
        server.put(name, spec) if spec else server.drop(name)
    lines: list[bytes] = []
    for index, line in enumerate(server.history[heard:]):
        lines.append(line)
        if rng.random() < 0.5:  # something that came before comes again
            lines.append(rng.choice(server.history[: heard + index + 1]))
    for line in lines:
        taken = made.take(line)
        if taken is not None:
            (_, name), change = taken
            assert told.pop(name, None) == change.before
            told |= {name: change.after} if change.after is not None else {}
        assert told == shown(made)
    assert dict(sorted(shown(made).items())) == server.expected()
    assert made.mark == str(server.version)
