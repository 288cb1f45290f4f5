"""What every row group needs: servers that run side by side, taken in turns, and words about how far it is."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.load import script, tools
from benchmarks.load.options import BUILD, Options, Variant
from benchmarks.load.processes import Server, settle, start, write_endpoints
from benchmarks.load.row import shown
from picker.demo.processes import stop_all
from tests.support.shared import SHARED

MODEL_SERVERS = 8
WARM_UP_S = 0.3
METRICS = SHARED / "reference" / "vllm_metrics.txt"
OWN_METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="load"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="load"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="load"} 0.25
"""
console = Console(stderr=True, highlight=False)

Figures = dict[str, float]
Samples = dict[Variant, dict[str, tuple[float, ...]]]


def metrics_page() -> Path:
    """A recorded vLLM page where the shared reference data is, else a short one."""
    if METRICS.exists():
        return METRICS
    page = BUILD / "metrics.txt"
    page.write_text(OWN_METRICS)
    return page


@contextlib.contextmanager
def model_servers(ports: int = MODEL_SERVERS, **options: object) -> Iterator[tools.Upstream]:
    """Model servers that answer, and have a metrics page."""
    upstream = tools.Upstream(ports, BUILD / "upstream.log", metrics=metrics_page(), **options)
    try:
        upstream.wait_ready()
        yield upstream
    finally:
        upstream.child.stop()


@contextlib.contextmanager
def servers(
    variants: Sequence[Variant], *flags: str, endpoints: Sequence[str] | None = None
) -> Iterator[dict[Variant, Server]]:
    """One server for each variant, all up, and gone afterwards; over `endpoints`, or over model servers of its own."""
    with contextlib.ExitStack() as stack:
        if endpoints is None:
            endpoints = stack.enter_context(model_servers()).addresses
        file = write_endpoints(BUILD / "endpoints.yaml", endpoints)
        started = {variant: start(variant, file, *flags) for variant in variants}
        stack.callback(stop_all, [server.child for server in started.values()])
        for server in started.values():
            server.wait_ready()
        yield started


def in_turns(
    options: Options, what: str, running: Mapping[Variant, Server], measure: Callable[[Server], Figures]
) -> Samples:
    """Each round measures every variant once, in an order that turns round, so that no one always comes first."""
    taken: dict[Variant, dict[str, list[float]]] = {variant: {} for variant in running}
    for turn in range(options.rounds):
        order = tuple(running)[:: 1 if turn % 2 == 0 else -1]
        for variant in order:
            figures = measure(running[variant])
            for name, value in figures.items():
                taken[variant].setdefault(name, []).append(value)
            tell(f"{what} · {variant} · round {turn + 1} of {options.rounds}", figures)
            settle()
    return {variant: {name: tuple(values) for name, values in figures.items()} for variant, figures in taken.items()}


def tell(what: str, figures: Mapping[str, float] | None = None) -> None:
    """A line of progress."""
    said = ", ".join(f"{name} {shown(value)}" for name, value in (figures or {}).items())
    console.print(f"  {what}: {said}" if said else f"  {what}", style="dim", soft_wrap=True)


def scripts(name: str, made: Sequence[script.Script]) -> str:
    """The path of a file with these scripts."""
    return str(script.write(BUILD / f"{name}.script", made))


def extproc(server: Server, **options: object) -> tools.Report:
    """What the ext_proc client says."""
    return tools.run("extproc", target=server.address, tls=server.variant.tls, **options)


def load(server: Server, **options: object) -> tuple[tools.Report, float]:
    """The same and the CPU seconds of the server meanwhile. RuntimeError if any stream failed."""
    before_s = server.cpu_s()
    report = extproc(server, **options)
    used_s = server.cpu_s() - before_s
    if tools.errors(report) or not report["done"]:
        raise RuntimeError(f"{server.variant}: {report['done']} streams done, errors {report['errors']}")
    return report, used_s


def warm_up(running: Mapping[Variant, Server], **options: object) -> None:
    """What is paid once is paid before measuring."""
    for server in running.values():
        load(server, duration=WARM_UP_S, **options)
