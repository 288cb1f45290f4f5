"""A whole pick in one process: picker's session against Dynamo's `SelectionService`.

The same prompts over the same number of warm endpoints: each endpoint holds a prompt of its own, one holds the prompt
that is asked for. Dynamo learns that from KV-cache events over ZMQ, as from engines, picker from having routed it.

picker's side is all that `picker serve` does for a request between two reads of a socket: protobuf in, JSON scanned,
prompt hashed, matched, all endpoints scored, load booked, replies encoded, and at the end the load released. Each gets
the prompt as it does in service: picker the text in the client's JSON, of four bytes for each token; Dynamo the token
ids that a tokenizer made, whose time is not counted. For the same ids picker is also given a body of token ids, which
it has to read out of JSON. `select` books nothing, and no request is read or answered: Dynamo does less. It is awaited
on uvloop, one call at a time, and 16 at a time. With block hashes made beforehand it does less still.
Not the same: Dynamo's call changes threads, since its core is asynchronous; picker's is a plain call.
"""

import ast
import asyncio
import base64
import json
import os
import random
import time
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import msgpack
import uvloop
import zmq
from dynamo._core import SelectionService, compute_block_hash_for_seq

from benchmarks.peers.pairs import Slice, calls, take
from benchmarks.peers.told import Case, rows
from benchmarks.results import Row
from picker._core.engine import Engine
from picker._core.radix import Radix
from picker._core.score import Pipeline
from picker._core.session import Session

GROUP = "whole pick"
BLOCK, MODEL = 16, "m"
BLOCKS, ENDPOINTS = (32, 512), (8, 256)
DEADLINE_S = 20.0
AT_ONCE = 16

Ask = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True)
class Exchange:
    """What Envoy sends for a prompt: request headers, then the whole body."""

    headers: bytes
    body: bytes
    body_bytes: int


def exchanges() -> dict[str, Exchange]:
    """By name, as the parent encoded them: xds-protos is none of the peers' dependencies."""
    told = json.loads(Path(os.environ["PICKER_PEERS_EXCHANGES"]).read_text())
    return {name: Exchange(*map(base64.b64decode, pair[:2]), pair[2]) for name, pair in told.items()}


def default_policy() -> dict[str, Any]:
    """picker's, as the parent compiled it."""
    return dict(ast.literal_eval(Path(os.environ["PICKER_PEERS_POLICY"]).read_text()))


def prompts(blocks: int) -> list[list[int]]:
    """One for each endpoint; the first is asked for."""
    dice = random.Random(blocks)
    return [[dice.randrange(128_000) for _ in range(BLOCK * blocks)] for _ in range(max(ENDPOINTS))]


class Ours:
    """An engine as `picker serve` sets it up, warm; `has_flow`: with flow control, as is its default."""

    def __init__(self, endpoints: int, warm: list[Exchange], asked: Exchange, *, has_flow: bool) -> None:
        policy = default_policy()
        self._engine = Engine(hash_seed=1, prior_rate=policy["prior_rate"])
        self._engine.set_policy(policy["steps"])
        self._engine.set_flow(policy["flow"] if has_flow else None)
        for number in range(endpoints):
            slot = self._engine.add_endpoint(f"10.0.{number // 250}.{number % 250}:8000", f"10.0.0.{number % 250}")
            self._engine.observe(*slot, now_ns=1, waiting=0, running=number % 7, kv_usage=0.5)
        for exchange in warm:
            self._life(exchange)
        self._asked = asked
        for _ in range(2):
            self()
        decision = self._engine.decisions(1)[0]
        if decision["cached_tokens"] < decision["prompt_tokens"] - 64:
            raise RuntimeError(f"picker is not warm: {decision}")

    def __call__(self) -> None:
        self._life(self._asked)

    def _life(self, exchange: Exchange) -> None:
        session = Session(self._engine, 1)
        session.feed(exchange.headers, 2)
        if not session.feed(exchange.body, 2):
            raise RuntimeError("picker has not answered")
        session.close(3)


class Decision:
    """What is left when the hashes are there: match, score all endpoints, choose. The core, as `Engine` runs it."""

    def __init__(self, endpoints: int, blocks: int) -> None:
        dice = random.Random(1)
        self._hashes = array("Q", [dice.getrandbits(64) for _ in range(blocks)])
        self._held = array("I", [0] * endpoints)
        self._tree = Radix(endpoints, capacity=1 << 20, max_blocks=1 << 30)
        for slot in range(endpoints):
            other = array("Q", [dice.getrandbits(64) for _ in range(blocks)])
            self._tree.insert(other if slot else self._hashes, slot)
        loads = ({"waiting": 0, "running": slot % 7, "kv_usage": 0.5, "scraped_ns": 1} for slot in range(endpoints))
        self._pipeline = Pipeline(default_policy()["steps"], loads)
        self._tree.match_into(self._hashes, self._held)
        chosen = self._pipeline.run(self._held.tolist(), prompt_tokens=blocks * BLOCK, block_tokens=BLOCK, now_ns=2)
        if chosen != [0]:
            raise RuntimeError(f"picker chose {chosen}, not the endpoint that holds the prompt")

    def __call__(self) -> None:
        self._tree.match_into(self._hashes, self._held)
        self._pipeline.rerun()


class Theirs:
    """A service over workers whose caches were told to it, used on one loop."""

    def __init__(self, endpoints: int, warm: list[list[int]]) -> None:
        self._loop = uvloop.new_event_loop()
        self._context = zmq.Context()
        self._publishers: list[zmq.Socket[bytes]] = []
        self.service = SelectionService()
        self._number = 0
        self._loop.run_until_complete(self._start(endpoints, warm))

    async def _start(self, endpoints: int, warm: list[list[int]]) -> None:
        for worker in range(endpoints):
            socket = self._context.socket(zmq.PUB)
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            self._publishers.append(socket)
            events = {"kv_events_endpoint": f"tcp://127.0.0.1:{port}", "block_size": BLOCK, "model_name": MODEL}
            sizes = {"total_kv_blocks": 65_536, "max_num_batched_tokens": 8192}
            at = {"worker_id": worker, "endpoint": f"http://127.0.0.1:{port}"}
            await self.service.upsert_worker({**at, **events, **sizes})
        for worker, tokens in enumerate(warm):
            await self._learn(worker, tokens)

    async def _learn(self, worker: int, tokens: list[int]) -> None:
        """Publish until it is known: a listener may still be connecting."""
        dice, end_s = random.Random(worker), time.monotonic() + DEADLINE_S
        hashes = [dice.getrandbits(63) for _ in range(len(tokens) // BLOCK)]
        stored = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None, "token_ids": tokens}
        event = {**stored, "block_size": BLOCK, "lora_id": None, "medium": "GPU", "lora_name": None}
        for number in range(1_000_000):
            payload = msgpack.packb([time.time(), [event], 0])
            self._publishers[worker].send_multipart([b"kv-events", number.to_bytes(8, "big"), payload])
            await asyncio.sleep(0.002)
            chosen = await self.service.select({"model_name": MODEL, "token_ids": tokens})
            if chosen["worker_id"] == worker and chosen["effective_prefill_tokens"] == 0:
                return
            if time.monotonic() > end_s:
                raise RuntimeError(f"Dynamo does not learn what worker {worker} holds: {chosen}")

    def slices(self, ask: Ask, at_once: int = 1) -> Slice:
        """Awaited one after another, or so many at a time."""

        async def turns(count: int) -> float:
            begun = perf_counter()
            for _ in range(count):
                await ask(0)
            return perf_counter() - begun

        async def crowds(count: int) -> float:
            begun = perf_counter()
            for _ in range(count):
                await asyncio.gather(*[ask(0) for _ in range(at_once)])
            return (perf_counter() - begun) / at_once

        run = turns if at_once == 1 else crowds
        return lambda count: float(self._loop.run_until_complete(run(count)))

    def select(self, request: dict[str, Any]) -> Ask:
        return lambda _: self.service.select(request)

    def reserve(self, request: dict[str, Any]) -> Ask:
        """Booked and released again, as picker's side is."""

        async def run(_: int) -> None:
            self._number += 1
            name = str(self._number)
            await self.service.select_and_reserve({**request, "selection_id": name})
            await self.service.free_reservation(name)

        return run

    def close(self) -> None:
        self.service.shutdown()
        self._context.destroy(linger=0)
        self._loop.close()


def measure() -> list[Row]:
    """All cases."""
    known = exchanges()
    return [row for blocks in BLOCKS for endpoints in ENDPOINTS for row in _case(known, blocks, endpoints)]


def _case(known: dict[str, Exchange], blocks: int, endpoints: int) -> list[Row]:
    all_prompts = prompts(blocks)[:endpoints]
    ids, text = known[f"{blocks} ids"], known[f"{blocks} text"]
    warm = [known[f"{blocks} ids {number}"] for number in range(1, endpoints)]
    theirs = Theirs(endpoints, all_prompts)
    asked = {"model_name": MODEL, "token_ids": all_prompts[0]}
    known_hashes = [_signed(number) for number in compute_block_hash_for_seq(all_prompts[0], BLOCK)]
    hashed = {"model_name": MODEL, "block_hashes": known_hashes, "token_ids": []}
    try:
        taken = take(
            {
                "picker": calls(Ours(endpoints, warm, text, has_flow=False)),
                "picker, flow control": calls(Ours(endpoints, warm, text, has_flow=True)),
                "picker, ids as JSON": calls(Ours(endpoints, warm, ids, has_flow=False)),
                "picker, hashes made": calls(Decision(endpoints, blocks)),
                "Dynamo, 16 at once": theirs.slices(theirs.select(asked), AT_ONCE),
                "Dynamo, booked": theirs.slices(theirs.reserve(asked)),
                "Dynamo, hashes made": theirs.slices(theirs.select(hashed)),
                "Dynamo": theirs.slices(theirs.select(asked)),
            }
        )
    finally:
        theirs.close()
    notes = {
        "picker": f"session: {text.body_bytes:,} bytes of JSON with text, booked, released",
        "picker, flow control": "the same, and asked first which endpoints can take it: as picker serves by default",
        "picker, ids as JSON": f"session: {ids.body_bytes:,} bytes of JSON with token ids, booked, released",
        "picker, hashes made": "Radix.match_into and the pipeline of scores: nothing read, hashed or booked",
        "Dynamo, booked": "select_and_reserve, then free_reservation",
        "Dynamo, hashes made": "select of block hashes: nothing hashed, nothing booked",
        "Dynamo, 16 at once": "the same, for each of 16 in flight",
        "Dynamo": "select of token ids made beforehand, nothing booked",
    }
    ratios = [("Dynamo", "picker", ">= 10"), ("Dynamo, booked", "picker", "")]
    ratios += [("Dynamo", "picker, flow control", ""), ("Dynamo, booked", "picker, flow control", "")]
    ratios += [("Dynamo", "picker, ids as JSON", ""), ("Dynamo, booked", "picker, ids as JSON", "")]
    ratios += [("Dynamo, hashes made", "picker", ""), ("Dynamo, hashes made", "picker, hashes made", "")]
    case = Case(GROUP, f"{blocks} blocks of {BLOCK} tokens, {endpoints} endpoints")
    return rows(case, taken, notes, ratios)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
