"""Plays a workload against one address and measures what a client sees."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import msgspec

from picker.demo.workload import Conversation, Turn, Workload

REQUEST_TIMEOUT_S = 60.0
EVENT = b"data: "
MAX_ERRORS_KEPT = 5


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_CHUNKS = msgspec.json.Decoder(_Chunk)


@dataclass
class Outcome:
    """What happened, seen from the client. Times in seconds."""

    ttft_s: list[float] = field(default_factory=list)  # of each answered request, in order of its end
    tokens: int = 0
    in_flight: int = 0
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def requests(self) -> int:
        return len(self.ttft_s)

    def fail(self, reason: str) -> None:
        self.errors += 1
        if len(self.first_errors) < MAX_ERRORS_KEPT:
            self.first_errors.append(reason)


async def play(
    workload: Workload, address: str, *, model: str, tick: Callable[[float, Outcome], None] | None = None
) -> Outcome:
    """Plays `workload` to the end: after its duration no new turn begins, those under way are waited for.

    `tick(elapsed_s, outcome)` is called about four times a second, and at the end.
    """
    player = _Player(workload, f"http://{address}/v1/chat/completions", model)
    ticker = asyncio.create_task(player.ticks(tick)) if tick is not None else None
    try:
        return await player.run()
    finally:
        if ticker is not None and tick is not None:
            ticker.cancel()
            tick(player.elapsed_s, player.outcome)


class _Player:
    def __init__(self, workload: Workload, url: str, model: str) -> None:
        self.workload = workload
        self.url = url
        self.model = model
        self.outcome = Outcome()
        self.begun_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.begun_s

    async def ticks(self, tick: Callable[[float, Outcome], None]) -> None:
        while True:
            tick(self.elapsed_s, self.outcome)
            await asyncio.sleep(0.25)

    async def run(self) -> Outcome:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session, asyncio.TaskGroup() as tasks:
            for conversation in self.workload.conversations:
                tasks.create_task(self.converse(session, conversation))
        self.outcome.took_s = self.elapsed_s
        return self.outcome

    async def converse(self, session: aiohttp.ClientSession, conversation: Conversation) -> None:
        messages = [{"role": "system", "content": self.workload.system_prompts[conversation.group]}]
        pause_s = conversation.start_s - self.elapsed_s
        for turn in conversation.turns:
            if self.elapsed_s + pause_s >= self.workload.duration_s:
                return
            await asyncio.sleep(pause_s)
            messages.append({"role": "user", "content": turn.question})
            answer = await self.ask(session, messages, turn)
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer})
            pause_s = turn.think_s

    async def ask(self, session: aiohttp.ClientSession, messages: list[dict[str, str]], turn: Turn) -> str | None:
        """One turn; the answer, or None after an error."""
        body = {"model": self.model, "messages": messages, "max_tokens": turn.answer_tokens, "stream": True}
        headers = {"content-type": "application/json"}
        self.outcome.in_flight += 1
        sent_s = time.monotonic()
        try:
            async with session.post(self.url, data=msgspec.json.encode(body), headers=headers) as response:
                if response.status != 200:
                    self.outcome.fail(f"status {response.status}: {(await response.text())[:200]}")
                    return None
                return await self.listen(response, turn, sent_s)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            self.outcome.fail(f"{type(error).__name__}: {error}")
            return None
        finally:
            self.outcome.in_flight -= 1

    async def listen(self, response: aiohttp.ClientResponse, turn: Turn, sent_s: float) -> str | None:
        """Reads the stream; its first event is the first token."""
        pieces: list[str] = []
        done = False
        async for line in response.content:
            if not line.startswith(EVENT):
                continue
            done = line.startswith(b"data: [DONE]")
            if not done:
                if not pieces:
                    self.outcome.ttft_s.append(time.monotonic() - sent_s)
                pieces += [choice.delta.content or "" for choice in _CHUNKS.decode(line[len(EVENT) :]).choices]
        self.outcome.tokens += len(pieces)
        if not done or len(pieces) != turn.answer_tokens:
            self.outcome.fail(f"the stream ended after {len(pieces)} of {turn.answer_tokens} tokens")
            return None
        return "".join(pieces)
