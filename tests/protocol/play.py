"""A strict gateway against any ext_proc server: plays a stream by gRPC and takes the replies as Envoy does.

Nothing here knows picker. What replies are held to (ext_proc's protocol, and what Envoys were seen to do): full duplex
wants headers, then `streamed_response` chunks, then trailers, and no end of stream that was not sent; the other modes
want one reply per message and no `streamed_response`. Where Envoy would answer 500 or wait for ever, it is `Spurious`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from tests.support.messages import BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX, NONE, STREAMED

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
MODES = {
    "duplex": FULL_DUPLEX,
    "buffered": BUFFERED,
    "partial": BUFFERED_PARTIAL,
    "streamed": STREAMED,
    "none": NONE,
}
WHOLE = (BUFFERED, BUFFERED_PARTIAL)
"""Modes in which the mutations of a body's reply reach the headers."""
OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
CLOSED = ("OK", "LOST")
"""How a stream may end that the server closes while messages are on their way to it."""
LARGEST = 64 << 20
CHAT = "/v1/chat/completions"
Pairs = Sequence[tuple[str, str]]


class Spurious(AssertionError):
    """A gateway would have failed the request."""


def demand(condition: object, why: str) -> None:
    if not condition:
        raise Spurious(why)


# --- messages ---


def headers_of(pairs: Pairs, *, end: bool = False) -> Any:
    message = ext_proc.HttpHeaders(end_of_stream=end)
    for key, value in pairs:
        message.headers.headers.add(key=key, raw_value=value.encode())
    return message


def body_of(body: bytes, *, end: bool = False) -> Any:
    return ext_proc.HttpBody(body=body, end_of_stream=end)


def hint(message: Any, namespace: str, key: str, value: object) -> None:
    """Metadata in a request. `value`: whatever a Struct takes."""
    message.metadata_context.filter_metadata[namespace].update({key: value})


def subset(message: Any, value: object) -> None:
    """The gateway's subset hint."""
    hint(message, "envoy.lb.subset_hint", SUBSET, value)


# --- a stream ---


class Stream:
    """One call. What is sent once it has ended is lost, as it is for a gateway."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.stream_stream(METHOD)()

    async def send(self, *requests: Any) -> None:
        """ProcessingRequests, or their bytes."""
        for request in requests:
            data = request if isinstance(request, bytes) else request.SerializeToString()
            try:
                await self._call.write(data)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return

    async def reply(self) -> Any:
        """The next ProcessingResponse; None at the end of the stream, however it ended."""
        try:
            data = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            if not self._call.done():
                raise
            return None
        return None if data is grpc.aio.EOF else ext_proc.ProcessingResponse.FromString(data)

    async def half_close(self) -> None:
        if not self._call.done():
            await self._call.done_writing()

    def cancel(self) -> None:
        self._call.cancel()

    async def ended(self) -> str:
        """The name of its gRPC status; Spurious if there were replies nobody has taken.

        LOST if the server ended it while this end was still writing: grpc.aio does not tell then (see CLOSED).
        """
        rest = await self.reply()
        demand(rest is None, f"one reply more: {rest}")
        if await self._call.details() == "Internal error from Core":
            return "LOST"
        return str((await self._call.code()).name)

    async def finish(self) -> str:
        """The gateway has no more to say."""
        await self.half_close()
        return await self.ended()


# --- one direction ---


@dataclass
class Direction:
    """What was sent one way and what has come back."""

    kind: str
    mode: int
    headers: dict[str, str] = field(default_factory=dict)  # as they go on
    set: dict[str, str] = field(default_factory=dict)  # by the server
    removed: list[str] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)
    forwarded: bytearray = field(default_factory=bytearray)
    metadata: dict[str, Any] = field(default_factory=dict)
    clears_route: bool = False
    replies: int = 0
    headers_sent: bool = False
    headers_answered: bool = False
    end_sent: bool = False
    end_answered: bool = False
    trailers_sent: bool = False
    trailers_answered: bool = False

    @property
    def is_duplex(self) -> bool:
        return self.mode == FULL_DUPLEX

    @property
    def is_complete(self) -> bool:
        """Whether all that was sent has been answered; in full duplex, to its end."""
        if self.headers_sent and not self.headers_answered:
            return False
        if self.trailers_sent:
            return self.trailers_answered
        return not self.is_duplex or not self.end_sent or self.end_answered

    def take(self, kind: str, reply: Any) -> None:
        self.replies += 1
        if kind == "trailers":
            self._take_trailers()
            return
        common = getattr(reply, f"{self.kind}_{kind}").response
        demand(common.status == 0, "CONTINUE_AND_REPLACE: the rest of the request would be dropped")
        if kind == "headers":
            demand(self.headers_sent and not self.headers_answered, "headers answered unasked")
            demand(not common.HasField("body_mutation"), "a body in the answer to headers")
            self.headers_answered = True
        else:
            self._take_body(common)
        self._mutate(common, counts=kind == "headers" or self.mode in WHOLE)
        self.clears_route |= common.clear_route_cache
        if reply.HasField("dynamic_metadata"):
            self.metadata.update({name: dict(value) for name, value in reply.dynamic_metadata.items()})

    def _take_body(self, common: Any) -> None:
        demand(self.headers_answered, "the body is answered before the headers")
        mutation = common.body_mutation
        which = mutation.WhichOneof("mutation")
        if self.is_duplex:
            demand(which == "streamed_response", "full duplex wants streamed_response")
            demand(not (self.end_answered or self.trailers_answered), "a chunk behind the end")
            self.forwarded += mutation.streamed_response.body
            if mutation.streamed_response.end_of_stream:
                demand(self.end_sent, "an end of stream that was not sent")
                self.end_answered = True
            return
        demand(which in (None, "body"), f"{which} in a mode that wants none")
        self.forwarded += self._last if which is None else mutation.body
        if which == "body" and self.mode in WHOLE and "content-length" in self.headers:
            named = {option.header.key: option.header.raw_value for option in common.header_mutation.set_headers}
            demand(named.get("content-length") == b"%d" % len(mutation.body), "another body without its length")

    def sends(self, body: bytes) -> None:
        self.sent += body
        self._last = body

    def _take_trailers(self) -> None:
        demand(self.trailers_sent and not self.trailers_answered, "trailers answered unasked")
        demand(self.headers_answered, "trailers are answered before the headers")
        self.trailers_answered = True

    def _mutate(self, common: Any, *, counts: bool) -> None:
        mutation = common.header_mutation
        demand(counts or not (mutation.set_headers or mutation.remove_headers), "headers that would not count")
        for option in mutation.set_headers:
            name, value = option.header.key, option.header.raw_value.decode()
            demand(name == name.lower() and not option.header.value, f"{name}: lower case and raw_value")
            demand(option.append_action == OVERWRITE, f"{name} would be added, not overwritten")
            self.set[name] = self.headers[name] = value
        for name in mutation.remove_headers:
            self.removed.append(name)
            self.headers.pop(name, None)


# --- an exchange ---


class Exchange:
    """One HTTP request through a stream, message by message.

    `modes`: of request and response bodies. `obeys_override`: whether `mode_override` is allowed by the gateway.
    """

    def __init__(
        self, stream: Stream, modes: tuple[int, int] = (FULL_DUPLEX, FULL_DUPLEX), *, obeys_override: bool = False
    ) -> None:
        self.stream = stream
        self.modes = modes
        self.request, self.response = Direction("request", modes[0]), Direction("response", modes[1])
        self.immediate: Any = None
        self.is_over = False
        """The server has ended the stream."""
        self.override: Any = None
        self._obeys_override = obeys_override
        self._is_first = True

    # --- sending ---

    async def headers(
        self,
        path: str = CHAT,
        *,
        method: str = "POST",
        more: Mapping[str, str] | None = None,
        end: bool = False,
        hints: object = None,
    ) -> None:
        """The request's headers; waits for their answer where there must be one. `hints`: the subset hint."""
        sent = {":method": method, ":path": path, ":authority": "gateway", ":scheme": "http", **(more or {})}
        self.request.headers, self.request.headers_sent = dict(sent), True
        self.request.end_sent = self.request.end_answered = end
        message = self.first(request_headers=headers_of([*sent.items()], end=end))
        if hints is not None:
            subset(message, hints)
        await self.stream.send(message)
        if end or not self.request.is_duplex:
            await self._until(lambda: self.request.headers_answered)

    def first(self, **parts: Any) -> Any:
        """A ProcessingRequest; the first of a stream says how bodies are sent."""
        message = ext_proc.ProcessingRequest(**parts)
        if self._is_first:
            message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = self.modes
            self._is_first = False
        return message

    async def body(self, pieces: Sequence[bytes], *, ending: str = "chunk") -> None:
        """The request's body. `ending`: `chunk` (the last one ends it), `empty` (one more does), `trailers`, `open`."""
        await self._body(self.request, pieces, ending)

    async def answer(
        self,
        status: int = 200,
        pieces: Sequence[bytes] = (),
        *,
        kind: str = "application/json",
        ending: str = "chunk",
        served: str = "",
        more: Mapping[str, str] | None = None,
    ) -> None:
        """The response, whole. `ending`: as for `body`, or `headers` (there is no body)."""
        await self.answer_headers(status, kind=kind, end=ending == "headers", served=served, more=more)
        if ending != "headers":
            await self._body(self.response, pieces, ending)

    async def answer_headers(
        self,
        status: int = 200,
        *,
        kind: str = "application/json",
        end: bool = False,
        served: str = "",
        more: Mapping[str, str] | None = None,
    ) -> None:
        if self.stopped:
            return
        sent = {":status": str(status), "content-type": kind, **(more or {})}
        self.response.headers, self.response.headers_sent = dict(sent), True
        self.response.end_sent = self.response.end_answered = end
        message = self.first(response_headers=headers_of([*sent.items()], end=end))
        if served:
            hint(message, "envoy.lb", SERVED, served)
        await self.stream.send(message)
        await self._until(lambda: self.response.headers_answered)

    async def answer_chunk(self, chunk: bytes) -> None:
        """A piece of the response that must be given back before there is more of it."""
        wanted = len(self.response.forwarded) + len(chunk)
        await self._piece(self.response, chunk, end=False)
        await self._until(lambda: len(self.response.forwarded) >= wanted)

    async def _body(self, way: Direction, pieces: Sequence[bytes], ending: str) -> None:
        if way.mode == NONE or self.stopped:
            return
        if way.mode in WHOLE:
            pieces, ending = [b"".join(pieces)], "chunk" if ending == "empty" else ending
        for number, piece in enumerate([*pieces, b""] if ending == "empty" else pieces, 1):
            is_last = number == len(pieces) + (ending == "empty")
            await self._piece(way, piece, end=is_last and ending in ("chunk", "empty"))
        if ending == "trailers" and not self.stopped:
            way.trailers_sent = True
            await self.stream.send(self.first(**{f"{way.kind}_trailers": ext_proc.HttpTrailers()}))
        await self._until(lambda: ending == "open" or way.is_complete)

    async def _piece(self, way: Direction, piece: bytes, *, end: bool) -> None:
        """One chunk; in lockstep modes its answer is waited for, as a gateway does."""
        if self.stopped:
            return
        way.sends(piece)
        way.end_sent |= end
        count = way.replies
        await self.stream.send(self.first(**{f"{way.kind}_body": body_of(piece, end=end)}))
        if not way.is_duplex:
            await self._until(lambda: way.replies > count)

    @property
    def stopped(self) -> bool:
        """Whether there is no point in going on."""
        return self.immediate is not None or self.is_over

    # --- receiving ---

    async def _until(self, condition: Any) -> None:
        while not self.stopped and not condition():
            await self.take()

    async def take(self) -> None:
        """One reply."""
        reply = await self.stream.reply()
        if reply is None:
            self.is_over = True
            return
        kind = reply.WhichOneof("response")
        if kind == "immediate_response":
            self.immediate = reply.immediate_response
            return
        demand(kind, "a reply to nothing")
        way, _, part = kind.partition("_")
        direction = self.request if way == "request" else self.response
        direction.take(part, reply)
        if reply.HasField("mode_override"):
            demand(kind == "response_headers", "mode_override where it does not count")
            self._override(reply.mode_override)

    def _override(self, mode: Any) -> None:
        self.override = mode
        if self._obeys_override and not self.response.is_duplex:
            self.response.mode = mode.response_body_mode

    # --- what came of it ---

    @property
    def destination(self) -> str:
        """Where the request goes: header and metadata must agree."""
        header = self.request.headers.get(DESTINATION, "")
        found = self.request.metadata.get("envoy.lb", {}).get(DESTINATION, "")
        demand(header == found, f"header {header!r}, metadata {found!r}")
        return header

    def complete(self) -> None:
        """Demand that the request was picked and both bodies have passed, byte for byte."""
        demand(self.immediate is None, f"refused: {self.immediate}")
        for way in (self.request, self.response):
            demand(way.is_complete, f"the {way.kind} was not answered to its end")
            demand(way.forwarded == way.sent, f"{way.kind}: {len(way.forwarded)} bytes for {len(way.sent)}")
        demand(self.destination, "no destination")

    async def finish(self) -> str:
        """End the stream as gateways do; its status."""
        return await self.stream.finish()
