"""Through a real Envoy (one worker): what picker adds to a streaming chat of 20 chunks, at half of what Envoy carries.

The same Envoy, model servers and client with and without ext_proc, in turns; the added latency is the difference of
percentiles. Twice: the model servers write all chunks at once, or one every two milliseconds as a model talks. In the
second case each chunk is an ext_proc message of its own, and Envoy may not carry half of its bare rate at all.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import BUILD, Options, Variant
from benchmarks.load.processes import Server, cpu_s, settle
from benchmarks.load.row import Row
from picker.demo.envoy import EnvoyProcess, Gateway, envoy_config

GROUP = "gateway"
CHUNKS, BODY_BYTES = 20, 1024
PACES_MS = {"at once": 0.0, "2 ms apart": 2.0}
SECONDS = 2.0
CLOSED, OPEN = 128, 1024  # connections
GRACE_S = 3
P95_US = 1500.0
WHICH = ("p50", "p95", "p99")
BARE, WITH = "round_robin", "picker"  # the listeners


@dataclass
class Measured:
    """One variant behind its Envoy."""

    server: Server
    envoy: EnvoyProcess
    body: str
    seconds: float

    def run(self, listener: str, **options: object) -> tools.Report:
        """Reports errors rather than fail for them: more than Envoy carries is a finding."""
        target = self.envoy.addresses[listener]
        report = tools.run("http", target=target, body=self.body, duration=self.seconds, grace=GRACE_S, **options)
        settle(0.1)
        return report

    def measure(self, rate: float) -> bench.Figures:
        """Both listeners at the same rate, the difference of their percentiles, and CPU per request."""
        bare = self.run(BARE, connections=OPEN, rate=rate)
        before = self.server.cpu_s(), cpu_s(self.envoy.child.pid)
        full = self.run(WITH, connections=OPEN, rate=rate)
        used = self.server.cpu_s() - before[0], cpu_s(self.envoy.child.pid) - before[1]
        figures = {"errors": float(tools.errors(bare) + tools.errors(full)), "carried": full["rate"]}
        done = max(1, full["done"])
        figures |= {"picker µs": used[0] / done * 1e6, "envoy µs": used[1] / done * 1e6}
        for name in ("first", "whole"):
            figures |= {f"{name} {key}": full[f"{name}_us"][key] - bare[f"{name}_us"][key] for key in WHICH}
        return figures


def rows(options: Options) -> list[Row]:
    """Added time to the first byte and to the whole answer, by pace and variant; what Envoy carries; CPU."""
    (BUILD / "chat.json").write_bytes(exchanges.chat_body(BODY_BYTES))
    made: list[Row] = []
    for pace, delay_ms in PACES_MS.items():
        made += _pace(options, pace, delay_ms)
    return made


def _pace(options: Options, pace: str, delay_ms: float) -> list[Row]:
    with (
        bench.model_servers(chunks=CHUNKS, delay_ms=delay_ms) as upstream,
        bench.servers(options.few_variants(), endpoints=upstream.addresses) as running,
        _behind_envoys(running, upstream.addresses, options) as measured,
    ):
        carried = [entry.run(BARE, connections=CLOSED)["rate"] for entry in measured.values()]
        with_picker = {variant: entry.run(WITH, connections=CLOSED)["rate"] for variant, entry in measured.items()}
        rate = max(carried) / 2
        bench.tell(f"chunks {pace}: Envoy carries {max(carried):,.0f} req/s without ext_proc; at half of that")

        def measure(server: Server) -> bench.Figures:
            return measured[server.variant].measure(rate)

        taken = bench.in_turns(options, f"chunks {pace}", running, measure)
    made = [Row(GROUP, f"chunks {pace}: Envoy without ext_proc", "req/s", tuple(carried), note="closed loop")]
    for variant, figures in taken.items():
        made += _rows(f"chunks {pace}", variant, figures, rate, with_picker[variant])
    return made


@contextlib.contextmanager
def _behind_envoys(
    running: dict[Variant, Server], upstreams: list[str], options: Options
) -> Iterator[dict[Variant, Measured]]:
    """Each server with an Envoy of its own, all up."""
    with contextlib.ExitStack() as stack:
        made: dict[Variant, Measured] = {}
        for variant, server in running.items():
            directory = BUILD / f"envoy-{str(variant).replace(' ', '-').lower()}"
            directory.mkdir(exist_ok=True)
            envoy = EnvoyProcess(envoy_config(upstreams, server.address, Gateway(tls=variant.tls)), directory)
            stack.callback(envoy.stop)
            made[variant] = Measured(server, envoy, str(BUILD / "chat.json"), options.seconds(SECONDS))
        for measured in made.values():
            measured.envoy.wait_ready()
        yield made


def _rows(what: str, variant: Variant, figures: dict[str, tuple[float, ...]], rate: float, most: float) -> list[Row]:
    note = f"at {rate:,.0f} req/s" + (": overload" if most < rate else "")

    def row(said: str, unit: str, samples: tuple[float, ...], limit: float | None = None, how: str = note) -> Row:
        return Row(GROUP, f"{what}: {said}", unit, samples, limit, note=how, variant=str(variant))

    made = [row("Envoy with ext_proc", "req/s", (most,), how="closed loop")]
    for name, said in (("first", "first byte"), ("whole", "whole answer")):
        for key in WHICH:
            limit = P95_US if key == "p95" and variant == Variant("wire") else None
            made.append(row(f"added {key}, {said}", "µs", figures[f"{name} {key}"], limit))
    made.append(row("CPU of picker per request", "µs", figures["picker µs"]))
    made.append(row("CPU of Envoy per request", "µs", figures["envoy µs"]))
    made.append(row("errors", "", (sum(figures["errors"]),), None if most < rate else 0.0))
    return made
