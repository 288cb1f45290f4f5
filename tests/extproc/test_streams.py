"""Streams from the first message to the last, on every shell: what a gateway sends and what it must get."""

import asyncio
import json
from typing import Any

import pytest

from tests.support import messages as m
from tests.support.streams import TARGETS, Shell, Stream, on_every_shell

DESTINATION = "x-gateway-destination-endpoint"
BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
CHUNKS = [
    b'data: {"choices":[]}\n\n',
    b'data: {"usage":{"prompt_tokens":7,"completion_tokens":10}}\n\n',
    b"data: [DONE]\n\n",
]


def picked(reply: Any) -> str:
    """The destination a header or body reply sets, which must be in header and metadata alike."""
    response = getattr(reply, reply.WhichOneof("response")).response
    headers = {option.header.key: option.header.raw_value.decode() for option in response.header_mutation.set_headers}
    assert dict(reply.dynamic_metadata["envoy.lb"]) == {DESTINATION: headers[DESTINATION]}
    assert headers[DESTINATION] in TARGETS
    return headers[DESTINATION]


def streamed(reply: Any) -> tuple[bytes, bool]:
    """Body and end of stream of a reply in FULL_DUPLEX_STREAMED."""
    mutation = getattr(reply, reply.WhichOneof("response")).response.body_mutation
    assert mutation.WhichOneof("mutation") == "streamed_response"
    return mutation.streamed_response.body, mutation.streamed_response.end_of_stream


async def request(stream: Stream, body: bytes = BODY, **headers: Any) -> list[Any]:
    """A request with a body, in FULL_DUPLEX_STREAMED, that is picked; its replies."""
    await stream.send(m.request_headers(**headers), m.request_body(body, end_of_stream=False), m.request_body(b""))
    replies = await stream.receive(2)
    picked(replies[0])
    assert streamed(replies[1]) == (body, True)
    return replies


async def response(stream: Stream) -> None:
    """A streamed answer, echoed one for one."""
    await stream.send(m.response_headers())
    (reply,) = await stream.receive()
    assert reply.WhichOneof("response") == "response_headers"
    for chunk in CHUNKS:
        await stream.send(m.response_body(chunk))
        assert streamed((await stream.receive())[0]) == (chunk, False)
    await stream.send(m.response_body(b"", end_of_stream=True))
    assert streamed((await stream.receive())[0]) == (b"", True)


# --- whole lives ---


@on_every_shell()
async def test_full_duplex(shell: Shell) -> None:
    stream = shell.open()
    await request(stream)
    await response(stream)
    assert await stream.finish() == "OK"
    await shell.idle()
    (series,) = shell.engine.stats()["series"]
    assert (series["requests"], series["failures"]) == (1, {})
    assert [total for _, total in (series["input_tokens"], series["output_tokens"])] == [7, 10]


@on_every_shell()
async def test_nothing_is_answered_before_the_body_is_whole(shell: Shell) -> None:
    stream = shell.open()
    await stream.send(m.request_headers(), *(m.request_body(BODY[i : i + 1], end_of_stream=False) for i in range(40)))
    await stream.send(m.request_body(BODY[40:], end_of_stream=True))
    replies = await stream.receive(2)  # headers first, then the body in one piece
    picked(replies[0])
    assert streamed(replies[1]) == (BODY, True)
    await response(stream)
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_trailers_end_a_body(shell: Shell) -> None:
    stream = shell.open()
    await stream.send(m.request_headers(), m.request_body(BODY, end_of_stream=False), m.request_trailers())
    headers, body, trailers = await stream.receive(3)
    picked(headers)
    assert streamed(body) == (BODY, False)
    assert trailers.WhichOneof("response") == "request_trailers"
    await stream.send(m.response_headers(), m.response_body(CHUNKS[0]), m.response_trailers())
    kinds = [reply.WhichOneof("response") for reply in await stream.receive(3)]
    assert kinds == ["response_headers", "response_body", "response_trailers"]
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_buffered(shell: Shell) -> None:
    """One reply per message, none with `streamed_response`."""
    stream = shell.open()
    await stream.send(m.request_headers(modes=(m.BUFFERED, m.BUFFERED)))
    (headers,) = await stream.receive()
    assert headers.WhichOneof("response") == "request_headers"
    assert not headers.request_headers.response.header_mutation.set_headers
    await stream.send(m.request_body(BODY))
    (body,) = await stream.receive()
    assert body.WhichOneof("response") == "request_body"
    assert picked(body) in TARGETS
    assert not body.request_body.response.HasField("body_mutation")
    await stream.send(m.response_headers(content_type="application/json"))
    await stream.send(m.response_body(b'{"usage": {"completion_tokens": 3}}', end_of_stream=True))
    replies = await stream.receive(2)
    assert [reply.WhichOneof("response") for reply in replies] == ["response_headers", "response_body"]
    assert not replies[1].response_body.response.HasField("body_mutation")
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_none(shell: Shell) -> None:
    """No body comes: the pick goes out with the headers, and the response's headers end the stream."""
    stream = shell.open()
    await stream.send(m.request_headers(modes=(m.NONE, m.NONE)))
    picked((await stream.receive())[0])
    await stream.send(m.response_headers())
    assert (await stream.receive())[0].WhichOneof("response") == "response_headers"
    assert await stream.finish() == "OK"
    await shell.idle()
    assert [series["failures"] for series in shell.engine.stats()["series"]] == [{}]


@on_every_shell()
async def test_a_response_of_headers_only(shell: Shell) -> None:
    stream = shell.open()
    await request(stream)
    await stream.send(m.response_headers(204, end_of_stream=True))
    await stream.receive()
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_a_request_of_headers_only(shell: Shell) -> None:
    stream = shell.open()
    await stream.send(m.request_headers("/v1/models", method="GET", end_of_stream=True))
    picked((await stream.receive())[0])
    await response(stream)
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_a_second_end_of_stream_is_let_be(shell: Shell) -> None:
    """As some Envoys send for bodies of a megabyte and more."""
    stream = shell.open()
    await request(stream)
    await stream.send(m.request_body(b""))
    await response(stream)
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_the_gateway_may_leave_once_the_request_is_answered(shell: Shell) -> None:
    stream = shell.open()
    await request(stream)
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_a_client_does_not_choose(shell: Shell) -> None:
    stream = shell.open()
    await request(stream, headers={DESTINATION: "6.6.6.6:80"})
    assert await stream.finish() == "OK"


# --- sizes ---


@on_every_shell()
async def test_large_bodies_are_given_back_in_chunks(shell: Shell) -> None:
    body = json.dumps({"model": "m", "prompt": "p" * 400_000}).encode()
    stream = shell.open()
    await stream.send(m.request_headers("/v1/completions"))
    await stream.send(
        *(m.request_body(body[at : at + 65_536], end_of_stream=False) for at in range(0, len(body), 65_536))
    )
    await stream.send(m.request_body(b""))
    headers, *chunks = await stream.receive(8)
    picked(headers)
    pieces = list(map(streamed, chunks))
    assert b"".join(piece for piece, _ in pieces) == body
    assert max(len(piece) for piece, _ in pieces) <= 62_000
    assert [end for _, end in pieces] == [False] * 6 + [True]
    assert await stream.finish() == "OK"


@on_every_shell()
async def test_messages_above_four_megabytes(shell: Shell) -> None:
    """In BUFFERED the whole body comes in one message; gRPC's own limit would cut it off at 4 MiB."""
    stream = shell.open()
    await stream.send(m.request_headers("/v1/completions", modes=(m.BUFFERED, m.BUFFERED)))
    await stream.receive()
    await stream.send(m.request_body(json.dumps({"model": "m", "prompt": "p" * (9 << 20)}).encode()))
    picked((await stream.receive())[0])
    assert await stream.finish() == "OK"


@on_every_shell(body_bytes=1000)
async def test_a_body_over_the_cap_is_413_at_once(shell: Shell) -> None:
    stream = shell.open()
    await stream.send(m.request_headers(), *(m.request_body(b"x" * 400, end_of_stream=False) for _ in range(3)))
    await refused(stream, 413, "request_too_large")


# --- refusals ---


async def refused(stream: Stream, status: int, code: str) -> dict[str, Any]:
    """The stream is answered by picker itself, in OpenAI's form, and is over; the error."""
    (reply,) = await stream.receive()
    answer = reply.immediate_response
    assert answer.status.code == status
    headers = {option.header.key: option.header.raw_value.decode() for option in answer.headers.set_headers}
    assert headers["content-type"] == "application/json"
    error: dict[str, Any] = json.loads(answer.body)["error"]
    assert error["code"] == code
    assert await stream.ended() == "OK"
    return error


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"{", None), (b"[]", None), (b'{"messages": []}', "model"), (b'{"model": "m", "messages": []}', "messages")],
)
@pytest.mark.parametrize("mode", [m.FULL_DUPLEX, m.BUFFERED], ids=["duplex", "buffered"])
@on_every_shell()
async def test_a_bad_body_is_400(shell: Shell, mode: int, body: bytes, param: str | None) -> None:
    stream = shell.open()
    await stream.send(m.request_headers(modes=(mode, mode)))
    if mode == m.BUFFERED:
        await stream.receive()
    await stream.send(m.request_body(body))
    assert (await refused(stream, 400, "invalid_body"))["param"] == param


@pytest.mark.parametrize("end_of_stream", [True, False], ids=["headers only", "with a body"])
@on_every_shell()
async def test_no_endpoint_is_503(shell: Shell, end_of_stream: bool) -> None:
    stream = shell.open()
    await stream.send(m.request_headers(subset=["10.9.9.9:8000"], end_of_stream=end_of_stream))
    if not end_of_stream:
        await stream.send(m.request_body(BODY))
    await refused(stream, 503, "no_endpoint")


@on_every_shell()
async def test_what_comes_after_a_refusal_is_lost(shell: Shell) -> None:
    stream = shell.open()
    await stream.send(m.request_headers(), m.request_body(b"{", end_of_stream=True), m.request_body(b""))
    await refused(stream, 400, "invalid_body")
    await stream.send(m.response_headers(400))


# --- what no gateway sends ---

GARBAGE = {
    "garbage": b"\xff\xff\xff\xff",
    "empty": b"",
    "a body first": m.request_body(BODY),
    "trailers first": m.request_trailers(),
    "a response's body first": m.response_body(b"x"),
}


@pytest.mark.parametrize("name", GARBAGE)
@on_every_shell()
async def test_nonsense_is_an_invalid_argument(shell: Shell, name: str) -> None:
    stream = shell.open()
    await stream.send(GARBAGE[name])
    assert await stream.ended() == "INVALID_ARGUMENT"


@pytest.mark.parametrize("when", ["body", "picked", "response"])
@on_every_shell()
async def test_nonsense_later_releases_what_was_booked(shell: Shell, when: str) -> None:
    stream = shell.open()
    if when == "body":
        await stream.send(m.request_headers(), m.request_body(BODY, end_of_stream=False))
    else:
        await request(stream)
    if when == "response":
        await stream.send(m.response_headers())
        await stream.receive()
    await stream.send(b"\xff\xff\xff\xff")
    assert await stream.ended() == "INVALID_ARGUMENT"


# --- many ---


@on_every_shell(sessions=2)
async def test_too_many_streams(shell: Shell) -> None:
    """Those beyond are answered in picker's own name, as long as they are not as many again."""
    first, second = shell.open(), shell.open()
    await request(first)
    await request(second)
    for _ in range(3):
        further = shell.open()
        await further.send(m.request_headers(), m.request_body(BODY))
        assert (await refused(further, 429, "too_many_requests"))["type"] == "rate_limit_error"
    assert await first.finish() == "OK"
    last = shell.open()
    await request(last)
    await last.finish()
    await second.finish()


@on_every_shell()
async def test_streams_do_not_mix(shell: Shell) -> None:
    """Fifty of them, message by message."""
    bodies = [json.dumps({"model": f"m{n}", "prompt": f"prompt {n}"}).encode() for n in range(50)]
    streams = [shell.open() for _ in bodies]
    for stream in streams:
        await stream.send(m.request_headers("/v1/completions"))
    for stream, body in zip(streams, bodies, strict=True):
        await stream.send(m.request_body(body, end_of_stream=False))
    for stream in reversed(streams):
        await stream.send(m.request_body(b""))
    for stream, body in zip(streams, bodies, strict=True):
        headers, echoed = await stream.receive(2)
        picked(headers)
        assert streamed(echoed) == (body, True)
    assert shell.engine.in_flight == 50
    assert set(await asyncio.gather(*(stream.finish() for stream in streams))) == {"OK"}


# --- responses that nobody looks at ---

LET_GO = {
    "a header-only request": ([m.request_headers(end_of_stream=True)], 1),
    "a body in full duplex": ([m.request_headers(), m.request_body(BODY, end_of_stream=False), m.request_body(b"")], 2),
    "request trailers": ([m.request_headers(), m.request_body(BODY, end_of_stream=False), m.request_trailers()], 3),
    "an API that is not read": (
        [m.request_headers("/x"), m.request_body(b"1", end_of_stream=False), m.request_body(b"")],
        3,
    ),
    "a buffered body": ([m.request_headers(modes=(m.BUFFERED, m.BUFFERED)), m.request_body(BODY)], 2),
}


@pytest.mark.parametrize("case", LET_GO)
@on_every_shell()
async def test_a_stream_is_let_go_when_its_request_is_answered(shell: Shell, case: str) -> None:
    shell.engine.set_policy([(30, 1.0, (), 0)], response_tracking="off")
    requests, replies = LET_GO[case]
    stream = shell.open()
    await stream.send(*requests)
    received = await stream.receive(replies)
    assert any(DESTINATION in str(reply) for reply in received)
    assert await stream.ended() == "OK"
    await shell.idle()
    assert (shell.engine.sessions, shell.engine.in_flight) == (0, 0)


@on_every_shell()
async def test_a_stream_is_not_let_go_before_its_body_is_given_back(shell: Shell) -> None:
    shell.engine.set_policy([(30, 1.0, (), 0)], response_tracking="off")
    stream = shell.open()
    await stream.send(m.request_headers("/x"))
    picked((await stream.receive())[0])
    for piece in (b"a", b"b"):
        await stream.send(m.request_body(piece, end_of_stream=False))
        assert streamed((await stream.receive())[0]) == (piece, False)
    assert shell.engine.in_flight == 1
    await stream.send(m.request_body(b"c"))
    assert streamed((await stream.receive())[0]) == (b"c", True)
    assert await stream.ended() == "OK"


@on_every_shell()
async def test_what_is_let_go_counts_as_served(shell: Shell) -> None:
    shell.engine.set_policy([(30, 1.0, (), 0)], response_tracking="off")
    stream = shell.open()
    await request(stream)
    assert await stream.ended() == "OK"
    await shell.idle()
    (series,) = shell.engine.stats()["series"]
    assert (series["requests"], sum(series["failures"].values())) == (1, 0)
