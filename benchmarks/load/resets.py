"""200 stream resets a second for 30 seconds: no GOAWAY, and no stream the worse for it."""

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import Options
from benchmarks.load.row import Row

GROUP = "resets"
PER_SECOND = 200
SECONDS, QUICK_SECONDS = 30.0, 2.0


def rows(options: Options) -> list[Row]:
    """GOAWAYs and errors by variant, all at the same time: the load is small. Every stream ends by RST_STREAM."""
    seconds = QUICK_SECONDS if options.quick else SECONDS
    path = bench.scripts("small", [exchanges.small(seed) for seed in range(64)])
    load = {"script": path, "rate": PER_SECOND, "duration": seconds}
    with bench.servers(options.variants()) as running:
        clients = {
            variant: tools.Client("extproc", target=server.address, tls=variant.tls, **load)
            for variant, server in running.items()
        }
        reports = {variant: client.report() for variant, client in clients.items()}
    made = []
    what = f"{PER_SECOND} resets/s for {seconds:g} s"
    for variant, report in reports.items():
        bench.tell(f"{what}, {variant}", {"done": report["done"], "GOAWAY": report["goaways"]})
        lost = float(tools.errors(report))
        note = f"of {report['started']:,} streams {report['errors'] or ''}"
        made += [
            Row(GROUP, f"{what}: GOAWAY", "", (float(report["goaways"]),), 0.0, variant=str(variant)),
            Row(GROUP, f"{what}: lost", "", (lost,), 0.0, note=note, variant=str(variant)),
        ]
    return made
