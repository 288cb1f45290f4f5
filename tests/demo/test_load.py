"""The load generator against simulated servers, and against one that misbehaves."""

import asyncio
from dataclasses import replace

from aiohttp import web

from picker.demo.load import Outcome, play
from picker.demo.workload import Conversation, Turn, Workload
from picker.sim.engine import EngineConfig, TimingModel
from picker.sim.faults import Faults
from picker.sim.model_server import ModelServer, ServerConfig, format_address, serve

FAST = ServerConfig(engine=EngineConfig(timing=TimingModel(speedup=100.0)))
TURN = Turn("and this?", 7, 0.0)
LOAD = Workload(("be brief " * 100,), (Conversation(0.0, 0, (TURN,) * 3), Conversation(0.01, 0, (TURN,) * 2)), 60.0)


def played(config: ServerConfig, load: Workload = LOAD) -> Outcome:
    async def run() -> Outcome:
        async with serve(ModelServer(config)) as address:
            return await play(load, address, model="sim")

    return asyncio.run(run())


def test_plays_every_turn_and_counts_every_token() -> None:
    outcome = played(FAST)
    assert (outcome.requests, outcome.tokens, outcome.errors, outcome.in_flight) == (5, 35, 0, 0)
    assert all(0 < ttft_s < outcome.took_s for ttft_s in outcome.ttft_s)


def test_no_turn_begins_after_the_end() -> None:
    late = Conversation(0.0, 0, (TURN, replace(TURN, think_s=1000.0), TURN))
    outcome = played(FAST, replace(LOAD, conversations=(late, Conversation(70.0, 0, (TURN,)))))
    assert (outcome.requests, outcome.errors) == (2, 0)


def test_an_error_ends_its_conversation_and_is_kept() -> None:
    outcome = played(replace(FAST, faults=Faults(error_rate=1.0, error_status=503)))
    assert (outcome.requests, outcome.errors) == (0, 2)
    assert outcome.first_errors[0].startswith("status 503: ")


def test_a_stream_cut_short_is_an_error() -> None:
    async def cut(request: web.Request) -> web.Response:
        return web.Response(
            text='data: {"choices":[{"delta":{"content":"all "}}]}\n\n', content_type="text/event-stream"
        )

    async def run() -> Outcome:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", cut)])
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return await play(LOAD, format_address(runner.addresses[0]), model="sim")
        finally:
            await runner.cleanup()

    outcome = asyncio.run(run())
    assert outcome.errors == 2
    assert outcome.first_errors[0] == "the stream ended after 1 of 7 tokens"


def test_an_address_where_nobody_listens_is_an_error() -> None:
    outcome = asyncio.run(play(LOAD, "127.0.0.1:1", model="sim"))
    assert (outcome.requests, outcome.errors, outcome.in_flight) == (0, 2, 0)


def test_says_how_it_goes() -> None:
    async def run() -> list[int]:
        seen: list[int] = []
        async with serve(ModelServer(FAST)) as address:
            await play(LOAD, address, model="sim", tick=lambda _, outcome: seen.append(outcome.requests))
        return seen

    seen = asyncio.run(run())
    assert (seen[0], seen[-1]) == (0, 5)
