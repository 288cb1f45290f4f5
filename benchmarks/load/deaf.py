"""A peer that sends and never reads: memory stays bounded, and others do not feel it."""

import contextlib
from collections.abc import Iterator

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import Options
from benchmarks.load.processes import Server, Watch, settle
from benchmarks.load.row import Row

GROUP = "deaf"
PEERS, STREAMS = 4, 200
PINGS_PER_S = 50
SECONDS, QUICK_SECONDS = 6.0, 1.0
STUFFED_S = 1.0  # by then every window is full; before, it is a peer like others, only a greedy one
RATE = 200
TIMES = 2.0
MIB = 1 << 20
MOST_MIB = 64.0 * PEERS  # two windows of 24 MiB, in and out, and what copies of them cost
MOST_LATE_MIB = 1.0


def rows(options: Options) -> list[Row]:
    """What the picker weighs more for it, and the latency of another connection beside that of a quiet time."""
    deaf = bench.scripts("deaf", [exchanges.streamed(220_000, 20, seed) for seed in range(16)])
    other = bench.scripts("small", [exchanges.small(seed) for seed in range(64)])
    seconds = QUICK_SECONDS if options.quick else SECONDS
    made = []
    with bench.servers(options.few_variants()) as running:
        bench.warm_up(running, script=deaf, streams=8)
        for server in running.values():
            made += _measure(server, deaf, other, seconds)
            settle()
    return made


def _measure(server: Server, deaf: str, other: str, seconds: float) -> list[Row]:
    quiet, _ = bench.load(server, script=other, rate=RATE, duration=seconds)
    before = server.rss_bytes()
    with _peers(server, deaf, seconds + 2):
        watch = Watch(server.rss_bytes, 0.1)
        settle(STUFFED_S)
        loud, _ = bench.load(server, script=other, rate=RATE, duration=seconds)
        weights = [weight for _, weight in watch.stop()]
    grown, late = (max(weights) - before) / MIB, (weights[-1] - weights[len(weights) // 2]) / MIB
    times = [loud["pick_us"][which] / quiet["pick_us"][which] for which in ("p50", "p99")]
    what, variant = f"{PEERS} peers that never read", str(server.variant)
    bench.tell(f"{what}, {variant}", {"MiB": grown, "late MiB": late, "p50 ×": times[0], "p99 ×": times[1]})
    sizes = f"{STREAMS} streams each, 220 KB bodies"
    p50, p99 = (f"{loud['pick_us'][which]:,.0f} µs at {RATE}/s" for which in ("p50", "p99"))
    return [
        Row(GROUP, f"{what}: memory, the most", "MiB", (grown,), MOST_MIB, note=sizes, variant=variant),
        Row(GROUP, f"{what}: growth in the last {seconds / 2:g} s", "MiB", (late,), MOST_LATE_MIB, variant=variant),
        Row(GROUP, f"{what}: others' p50, over quiet", "×", (times[0],), TIMES, note=p50, variant=variant),
        Row(GROUP, f"{what}: others' p99, over quiet", "×", (times[1],), TIMES, note=p99, variant=variant),
    ]


@contextlib.contextmanager
def _peers(server: Server, path: str, seconds: float) -> Iterator[None]:
    """Windows wide open, sockets that take 4 KiB, and pings whose answers nobody reads either."""
    client = tools.Client(
        "extproc",
        target=server.address,
        tls=server.variant.tls,
        script=path,
        connections=PEERS,
        streams=STREAMS,
        duration=seconds,
        pings_per_second=PINGS_PER_S,
        never_read=True,
    )
    try:
        yield
    finally:
        client.kill()
