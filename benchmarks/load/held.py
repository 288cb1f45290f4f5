"""10,000 concurrent streams held for a minute: memory for each."""

import contextlib

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import Options
from benchmarks.load.processes import Server, Watch
from benchmarks.load.row import Row

GROUP = "held"
STREAMS, QUICK_STREAMS = 10_000, 500
SECONDS, QUICK_SECONDS = 60.0, 1.0
CONNECTIONS = 4
OPENED_PER_S = 700  # what every shell can take; grpcio refuses streams that come faster


def rows(options: Options) -> list[Row]:
    """Resident memory per stream that waits for its model server, and that all of them end well afterwards."""
    streams, seconds = (QUICK_STREAMS, QUICK_SECONDS) if options.quick else (STREAMS, SECONDS)
    path = bench.scripts("held", [exchanges.small(seed, hold=True) for seed in range(64)])
    made = []
    with bench.servers(options.few_variants()) as running, contextlib.ExitStack() as stack:
        bench.warm_up(running, script=bench.scripts("small", [exchanges.small()]), streams=16)
        holding = [Held(server, path, streams, seconds) for server in running.values()]
        for held in holding:
            stack.callback(held.client.kill)
            held.wait()  # one after the other: how fast streams can be opened is not the question
        for held in holding:
            made += held.rows()
    return made


class Held:
    """Streams open on one server, and what it weighed before."""

    def __init__(self, server: Server, path: str, streams: int, seconds: float) -> None:
        self.server, self.streams, self.seconds = server, streams, seconds
        self.before = server.rss_bytes()
        self.client = tools.Client(
            "extproc",
            target=server.address,
            tls=server.variant.tls,
            script=path,
            connections=CONNECTIONS,
            rate=OPENED_PER_S,
            count=streams,
            hold=seconds,
            grace=30,
        )

    def wait(self) -> None:
        """Until all are open. RuntimeError if some are not."""
        held = self.client.event()["held"]
        bench.tell(f"{self.server.variant}: {held} streams are held")
        if held != self.streams:
            raise RuntimeError(f"{self.server.variant}: only {held} of {self.streams} streams could be held")
        self.watch = Watch(self.server.rss_bytes)

    def rows(self) -> list[Row]:
        """The most it weighed while they were open, and whether they all ended well."""
        report = self.client.report()
        most = max(weight for _, weight in self.watch.stop())
        each = (most - self.before) / self.streams / 1024
        what, variant = f"{self.streams:,} streams held for {self.seconds:g} s", str(self.server.variant)
        bench.tell(f"{what}, {variant}", {"KiB each": each})
        return [
            Row(GROUP, f"{what}: memory per stream", "KiB", (each,), variant=variant),
            Row(GROUP, f"{what}: lost", "", (float(tools.errors(report)),), 0.0, variant=variant),
        ]
