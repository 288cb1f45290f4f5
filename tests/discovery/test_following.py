"""The endpoints file followed while picker runs. Time is a tick the test gives; nothing sleeps."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from picker.discovery.file import EndpointsFile
from picker.errors import EndpointsFileError
from picker.types import Endpoint


def text(*names: str) -> str:
    entries = "".join(f"- {{name: {name}, address: 10.0.0.{i + 1}, port: 80}}\n" for i, name in enumerate(names))
    return "endpoints:\n" + (entries or "  []\n")


def write(path: Path, content: str) -> None:
    path.write_text(content)


def remove(path: Path) -> None:
    path.unlink()


class Followed:
    """A watched file whose looks happen when the test says so."""

    def __init__(self, path: Path, on_change: Callable[[tuple[Endpoint, ...]], None] | None = None) -> None:
        self.changes: list[list[str]] = []
        self.looks = 0
        self.file = EndpointsFile(path, on_change=on_change or self.note, tick=self.tick)
        self._go, self._waiting = asyncio.Event(), asyncio.Event()

    def note(self, endpoints: tuple[Endpoint, ...]) -> None:
        self.changes.append([endpoint.name for endpoint in endpoints])

    async def tick(self) -> None:
        self.looks += 1
        self._waiting.set()
        await self._go.wait()
        self._go.clear()

    async def look(self, times: int = 1) -> None:
        """Lets the task look that many times and waits until it has."""
        for _ in range(times):
            await self._waiting.wait()
            self._waiting.clear()
            self._go.set()
        await self._waiting.wait()

    @property
    def names(self) -> list[str]:
        return [endpoint.name for endpoint in self.file.endpoints]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "endpoints.yaml"
    write(made, text("a"))
    return made


def follow(path: Path, body: Callable[[Followed], Coroutine[None, None, None]]) -> Followed:
    """Runs `body` against the file at `path`, loaded and followed."""

    async def run() -> Followed:
        followed = Followed(path)
        followed.file.load()
        followed.file.start()
        await body(followed)
        await followed.file.stop()
        return followed

    return asyncio.run(asyncio.wait_for(run(), 30))


def test_load_reads_now_and_calls_nobody(path: Path) -> None:
    async def body(f: Followed) -> None:
        await f.look(3)

    followed = follow(path, body)
    assert followed.names == ["a"]
    assert followed.changes == []
    assert followed.file.reloads == 0


def test_a_bad_file_at_the_start_is_an_error(path: Path) -> None:
    write(path, "endpoints: [x]")
    with pytest.raises(EndpointsFileError, match=r"endpoints.yaml:1: endpoints\[0\]"):
        EndpointsFile(path, on_change=print).load()


def test_an_edit_in_place_counts_once_two_looks_agree(path: Path) -> None:
    async def body(f: Followed) -> None:
        write(path, text("a", "b"))
        await f.look()
        assert f.changes == []
        await f.look()
        assert f.changes == [["a", "b"]]
        await f.look(3)

    followed = follow(path, body)
    assert followed.changes == [["a", "b"]]
    assert (followed.names, followed.file.reloads) == (["a", "b"], 1)


def test_a_file_being_written_is_not_read_half(path: Path) -> None:
    async def body(f: Followed) -> None:
        whole = text("a", "b", "c")
        for end in range(10, len(whole), 20):  # some of these prefixes are good files of fewer endpoints
            write(path, whole[:end])
            await f.look()
        assert f.changes == []
        write(path, whole)
        await f.look(2)

    followed = follow(path, body)
    assert followed.changes == [["a", "b", "c"]]
    assert followed.file.reload_errors == 0


def test_a_configmap_swap(tmp_path: Path) -> None:
    """Kubernetes changes a mounted ConfigMap by renaming a symlink over the old one."""
    for version, names in (("v1", ["a"]), ("v2", ["b"])):
        (tmp_path / version).mkdir()
        (tmp_path / version / "endpoints.yaml").write_text(text(*names))
    os.utime(tmp_path / "v2" / "endpoints.yaml", ns=(1, 1))
    os.utime(tmp_path / "v1" / "endpoints.yaml", ns=(1, 1))  # same size and time: only the file differs
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "endpoints.yaml").symlink_to("data/endpoints.yaml")

    async def body(f: Followed) -> None:
        (tmp_path / "new").symlink_to("v2")
        (tmp_path / "new").rename(tmp_path / "data")
        await f.look(2)

    assert follow(tmp_path / "endpoints.yaml", body).changes == [["b"]]


def test_an_editor_that_renames(path: Path) -> None:
    async def body(f: Followed) -> None:
        remove(path)
        await f.look()  # the moment without a file is not an error yet
        write(path, text("b"))
        await f.look(2)

    followed = follow(path, body)
    assert followed.changes == [["b"]]
    assert followed.file.reload_errors == 0


def test_nothing_is_read_while_nothing_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = os.fstat

    def counted(fd: int) -> os.stat_result:
        reads.append(fd)
        return real(fd)

    async def body(f: Followed) -> None:
        await f.look()  # reads once more: an edit right after the start may leave no trace but the content
        monkeypatch.setattr("picker.config.following.os.fstat", counted)
        await f.look(5)
        assert reads == []
        write(path, text("a", "b"))
        await f.look(2)
        assert len(reads) == 2

    assert follow(path, body).changes == [["a", "b"]]


def test_an_edit_right_after_the_start_is_seen(path: Path) -> None:
    async def body(f: Followed) -> None:
        before = os.stat(path)
        write(path, text("b"))  # the same size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        await f.look(2)

    assert follow(path, body).changes == [["b"]]


def test_a_touch_changes_nothing(path: Path) -> None:
    async def body(f: Followed) -> None:
        os.utime(path, ns=(1, 1))
        await f.look(3)

    assert follow(path, body).changes == []


def test_a_bad_edit_keeps_the_last_good_and_recovers(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def body(f: Followed) -> None:
        write(path, text("a") + "- name: b\n  adress: 10.0.0.9\n")
        await f.look(6)
        assert f.names == ["a"]
        assert f.file.reload_errors == 1
        error = f.file.last_error
        assert error is not None
        assert (error.line, error.field) == (4, "endpoints[1].adress")
        write(path, "endpoints: [")
        await f.look(4)
        assert f.file.reload_errors == 2
        write(path, text("a", "b"))
        await f.look(2)
        assert f.file.last_error is None

    followed = follow(path, body)
    assert followed.changes == [["a", "b"]]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "keeping the last good endpoints: endpoints=1" in errors[0]
    assert 'endpoints.yaml:4: endpoints[1].adress: unknown field; did you mean "address"?' in errors[0]
    assert "endpoints file is good again" in caplog.text


def test_undoing_a_bad_edit_recovers_without_a_change(path: Path) -> None:
    async def body(f: Followed) -> None:
        write(path, "endpoints: {}")
        await f.look(2)
        assert f.file.last_error is not None
        write(path, text("a"))
        await f.look(2)
        assert f.file.last_error is None

    followed = follow(path, body)
    assert (followed.changes, followed.file.reloads, followed.file.reload_errors) == ([], 0, 1)


def test_a_missing_file_keeps_the_last_good_and_recovers(path: Path) -> None:
    async def body(f: Followed) -> None:
        remove(path)
        await f.look(5)
        assert f.names == ["a"]
        assert f.file.reload_errors == 1
        assert "cannot be read: No such file" in str(f.file.last_error)
        write(path, text("a"))
        await f.look(2)
        assert f.file.last_error is None
        write(path, text("c"))
        await f.look(2)

    assert follow(path, body).changes == [["c"]]


def test_an_empty_pool_is_a_change_like_any_other(path: Path) -> None:
    async def body(f: Followed) -> None:
        write(path, text())
        await f.look(2)

    followed = follow(path, body)
    assert (followed.changes, followed.names) == ([[]], [])


def test_endpoints_the_pool_refuses_count_as_a_bad_edit(path: Path) -> None:
    def refuse(endpoints: tuple[Endpoint, ...]) -> None:
        if len(endpoints) > 1:
            raise OverflowError("at most 1 slot")

    async def run() -> EndpointsFile:
        followed = Followed(path, refuse)
        followed.file.load()
        followed.file.start()
        write(path, text("a", "b"))
        await followed.look(4)
        assert "2 endpoints were refused: at most 1 slot" in str(followed.file.last_error)
        assert followed.names == ["a"]
        write(path, text("z"))
        await followed.look(2)
        await followed.file.stop()
        return followed.file

    file = asyncio.run(asyncio.wait_for(run(), 30))
    assert ([e.name for e in file.endpoints], file.reload_errors, file.last_error) == (["z"], 1, None)


def test_a_bug_does_not_end_the_watch(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(f: Followed) -> None:
        with monkeypatch.context() as broken:
            broken.setattr("picker.config.following.os.fstat", lambda fd: 1 // 0)
            write(path, text("b"))
            await f.look(2)
        await f.look(2)

    assert follow(path, body).changes == [["b"]]
    assert "looking at the endpoints file failed" in caplog.text


def test_stopping(path: Path) -> None:
    async def run() -> None:
        followed = Followed(path)
        await followed.file.stop()  # never started
        followed.file.start()
        followed.file.start()  # the same task goes on
        await followed.look()
        tasks = asyncio.all_tasks()
        assert sum(task.get_name() == "endpoints file" for task in tasks) == 1
        await followed.file.stop()
        await followed.file.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_others_run_while_a_large_file_is_read(path: Path) -> None:
    async def body(f: Followed) -> None:
        write(
            path,
            "endpoints:\n"
            + "".join(f"- {{name: n{i}, address: 10.0.{i >> 8}.{i & 255}, port: 1}}\n" for i in range(2000)),
        )
        await f.look()
        turns = 0
        looking = asyncio.ensure_future(f.look())
        while not looking.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 100

    assert len(follow(path, body).names) == 2000


def test_the_interval_is_its_own_clock(path: Path) -> None:
    async def run() -> None:
        changed = asyncio.Event()
        file = EndpointsFile(path, on_change=lambda endpoints: changed.set(), interval_s=0.001)
        file.load()
        file.start()
        write(path, text("b"))
        await asyncio.wait_for(changed.wait(), 30)
        await file.stop()

    asyncio.run(run())
