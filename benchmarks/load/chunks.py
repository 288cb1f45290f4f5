"""CPU of a request with a 100k-token body (400 KB) whose answer is streamed in 1,000 chunks."""

from benchmarks.load import bench, exchanges
from benchmarks.load.options import Options, Variant
from benchmarks.load.processes import Server
from benchmarks.load.row import Row, tls_ratios

GROUP = "chunks"
BODY_BYTES, CHUNKS = 400_000, 1_000
CONNECTIONS, STREAMS = 2, 16
SECONDS = 3.0
WIRE_MS = 5.0
WHAT = "400 KB body, 1,000 streamed chunks, CPU per request"
NOTE = f"{CONNECTIONS * STREAMS} streams, each sends a chunk when it has the last one back"


def rows(options: Options) -> list[Row]:
    """CPU per request by variant, and TLS over plain."""
    path = bench.scripts("chunks", [exchanges.streamed(BODY_BYTES, CHUNKS, seed) for seed in range(8)])
    load = {"script": path, "connections": CONNECTIONS, "streams": STREAMS}

    def measure(server: Server) -> bench.Figures:
        report, used_s = bench.load(server, duration=options.seconds(SECONDS), grace=60, **load)
        return {"ms": used_s / report["done"] * 1e3, "chunks/s": report["rate"] * CHUNKS}

    with bench.servers(options.variants()) as running:
        taken = bench.in_turns(options, "400 KB and 1,000 chunks", running, measure)
    cost = {variant: _cost(variant, figures["ms"]) for variant, figures in taken.items()}
    return [*cost.values(), *tls_ratios(WHAT, cost)]


def _cost(variant: Variant, samples: tuple[float, ...]) -> Row:
    limit = WIRE_MS if variant == Variant("wire") else None
    return Row(GROUP, WHAT, "ms", samples, limit, note=NOTE, variant=str(variant))
