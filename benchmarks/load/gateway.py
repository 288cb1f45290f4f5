"""Through a real Envoy (one worker): what picker adds to a streaming chat of 20 chunks.

The same Envoy, model servers and client with and without ext_proc, in turns; what is added is the difference of
percentiles. Two paces: the model servers write all chunks at once, or one every two milliseconds as a model talks, so
that each is an ext_proc message of its own. Three rates: half of what Envoy carries without ext_proc, which may be more
than it carries with it (its own cost per request grows several times, whatever the picker does), half of what it
carries with the first shell, and so few that client, Envoy, picker and model servers do not wait for each other.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.load import bench, exchanges, tools
from benchmarks.load.options import BUILD, Options, Variant
from benchmarks.load.processes import Server, cpu_s, settle
from benchmarks.load.row import Row
from picker.demo.envoy import EnvoyProcess, Gateway, envoy_config

GROUP = "gateway"
CHUNKS, BODY_BYTES = 20, 1024
PACES_MS = {"chunks at once": 0.0, "chunks 2 ms apart": 2.0}
SECONDS = 2.0
CLOSED, OPEN = 256, 1024  # connections
GRACE_S = 3
CALM = 300.0  # requests per second
MARGIN = 1.1  # between a rate and the most that is carried: with less, a queue only grows
P95_US = 1500.0
ADDED = ("first p50", "first p95", "first p99", "whole p95")
SAID = {"first": "first byte", "whole": "whole answer"}
BARE, WITH = "round_robin", "picker"  # the listeners


@dataclass
class Measured:
    """One variant behind its Envoy."""

    server: Server
    envoy: EnvoyProcess
    body: str
    seconds: float

    def run(self, listener: str, **options: object) -> tuple[tools.Report, float, float]:
        """What the client says, CPU seconds of picker and of Envoy. Errors are reported: overload is a finding."""
        before = self.server.cpu_s(), cpu_s(self.envoy.child.pid)
        target = self.envoy.addresses[listener]
        report = tools.run("http", target=target, body=self.body, duration=self.seconds, grace=GRACE_S, **options)
        after = self.server.cpu_s(), cpu_s(self.envoy.child.pid)
        settle(0.1)
        return report, after[0] - before[0], after[1] - before[1]

    def carried(self, listener: str) -> float:
        """Requests per second in a closed loop."""
        return float(self.run(listener, connections=CLOSED)[0]["rate"])

    def added(self, rate: float) -> bench.Figures:
        """At the same rate with and without: the difference of percentiles, and CPU per request."""
        bare, _, envoy_bare = self.run(BARE, connections=OPEN, rate=rate)
        full, picker, envoy = self.run(WITH, connections=OPEN, rate=rate)
        done, done_bare = max(1, full["done"]), max(1, bare["done"])
        figures = {}
        for name in ADDED:
            latency, key = name.split()
            figures[name] = full[f"{latency}_us"][key] - bare[f"{latency}_us"][key]
        figures |= {"picker µs": picker / done * 1e6, "Envoy µs": envoy / done * 1e6}
        return {**figures, "bare Envoy µs": envoy_bare / done_bare * 1e6, "errors": float(tools.errors(full))}


def rows(options: Options) -> list[Row]:
    """What Envoy carries; added time to the first byte and to the end; CPU of picker and of Envoy."""
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
        without = [entry.carried(BARE) for entry in measured.values()]
        within = {variant: entry.carried(WITH) for variant, entry in measured.items()}
        bench.tell(f"{pace}: req/s without ext_proc {max(without):,.0f}, with it", _named(within))
        made = [Row(GROUP, f"{pace}: Envoy without ext_proc", "req/s", tuple(without), note="closed loop")]
        made += [_row(variant, pace, "Envoy", "req/s", (rate,), "closed loop") for variant, rate in within.items()]
        rates = {
            "half of its bare rate": max(without) / 2,
            "half of its rate": next(iter(within.values())) / 2,
            "with cores to spare": CALM,
        }
        for said, rate in rates.items():
            made += _at(options, measured, within, pace, rate, f"at {rate:,.0f} req/s, {said}")
        return made


def _named(figures: dict[Variant, float]) -> dict[str, float]:
    return {str(variant): value for variant, value in figures.items()}


def _at(
    options: Options, measured: dict[Variant, Measured], most: dict[Variant, float], pace: str, rate: float, note: str
) -> list[Row]:
    """Rows at one rate; of the variants for which it is too much only how late they are, taken once."""
    able = {variant: entry.server for variant, entry in measured.items() if most[variant] > rate * MARGIN}
    unable = {variant: entry.server for variant, entry in measured.items() if variant not in able}

    def measure(server: Server) -> bench.Figures:
        return measured[server.variant].added(rate)

    made: list[Row] = []
    for variant, figures in bench.in_turns(options, f"{pace}, {rate:,.0f} req/s", able, measure).items():
        made += _rows(variant, pace, figures, note)
    once = bench.in_turns(replace(options, rounds=1), f"{pace}, {rate:,.0f} req/s, overload", unable, measure)
    for variant, figures in once.items():
        made.append(_latency(variant, pace, "first p95", figures, f"{note}: about all it carries, or more"))
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


def _row(variant: Variant, pace: str, what: str, unit: str, samples: tuple[float, ...], note: str) -> Row:
    return Row(GROUP, f"{pace}: {what}", unit, samples, note=note, variant=str(variant))


def _latency(variant: Variant, pace: str, name: str, figures: dict[str, tuple[float, ...]], note: str) -> Row:
    latency, key = name.split()
    row = _row(variant, pace, f"added {key}, {SAID[latency]}", "µs", figures[name], note)
    return replace(row, limit=P95_US) if key == "p95" and variant == Variant("wire") else row


def _rows(variant: Variant, pace: str, figures: dict[str, tuple[float, ...]], note: str) -> list[Row]:
    made = [_latency(variant, pace, name, figures, note) for name in ADDED]
    bare = f"{min(figures['bare Envoy µs']):,.0f} to {max(figures['bare Envoy µs']):,.0f} µs without ext_proc"
    made.append(_row(variant, pace, "CPU of picker per request", "µs", figures["picker µs"], note))
    made.append(_row(variant, pace, "CPU of Envoy per request", "µs", figures["Envoy µs"], bare))
    errors = _row(variant, pace, "errors", "", (sum(figures["errors"]),), note)
    return [*made, replace(errors, limit=0.0)]
