"""What picker says and counts: replies, metrics, what is known of pools, health and flow control."""

from typing import Any

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.exchanges import engine_with, life, small_exchange
from picker._core import copies, flowcopies, replies
from picker._core.decisions import Decisions
from picker._core.engine import Engine
from picker._core.flowstats import FlowStats
from picker._core.inbox import Inbox
from picker._core.outbox import Outbox
from picker._core.pools import PoolNames
from picker._core.stats import FAILURES, Stats
from picker._core.subset import Subset
from tests.support.h2peer import framed

BODY = bytes(400_000)
TIMES = 1000


def refusing() -> Action:
    return lambda: [replies.refusal(failure) for failure in range(len(FAILURES))]


def counting(models: int) -> Action:
    """A thousand requests, of so many models."""
    stats, names = Stats(), [b"model-%d" % number for number in range(models)]
    for name in names:
        stats.count(name, 0.1)
    asked = [names[number * 7 % models] for number in range(TIMES)]
    return lambda: [stats.count(name, 0.25) for name in asked]


def turning() -> Action:
    stats = FlowStats()

    def turn() -> None:
        for number in range(TIMES):
            stats.queued(number % 5, 1000)
            stats.left(number % 5, 1000, "None", number * 1000)

    return turn


def deciding() -> Action:
    decisions = Decisions()
    return lambda: [decisions.get(decisions.add(b"10.0.0.1:8000", 1)) for _ in range(TIMES)]


def naming(pools: int) -> Action:
    names = PoolNames([(f"pool-{n}", (f"picker-{n}.default",)) for n in range(pools)])
    asked = b"picker-%d.default.svc.cluster.local:9002" % (pools // 2)
    return lambda: [names.find(b"", asked) for _ in range(TIMES)]


def hint(named: int) -> bytes:
    """A serialised Metadata with a subset of so many endpoints."""
    from envoy.config.core.v3.base_pb2 import Metadata
    from google.protobuf.struct_pb2 import Struct

    subset = Struct()
    subset.update({"x-gateway-destination-endpoint-subset": [f"10.0.0.{n}:8000" for n in range(named)]})
    found = Metadata()
    found.filter_metadata["envoy.lb.subset_hint"].CopyFrom(subset)
    return bytes(found.SerializeToString())


def reading(named: int) -> Action:
    subset, sent = Subset(), hint(named)
    return lambda: subset.read(sent)


def allowing(named: int) -> Action:
    subset = Subset()
    subset.read(hint(named))
    asked = [(b"10.0.0.%d:8000" % n, b"10.0.0.%d" % n) for n in range(250)]
    return lambda: [subset.allows(target, address) for target, address in asked]


def lending() -> Action:
    """A body of 400 KB goes on in pieces, as in full duplex."""
    box = Outbox()

    def send() -> None:
        box.own(BODY)
        for at in range(0, len(BODY), 62_000):
            box.lend(b"head", at, min(62_000, len(BODY) - at), b"")
        while box.send(16_384):
            pass

    return send


def receiving() -> Action:
    """Messages of 64 KB come in frames of 16 KB."""
    box, sent = Inbox(1 << 20), framed(BODY[:65_536]) * 6
    pieces = [sent[at : at + 16_384] for at in range(0, len(sent), 16_384)]
    return lambda: [box.feed(piece) for piece in pieces]


def copied(engine: Engine, endpoints: int) -> None:
    """What goes from the data plane to the control plane's process, and is read there."""
    copies.read_totals(copies.copy_totals(engine))
    copies.read_series(copies.copy_series(engine, 0, 64) or b"")
    copies.read_endpoints(copies.copy_endpoints(engine, 0, endpoints) or b"", 5)
    copies.busy_targets(engine)


def told(what: str, endpoints: int = 256) -> Action:
    """What an engine tells the admin side, after a few requests."""
    engine = engine_with(endpoints)
    engine.set_flow({})
    live = life(engine, small_exchange())
    for _ in range(100):
        live()
    ways: dict[str, Any] = {
        "stats": engine.stats,
        "decisions": lambda: engine.decisions(50),
        "endpoints": lambda: engine.endpoints(5),
        "copies": lambda: copied(engine, endpoints),
        "flow": lambda: flowcopies.read_flow(flowcopies.copy_flow(engine, 5), 5),
    }
    action: Action = ways[what]
    return action


CASES = [
    Case("replies: every refusal", refusing),
    Case("stats: count a request, 100 models", lambda: counting(100), "ns", per=TIMES),
    Case("flowstats: a request waits and has its turn", turning, "ns", per=TIMES),
    Case("decisions: note one and look at it", deciding, per=TIMES),
    Case("pools: find one of 64 by its authority", lambda: naming(64), "ns", per=TIMES),
    Case("subset: read a hint of 16 endpoints", lambda: reading(16)),
    Case("subset: 250 endpoints, 16 of them allowed", lambda: allowing(16)),
    Case("outbox: 400 KB lent in pieces", lending),
    Case("inbox: 400 KB in frames of 16 KB", receiving),
    Case("engine: what its metrics show", lambda: told("stats")),
    Case("engine: its last decisions", lambda: told("decisions")),
    Case("engine: 256 endpoints as they are shown", lambda: told("endpoints"), "ms"),
    Case("copies: 256 endpoints, copied and read", lambda: told("copies"), "ms"),
    Case("flowcopies: flow control as it is shown", lambda: told("flow")),
]
GROWTHS = [
    Growth("stats: count 1,000 requests, n models", counting, 100, "1"),
    Growth("subset: read a hint of n endpoints", reading, 16, "n"),
    Growth("engine: n endpoints as they are shown", lambda n: told("endpoints", n), 32, "n"),
]
