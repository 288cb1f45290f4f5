"""A small request (1 KB in, a short answer), its whole life, straight into the ext_proc port: CPU of picker."""

from benchmarks.load import bench, exchanges
from benchmarks.load.options import FLOOR, Options, Variant
from benchmarks.load.processes import Server
from benchmarks.load.row import Row, ratios

GROUP = "direct"
CONNECTIONS, STREAMS = 2, 16
SECONDS = 2.0
WIRE_US, OVER_FLOOR, TLS_TIMES = 30.0, 2.0, 2.0


def rows(options: Options) -> list[Row]:
    """CPU per request by variant, wire over the floor, and TLS over plain."""
    path = bench.scripts("small", [exchanges.small(seed) for seed in range(64)])
    load = {"script": path, "connections": CONNECTIONS, "streams": STREAMS}

    def measure(server: Server) -> bench.Figures:
        report, used_s = bench.load(server, duration=options.seconds(SECONDS), **load)
        return {"us": used_s / report["done"] * 1e6, "req/s": report["rate"]}

    variants = options.variants(floor=True)
    with bench.servers(variants) as running:
        for server in running.values():
            bench.load(server, duration=0.3, **load)  # warm-up
        taken = bench.in_turns(options, "direct, small request", running, measure)
    cost = {variant: _cost(variant, figures["us"]) for variant, figures in taken.items()}
    rate = [
        Row(GROUP, f"small request, {variant}: closed loop", "req/s", figures["req/s"], note=_in_flight())
        for variant, figures in taken.items()
    ]
    return [*cost.values(), *_over(cost), *rate]


def _in_flight() -> str:
    return f"{CONNECTIONS} connections, {STREAMS} streams each"


def _cost(variant: Variant, samples: tuple[float, ...]) -> Row:
    limit = WIRE_US if variant == Variant("wire") else None
    return Row(GROUP, f"small request, {variant}: CPU per request", "µs", samples, limit, note=_in_flight())


def _over(cost: dict[Variant, Row]) -> list[Row]:
    """What is told as a ratio, where both sides were measured."""
    pairs = [(Variant("wire", tls), Variant(FLOOR, tls), None if tls else OVER_FLOOR) for tls in (False, True)] + [
        (Variant(shell, True), Variant(shell), TLS_TIMES if shell == "wire" else None) for shell in ("wire", "grpcio")
    ]
    pairs += [(Variant("grpcio"), Variant("wire"), None)]
    return [
        Row(GROUP, f"small request: {above} over {below}", "×", ratios(cost[above], cost[below]), limit)
        for above, below, limit in pairs
        if above in cost and below in cost
    ]
