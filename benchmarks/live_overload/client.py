"""An open-loop client: requests go out when they are due, whatever has become of those before."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from benchmarks.live_overload.scene import MIX, STREAM_INTERVAL
from benchmarks.overload_report import GAVE_UP, LOST, Outcome
from picker.demo.workload import WORDS
from picker.sim.asked import Asked
from picker.sim.journal import HEADER

WHOLE_S = 120.0  # how long an answer may take once it has begun
MODEL = "sim"
BYTES_PER_TOKEN = 4
TEXT = " ".join(WORDS) + " "
MAX_ERRORS_KEPT = 5


class _Impatient(Exception):
    """No token within the client's patience."""


@dataclass
class Played:
    """What a client saw. `lag_s`: how late each request was sent; `retry_after`: of each refusal, as it was told."""

    outcomes: list[Outcome] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    retry_after: list[str | None] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)  # since the beginning
    errors: list[str] = field(default_factory=list)


def body(asked: Asked, run: str) -> bytes:
    """A prompt that shares nothing with any other, of exactly as many tokens as the servers will count.

    The servers alone read how long the answer is to be: nobody on the way is told.
    """
    room = asked.prompt_tokens * BYTES_PER_TOKEN
    lead = f"{run} {asked.index:08d} "
    prompt = (lead + TEXT * (room // len(TEXT) + 1))[:room]
    answer = {"max_tokens": MIX.answers.most, "simulated_output_tokens": asked.output_tokens}
    return msgspec.json.encode({"model": MODEL, "prompt": prompt, **answer, "stream": True, "temperature": 0})


async def play(load: Sequence[Asked], address: str, *, run: str, patience_s: float) -> Played:
    """Plays all of them to their ends. `run` makes their ids, `run-number`, unlike those of other runs."""
    player = _Player(address, run, patience_s)
    bodies = [body(asked, run) for asked in load]
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as player.session,
        asyncio.TaskGroup() as tasks,
    ):
        player.begun_s = time.monotonic()
        for asked, content in zip(load, bodies, strict=True):
            if (pause_s := player.begun_s + asked.at_s - time.monotonic()) > 0:
                await asyncio.sleep(pause_s)
            tasks.create_task(player.ask(asked, content))
    return player.played


class _Player:
    session: aiohttp.ClientSession

    def __init__(self, address: str, run: str, patience_s: float) -> None:
        self.url = f"http://{address}/v1/completions"
        self.run = run
        self.patience_s = patience_s
        self.begun_s = 0.0
        self.played = Played()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.begun_s

    async def ask(self, asked: Asked, content: bytes) -> None:
        self.played.lag_s.append(self.elapsed_s - asked.at_s)
        headers = {
            "content-type": "application/json",
            HEADER: f"{self.run}-{asked.index}",
            "x-gateway-inference-objective": asked.band,
            "x-gateway-inference-fairness-id": asked.tenant,
        }
        first_s: list[float] = []
        try:
            status = await self._exchange(asked, content, headers, first_s)
        except _Impatient:
            status = GAVE_UP
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            status = self._lost(f"{type(error).__name__}: {error}")
        self._note(asked, status, first_s[0] if first_s else None)

    def _note(self, asked: Asked, status: int, first_s: float | None) -> None:
        ttft_s = None if first_s is None else first_s - asked.at_s
        if first_s is not None:
            self.played.first_token_s.append(first_s)
        named = (asked.index, asked.priority, asked.tenant, asked.at_s)
        tokens = (asked.prompt_tokens, asked.output_tokens)
        self.played.outcomes.append(Outcome(*named, status, ttft_s, self.elapsed_s, *tokens))

    def _lost(self, reason: str) -> int:
        if len(self.played.errors) < MAX_ERRORS_KEPT:
            self.played.errors.append(reason)
        return LOST

    async def _exchange(self, asked: Asked, content: bytes, headers: dict[str, str], first_s: list[float]) -> int:
        """The status; 200 if all of the answer came. `first_s` takes the moment of the first token."""
        patience = asyncio.timeout(asked.at_s + self.patience_s - self.elapsed_s)
        try:
            async with patience, self.session.post(self.url, data=content, headers=headers) as response:
                if response.status != 200:
                    return await self._refused(response)
                return await self._listen(asked, response, patience, first_s)
        except TimeoutError:
            if first_s:
                raise
            raise _Impatient from None

    async def _refused(self, response: aiohttp.ClientResponse) -> int:
        told = await response.text()
        if response.status in (429, 503):
            self.played.retry_after.append(response.headers.get("retry-after"))
        else:
            self._lost(f"status {response.status}: {told[:200]}")
        return response.status

    async def _listen(
        self, asked: Asked, response: aiohttp.ClientResponse, patience: asyncio.Timeout, first_s: list[float]
    ) -> int:
        """Reads the stream; its first event is the first token."""
        events, is_done = 0, False
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            if not first_s:
                first_s.append(self.elapsed_s)
                patience.reschedule(asyncio.get_running_loop().time() + WHOLE_S)
            is_done = line.startswith(b"data: [DONE]")
            events += not is_done
        due = 1 + -(-(asked.output_tokens - 1) // STREAM_INTERVAL)
        if is_done and events == due:
            return 200
        return self._lost(f"{events} of {due} messages, {'an' if is_done else 'no'} end")
