"""SIGTERM under load: the picker drains and ends, and not one request is lost."""

import time

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import Options, Variant
from benchmarks.load.processes import Server, wait_end
from benchmarks.load.row import Row

GROUP = "term"
CONNECTIONS, STREAMS = 2, 16
BEFORE_S, AFTER_S = 1.0, 1.5  # after: how long a gateway may take to hear that the picker is going
END_S = 40.0  # more than the drain may take


def rows(options: Options) -> list[Row]:
    """Errors, and how long the picker took to end once the load had gone. Its connections are renewed after GOAWAY."""
    path = bench.scripts("term", [exchanges.streamed(1024, 20, seed) for seed in range(64)])
    lost: dict[Variant, list[float]] = {}
    took: dict[Variant, list[float]] = {}
    done: dict[Variant, int] = {}
    for turn in range(options.rounds):
        with bench.servers(options.few_variants()) as running:
            for variant, server in running.items():
                report, seconds = _terminate(server, path)
                bench.tell(
                    f"{variant} · round {turn + 1} of {options.rounds}: {report['errors']}", {"ended after s": seconds}
                )
                lost.setdefault(variant, []).append(float(tools.errors(report)))
                took.setdefault(variant, []).append(seconds)
                done[variant] = done.get(variant, 0) + report["done"]
    made = []
    for variant in lost:
        note = f"of {done[variant]:,} in {options.rounds} rounds, the worst round"
        worst = (max(lost[variant]),)  # one round that loses is one too many
        made.append(Row(GROUP, "SIGTERM under load: lost", "", worst, 0.0, note=note, variant=str(variant)))
        ended = tuple(took[variant])
        made.append(Row(GROUP, "SIGTERM: ended after the load had", "s", ended, variant=str(variant)))
    return made


def _terminate(server: Server, path: str) -> tuple[tools.Report, float]:
    client = tools.Client(
        "extproc",
        target=server.address,
        tls=server.variant.tls,
        script=path,
        connections=CONNECTIONS,
        streams=STREAMS,
        duration=BEFORE_S + AFTER_S,
        reconnect=True,
    )
    time.sleep(BEFORE_S)
    server.child.terminate()
    report = client.report()
    return report, wait_end(server.child, END_S)
