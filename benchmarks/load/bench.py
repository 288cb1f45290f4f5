"""What every row group needs: servers that run side by side, taken in turns, and words about how far it is."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.load import script, tools
from benchmarks.load.options import BUILD, Options, Variant
from benchmarks.load.processes import Server, settle, start, write_endpoints
from benchmarks.load.row import shown
from picker.demo.processes import stop_all

NOWHERE = ("127.0.0.1:9", "127.0.0.1:10")
console = Console(stderr=True, highlight=False)

Figures = dict[str, float]
Samples = dict[Variant, dict[str, tuple[float, ...]]]


@contextlib.contextmanager
def servers(
    variants: Sequence[Variant], *flags: str, endpoints: Sequence[str] = NOWHERE, name: str = "picker"
) -> Iterator[dict[Variant, Server]]:
    """One server for each variant, all up, and gone afterwards."""
    file = write_endpoints(BUILD / f"{name}-endpoints.yaml", endpoints)
    started = {variant: start(variant, file, *flags, name=name) for variant in variants}
    try:
        for server in started.values():
            server.wait_ready()
        yield started
    finally:
        stop_all([server.child for server in started.values()])


def in_turns(
    options: Options, what: str, running: Mapping[Variant, Server], measure: Callable[[Server], Figures]
) -> Samples:
    """Each round measures every variant once, in an order that turns round, so that no one always comes first."""
    taken: dict[Variant, dict[str, list[float]]] = {variant: {} for variant in running}
    for turn in range(options.rounds):
        order = list(running) if turn % 2 == 0 else list(reversed(running))
        for variant in order:
            figures = measure(running[variant])
            for name, value in figures.items():
                taken[variant].setdefault(name, []).append(value)
            said = ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
            console.print(f"  {what} · {variant} · round {turn + 1} of {options.rounds}: {said}", style="dim")
            settle()
    return {variant: {name: tuple(values) for name, values in figures.items()} for variant, figures in taken.items()}


def scripts(name: str, made: Sequence[script.Script]) -> str:
    """The path of a file with these scripts."""
    return str(script.write(BUILD / f"{name}.script", made))


def load(server: Server, **options: object) -> tuple[tools.Report, float]:
    """What the ext_proc client says, and the CPU seconds of the server meanwhile. RuntimeError if any stream failed."""
    before_s = server.cpu_s()
    report = tools.run("extproc", target=server.address, tls=server.variant.tls, **options)
    used_s = server.cpu_s() - before_s
    if tools.errors(report) or not report["done"]:
        raise RuntimeError(f"{server.variant}: {report['done']} streams done, errors {report['errors']}")
    return report, used_s


def percentiles(report: tools.Report, name: str, *which: str) -> Figures:
    """Some of a latency's percentiles, in microseconds, by `name p50` and so on."""
    shown_name: dict[str, Any] = report[f"{name}_us"]
    return {f"{name} {key}": float(shown_name[key]) for key in which}
