"""A policy of the lab as a live ext_proc server: `python -m benchmarks.fidelity.processor POLICY SEED IP:PORT ...`.

Bodies of responses are sent to it, in mode STREAMED, and left as they are: so it knows first tokens and ends. Without
them Envoy ends the stream with the head of the response, which comes before any token.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import uvloop
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc  # type: ignore[import-untyped]

from benchmarks.fidelity import scene
from benchmarks.live_overload.processor import BYTES_PER_TOKEN, Processor, serve
from picker.sim.asked import Asked
from picker.sim.gateway import PolicyGateway
from picker.sim.policies import POLICIES
from picker.sim.policies.base import Cluster
from picker.sim.world import replica

KEY_DIGITS = 15
"""Of a block's key, in hexadecimal, at the beginning of its text: see `picker.sim.core.prompt`."""


class _Body(msgspec.Struct):
    prompt: str
    max_tokens: int


class PolicyProcessor(Processor):
    """Reads the lab's keys out of the prompts that the lab made of them."""

    def __init__(self, policy: str, seed: int, addresses: Sequence[str]) -> None:
        replicas = tuple(replica(slot, scene.ENGINE, "") for slot in range(len(addresses)))
        cluster = Cluster(replicas, scene.KEY_TOKENS, seed, ())
        super().__init__(PolicyGateway(POLICIES[policy](seed)), addresses, cluster)
        self.begun: set[int] = set()  # requests whose first token has come

    def _asked(self, headers: dict[str, str], body: bytes) -> Asked:
        asked, read = super()._asked(headers, body), msgspec.json.decode(body, type=_Body)
        return replace(asked, prompt_tokens=len(read.prompt) // BYTES_PER_TOKEN, keys=keys(read.prompt))

    def _answered(self, message: Any, asked: Asked, slot: int) -> Any:
        if not message.HasField("response_body"):
            return super()._answered(message, asked, slot)
        if asked.index not in self.begun and not message.response_body.end_of_stream:
            self.begun.add(asked.index)
            self.gateway.first_token(asked, slot, time.monotonic())
        return ext_proc.ProcessingResponse(response_body=ext_proc.BodyResponse())


def keys(prompt: str, key_tokens: int = scene.KEY_TOKENS) -> tuple[int, ...]:
    """Of its blocks, up to the text that nobody else has."""
    starts = range(0, len(prompt), key_tokens * BYTES_PER_TOKEN)
    return tuple(int(prompt[start : start + KEY_DIGITS], 16) for start in starts if prompt[start] != "q")


def main(words: Sequence[str]) -> None:
    policy, seed, *addresses = words
    uvloop.run(serve(PolicyProcessor(policy, int(seed), addresses)))


if __name__ == "__main__":
    main(sys.argv[1:])
