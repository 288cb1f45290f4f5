"""What a test of the suite is given: a connection to the server, and a time to end by."""

import asyncio
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Coroutine
from typing import Any

import grpc.aio
import pytest

from tests.protocol.play import MODES, Exchange, Stream
from tests.protocol.server import DEADLINE_S, Admin, Server

RUNNERS: list[asyncio.Runner] = []
"""The one that tests run on, while they do."""
_NUMBERS = itertools.count(1)


class Player:
    """Streams to one server, over one connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._channel = server.channel()

        self._to_router: grpc.aio.Channel | None = None

    async def close(self) -> None:
        await self._channel.close()
        if self._to_router is not None:
            await self._to_router.close()

    def stream(self) -> Stream:
        return Stream(self._channel)

    def exchange(self, request: str = "duplex", response: str = "duplex", **how: Any) -> Exchange:
        """`request` and `response`: names of body modes."""
        return Exchange(self.stream(), (MODES[request], MODES[response]), **how)

    def routed(self, request: str = "duplex", response: str = "duplex") -> Exchange:
        """The same with the body-based router."""
        if self._to_router is None:
            if self.server.bbr is None:
                pytest.skip("the body-based router's port was not given: pass BBR=host:port")
            self._to_router = self.server.channel(self.server.bbr)
        return Exchange(Stream(self._to_router), (MODES[request], MODES[response]))

    @property
    def admin(self) -> Admin:
        if self.server.admin is None:
            pytest.skip("what is counted is read from the admin port: pass ADMIN=host:port")
        return self.server.admin

    @property
    def health(self) -> str:
        if self.server.health is None:
            pytest.skip("the health port was not given: pass HEALTH=host:port")
        return self.server.health


Test = Callable[..., Coroutine[Any, Any, None]]


def played(test: Test, *, variant: str = "plain") -> Callable[..., None]:
    """Makes a test function of a coroutine function whose first argument is a `Player`."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        RUNNERS[0].run(asyncio.wait_for(_play(test, given), DEADLINE_S))

    first, *rest = inspect.signature(test).parameters.values()
    asked = first.replace(name=f"server_{variant}", kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([asked, *rest])  # type: ignore[attr-defined]

    async def _play(test: Test, given: dict[str, Any]) -> None:
        player = Player(given.pop(asked.name))
        try:
            await test(player, **given)
        finally:
            await player.close()

    return run


def played_with(variant: str) -> Callable[[Test], Callable[..., None]]:
    """The same, against a server configured as that variant."""
    return functools.partial(played, variant=variant)


def model() -> str:
    """A name no other test uses, so that what is counted under it is this test's own."""
    return f"model-{next(_NUMBERS)}"


def chat(prompt: str = "hi", *, name: str = "m", **more: Any) -> bytes:
    return json.dumps({"model": name, "messages": [{"role": "user", "content": prompt}], **more}).encode()


def error_of(exchange: Exchange) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, OpenAI's error object and headers of the answer in the server's own name."""
    assert exchange.immediate is not None, "it was not refused"
    answer = exchange.immediate
    headers = {option.header.key: option.header.raw_value.decode() for option in answer.headers.set_headers}
    assert headers["content-type"] == "application/json"
    error = json.loads(answer.body.decode())["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    return answer.status.code, error, headers
