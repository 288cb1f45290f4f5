"""A gateway of the simulation as a live ext_proc server: `python -m benchmarks.live_overload.processor CLASS IP:PORT`.

So a model of another picker's algorithm decides about real requests in the same experiment. It is told what that picker
sees: requests when they are whole, metrics scraped from the model servers, and when responses end. For requests in full
duplex and responses whose body is not sent (mode NONE).
"""

import argparse
import asyncio
import importlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import grpc.aio
import msgspec
import uvloop
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc  # type: ignore[import-untyped]
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as services

from benchmarks.live_overload.scene import PRIORITIES
from picker.demo.envoy import DESTINATION
from picker.sim.asked import Asked
from picker.sim.engine import EngineConfig, EngineMetrics
from picker.sim.policies.base import NEVER_S, Cluster
from picker.sim.world import replica

BYTES_PER_TOKEN = 4
KEY_TOKENS = 16  # of no meaning here: no request has keys
NO_METRICS_S = 1.0  # how long a scrape may take


class _Body(msgspec.Struct):
    max_tokens: int = 16


class Processor(services.ExternalProcessorServicer):  # type: ignore[misc]
    """The sender of `gateway`: its sends and refusals become replies."""

    def __init__(self, gateway: Any, addresses: Sequence[str], cluster: Cluster | None = None) -> None:
        """`cluster`: what the gateway is told of the model servers."""
        self.gateway = gateway
        self.addresses = addresses
        self._decided: dict[int, asyncio.Future[int | None]] = {}
        self._count = 0
        replicas = tuple(replica(slot, EngineConfig(), "") for slot in range(len(addresses)))
        gateway.start(self, cluster or Cluster(replicas, KEY_TOKENS, 1, ()))

    # --- what a gateway can do ---

    def send(self, asked: Asked, slot: int) -> None:
        self._decide(asked, slot)

    def refuse(self, asked: Asked, outcome: str) -> None:
        self._decide(asked, None)

    def _decide(self, asked: Asked, slot: int | None) -> None:
        decision = self._decided.pop(asked.index, None)
        if decision is not None and not decision.done():
            decision.set_result(slot)
        elif slot is not None:  # its client has gone: over as soon as it begins
            self.gateway.finished(asked, slot, time.monotonic(), 0)

    # --- what it is told ---

    async def Process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        asked, body = await self._read(requests)
        decision = self._decided[asked.index] = asyncio.get_running_loop().create_future()
        self.gateway.arrive(asked, time.monotonic())
        slot = await decision
        if slot is None:
            yield _refusal()
            return
        try:
            for reply in _forward(self.addresses[slot], body):
                yield reply
            async for message in requests:
                if (reply := self._answered(message, asked, slot)) is not None:
                    yield reply
        finally:
            self.gateway.finished(asked, slot, time.monotonic(), 0)

    def _answered(self, message: Any, asked: Asked, slot: int) -> Any:
        """The reply to what comes of the response, None for none."""
        if message.HasField("response_headers"):
            return ext_proc.ProcessingResponse(response_headers=ext_proc.HeadersResponse())
        return None

    async def _read(self, requests: AsyncIterator[Any]) -> tuple[Asked, bytes]:
        headers: dict[str, str] = {}
        body = bytearray()
        async for message in requests:
            if message.HasField("request_headers"):
                pairs = message.request_headers.headers.headers
                headers = {pair.key: (pair.raw_value or pair.value.encode()).decode() for pair in pairs}
            elif message.HasField("request_body"):
                body += message.request_body.body
                if message.request_body.end_of_stream:
                    break
        return self._asked(headers, bytes(body)), bytes(body)

    def _asked(self, headers: dict[str, str], body: bytes) -> Asked:
        objective = headers.get("x-gateway-inference-objective", "")
        self._count += 1
        return Asked(
            index=self._count,
            at_s=time.monotonic(),
            band=objective,
            priority=PRIORITIES.get(objective, 0),
            tenant=headers.get("x-gateway-inference-fairness-id", ""),
            prompt_tokens=len(body) // BYTES_PER_TOKEN,
            output_tokens=msgspec.json.decode(body, type=_Body).max_tokens,
        )

    async def tick(self) -> None:
        """For ever: time passes for the gateway."""
        while True:
            await asyncio.sleep(self.gateway.tick_s)
            if self.gateway.waiting:
                self.gateway.tick(time.monotonic())

    async def scrape(self, slot: int, session: aiohttp.ClientSession) -> None:
        """For ever: one server's metrics, as often as the gateway wants them. A scrape that fails tells it nothing."""
        url = f"http://{self.addresses[slot]}/metrics"
        while True:
            begun_s = time.monotonic()
            try:
                async with session.get(url, timeout=aiohttp.ClientTimeout(total=NO_METRICS_S)) as response:
                    if response.status == 200:
                        self.gateway.scraped(slot, metrics(await response.text()), time.monotonic())
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(max(self.gateway.scrape_s - (time.monotonic() - begun_s), 0.001))


def metrics(page: str) -> EngineMetrics:
    """What pickers read of a vLLM page; counters that they do not read are 0."""
    names = {"vllm:num_requests_running": 0.0, "vllm:num_requests_waiting": 0.0, "vllm:kv_cache_usage_perc": 0.0}
    for line in page.splitlines():
        name = line.partition("{")[0]
        if name in names:
            names[name] += float(line.rpartition(" ")[2])
    running, waiting, kv_usage = names.values()
    return EngineMetrics(int(running), int(waiting), kv_usage, (), (), 0, 0, 0, 0, 0, 0)


def _refusal() -> Any:
    reply = ext_proc.ProcessingResponse()
    reply.immediate_response.status.code = 429
    return reply


def _forward(address: str, body: bytes) -> list[Any]:
    """The headers with the destination, in a header and in metadata, and the body."""
    first, second = ext_proc.ProcessingResponse(), ext_proc.ProcessingResponse()
    option = first.request_headers.response.header_mutation.set_headers.add()
    option.header.key, option.header.raw_value, option.append_action = DESTINATION, address.encode(), 2
    first.dynamic_metadata["envoy.lb"] = {DESTINATION: address}
    streamed = second.request_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = body, True
    return [first, second]


async def serve(processor: Processor) -> None:
    """Until it is cancelled; says where it listens."""
    server = grpc.aio.server()
    services.add_ExternalProcessorServicer_to_server(processor, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    slots = range(len(processor.addresses) if processor.gateway.scrape_s < NEVER_S else 0)
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(processor.tick(), *(processor.scrape(slot, session) for slot in slots))


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_overload.processor", description=__doc__)
    parser.add_argument("gateway", metavar="MODULE:CLASS")
    parser.add_argument("servers", nargs="+", metavar="IP:PORT")
    args = parser.parse_args(words)
    module, _, name = args.gateway.partition(":")
    uvloop.run(serve(Processor(getattr(importlib.import_module(module), name)(), args.servers)))


if __name__ == "__main__":
    main(sys.argv[1:])
