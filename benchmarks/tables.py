"""Published results as the README and docs/performance.md show them; `make docs` writes them there, a test compares.

Figures stand nowhere else: a line of the README names the rows it is made of, and is left out while there are none.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.results import Row, figure, goal, rows, shown

DIRECT = "direct|small request, CPU (2 connections, 16 streams each)"
CHUNKS = "chunks|400 KB body, 1,000 streamed chunks, CPU per request"
IN_TURNS = " (32 streams, each sends a chunk when it has the last one back)"
ADDED = "gateway|chunks at once: added p95, first byte"
CONVERSATION = "conversation, 1x"
DYNAMO = "match of 512 blocks over 256 endpoints"


@dataclass(frozen=True)
class Line:
    """A line of the README. `measured`: with `{group|what|who}` where a figure of the results `source` is to stand.

    What is told in a figure's name, as a rate that was found by measuring, may be a `*`.
    """

    source: str
    what: str
    measured: str


LINES = (
    Line(
        "load",
        "small request over HTTP/2, whole life, CPU",
        f"{{{DIRECT}|wire}}; on grpcio {{{DIRECT}|grpcio}}; floor of the same connection without a session "
        f"{{{DIRECT}|floor}}",
    ),
    Line(
        "load",
        "400 KB prompt, 1,000 streamed chunks, CPU",
        f"{{{CHUNKS}{IN_TURNS}|wire}}; on grpcio {{{CHUNKS}{IN_TURNS}|grpcio}}; with `responseTracking: off` "
        f"{{{CHUNKS}, responseTracking: off{IN_TURNS}|wire}}",
    ),
    Line(
        "load",
        "220 KB prompts on one core",
        "{bodies|220 KB bodies, requests per CPU second (what one core carries)|wire}; on grpcio "
        "{bodies|220 KB bodies, requests per CPU second (what one core carries)|grpcio}",
    ),
    Line("load", "TLS over plaintext, CPU of a small request", "{direct|small request, CPU|wire TLS / wire}"),
    Line(
        "load",
        "what Envoy and picker add to 20 streamed chunks, p95",
        f"{{{ADDED} (*cores to spare)|wire}} with cores to spare; {{{ADDED} (*half of its rate)|wire}} where "
        "Envoy's one worker, picker, clients and servers share two cores at half of its rate",
    ),
    Line(
        "load",
        "what 2,000 endpoints, 50 changes/s and `/metrics` add to the p99 of a pick",
        "{quiet|pick, wire: what that adds to p99|}",
    ),
    Line("load", "scraping 100 servers every 200 ms", "{scraping|100 model servers every 200 ms|}"),
    Line("load", "memory of an open stream", "{held|10,000 streams held for 60 s: memory per stream|wire}"),
    Line(
        "cluster",
        "a pod's change until picks know it, 2,000 pods, 10 changes/s: p99",
        "{watching|an update, from the API server to the pick that knows it: p99|}; the worst "
        "{watching|an update: the worst of all|}",
    ),
    Line(
        "cluster",
        "the leader stops under load: another is ready after; requests failed",
        "{failover|SIGTERM: the other is ready|}; {failover|SIGTERM: requests failed|}",
    ),
    Line("core", "prefix match, 512 blocks over 256 endpoints", "{radix|match of 512 blocks, 256 endpoints|}"),
    Line(
        "peers",
        "prefix match, 512 blocks over 256 endpoints, by Dynamo's RadixTree over picker: from Python; the walk alone",
        f"{{prefix index|{DYNAMO}|Dynamo / picker}}; {{prefix index|the same, walk alone|Dynamo / picker}}",
    ),
    Line(
        "peers",
        "a whole pick by Dynamo's SelectionService over picker with flow control, 256 endpoints: 512 blocks; 32 blocks",
        "{whole pick|512 blocks of 16 tokens, 256 endpoints|Dynamo / picker, flow control}; "
        "{whole pick|32 blocks of 16 tokens, 256 endpoints|Dynamo / picker, flow control}",
    ),
    Line(
        "peers",
        "400 KB in chained 256-byte blocks by xxhash, over picker",
        "{hashing|400 KB in chained 256-byte blocks|xxhash / picker}",
    ),
    Line(
        "peers",
        "100 KB requests, 64 connections: picker + Envoy",
        "{whole routers|100 KB request: 64 connections|picker + Envoy}; sglang-router "
        "{whole routers|100 KB request: 64 connections|sglang-router}; vllm-router "
        "{whole routers|100 KB request: 64 connections|vllm-router}",
    ),
    Line(
        "peers",
        "2 KB requests, one connection: added p50 of picker + Envoy",
        "{whole routers|2 KB request: added at 1 connection, p50|picker + Envoy}; sglang-router "
        "{whole routers|2 KB request: added at 1 connection, p50|sglang-router}; vllm-router "
        "{whole routers|2 KB request: added at 1 connection, p50|vllm-router}",
    ),
    Line(
        "sim",
        "Mooncake trace, 8 replicas: hit rate",
        f"{{{CONVERSATION}|hit rate|picker}}; round robin {{{CONVERSATION}|hit rate|round-robin}}, Dynamo tuned "
        f"{{{CONVERSATION}|hit rate|dynamo-tuned}}, ceiling {{{CONVERSATION}|hit ceiling|}}",
    ),
    *(
        Line(
            "sim",
            f"the same: {words}",
            f"{{{CONVERSATION}|{what}|picker}}; round robin {{{CONVERSATION}|{what}|round-robin}}, Dynamo tuned "
            f"{{{CONVERSATION}|{what}|dynamo-tuned}}",
        )
        for what, words in (
            ("balance", "work of the busiest / mean"),
            ("TTFT mean", "TTFT mean, in virtual time"),
            ("TTFT p99", "TTFT p99"),
        )
    ),
    Line(
        "fidelity",
        "TTFT p50 of a live run (Envoy, 6 servers) over the lab's, picker",
        "{fidelity|TTFT p50, live / virtual time|picker}",
    ),
)
_REFERENCE = re.compile(r"\{(.*?)\|(.*?)\|(.*?)\}")


def performance_table() -> str:
    """The README's: what was measured, and what measures it again."""
    known: dict[str, list[Row]] = {}
    lines = ["| what | measured | command |", "| --- | --- | --- |"]
    for line in LINES:
        if line.source not in known:
            known[line.source] = rows(line.source)
        if told := _told(line, known[line.source]):
            lines.append(told)
    return "\n".join(lines) + "\n"


def _told(line: Line, known: Sequence[Row]) -> str:
    """The line as Markdown; "" without results."""
    if not known:
        return ""
    named = [_row(line.source, found, known) for found in _REFERENCE.finditer(line.measured)]
    figures = iter(named)
    measured = _REFERENCE.sub(lambda _: figure(next(figures)), line.measured)
    return f"| {line.what} | {measured} | `{named[0].command}` |"


def _row(source: str, reference: re.Match[str], known: Sequence[Row]) -> Row:
    """The row that a reference names. LookupError if there is none."""
    group, what, who = reference.groups()
    pattern = re.compile(".*".join(map(re.escape, what.split("*"))))
    for row in known:
        if (row.group, row.who) == (group, who) and pattern.fullmatch(row.what):
            return row
    raise LookupError(f"benchmarks/results/{source}.json has no {group} | {what} | {who}: see {__name__}")


def load_table() -> str:
    """Of docs/performance.md: picker under load."""
    return full_table(rows("load"))


def core_table() -> str:
    """Of docs/performance.md: the core alone."""
    return full_table(rows("core"))


def full_table(found: Sequence[Row]) -> str:
    """All of these, with where they come from."""
    if not found:
        return "\nNot measured yet.\n\n"
    lines = ["| figure | who | measured | least - most | target |", "| --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in found]
    return f"{origin(found)}\n\n" + "\n".join(lines) + "\n"


def _cells(row: Row) -> Sequence[str]:
    spread = "" if row.low is None or row.high is None else f"{shown(row.low)} - {shown(row.high)}"
    note = f" ({row.note})" if row.note else ""
    value = f"{shown(row.value)} {row.unit}".strip()
    return f"{row.group}: {row.what}{note}", row.who, value, spread, goal(row)


def origin(found: Iterable[Row]) -> str:
    """Commands, machines and commits of rows, in a line."""
    parts = {
        "`, `".join(dict.fromkeys(row.command for row in found)): "`{}`",
        "; ".join(dict.fromkeys(row.machine for row in found)): "{}",
        ", ".join(dict.fromkeys(row.commit for row in found)): "commit {}",
    }
    return ", ".join(form.format(text) for text, form in parts.items()) + "."
