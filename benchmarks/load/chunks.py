"""CPU of a request with a 100k-token body (400 KB) whose answer is streamed in 1,000 chunks.

With `responseTracking: off` picker ends the stream when the request is answered, and the chunks pass it by.
"""

from benchmarks.load import bench, exchanges
from benchmarks.load.options import Options, Variant
from benchmarks.load.processes import Server
from benchmarks.load.row import Row, tls_ratios

GROUP = "chunks"
BODY_BYTES, CHUNKS = 400_000, 1_000
CONNECTIONS, STREAMS = 2, 16
SECONDS = 3.0
WIRE_MS, OFF_MS = 5.0, 1.5
OFF = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\nresponseTracking: off\n"
WHAT = "400 KB body, 1,000 streamed chunks, CPU per request"
NOTE = f"{CONNECTIONS * STREAMS} streams, each sends a chunk when it has the last one back"


def rows(options: Options) -> list[Row]:
    """CPU per request by variant, and TLS over plain; the same with responses that are not tracked."""
    tracked = [exchanges.streamed(BODY_BYTES, CHUNKS, seed) for seed in range(8)]
    passed_by = [exchanges.request_only(BODY_BYTES, seed) for seed in range(8)]
    made: list[Row] = []
    for what, limit_ms, scripts, flags in (
        (WHAT, WIRE_MS, tracked, ()),
        (f"{WHAT}, responseTracking: off", OFF_MS, passed_by, (f"--config-text={OFF}",)),
    ):
        made += _rows(options, what, limit_ms, bench.scripts("chunks", scripts), flags)
    return made


def _rows(options: Options, what: str, limit_ms: float, path: str, flags: tuple[str, ...]) -> list[Row]:
    load = {"script": path, "connections": CONNECTIONS, "streams": STREAMS}

    def measure(server: Server) -> bench.Figures:
        report, used_s = bench.load(server, duration=options.seconds(SECONDS), grace=60, **load)
        return {"ms": used_s / report["done"] * 1e3, "req/s": report["rate"]}

    with bench.servers(options.variants(), *flags) as running:
        taken = bench.in_turns(options, what, running, measure)
    cost = {variant: _cost(what, limit_ms, variant, figures["ms"]) for variant, figures in taken.items()}
    return [*cost.values(), *tls_ratios(what, cost)]


def _cost(what: str, limit_ms: float, variant: Variant, samples: tuple[float, ...]) -> Row:
    limit = limit_ms if variant == Variant("wire") else None
    return Row(GROUP, what, "ms", samples, limit, note=NOTE, variant=str(variant))
