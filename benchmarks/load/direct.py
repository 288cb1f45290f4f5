"""CPU of a small request (1 KB in, a short answer), its whole life, straight into the ext_proc port.

The floor is the wire's connection object answering canned bytes: HTTP/2 and gRPC framing without the session.
"""

from benchmarks.load import bench, exchanges
from benchmarks.load.options import FLOOR, Options, Variant
from benchmarks.load.processes import Server
from benchmarks.load.row import Row, ratio, tls_ratios

GROUP = "direct"
CONNECTIONS, STREAMS = 2, 16
SECONDS = 2.0
WIRE_US, OVER_FLOOR = 30.0, 2.0
IN_FLIGHT = f"{CONNECTIONS} connections, {STREAMS} streams each"


def rows(options: Options) -> list[Row]:
    """CPU per request by variant, wire over the floor, TLS over plain, and what one loop carries."""
    path = bench.scripts("small", [exchanges.small(seed) for seed in range(64)])
    load = {"script": path, "connections": CONNECTIONS, "streams": STREAMS}

    def measure(server: Server) -> bench.Figures:
        report, used_s = bench.load(server, duration=options.seconds(SECONDS), **load)
        return {"us": used_s / report["done"] * 1e6, "req/s": report["rate"]}

    with bench.servers(options.variants(floor=True)) as running:
        bench.warm_up(running, **load)
        taken = bench.in_turns(options, "small request", running, measure)
    cost = {variant: _cost(variant, figures["us"]) for variant, figures in taken.items()}
    rate = [
        Row(GROUP, "small request, closed loop", "req/s", figures["req/s"], note=IN_FLIGHT, variant=str(variant))
        for variant, figures in taken.items()
    ]
    return [*cost.values(), *_compared(cost), *tls_ratios("small request, CPU", cost), *rate]


def _cost(variant: Variant, samples: tuple[float, ...]) -> Row:
    limit = WIRE_US if variant == Variant("wire") else None
    return Row(GROUP, "small request, CPU", "µs", samples, limit, note=IN_FLIGHT, variant=str(variant))


def _compared(cost: dict[Variant, Row]) -> list[Row]:
    pairs = [(Variant("wire"), Variant(FLOOR), OVER_FLOOR), (Variant("wire", True), Variant(FLOOR, True), None)]
    pairs += [(Variant("grpcio"), Variant("wire"), None)]
    return [
        ratio("small request, CPU", cost[above], cost[below], limit)
        for above, below, limit in pairs
        if above in cost and below in cost
    ]
