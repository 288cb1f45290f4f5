"""Responses as they come off the wire, whole and in pieces."""

import gc
import weakref
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.scrape.failures import FetchFailed
from picker.scrape.response import HEAD_BYTES_MAX, ResponseReader
from tests.support.leaks import assert_flat

LIMIT = 1000
OK = b"HTTP/1.1 200 OK\r\n"
PAGE = b"vllm:num_requests_waiting 3\n"
SIZED = OK + b"Content-Length: %d\r\n\r\n" % len(PAGE) + PAGE


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailers + b"\r\n"


def read(*pieces: bytes, ends: bool = False, reader: ResponseReader | None = None) -> bytes | str | None:
    """The page, why there is none, or None if there is more to come."""
    reader = reader or ResponseReader(LIMIT)
    reader.begin()
    try:
        for piece in pieces:
            if reader.feed(memoryview(piece)):
                return bytes(reader.take())
        if ends:
            reader.end()
            return bytes(reader.take())
    except FetchFailed as failure:
        return failure.reason
    return None


def bytewise(text: bytes) -> Iterable[bytes]:
    return (text[index : index + 1] for index in range(len(text)))


WHOLE = {
    "sized": SIZED,
    "empty": OK + b"Content-Length: 0\r\n\r\n",
    "chunked": chunked(PAGE),
    "many chunks": chunked(*bytewise(PAGE)),
    "trailers": chunked(PAGE, trailers=b"Server-Timing: 5\r\nX: y\r\n"),
    "no chunk": chunked(),
    "closing": SIZED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "HTTP/1.0": SIZED.replace(b"1.1", b"1.0"),
    "after 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED,
    "after 103 Early Hints": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" + chunked(PAGE),
    "offering an upgrade": SIZED.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
}
LASTING = ("sized", "empty", "chunked", "many chunks", "trailers", "no chunk", "after 100 Continue")


@pytest.mark.parametrize("name", WHOLE)
def test_reads_a_page_in_one_piece_or_many(name: str) -> None:
    page = b"" if name in ("empty", "no chunk") else PAGE
    assert read(WHOLE[name]) == read(*bytewise(WHOLE[name])) == page


@pytest.mark.parametrize("name", WHOLE)
def test_a_page_that_is_cut_off_is_no_page(name: str) -> None:
    text = WHOLE[name]
    assert {read(text[:size], ends=True) for size in range(len(text))} == {"http"}


UNSIZED = {
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + PAGE,
    "HTTP/1.1": OK + b"Connection: close\r\n\r\n" + PAGE,
    "without a word": OK + b"\r\n" + PAGE,
}


@pytest.mark.parametrize("name", UNSIZED)
def test_a_page_without_a_length_ends_with_the_connection(name: str) -> None:
    assert read(UNSIZED[name]) is None
    assert read(*bytewise(UNSIZED[name]), ends=True) == PAGE


def test_whether_the_connection_serves_again() -> None:
    for name, text in WHOLE.items():
        reader = ResponseReader(LIMIT)
        read(text, reader=reader)
        assert reader.is_reusable == (name in LASTING or name.startswith(("after", "offering"))), name


def test_one_reader_reads_many_pages() -> None:
    reader = ResponseReader(LIMIT)
    for name in LASTING * 2:
        assert read(WHOLE[name], reader=reader) == read(WHOLE[name])
        assert reader.is_reusable


@pytest.mark.parametrize("extra", [SIZED, b"HTTP", b"x", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"])
def test_what_follows_a_page_spoils_the_connection_but_not_the_page(extra: bytes) -> None:
    for text in (SIZED, chunked(PAGE)):
        reader = ResponseReader(LIMIT)
        assert read(text + extra, reader=reader) == PAGE
        assert not reader.is_reusable


@pytest.mark.parametrize("status", [101, 204, 301, 304, 404, 500, 999])
def test_other_statuses_are_failures_before_their_bodies_come(status: int) -> None:
    assert read(b"HTTP/1.1 %d Whatever\r\nContent-Length: 99999\r\n\r\n" % status) == "http_status"


def test_a_status_is_worth_more_than_what_is_wrong_behind_it() -> None:
    assert read(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\nnonsense") == "http_status"


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x03\x00\x02",
        OK + b"\xff: 1\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        chunked(PAGE).replace(b"\r\n1c\r\n", b"\r\n1g\r\n"),
        chunked(PAGE).replace(b"\r\n1c\r\n", b"\r\nfffffffffffffffff\r\n"),
    ],
)
def test_what_is_not_http_is_a_failure(text: bytes) -> None:
    assert read(text) == read(*bytewise(text)) == "http"


# --- bounds ---


def test_the_largest_page_and_one_byte_more() -> None:
    for size, expected in ((LIMIT, b"#" * LIMIT), (LIMIT + 1, "too_large")):
        page = b"#" * size
        assert read(OK + b"Content-Length: %d\r\n\r\n" % size + page) == expected
        assert read(chunked(page[:500], page[500:])) == expected
        assert read(OK + b"\r\n" + page, ends=True) == expected


def test_a_page_that_says_it_is_too_large_is_not_waited_for() -> None:
    assert read(OK + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1)) == "too_large"


ENDLESS = {
    "header lines": (OK, b"X-A: b\r\n"),
    "header name": (OK, b"x"),
    "header value": (OK + b"X: ", b"x"),
    "status text": (b"HTTP/1.1 200 ", b"x"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk extension": (chunked(PAGE)[:-5] + b"5;", b"x"),
    "trailers": (chunked(PAGE)[:-2], b"X-A: b\r\n"),
    "newlines": (b"", b"\r\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_and_is_no_page_is_cut_off(name: str) -> None:
    start, more = ENDLESS[name]
    reader = ResponseReader(LIMIT)
    with pytest.raises(FetchFailed, match="http"):
        for piece in (start, *[more * 100] * HEAD_BYTES_MAX):
            assert not reader.feed(memoryview(piece))


# --- memory ---


def test_nothing_is_left_behind() -> None:
    reader = ResponseReader(LIMIT)

    def pages_and_failures() -> None:
        for text in WHOLE.values():
            read(text)
            read(*bytewise(text[:-1]), ends=True)
        for name in LASTING:
            read(WHOLE[name], reader=reader)

    assert_flat(pages_and_failures, calls=20)


def test_a_closed_reader_does_not_wait_for_the_collector() -> None:
    gc.disable()
    try:
        reader = ResponseReader(LIMIT)
        gone = weakref.ref(reader)
        reader.close()
        del reader
        assert gone() is None
    finally:
        gc.enable()


# --- any pieces ---


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_pieces_make_no_difference(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([*WHOLE.values(), *UNSIZED.values(), SIZED + SIZED, chunked(b"#" * 2000)]))
    ends = data.draw(st.booleans())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(*pieces, ends=ends) == read(text, ends=ends)
