"""The link as the control process uses it: orders go out, and answers come in the order of the questions."""

import asyncio
from collections import deque
from collections.abc import Callable

from picker.admin.server import Unavailable
from picker.control.link import Link
from picker.control.messages import Ask, End, FromData, Known, Question, Resign, Scraping, Start, Text
from picker.types import Endpoint

__all__ = ["Questions"]

ANSWER_S = 5.0
"""Longest time the data plane may take to answer."""


class Questions:
    """One end of the link; `link` is what a connection is made of."""

    def __init__(self) -> None:
        self.link: Link[FromData] = Link(FromData, self._take)
        self._known: dict[str, list[Endpoint]] = {}
        self._start: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self.on_order: Callable[[Scraping | Resign], None] = lambda order: None
        """Is told what the data plane orders."""
        self._open: deque[tuple[list[FromData], asyncio.Future[list[FromData]]]] = deque()

    async def started(self) -> tuple[dict[str, list[Endpoint]], Start]:
        """What the data plane says first: the endpoints it has, by pool, and what is to be done."""
        start = await self._start
        return self._known, start

    async def text(self, what: Question) -> bytes:
        """The text of the answer. Raises Unavailable."""
        return b"".join(message.text for message in await self.ask(what) if isinstance(message, Text))

    async def ask(self, what: Question, limit: int = 0) -> list[FromData]:
        """The messages of the answer. Raises Unavailable."""
        answer: asyncio.Future[list[FromData]] = asyncio.get_running_loop().create_future()
        self._open.append(([], answer))
        self.link.send([Ask(what, limit)])
        try:
            return await asyncio.wait_for(answer, ANSWER_S)
        except TimeoutError:
            raise Unavailable(f"the data plane takes more than {ANSWER_S:g} s to answer") from None

    def _take(self, message: FromData) -> None:
        if isinstance(message, Known):
            self._known.setdefault(message.pool, []).extend(message.endpoints)
        elif isinstance(message, Start):
            self._start.set_result(message)
        elif isinstance(message, Scraping | Resign):
            self.on_order(message)
        elif not isinstance(message, End):
            self._open[0][0].append(message)
        else:
            messages, answer = self._open.popleft()
            if not answer.done():  # the one who asked may have gone
                answer.set_result(messages)
