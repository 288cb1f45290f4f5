"""The native load tools against a real picker, and against servers that misbehave: what goes wrong must be counted."""

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import exchanges, script, tools
from benchmarks.load.options import FLOOR, Variant, available
from benchmarks.load.processes import Picker, Server, certificates, write_endpoints
from benchmarks.load.script import Kind, Step
from tests.support import rude

STREAMS = 40


def missing() -> str:
    """What the tools cannot be compiled without and is not here."""
    if shutil.which("gcc") is None:
        return "gcc"
    wanted = {"nghttp2/nghttp2.h": "libnghttp2-dev", "openssl/ssl.h": "libssl-dev"}
    for header, package in wanted.items():
        command = ["gcc", "-E", "-xc", "-include", header, "/dev/null", "-o", "/dev/null"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return package
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=f"the load tools need {missing()} to be compiled")


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    tools.build()


def written(tmp_path: Path, *scripts: script.Script) -> Path:
    return script.write(tmp_path / "script", scripts)


# --- scripts ---


def test_what_is_written_is_read(tmp_path: Path) -> None:
    steps = (Step(Kind.SEND, message=b"\x00" * 300), Step(Kind.EXPECT, count=70_000), Step(Kind.HOLD))
    scripts = ((*steps, Step(Kind.RESET)), (Step(Kind.SEND), Step(Kind.CLOSE)))
    assert script.read(written(tmp_path, *scripts)) == scripts


@pytest.mark.parametrize("steps", [(), (Step(Kind.HOLD),), (Step(Kind.RESET), Step(Kind.CLOSE))])
def test_a_script_ends_once(tmp_path: Path, steps: script.Script) -> None:
    with pytest.raises(ValueError, match="only RESET or CLOSE"):
        written(tmp_path, steps)


@pytest.mark.parametrize("data", [b"", b"PKLOAD1\n", b"PKLOAD1\nS\x05\x00\x00\x00ab", b"PKLOAD1\nX\x00\x00\x00\x00"])
def test_a_broken_script_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "script").write_bytes(data)
    with pytest.raises(RuntimeError, match="extproc ended with 2"):
        tools.run("extproc", target="127.0.0.1:1", script=tmp_path / "script", count=1)


# --- against picker ---


SERVING = [Variant(shell, tls) for shell in available() if shell != FLOOR for tls in (False, True)]


@pytest.fixture(scope="module", params=SERVING, ids=str)
def picker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("picker")
    endpoints = write_endpoints(directory / "endpoints.yaml", ["127.0.0.1:9"])
    server = Picker(request.param, endpoints, log=directory / "picker.log")
    try:
        server.wait_ready()
        yield server
    finally:
        server.child.stop()


def run(server: Server, path: Path, **options: Any) -> tools.Report:
    return tools.run("extproc", target=server.address, tls=server.variant.tls, script=path, **options)


def counted(server: Server) -> float:
    """Requests that picker says it has picked for."""
    assert isinstance(server, Picker)
    lines = server.get("/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("inference_objective_request_total"))


@pytest.mark.parametrize("end", [Kind.RESET, Kind.CLOSE])
def test_every_stream_is_served_and_counted(picker: Server, tmp_path: Path, end: script.End) -> None:
    path = written(tmp_path, exchanges.small(1, end=end), exchanges.small(2, end=end))
    before = counted(picker)
    report = run(picker, path, connections=2, streams=3, count=STREAMS)
    assert (report["started"], report["done"], report["errors"]) == (STREAMS, STREAMS, {})
    assert report["replies"] == 5 * STREAMS
    picker.child.wait_until(lambda: counted(picker) - before == STREAMS, 10)  # it sees the last end after the client
    for latency in ("pick_us", "request_us", "whole_us"):
        assert report[latency]["count"] == STREAMS
        assert 0 < report[latency]["p50"] <= report[latency]["p99"] <= report[latency]["max"]


def test_what_picker_answers_itself_is_counted_apart(picker: Server, tmp_path: Path) -> None:
    steps = [Step(Kind.SEND, message=message) for message in exchanges.request(b"{")]
    path = written(tmp_path, (*steps, Step(Kind.EXPECT, count=2), Step(Kind.RESET)), exchanges.small())
    report = run(picker, path, count=2)
    assert (report["done"], report["errors"]) == (1, {"answered": 1})


def test_large_bodies_and_many_chunks(picker: Server, tmp_path: Path) -> None:
    report = run(picker, written(tmp_path, exchanges.streamed(300_000, 50)), streams=2, count=4)
    assert (report["done"], report["errors"]) == (4, {})
    assert report["bytes_in"] > 4 * 300_000


def test_open_loop(picker: Server, tmp_path: Path) -> None:
    report = run(picker, written(tmp_path, exchanges.small()), rate=100, count=STREAMS)
    assert (report["done"], report["errors"]) == (STREAMS, {})
    assert report["seconds"] >= (STREAMS - 1) / 100


def test_open_loop_with_a_bound(picker: Server, tmp_path: Path) -> None:
    """More than it may have open at once: they wait, and count as late."""
    report = run(picker, written(tmp_path, exchanges.small()), rate=1_000_000, most=2, count=STREAMS)
    assert (report["done"], report["errors"]) == (STREAMS, {})
    assert report["lag_us"]["max"] > report["lag_us"]["p50"] > 0


def test_held_streams_go_on_afterwards(picker: Server, tmp_path: Path) -> None:
    path = written(tmp_path, exchanges.small(hold=True))
    options: dict[str, Any] = {"target": picker.address, "tls": picker.variant.tls, "script": path}
    client = tools.Client("extproc", connections=2, streams=10, count=20, hold=0.2, **options)
    assert client.event()["held"] == 20
    report = client.report()
    assert (report["done"], report["errors"]) == (20, {})


def test_a_peer_that_never_reads_gets_no_answer(picker: Server, tmp_path: Path) -> None:
    report = run(picker, written(tmp_path, exchanges.small()), streams=5, never_read=True, duration=0.2)
    assert (report["started"], report["done"], report["replies"]) == (5, 0, 0)


# --- against servers that misbehave ---

SMALL = (Step(Kind.SEND, message=b"request"), Step(Kind.EXPECT, count=2), Step(Kind.CLOSE))
MISDEEDS: dict[str, tuple[rude.Answer, str]] = {
    "status": (lambda stream: rude.opening(stream) + rude.trailers(stream, 8), "status_8"),
    "no replies": (lambda stream: rude.opening(stream) + rude.trailers(stream, 0), "early"),
    "one reply": (lambda s: rude.opening(s) + rude.messages(s, 1) + rude.trailers(s, 0), "early"),
    "three replies": (lambda s: rude.opening(s) + rude.messages(s, 3) + rude.trailers(s, 0), "surplus"),
    "compressed": (lambda s: rude.opening(s) + rude.messages(s, 2, flag=1) + rude.trailers(s, 0), "framing"),
    "refused": (lambda stream: rude.reset(stream, 7), "refused"),
    "reset": (lambda stream: rude.reset(stream, 2), "reset"),
    "goaway": (lambda stream: rude.goaway(0), "goaway"),
    "cut": (lambda stream: b"", "lost"),
    "http": (lambda stream: rude.frame(rude.HEADERS, 5, stream, rude.INTERNAL_SERVER_ERROR), "http"),
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_errors_are_counted_by_kind(tmp_path: Path, misdeed: str) -> None:
    answer, kind = MISDEEDS[misdeed]
    with rude.http2(answer) as address:
        report = tools.run("extproc", target=address, script=written(tmp_path, SMALL), count=1)
    assert (report["done"], report["errors"]) == (0, {kind: 1})


def test_the_same_server_behaving_is_no_error(tmp_path: Path) -> None:
    """So that the errors above are of the misdeeds."""
    with rude.http2(lambda s: rude.opening(s) + rude.messages(s, 2) + rude.trailers(s, 0)) as address:
        report = tools.run("extproc", target=address, script=written(tmp_path, SMALL), count=5)
    assert (report["done"], report["errors"], report["replies"]) == (5, {}, 10)


def test_nobody_listens(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    assert tools.run("extproc", target="127.0.0.1:1", script=path, count=1)["errors"] == {"connect": 1}
    assert tools.run("http", target="127.0.0.1:1", count=1)["errors"] == {"connect": 1}


def test_streams_that_do_not_end_are_stuck(tmp_path: Path) -> None:
    with rude.http2(rude.opening) as address:
        report = tools.run("extproc", target=address, script=written(tmp_path, SMALL), streams=3, count=3, grace=0.1)
    assert report["errors"] == {"stuck": 3}


def test_after_goaway_it_connects_again(tmp_path: Path) -> None:
    def answer(stream: int) -> bytes:
        served = rude.opening(stream) + rude.messages(stream, 2) + rude.trailers(stream, 0)
        return served + rude.goaway(stream)

    with rude.http2(answer) as address:
        report = tools.run("extproc", target=address, script=written(tmp_path, SMALL), count=3, reconnect=True)
    assert (report["done"], report["errors"], report["goaways"]) == (3, {}, 3)


# --- HTTP/1.1 ---

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
REPLIES: dict[str, tuple[bytes, bool, dict[str, int]]] = {
    "whole": (HEAD + b"hello", False, {}),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", False, {}),
    "status": (HEAD.replace(b"200 OK", b"503 No") + b"hello", False, {"http_503": 1}),
    "cut body": (HEAD + b"hel", True, {"lost": 1}),
    "cut chunks": (CHUNKED + b"2\r\nhe\r\n", True, {"lost": 1}),
    "no last chunk": (CHUNKED + b"5\r\nhello\r\n", True, {"lost": 1}),
    "no framing": (b"HTTP/1.1 200 OK\r\n\r\nhello", True, {"broken": 1}),
    "bad chunk": (CHUNKED + b"2\r\nhello\r\n0\r\n\r\n", False, {"broken": 1}),
    "too short": (CHUNKED + b"2\r\nhe\r\n0\r\n\r\n", False, {"short": 1}),
}


@pytest.mark.parametrize("reply", REPLIES)
def test_http_errors_are_counted_by_kind(reply: str) -> None:
    said, closes, errors = REPLIES[reply]
    with rude.http1(said, closes=closes) as address:
        report = tools.run("http", target=address, count=1, expect_bytes=5)
    assert report["errors"] == errors
    assert report["done"] == (0 if errors else 1)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tools.Upstream]:
    (tmp_path / "metrics").write_text("up 1\n")
    log = tmp_path / "upstream.log"
    running = tools.Upstream(3, log, chunks=4, chunk_bytes=200, delay_ms=5, metrics=tmp_path / "metrics")
    try:
        running.wait_ready()
        yield running
    finally:
        running.child.stop()


def test_the_model_servers_stream(upstream: tools.Upstream, tmp_path: Path) -> None:
    assert len(set(upstream.addresses)) == 3
    (tmp_path / "body").write_bytes(exchanges.chat_body(100_000))
    for address in upstream.addresses:
        report = tools.run("http", target=address, body=tmp_path / "body", connections=4, count=12)
        assert (report["done"], report["errors"], report["chunks"]) == (12, {}, 48)
        assert report["gap_us"]["count"] == 12 * 3
        assert report["whole_us"]["p50"] >= 3 * 5_000  # three pauses


def test_the_model_servers_have_metrics(upstream: tools.Upstream) -> None:
    with urllib.request.urlopen(f"http://{upstream.addresses[2]}/metrics", timeout=10) as page:
        assert page.read() == b"up 1\n"


def test_the_certificate_is_made_once() -> None:
    assert certificates() == certificates()
    assert {path.name for path in certificates().iterdir()} >= {"tls.crt", "tls.key"}
