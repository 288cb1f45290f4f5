"""The data plane's figures, put together to what the metrics page is made of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from picker import __version__
from picker._core.copies import read_endpoints, read_series, read_totals
from picker._core.flowcopies import read_flow
from picker.admin.metrics import Figure, PoolSnapshot, Snapshot
from picker.control.messages import (
    EndpointFigures,
    FlowFigures,
    FromData,
    PoolFigures,
    RewriteFigures,
    SeriesFigures,
    Start,
    Vitals,
)

__all__ = ["make_snapshot"]


def make_snapshot(
    messages: Sequence[FromData],
    start: Start,
    *,
    age_s: float,
    counters: Mapping[str, Figure],
    gauges: Mapping[str, Figure],
) -> Snapshot:
    """Of all pools. `age_s`: since the endpoints were last known to be those there are.

    Where there can be but one pool it goes by its name alone, as with other pickers; else its namespace is said, too.
    """
    (vitals,) = (message for message in messages if isinstance(message, Vitals))
    pools = [_pool(figures, parts, vitals.now_ns, age_s) for figures, parts in _by_pool(messages)]
    if not start.kubernetes.serves_several:
        pools = [replace(pool, name=pool.name.rpartition("/")[2]) for pool in pools]
    return Snapshot(
        version=__version__,
        shell=start.shell,
        now_ns=vitals.now_ns,
        stale_after_s=start.scrape.staleness_threshold_s,
        pools=pools,
        by_pool=start.kubernetes.serves_several,
        routing=vitals.routing,
        rate_limits=vitals.rate_limits,
        counters={**counters, **_own(vitals.figures)},
        gauges=gauges,
    )


def _pool(figures: PoolFigures, parts: Sequence[FromData], now_ns: int, age_s: float) -> PoolSnapshot:
    series = [row for part in parts if isinstance(part, SeriesFigures) for row in read_series(part.copies)]
    copies = [part.copies for part in parts if isinstance(part, EndpointFigures)]
    (flow,) = (part.copies for part in parts if isinstance(part, FlowFigures))
    return PoolSnapshot(
        name=figures.pool,
        stats={"series": series, **read_totals(figures.totals)},
        endpoints=[row for copy in copies for row in read_endpoints(copy, now_ns)],
        sessions=figures.sessions,
        buffered_bytes=figures.buffered_bytes,
        index_blocks=figures.index_blocks,
        index_bytes=figures.index_bytes,
        rewrites=[row for part in parts if isinstance(part, RewriteFigures) for row in part.rows],
        endpoints_age_s=age_s,
        plugins=figures.plugins,
        flow=read_flow(flow, now_ns),
    )


def _by_pool(messages: Iterable[FromData]) -> Iterator[tuple[PoolFigures, list[FromData]]]:
    found: list[tuple[PoolFigures, list[FromData]]] = []
    for message in messages:
        if isinstance(message, PoolFigures):
            found.append((message, []))
        elif found:
            found[-1][1].append(message)
    return iter(found)


_ABOUT = {
    "picker_config_reloads": "Edits of the configuration file taken over.",
    "picker_config_errors": "Edits of the configuration file not taken.",
    "picker_unknown_pool": "Streams for none of the pools that are served.",
    "picker_pools_refused": "Pools that could not be served.",
    "picker_orders_failed": "Orders of the control process that could not be carried out.",
}


def _own(figures: Mapping[str, float]) -> dict[str, Figure]:
    return {name: (_ABOUT[name], (), [((), value)]) for name, value in figures.items()}
