"""Ten minutes at 80 % of what the first shell carries: memory stays flat, nothing fails. Only if asked for by name."""

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import Options
from benchmarks.load.processes import Server, Watch
from benchmarks.load.row import Row

GROUP = "soak"
SECONDS, QUICK_SECONDS = 600.0, 3.0
SHARE = 0.8
SETTLED = 0.2  # of the time: by then every buffer has had its full size once
MOST_KIB_PER_MINUTE = 100.0
IN_FLIGHT = 500  # when the machine stalls for a moment, streams wait in the client, not in picker
LEAST_STARTED = 0.99


def rows(options: Options) -> list[Row]:
    """Errors and the slope of resident memory. The full rate is measured first, with the same mix of requests."""
    seconds = QUICK_SECONDS if options.quick else SECONDS
    mix = [exchanges.small(seed) for seed in range(48)] + [exchanges.streamed(20_000, 20, seed) for seed in range(16)]
    path = bench.scripts("soak", mix)
    with bench.servers(options.variants()[:1]) as running:
        (server,) = running.values()
        full, _ = bench.load(server, script=path, connections=2, streams=16, duration=options.seconds(3))
        # As many at once as the soak may have open: what memory that takes is taken now.
        bench.load(server, script=path, connections=2, streams=IN_FLIGHT // 2, duration=options.seconds(3))
        return _soak(server, path, full["rate"] * SHARE, seconds)


def _soak(server: Server, path: str, rate: float, seconds: float) -> list[Row]:
    what = f"{seconds / 60:g} minutes at {rate:,.0f} req/s"
    bench.tell(what)
    client = tools.Client(
        "extproc",
        target=server.address,
        tls=server.variant.tls,
        script=path,
        connections=2,
        rate=rate,
        most=IN_FLIGHT,
        duration=seconds,
    )
    watch = Watch(server.rss_bytes, min(1.0, seconds / 20))
    report = client.report(seconds + tools.SLACK_S)
    weights = watch.stop()
    flat = _slope([(at / 60, weight / 1024) for at, weight in weights[int(len(weights) * SETTLED) :]])
    variant, lost = str(server.variant), float(tools.errors(report))
    note = f"of {report['started']:,} streams {report['errors'] or ''}"
    weight = f"{weights[-1][1] / 2**20:.0f} MiB at the end"
    share = report["started"] / (rate * seconds)
    return [
        Row(GROUP, f"{what}: of the intended streams", "×", (share,), LEAST_STARTED, at_least=True, variant=variant),
        Row(GROUP, f"{what}: lost", "", (lost,), 0.0, note=note, variant=variant),
        Row(GROUP, f"{what}: RSS slope", "KiB/min", (flat,), MOST_KIB_PER_MINUTE, note=weight, variant=variant),
        Row(GROUP, f"{what}: pick p99", "µs", (report["pick_us"]["p99"],), variant=variant),
    ]


def _slope(points: list[tuple[float, float]]) -> float:
    """Least squares; 0 for fewer than two points."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
