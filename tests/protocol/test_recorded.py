"""Streams as a real Envoy 1.40 has sent them, byte for byte, as a whole and cut short."""

import itertools

import pytest

from tests.protocol.play import DESTINATION, Direction, ext_proc
from tests.protocol.player import Player, played
from tests.support.envoy import Recorded, recorded
from tests.support.messages import FULL_DUPLEX
from tests.support.shared import needs_shared

pytestmark = needs_shared
EXCHANGES = {name: list(rows) for name, rows in itertools.groupby(recorded(), lambda row: row.exchange)}


class Played:
    """Replies to a recorded exchange, taken as its gateway would."""

    def __init__(self, rows: list[Recorded]) -> None:
        self.request, self.response = Direction("request", FULL_DUPLEX), Direction("response", FULL_DUPLEX)
        self.messages = [row.data for row in rows]

    def sends(self, data: bytes) -> None:
        message = ext_proc.ProcessingRequest.FromString(data)
        kind = message.WhichOneof("request")
        way = self.request if kind.startswith("request") else self.response
        part = getattr(message, kind)
        if kind.endswith("headers"):
            way.headers_sent = True
            way.headers = {header.key: header.raw_value.decode() for header in part.headers.headers}
        else:
            way.sends(part.body)
            way.end_sent |= part.end_of_stream

    def takes(self, reply: object) -> None:
        kind = reply.WhichOneof("response")  # type: ignore[attr-defined]
        assert kind != "immediate_response", reply
        way, _, part = kind.partition("_")
        (self.request if way == "request" else self.response).take(part, reply)


@pytest.mark.parametrize("name", EXCHANGES)
@played
async def test_as_it_was(play: Player, name: str) -> None:
    stream, exchange = play.stream(), Played(EXCHANGES[name])
    for data in exchange.messages:
        exchange.sends(data)
        await stream.send(data)
        way = exchange.response if exchange.response.headers_sent else exchange.request
        while way.end_sent and not way.is_complete:
            exchange.takes(await stream.reply())
    while not exchange.response.is_complete:
        exchange.takes(await stream.reply())
    assert exchange.request.forwarded == exchange.request.sent
    assert exchange.response.forwarded == exchange.response.sent
    assert exchange.request.metadata == {"envoy.lb": {DESTINATION: exchange.request.headers[DESTINATION]}}
    assert await stream.finish() == "OK"


@pytest.mark.parametrize("end", ["half-closed", "reset"])
@pytest.mark.parametrize("name", EXCHANGES)
@played
async def test_cut_short_anywhere(play: Player, name: str, end: str) -> None:
    for count in range(len(EXCHANGES[name])):
        stream = play.stream()
        await stream.send(*(row.data for row in EXCHANGES[name][:count]))
        if end == "reset":
            stream.cancel()
        else:
            await stream.half_close()
        while await stream.reply() is not None:
            pass
    await play.admin.idle()
