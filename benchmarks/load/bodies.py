"""220 KB bodies: what one core carries, and what a pick adds at half that rate."""

from dataclasses import replace

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import Options, Variant
from benchmarks.load.processes import Server, settle
from benchmarks.load.row import Row, tls_ratios

GROUP = "bodies"
BODY_BYTES = 220_000
CONNECTIONS, STREAMS = 2, 8
SECONDS = 2.0
PER_CORE = 2_000.0
HALF = PER_CORE / 2
WHAT = "220 KB bodies"
IN_FLIGHT = f"{CONNECTIONS} connections, {STREAMS} streams each"
NAMES = {"pick p50": "pick p50", "pick p99": "pick p99", "request p99": "start to whole request echoed, p99"}


def rows(options: Options) -> list[Row]:
    """Requests per CPU second and req/s in a closed loop; latencies at half the rate, open loop."""
    path = bench.scripts("bodies", [exchanges.streamed(BODY_BYTES, 1, seed) for seed in range(16)])
    load = {"script": path, "connections": CONNECTIONS}

    def measure(server: Server) -> bench.Figures:
        full, used_s = bench.load(server, duration=options.seconds(SECONDS), streams=STREAMS, **load)
        settle()
        rate = min(HALF, full["rate"] / 2)
        half, _ = bench.load(server, duration=options.seconds(SECONDS), rate=rate, **load)
        return {"per CPU s": full["done"] / used_s, "us": used_s / full["done"] * 1e6, **_figures(full, half, rate)}

    with bench.servers(options.variants()) as running:
        bench.warm_up(running, streams=STREAMS, **load)
        taken = bench.in_turns(options, WHAT, running, measure)
    made: list[Row] = []
    for variant, figures in taken.items():
        made += _rows(variant, figures)
    cost = {variant: _row(variant, "CPU per request", "µs", figures["us"]) for variant, figures in taken.items()}
    return [*made, *cost.values(), *tls_ratios(f"{WHAT}, CPU per request", cost)]


def _figures(full: tools.Report, half: tools.Report, rate: float) -> bench.Figures:
    latencies = {"pick p50": half["pick_us"]["p50"], "pick p99": half["pick_us"]["p99"]}
    return {"req/s": full["rate"], "at": rate, **latencies, "request p99": half["request_us"]["p99"]}


def _row(variant: Variant, what: str, unit: str, samples: tuple[float, ...], note: str = "") -> Row:
    return Row(GROUP, f"{WHAT}, {what}", unit, samples, note=note, variant=str(variant))


def _rows(variant: Variant, figures: dict[str, tuple[float, ...]]) -> list[Row]:
    note = f"open loop, {min(figures['at']):,.0f} req/s or more"
    per_core = _row(variant, "requests per CPU second", "req/s", figures["per CPU s"], "what one core carries")
    if variant == Variant("wire"):
        per_core = replace(per_core, limit=PER_CORE, at_least=True)
    latencies = (_row(variant, what, "µs", figures[name], note) for name, what in NAMES.items())
    return [per_core, _row(variant, "closed loop", "req/s", figures["req/s"], IN_FLIGHT), *latencies]
