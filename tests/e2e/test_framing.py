"""Bodies cut at random, by clients of HTTP/1.1 and HTTP/2, through real Envoys: what arrives is what was sent, always.

Seeded; PICKER_FRAMING_CASES says how many (`make fuzz-framing`), PICKER_FRAMING_SEED which.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from picker.demo.envoy import BodyMode, EnvoyProcess, Gateway, gateways_config
from tests.e2e.matrix import CHAT, CLEAN, ENVOYS, pickers
from tests.e2e.stack import NEWEST_ENVOY, OLD_ENVOYS, old_envoy
from tests.support import http1, http2
from tests.support.echo import TRAILERS, Arrived, Echo, echoes

pytestmark = pytest.mark.e2e

CASES = int(os.environ.get("PICKER_FRAMING_CASES", "60"))
SEED = os.environ.get("PICKER_FRAMING_SEED", "0")
MIB = 1 << 20
MODES: tuple[BodyMode, ...] = ("FULL_DUPLEX_STREAMED", "BUFFERED", "STREAMED", "NONE")
LARGEST = 20 * MIB
HTTP2_BUFFER = 16 * MIB
"""What Envoy buffers of an HTTP/2 stream, whatever the buffer limit: the window it begins with."""
EDGES = (0, 1, 2, 4095, 4096, 16_383, 16_384, 16_385, 32_768, 61_999, 62_000, 62_001, 65_535, 65_536, 65_537, MIB)
AT_ONCE = 4


@dataclass(frozen=True)
class Case:
    """One request, made of its number alone."""

    number: int
    mode: BodyMode
    is_http2: bool
    is_chunked: bool
    has_trailers: bool
    path: str
    answer: str
    body: bytes
    pieces: tuple[bytes, ...]

    def __str__(self) -> str:
        kind = "HTTP/2" if self.is_http2 else "HTTP/1.1 chunked" if self.is_chunked else "HTTP/1.1"
        what = f"{kind} {self.mode} {self.path}, {len(self.body)} bytes in {len(self.pieces)} pieces"
        return f"case {self.number} of seed {SEED}: {what}"


def size_of(dice: random.Random) -> int:
    kind = dice.random()
    if kind < 0.35:
        return dice.choice(EDGES)
    if kind < 0.75:
        return dice.randrange(100_000)
    return dice.randrange(2 * MIB) if kind < 0.96 else dice.randrange(LARGEST + 1)


def cut(dice: random.Random, body: bytes) -> tuple[bytes, ...]:
    """Few or many pieces, empty ones among them; the end alone, or with the last bytes."""
    count = dice.choice((0, 1, 3, 20, 200))
    places = sorted(dice.randrange(len(body) + 1) for _ in range(count))
    if dice.random() < 0.3:
        places = sorted(dice.randrange(min(len(body), 64) + 1) for _ in range(count))  # all at the beginning
    edges = [0, *places, len(body)]
    pieces = tuple(body[start:end] for start, end in itertools.pairwise(edges))
    return (*pieces, b"") if dice.random() < 0.3 else pieces


def case(number: int) -> Case:
    dice = random.Random(f"{SEED}-{number}")
    size = size_of(dice)
    frame = b'{"model": "echo", "messages": [{"role": "user", "content": ""}]}'
    is_read = dice.random() < 0.6 and size >= len(frame)
    body = dice.randbytes(size)
    if is_read:
        text = dice.randbytes((size - len(frame)) // 2).hex().encode() + b"x" * ((size - len(frame)) % 2)
        body = frame[:-4] + text + frame[-4:]
        json.loads(body)
    has_trailers = dice.random() < 0.25
    mode = dice.choice(MODES)
    return Case(
        number=number,
        mode=mode,
        is_http2=dice.random() < 0.5 and (mode != "BUFFERED" or size <= HTTP2_BUFFER),
        is_chunked=has_trailers or dice.random() < 0.7,
        has_trailers=has_trailers,
        path=CHAT if is_read else "/files",
        answer=dice.choice(("echo", "echo", "trailers", "nothing")),
        body=body,
        pieces=cut(dice, body),
    )


async def send(of: Case, addresses: Mapping[str, str]) -> http1.Answer:
    headers = [("content-type", "application/json"), ("x-request-mark", str(of.number)), ("x-answer", of.answer)]
    trailers = TRAILERS if of.has_trailers else []
    if of.is_http2:
        return await http2.request(
            addresses[of.mode], of.path, headers=headers, pieces=list(of.pieces), trailers=trailers
        )
    return await http1.request(
        addresses[of.mode],
        of.path,
        headers=headers,
        pieces=of.pieces,
        is_chunked=of.is_chunked,
        trailers=trailers,
    )


def demand(of: Case, answer: http1.Answer, arrived: Sequence[Arrived]) -> None:
    assert len(arrived) == 1, f"{of}: arrived {len(arrived)} times, status {answer.status}: {answer.body[:200]!r}"
    assert arrived[0].body == of.body, f"{of}: {len(arrived[0].body)} bytes arrived"
    assert arrived[0].trailers == (TRAILERS if of.has_trailers else []), f"{of}: trailers {arrived[0].trailers}"
    wanted = (204, b"") if of.answer == "nothing" else (200, of.body)
    assert answer.status == wanted[0], f"{of}: status {answer.status}"
    assert answer.body == wanted[1], f"{of}: {len(answer.body)} bytes came back"


@contextlib.asynccontextmanager
async def gateway(version: str, picker: str, servers: Sequence[Echo], directory: Path) -> AsyncIterator[EnvoyProcess]:
    """A listener for each mode, in both directions."""
    modes = {
        mode: (picker, Gateway(mode, mode, http1_trailers=True, buffer_limit_bytes=LARGEST + MIB, message_timeout_s=60))
        for mode in MODES
    }
    config = gateways_config([server.address for server in servers], modes)
    envoy = EnvoyProcess(config, directory, binary=old_envoy(version) if version in OLD_ENVOYS else None)
    try:
        envoy.wait_ready()
        yield envoy
    finally:
        envoy.stop()


async def through(version: str, numbers: Sequence[int], shell: str, directory: Path) -> None:
    """All the cases of these numbers."""
    async with echoes(2) as servers, pickers(directory, shell, servers, [False]) as stacks:
        picker = f"127.0.0.1:{stacks[False].ports[0]}"
        async with gateway(version, picker, servers, directory) as envoy:
            gate = asyncio.Semaphore(AT_ONCE)

            async def one(number: int) -> None:
                async with gate:
                    of = case(number)
                    try:
                        answer = await asyncio.wait_for(send(of, envoy.addresses), 60)
                    except (OSError, EOFError, TimeoutError, AssertionError) as problem:
                        raise AssertionError(f"{of}: {problem!r}") from problem
                    found = [one for server in servers for one in server.taken(str(number))]
                    demand(of, answer, found)

            await asyncio.gather(*map(one, numbers))
            stats = await asyncio.to_thread(envoy.stats)
        counted = {name: count for name, count in stats.items() if ".ext_proc." in name and name.endswith(CLEAN)}
        assert not any(counted.values()), counted


BATCH = 250
"""Cases of one test: a gateway of its own, and a time to be done by."""
PLACES = [*(("wire", version) for version in ENVOYS), ("grpcio", NEWEST_ENVOY)]
MOST = ("wire", NEWEST_ENVOY)
"""Where three of five cases go; the others share the rest."""


def batches() -> list[tuple[str, str, range]]:
    """Shell, Envoy and numbers of cases, of each test."""
    found = []
    for index, place in enumerate(PLACES):
        count = max(1, CASES * (6 if place == MOST else 1) // 10)
        first = 1_000_000 * index
        for start in range(first, first + count, BATCH):
            found.append((*place, range(start, min(start + BATCH, first + count))))
    return found


@pytest.mark.parametrize(("shell", "version", "numbers"), batches())
def test_what_arrives_is_what_was_sent(tmp_path: Path, shell: str, version: str, numbers: range) -> None:
    if version in OLD_ENVOYS and old_envoy(version) is None:
        pytest.skip(f"Envoy {version} is not installed: `make test` does that")
    asyncio.run(asyncio.wait_for(through(version, numbers, shell, tmp_path), 110))


def test_cases_are_of_every_kind() -> None:
    cases = [case(number) for number in range(120)]
    assert {of.mode for of in cases} == set(MODES)
    assert {(of.is_http2, of.is_chunked, of.has_trailers) for of in cases} >= {
        *((http2, True, trailers) for http2 in (True, False) for trailers in (True, False)),
        (False, False, False),
    }
    sizes = {size_of(random.Random(number)) for number in range(1000)}
    assert {0, 1, 65_536} < sizes
    assert max(sizes) > HTTP2_BUFFER
    assert all(b"".join(of.pieces) == of.body for of in cases)
