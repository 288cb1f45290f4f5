"""One kind of objects followed through whatever an API server answers, in virtual time."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from picker.errors import KubernetesError, KubernetesRefusal
from picker.kube.client import SilentWatch
from picker.kube.pace import Backoff, Timing
from picker.kube.reflector import PAGE, Counts, Presence, Reflector, Source, Surroundings
from picker.kube.store import Change, Key
from tests.kube.test_store import bookmark, event, item, page, status, value_of
from tests.support.virtual_time import pass_time, virtual

PATH = "/api/v1/things"


def refusal(code: int, reason: str = "", retry_after_s: float = 0.0) -> KubernetesRefusal:
    return KubernetesRefusal(f"{code}", status=code, reason=reason, retry_after_s=retry_after_s)


class Stream:
    """A watch that the test speaks through."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def say(self, *lines: bytes) -> None:
        for line in lines:
            self._lines.put_nowait(line)

    def end(self, problem: Exception | None = None) -> None:
        self._lines.put_nowait(problem)

    async def lines(self, idle_s: float) -> AsyncIterator[bytes]:
        while True:
            try:
                said = await asyncio.wait_for(self._lines.get(), idle_s)
            except TimeoutError:
                raise SilentWatch("nothing is said") from None
            if isinstance(said, Exception):
                raise said
            if said is None:
                return
            yield said


class Api:
    """Answers as it is told: to lists in their order, the last one for ever; to watches with `refusals` first, then
    with streams. `asked` is the time and the query of each."""

    def __init__(self, *lists: bytes | Exception) -> None:
        self.lists = list(lists)
        self.refusals: list[Exception] = []
        self.short = 0  # so many watches end at once
        self.stream = Stream()
        self.asked: list[tuple[float, dict[str, Any]]] = []
        self.idle_s = 0.0

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str | int] | None = None, timeout_s: float = 0.0
    ) -> bytes:
        assert (method, path, timeout_s) == ("GET", PATH, 60.0)
        self.asked.append((asyncio.get_running_loop().time(), dict(query or {})))
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @asynccontextmanager
    async def watch(
        self, path: str, *, query: Mapping[str, str | int], idle_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((asyncio.get_running_loop().time(), {"watch": True, **query}))
        self.idle_s = idle_s
        if self.refusals:
            raise self.refusals.pop(0)
        self.stream = Stream()
        if self.short:
            self.short -= 1
            self.stream.end()
        yield self.stream.lines(idle_s)

    @property
    def watches(self) -> list[str]:
        """The marks that watches began at."""
        return [query["resourceVersion"] for _, query in self.asked if "watch" in query]

    @property
    def pages(self) -> list[dict[str, Any]]:
        return [query for _, query in self.asked if "watch" not in query]

    def times(self, since: float = 0.0) -> list[float]:
        """Of all questions, from the first on."""
        return [round(time - self.asked[0][0], 3) for time, _ in self.asked if time >= since]


class Listener:
    def __init__(self) -> None:
        self.objects: dict[str, str] = {}
        self.lists = 0
        self.changes: list[Change[str]] = []
        self.settlements = 0
        self.problem: Exception | None = None

    def replaced(self, objects: Mapping[Key, str]) -> None:
        self._fail()
        self.lists += 1
        self.objects = {name: value for (_, name), value in objects.items()}

    def changed(self, key: Key, change: Change[str]) -> None:
        self._fail()
        self.changes.append(change)
        assert self.objects.pop(key[1], None) == change.before
        if change.after is not None:
            self.objects[key[1]] = change.after

    def settled(self) -> None:
        self.settlements += 1

    def _fail(self) -> None:
        if self.problem is not None:
            raise self.problem


class Followed:
    """A reflector at work in virtual time; waits are the longest they can be."""

    def __init__(self, api: Api, *, optional: bool = False, jitter: float = 1.0, timing: Timing | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.api, self.listener, self.counts = api, Listener(), Counts()
        around = Surroundings(loop.time, asyncio.sleep, lambda: jitter, timing or Timing())
        source = Source("things", PATH, {"labelSelector": "app=a"}, optional)
        self.reflector = Reflector(source, value_of, self.listener, client=api, counts=self.counts, around=around)
        self.task = asyncio.create_task(self.reflector.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled(), "it ended by itself"


@asynccontextmanager
async def following(*lists: bytes | Exception, **more: Any) -> AsyncIterator[Followed]:
    made = Followed(Api(*lists), **more)
    await pass_time(0.01)
    try:
        yield made
    finally:
        await made.stop()


# --- as it should be ---


@virtual
async def test_it_lists_and_watches_from_the_mark() -> None:
    async with following(page(item("a", 1))) as it:
        assert it.listener.objects == {"a": "one"}
        query = {"labelSelector": "app=a"}
        assert [asked for _, asked in it.api.asked] == [
            {**query, "limit": PAGE},
            {**query, "watch": True, "resourceVersion": "10", "allowWatchBookmarks": "true", "timeoutSeconds": 600},
        ]
        assert it.api.idle_s == 90.0
        it.api.stream.say(event("ADDED", item("b", 11)), event("DELETED", item("a", 12)))
        await pass_time(0.01)
        assert it.listener.objects == {"b": "one"}
        assert (it.listener.lists, it.counts.lists, it.counts.events) == (1, 1, 2)
        assert (it.reflector.presence, it.listener.settlements) == (Presence.PRESENT, 1)


@virtual
async def test_pages_are_asked_for_until_there_are_no_more() -> None:
    pages = [page(item("a", 1), rest="t1"), page(item("b", 2), rest="t2"), page(item("c", 3))]
    async with following(*pages) as it:
        assert it.listener.objects == {"a": "one", "b": "one", "c": "one"}
        assert [query.get("continue") for query in it.api.pages] == [None, "t1", "t2"]
        assert it.listener.lists == 1


@virtual
async def test_a_watch_that_ends_in_time_is_made_again_at_once() -> None:
    async with following(page(item("a", 1))) as it:
        it.api.stream.say(bookmark(17))
        await pass_time(400)  # nothing at all for 90 s each time
        silences = it.counts.faults["silence"]
        it.api.stream.say(bookmark(18))
        await pass_time(5)
        it.api.stream.end()
        await pass_time(0.01)
        assert it.api.watches[-1] == "18"
        assert it.api.times()[-1] == pytest.approx(405.0, abs=0.1)
        assert (it.counts.lists, it.counts.faults) == (1, {"silence": silences})


@virtual
async def test_silence_alone_makes_no_wait_longer(caplog: pytest.LogCaptureFixture) -> None:
    """A server without bookmarks, and a cluster in which nothing happens."""
    async with following(page(item("a", 1))) as it:
        await pass_time(1000)
        waits = {round(after - before, 2) for before, after in itertools.pairwise(it.api.times()[1:])}
        assert (waits, it.counts.lists) == ({90.25}, 1)
        assert caplog.text == ""


@virtual
async def test_timeouts_of_watches_differ() -> None:
    async with following(page(), jitter=0.0) as it:
        assert it.api.asked[-1][1]["timeoutSeconds"] == 300
    async with following(page(), jitter=0.5) as it:
        assert it.api.asked[-1][1]["timeoutSeconds"] == 450


# --- age ---


@virtual
async def test_age_is_since_it_was_last_known_to_be_current() -> None:
    async with following(page()) as it:
        await pass_time(80)
        assert it.reflector.age_s == 0.0  # open, and silence is no news
        it.api.refusals = [KubernetesError("away")] * 1000
        await pass_time(12)  # silent for too long
        assert it.reflector.age_s == pytest.approx(92.0, abs=0.1)
        await pass_time(100)
        assert it.reflector.age_s == pytest.approx(192.0, abs=0.1)
        it.api.refusals = []
        await pass_time(10)
        assert it.reflector.age_s == 0.0


# --- faults ---


@virtual
async def test_a_watch_that_breaks_goes_on_where_it_was() -> None:
    async with following(page(item("a", 1))) as it:
        it.api.stream.say(event("ADDED", item("b", 11)))
        it.api.stream.end(KubernetesError("cut"))
        await pass_time(1)
        assert (it.api.watches, it.counts.lists) == (["10", "11"], 1)
        it.api.stream.say(event("ADDED", item("b", 11)), event("ADDED", item("c", 12)))
        await pass_time(0.01)
        assert it.listener.objects == {"a": "one", "b": "one", "c": "one"}
        assert (it.counts.faults, it.counts.stale_events) == ({"connection": 1}, 1)


@pytest.mark.parametrize("way", ["event", "refusal"])
@virtual
async def test_a_mark_that_is_too_old_means_a_new_list(way: str) -> None:
    later = page(item("b", 15), mark=20)
    async with following(page(item("a", 1)), later) as it:
        if way == "event":
            it.api.stream.say(event("ERROR", status(410, "Expired")))
        else:
            it.api.refusals = [refusal(410, "Gone")]
            it.api.stream.end(KubernetesError("cut"))
        await pass_time(1)
        assert it.listener.objects == {"b": "one"}
        assert (it.listener.lists, it.api.watches[-1], it.counts.faults["expired"]) == (2, "20", 1)


@virtual
async def test_a_bookmark_of_the_past_means_a_new_list() -> None:
    async with following(page(item("a", 1)), page(item("a", 3), mark=5)) as it:
        it.api.stream.say(bookmark(4))
        await pass_time(1)
        assert (it.listener.lists, it.api.watches, it.counts.faults) == (2, ["10", "5"], {"backwards": 1})


@virtual
async def test_pages_that_expire_are_given_up_for_a_list_in_one() -> None:
    first = page(item("a", 1), rest="t")
    async with following(first, refusal(410, "Expired"), refusal(500), page(item("b", 2))) as it:
        await pass_time(2)
        assert it.listener.objects == {"b": "one"}
        assert [("limit" in query, query.get("continue")) for query in it.api.pages] == [
            (True, None),
            (True, "t"),
            (False, None),
            (False, None),
        ]
        it.api.stream.say(event("ERROR", status(410, "Expired")))
        await pass_time(2)
        assert "limit" in it.api.pages[-1]


@virtual
async def test_a_list_that_does_not_go_on_is_given_up() -> None:
    async with following(page(item("a", 1), rest="t")) as it:
        await pass_time(60)
        assert it.listener.lists == 0
        assert it.counts.faults["garbage"] > 3
        it.api.lists = [page(item("b", 2))]
        await pass_time(20)
        assert it.listener.objects == {"b": "one"}


@pytest.mark.parametrize("line", [b"{", event("ADDED", {"metadata": {"name": "x"}}), event("ERROR", status(500, ""))])
@virtual
async def test_what_cannot_be_understood_is_asked_for_again_and_then_listed(line: bytes) -> None:
    async with following(page(item("a", 1)), page(item("a", 20, "two"), mark=20)) as it:
        for _ in range(3):
            it.api.stream.say(line)
            await pass_time(5)
        assert it.api.watches == ["10", "10", "10", "20"]
        assert it.listener.objects == {"a": "two"}


@virtual
async def test_one_word_between_is_enough_to_trust_the_mark() -> None:
    async with following(page(item("a", 1))) as it:
        for version in range(11, 19):
            it.api.stream.say(bookmark(version), b"{")
            await pass_time(1)
        assert (it.counts.lists, it.counts.faults) == (1, {"garbage": 8})


@virtual
async def test_a_watch_that_ends_as_it_begins_is_a_fault() -> None:
    async with following(page(item("a", 1))) as it:
        it.api.short = 3
        it.api.stream.end()
        await pass_time(60)
        assert it.api.times()[1:] == [0.0, 0.26, 0.76, 1.76, 1.76, 3.76]  # the third time the mark is not trusted
        assert (it.counts.faults, it.counts.lists) == ({"ended_early": 4}, 2)


@virtual
async def test_while_the_server_is_away_nothing_is_forgotten() -> None:
    async with following(page(item("a", 1))) as it:
        it.api.refusals = [KubernetesError("refused")] * 200
        it.api.stream.end(KubernetesError("cut"))
        await pass_time(600)
        assert (it.listener.objects, it.counts.lists) == ({"a": "one"}, 1)
        it.api.refusals = []
        await pass_time(10)
        it.api.stream.say(event("ADDED", item("b", 11)))
        await pass_time(0.01)
        assert (it.listener.objects, it.counts.lists) == ({"a": "one", "b": "one"}, 1)


@virtual
async def test_waits_grow_to_a_limit_and_begin_anew_after_a_success() -> None:
    async with following(KubernetesError("refused")) as it:
        await pass_time(60)
        waits = [round(after - before, 2) for before, after in zip(it.api.times(), it.api.times()[1:], strict=False)]
        assert waits[:9] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
        it.api.lists = [page(item("a", 1))]
        await pass_time(10)
        it.api.stream.say(bookmark(12))
        await pass_time(1)
        before = len(it.api.asked)
        it.api.stream.end(KubernetesError("cut"))
        await pass_time(0.3)
        assert len(it.api.asked) == before + 1


@virtual
async def test_a_list_alone_is_no_success() -> None:
    """Or a server whose watches fail at once would be listed as fast as it can."""
    async with following(page(item("a", 1))) as it:
        it.api.refusals = [refusal(410, "Expired")] * 1000
        it.api.stream.end(KubernetesError("cut"))
        await pass_time(100)
        assert it.counts.lists < 20


@pytest.mark.parametrize(("code", "cause"), [(429, "throttled"), (503, "unavailable")])
@virtual
async def test_the_server_says_how_long_to_wait(code: int, cause: str) -> None:
    async with following(refusal(code, retry_after_s=7.0), refusal(code, retry_after_s=1e9), page()) as it:
        await pass_time(100)
        assert it.api.times()[:3] == [0.0, 7.0, 67.0]  # a minute at most
        assert (it.counts.faults, it.counts.lists) == ({cause: 2}, 1)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (400, "refused"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "absent"),
        (500, "server_error"),
        (504, "server_error"),
    ],
)
@virtual
async def test_what_must_be_there_is_asked_for_again(code: int, cause: str) -> None:
    async with following(refusal(code), refusal(code), page(item("a", 1))) as it:
        await pass_time(1)
        assert (it.counts.faults, it.listener.objects) == ({cause: 2}, {"a": "one"})
        assert it.api.times()[:3] == [0.0, 0.25, 0.75]


# --- kinds that need not be there ---


@pytest.mark.parametrize(("code", "cause"), [(403, "forbidden"), (404, "absent")])
@virtual
async def test_a_kind_that_is_missing_is_looked_for_now_and_then(code: int, cause: str) -> None:
    async with following(refusal(code), refusal(code), page(item("a", 1)), optional=True) as it:
        assert (it.listener.lists, it.listener.objects, it.listener.settlements) == (1, {}, 1)
        assert it.reflector.presence is Presence.ABSENT
        await pass_time(125)
        assert it.api.times()[:3] == [0.0, 60.0, 120.0]
        assert (it.listener.objects, it.reflector.presence) == ({"a": "one"}, Presence.PRESENT)
        assert (it.counts.faults, it.listener.settlements) == ({cause: 2}, 1)


@virtual
async def test_a_kind_that_is_gone_is_believed_the_second_time() -> None:
    async with following(page(item("a", 1)), optional=True) as it:
        it.api.refusals = [refusal(404)] * 100
        it.api.stream.end(KubernetesError("cut"))
        await pass_time(50)
        assert (it.listener.objects, it.reflector.presence) == ({"a": "one"}, Presence.PRESENT)
        it.api.lists = [refusal(404)]
        await pass_time(60)
        assert (it.listener.objects, it.reflector.presence) == ({}, Presence.ABSENT)
        it.api.lists, it.api.refusals = [page(item("b", 2))], []
        await pass_time(61)
        assert it.listener.objects == {"b": "one"}


@virtual
async def test_a_kind_that_is_not_allowed_any_more_stays_as_it_was() -> None:
    async with following(page(item("a", 1)), optional=True) as it:
        it.api.refusals = [refusal(403)] * 100
        it.api.stream.end(KubernetesError("cut"))
        await pass_time(600)
        assert (it.listener.objects, it.reflector.presence) == ({"a": "one"}, Presence.PRESENT)
        assert it.reflector.age_s > 590


@virtual
async def test_a_kind_that_is_out_of_order_is_not_waited_for() -> None:
    async with following(refusal(500), optional=True) as it:
        assert it.listener.settlements == 0
        await pass_time(3)
        assert (it.listener.settlements, it.reflector.presence) == (1, Presence.UNKNOWN)


# --- bugs ---


@pytest.mark.parametrize("where", ["replaced", "changed"])
@virtual
async def test_a_bug_is_logged_once_and_everything_told_again(where: str, caplog: pytest.LogCaptureFixture) -> None:
    async with following(page(item("a", 1))) as it:
        it.listener.problem = RuntimeError("of one of us")
        if where == "replaced":
            it.api.stream.say(event("ERROR", status(410, "Expired")))
        else:
            it.api.stream.say(event("ADDED", item("b", 11)))
        it.api.lists = [page(item("a", 1), item("b", 11), mark=11)]
        await pass_time(30)
        assert it.counts.faults["bug"] >= 3
        assert caplog.text.count("a bug, please report it") == 1
        assert "Traceback" in caplog.text
        assert it.listener.objects == {"a": "one"}
        it.listener.problem = None
        await pass_time(20)
        assert it.listener.objects == {"a": "one", "b": "one"}
        assert not it.task.done()


@virtual
async def test_a_bug_in_reading_an_object_costs_that_object(caplog: pytest.LogCaptureFixture) -> None:
    async with following(page(item("a", 1), item("b", 2, "0"))) as it:
        it.reflector.store._decode = lambda raw: str(1 // int(value_of(raw)))
        it.api.stream.say(event("ADDED", item("c", 11, "0")), event("ADDED", item("d", 12, "1")))
        await pass_time(1)
        assert it.listener.objects == {"a": "one", "b": "0", "d": "1"}
        assert (it.counts.unusable, it.counts.faults) == (1, {})
        assert "ZeroDivisionError" in caplog.text


@virtual
async def test_a_bug_in_hearing_of_an_absence_is_survived() -> None:
    made = Followed(Api(refusal(404)), optional=True)
    made.listener.problem = RuntimeError("a bug")
    await pass_time(1)
    made.listener.problem = None
    await pass_time(200)
    assert made.listener.lists >= 1
    await made.stop()


# --- waiting ---


def test_backoff_is_random_between_nothing_and_its_limit() -> None:
    numbers = iter([0.0, 0.5, 1.0, 0.25])
    backoff = Backoff(Timing(), lambda: next(numbers))
    assert [backoff.failed(), backoff.failed(), backoff.failed(), backoff.failed(asked_s=3.0)] == [0.0, 0.25, 1.0, 3.0]
    assert backoff.faults == 4


def test_backoff_never_overflows() -> None:
    backoff = Backoff(Timing(), lambda: 1.0)
    assert {backoff.failed() for _ in range(5000)} == {0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0}


@virtual
async def test_a_fault_is_loud_the_second_time_and_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "picker.kube")
    async with following(KubernetesError("refused")) as it:
        await pass_time(1500)
        levels = [record.levelname for record in caplog.records]
        assert (levels[:3], levels.count("WARNING")) == (["INFO", "WARNING", "DEBUG"], 1 + len(levels) // 64)
        it.api.lists = [page()]
        await pass_time(11)
        it.api.stream.say(bookmark(11))
        await pass_time(1)
        assert "things: watched again after" in caplog.text
