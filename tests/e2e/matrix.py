"""Body modes × how a pick is obeyed × Envoys: each cell is a listener of its own, and goes through the same requests.

One process per Envoy holds all listeners, so the whole matrix costs little more than its requests.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from picker.demo.envoy import DESTINATION, BodyMode, EnvoyProcess, Gateway, Steering, gateways_config
from tests.e2e.stack import NEWEST_ENVOY, OLD_ENVOYS, Stack, old_envoy
from tests.support import http1, http2
from tests.support.echo import EVENTS, TRAILERS, Arrived, Echo, echoes
from tests.support.http1 import Answer
from tests.support.shared import ROOT

KIB, MIB = 1 << 10, 1 << 20
ENVOYS = (*OLD_ENVOYS, NEWEST_ENVOY)
REPORTS_SERVED = ENVOYS[1:]
MODES: tuple[BodyMode, ...] = get_args(BodyMode)
READ_FIRST = ("FULL_DUPLEX_STREAMED", "BUFFERED", "BUFFERED_PARTIAL")
STEERINGS: tuple[Steering, ...] = get_args(Steering)
CHAT = "/v1/chat/completions"
AT_ONCE = 8
SERVERS = 6
"""Enough that two stay when picker ejects those that were busy a few times in a row."""
PROCEDURE = {"host", "content-length", "transfer-encoding", "x-forwarded-proto", "x-request-id"}
"""Headers that a proxy may add."""
CUT_BYTES = 256 * KIB
"""Where a partly buffered body is cut: the large one is larger."""

CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
dataLayer: {{injectDefaults: false}}
plugins:
- {{type: random-picker, parameters: {{maxNumOfEndpoints: {wanted}}}}}
schedulingProfiles:
- name: default
  plugins: [{{pluginRef: random-picker}}]
"""


@dataclass(frozen=True)
class Cell:
    """One listener of one Envoy."""

    envoy: str
    request_body: BodyMode
    response_body: BodyMode
    steering: Steering

    @property
    def name(self) -> str:
        return f"{self.request_body}-{self.response_body}-{self.steering}"

    @property
    def is_list(self) -> bool:
        """Whether picker may list destinations: ORIGINAL_DST takes one."""
        return self.steering != "original_dst"

    def gateways(self) -> dict[str, Gateway]:
        """Its listener, and one that retries: a policy for retries has flaws of its own (docs/protocol.md)."""
        return {self.name: self._gateway, f"{self.name}-retry": replace(self._gateway, retries=1)}

    @property
    def _gateway(self) -> Gateway:
        # Where the buffer holds less than the body, only the beginning comes. Not for responses: Envoy from 1.38 on may
        # keep the rest for ever (docs/protocol.md).
        is_cut = self.request_body == "BUFFERED_PARTIAL" and not self.response_body.startswith("BUFFERED")
        return Gateway(
            request_body=self.request_body,
            response_body=self.response_body,
            steering=self.steering,
            buffer_limit_bytes=CUT_BYTES if is_cut else 4 * MIB,
            message_timeout_s=30.0,
            reports_served=self.is_list and self.envoy in REPORTS_SERVED,
            http1_trailers=True,
        )


def cells(envoys: Sequence[str] = ENVOYS) -> Iterator[Cell]:
    """All there are."""
    for envoy, request, response, steering in itertools.product(envoys, MODES, MODES, STEERINGS):
        yield Cell(envoy, request, response, steering)


@dataclass
class Result:
    """What became of a cell: the requests that passed, and what was wrong with the others."""

    passed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.passed)} of {len(REQUESTS)}" if self.problems else "all"


# --- the requests ---


def chat(size: int, seed: str = "") -> bytes:
    """A chat request of `size` bytes."""
    head = json.dumps({"model": "echo", "stream": True, "messages": [{"role": "user", "content": seed}]}).encode()
    return head[:-4] + b"x" * (size - len(head)) + head[-4:]


SMALL, LARGE = chat(300), chat(MIB)


@dataclass
class Sender:
    """Requests to one listener, and what is demanded of each."""

    cell: Cell
    addresses: Mapping[str, str]
    servers: Sequence[Echo]
    sent: list[http1.Header] = field(default_factory=list)  # headers of the last request

    async def get(self) -> None:
        answer, arrived = await self._send(method="GET", path="/v1/models", pieces=None)
        self._demand(answer, arrived, b"", b"")

    async def small(self) -> None:
        await self._echoed(SMALL, pieces=[SMALL])

    async def large(self) -> None:
        await self._echoed(LARGE, pieces=[LARGE])

    async def trailers_by_http1(self) -> None:
        pieces = [SMALL[:100], SMALL[100:]]
        arrived = await self._echoed(SMALL, pieces=pieces, is_chunked=True, trailers=TRAILERS)
        assert arrived.trailers == TRAILERS, f"trailers {arrived.trailers}"

    async def trailers_by_http2(self) -> None:
        arrived = await self._echoed(SMALL, client=http2.request, pieces=[SMALL[:100], SMALL[100:]], trailers=TRAILERS)
        assert arrived.trailers == TRAILERS, f"trailers {arrived.trailers}"

    async def streamed(self) -> None:
        answer, arrived = await self._send(pieces=[SMALL], more=[("x-answer", "sse")])
        self._demand(answer, arrived, SMALL, b"".join(EVENTS))

    async def response_trailers(self) -> None:
        answer, arrived = await self._send(pieces=[SMALL], more=[("x-answer", "trailers")])
        self._demand(answer, arrived, SMALL, SMALL)
        assert answer.trailers == dict(TRAILERS), f"response trailers {answer.trailers}"

    async def rewritten(self) -> None:
        """A model by another name: spliced where the body is read before it goes, restored where answers are shown."""
        alias = SMALL.replace(b'"echo"', b'"alias"')
        answer, arrived = await self._send(pieces=[alias])
        target = SMALL.replace(b'"echo"', b'"a-much-longer-name-of-a-model"')
        wanted = target if self.cell.request_body in READ_FIRST else alias
        self._demand(answer, arrived, wanted, alias if self.cell.response_body != "NONE" else wanted)

    async def busy(self) -> None:
        """503 of the first server: a list goes on to the second, a single destination passes it on."""
        more = [("x-fails", "once")]
        if not self.cell.is_list:
            answer, arrived = await self._send(pieces=[SMALL], more=more)
            assert (answer.status, answer.body) == (503, b"busy"), f"status {answer.status}"
            assert [one.body for one in self._of(arrived)] == [SMALL]
            return
        answer, arrived = await self._send(pieces=[SMALL], more=more, listener=f"{self.cell.name}-retry")
        self._demand(answer, arrived, SMALL, SMALL, attempt=1)
        assert [one.body for one in self._of(arrived)] == [SMALL] * 2

    # --- what is demanded ---

    async def _send(
        self,
        *,
        method: str = "POST",
        path: str = CHAT,
        client: Callable[..., Coroutine[Any, Any, Answer]] = http1.request,
        more: Sequence[http1.Header] = (),
        listener: str = "",
        **how: Any,
    ) -> tuple[Answer, Arrived]:
        """The answer, and the request as it reached the server that gave it."""
        mark = f"{self.cell.name}-{next(_MARKS)}"
        self.sent = [
            ("content-type", "application/json"),
            ("x-request-mark", mark),
            (DESTINATION, "127.0.0.1:9"),
            *more,
        ]
        address = self.addresses[listener or self.cell.name]
        answer = await client(address, path, method=method, headers=self.sent, **how)
        arrived = [one for echo in self.servers for one in echo.arrived if one.header("x-request-mark") == mark]
        assert arrived, f"nothing arrived; status {answer.status}: {answer.body[:200]!r}"
        last = next((one for one in arrived if one.served_by == answer.headers.get("x-served-by")), arrived[-1])
        return answer, last

    async def _echoed(self, body: bytes, **how: Any) -> Arrived:
        answer, arrived = await self._send(**how)
        self._demand(answer, arrived, body, body)
        return arrived

    def _of(self, arrived: Arrived) -> list[Arrived]:
        """Every attempt of that request."""
        mark = arrived.header("x-request-mark")
        return [one for echo in self.servers for one in echo.arrived if one.header("x-request-mark") == mark]

    def _demand(self, answer: Answer, arrived: Arrived, sent: bytes, wanted: bytes, *, attempt: int = 0) -> None:
        assert answer.status == 200, f"status {answer.status}: {answer.body[:200]!r}"
        assert arrived.body == sent, f"{len(arrived.body)} bytes arrived, {len(sent)} were sent"
        assert answer.body == wanted, f"{len(answer.body)} bytes came back, {len(wanted)} were answered"
        assert len(self._of(arrived)) == attempt + 1, f"arrived {len(self._of(arrived))} times"
        added = {name for name, _ in arrived.headers} - PROCEDURE - {name for name, _ in self.sent}
        assert not added, f"headers {added}"
        destinations = [value for name, value in arrived.headers if name == DESTINATION]
        assert len(destinations) == 1, f"destinations {destinations}"
        listed = destinations[0].split(",")
        assert len(listed) == (2 if self.cell.is_list else 1), f"destinations {listed}"
        assert arrived.served_by == listed[attempt], f"served by {arrived.served_by} of {listed}"


_MARKS = itertools.count()
_RULES = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: {name: alias}
spec:
  poolRef: {name: matrix}
  rules:
  - matches: [{model: {value: alias}}]
    targets: [{modelRewrite: a-much-longer-name-of-a-model}]
"""
REQUESTS: dict[str, Callable[[Sender], Coroutine[Any, Any, None]]] = {
    "GET": Sender.get,
    "POST of 300 B": Sender.small,
    "POST of 1 MB": Sender.large,
    "HTTP/1.1 trailers": Sender.trailers_by_http1,
    "HTTP/2 trailers": Sender.trailers_by_http2,
    "an SSE response": Sender.streamed,
    "response trailers": Sender.response_trailers,
    "a rewritten model": Sender.rewritten,
    "503, then the next destination": Sender.busy,
}


# --- running it ---

CLEAN = ("spurious_msgs_received", "streams_failed", "message_timeouts", "failure_mode_allowed")


async def _try(result: Result, sender: Sender, name: str) -> None:
    try:
        await asyncio.wait_for(REQUESTS[name](sender), 30)
    except (AssertionError, OSError, TimeoutError, EOFError) as problem:
        result.problems.append(f"{name}: {str(problem) or type(problem).__name__}")
    else:
        result.passed.append(name)


async def _of_cell(cell: Cell, addresses: Mapping[str, str], servers: Sequence[Echo]) -> Result:
    result = Result()
    sender = Sender(cell, addresses, servers)
    for name in REQUESTS:
        await _try(result, sender, name)
    return result


@contextlib.asynccontextmanager
async def pickers(
    directory: Path, shell: str, servers: Sequence[Echo], lists: Sequence[bool] = (False, True)
) -> AsyncIterator[dict[bool, Stack]]:
    """Some, by whether they list two destinations."""
    stacks: dict[bool, Stack] = {}
    try:
        for is_list in lists:
            where = directory / f"picker-{is_list}"
            where.mkdir()
            (where / "resources.yaml").write_text(_RULES)
            flags = (f"--config-text={CONFIG.format(wanted=1 + is_list)}", "--pool-name=matrix")
            flags += (f"--resources-file={where / 'resources.yaml'}",)
            stack = stacks[is_list] = Stack(where, shell, flags=flags)
            stack.write_endpoints([echo.address for echo in servers])
            stack.start_picker()
        yield stacks
    finally:
        for stack in stacks.values():
            stack.stop()


def start_envoy(
    version: str, of: Sequence[Cell], stacks: dict[bool, Stack], servers: Sequence[Echo], directory: Path
) -> EnvoyProcess:
    """An Envoy with a listener for each of the cells."""
    ways = {is_list: f"127.0.0.1:{stack.ports[0]}" for is_list, stack in stacks.items()}
    gateways = {name: (ways[cell.is_list], gateway) for cell in of for name, gateway in cell.gateways().items()}
    config = gateways_config([echo.address for echo in servers], gateways)
    return EnvoyProcess(config, directory, binary=old_envoy(version) if version in OLD_ENVOYS else None)


async def run_envoy(envoy: EnvoyProcess, of: Sequence[Cell], servers: Sequence[Echo]) -> dict[Cell, Result]:
    """Every request through every cell of one Envoy; then what Envoy counted."""
    results: dict[Cell, Result] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(cell: Cell) -> None:
        async with gate:
            results[cell] = await _of_cell(cell, envoy.addresses, servers)

    await asyncio.gather(*map(one, of))
    stats = await asyncio.to_thread(envoy.stats)
    for cell in of:
        for listener, name in itertools.product(cell.gateways(), CLEAN):
            count = stats.get(f"http.{listener}.ext_proc.{name}", 0)
            results[cell].problems += [f"{name}: {count}"] if count else []
    return results


async def run(directory: Path, shell: str, envoys: Sequence[str] = ENVOYS) -> dict[Cell, Result]:
    """The matrix over one shell of picker; Envoys one after another."""
    results: dict[Cell, Result] = {}
    async with echoes(SERVERS) as servers, pickers(directory, shell, servers) as stacks:
        for version in envoys:
            of = list(cells([version]))
            where = directory / version
            where.mkdir()
            envoy = start_envoy(version, of, stacks, servers, where)
            try:
                envoy.wait_ready()
                results |= await run_envoy(envoy, of, servers)
            finally:
                envoy.stop()
        for stack in stacks.values():
            await asyncio.to_thread(stack.wait_until, lambda stack=stack: stack.metric("picker_open_streams") == 0)
            assert not any(entry["requests"] for entry in stack.endpoints().values()), "something is still booked"
    return results


# --- the table ---

DOCUMENT = ROOT / "docs" / "protocol.md"
BEGIN, END = "<!-- matrix: begin (make test-matrix writes this) -->", "<!-- matrix: end -->"
SHORT = {"original_dst": "ORIGINAL_DST", "metadata": "by metadata", "header": "by header"}


def table(results: Mapping[Cell, Result]) -> str:
    """A line for each pair of modes, a column for each Envoy and way to steer."""
    columns = list(itertools.product(ENVOYS, STEERINGS))
    heads = ["request body", "response body", *(f"{envoy} {SHORT[steering]}" for envoy, steering in columns)]
    lines = [heads, ["---"] * len(heads)]
    for request, response in itertools.product(MODES, MODES):
        found = [results.get(Cell(envoy, request, response, steering)) for envoy, steering in columns]
        lines.append([request, response, *(str(result) if result else "" for result in found)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written() -> str:
    """The table as it stands in the documentation."""
    return DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].strip("\n") + "\n"


def write(results: Mapping[Cell, Result]) -> None:
    """Put the table where it belongs."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(results)}{END}{rest.partition(END)[2]}")
