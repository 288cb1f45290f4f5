"""What the two processes say to each other: small typed messages, msgpack by msgspec.

The control process orders and asks; the data plane obeys and answers, in the order of the questions. Both are the same
build on the same machine, so figures travel as images of C structs (`picker._core.copies`) and times as readings of
the one monotonic clock.
"""

from typing import Any, Literal, TypeAlias

import msgspec

from picker.config.settings import (
    AdminSettings,
    DiscoverySettings,
    ElectionSettings,
    KubernetesSettings,
    LogSettings,
    ScrapeSettings,
)
from picker.config.support import CoreMetricsExtractor
from picker.resources.rules import RewriteRules
from picker.types import Endpoint, EndpointKey, ScrapedLoad

__all__ = [
    "Ask",
    "Change",
    "Close",
    "End",
    "EndpointFigures",
    "FlowFigures",
    "FromControl",
    "FromData",
    "Known",
    "Leading",
    "Naming",
    "Observed",
    "Open",
    "PoolFigures",
    "Prioritising",
    "Question",
    "Resign",
    "RewriteFigures",
    "Rewriting",
    "Rows",
    "Scraping",
    "SeriesFigures",
    "Start",
    "Synced",
    "Text",
    "Vitals",
]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """In a union told apart by the class's name."""


# --- from the control process ---

Question: TypeAlias = Literal["ready", "busy", "snapshot", "decisions"]


class Open(_Message, frozen=True):
    """There is this pool; gateways call its picker by these authorities."""

    pool: str
    authorities: tuple[str, ...]


class Close(_Message, frozen=True):
    """There is no such pool any more."""

    pool: str


class Change(_Message, frozen=True):
    """Endpoints of a pool went (`ip:port`), came, or changed."""

    pool: str
    gone: tuple[str, ...]
    come: tuple[Endpoint, ...]


class Observed(_Message, frozen=True):
    """What metrics pages said."""

    pool: str
    loads: tuple[tuple[EndpointKey, ScrapedLoad], ...]


class Rewriting(_Message, frozen=True):
    """A piece of a pool's new rewrite rules, in order of precedence; they are in force with the last piece."""

    pool: str
    rules: RewriteRules
    is_first: bool
    is_last: bool


class Prioritising(_Message, frozen=True):
    """A piece of a pool's objectives with their priorities; they are in force with the last piece."""

    pool: str
    objectives: tuple[tuple[str, int], ...]
    is_first: bool
    is_last: bool


class Naming(_Message, frozen=True):
    """A piece of what the base model of each model is; in force with the last piece."""

    models: tuple[tuple[str, str], ...]
    is_first: bool
    is_last: bool


class Synced(_Message, frozen=True):
    """Whether what is to be served is known, so that picker may ask for traffic."""

    is_synced: bool


class Leading(_Message, frozen=True):
    """This picker leads until then, by the monotonic clock both processes read; 0: it does not."""

    until_ns: int


class Ask(_Message, frozen=True):
    """A question; the answer is any number of messages and an `End`."""

    what: Question
    limit: int = 0


FromControl: TypeAlias = Open | Close | Change | Observed | Rewriting | Prioritising | Naming | Synced | Leading | Ask


# --- from the data plane ---


class Known(_Message, frozen=True):
    """Endpoints that a pool of the data plane has already; comes before `Start`, in pieces."""

    pool: str
    endpoints: tuple[Endpoint, ...]


class Start(_Message, frozen=True):
    """Begin. `pool` is that of the endpoints file ("": there is no file), `fingerprint` what was read of it ("": not
    known), `confirmed_ns` when the endpoints last were known to be current, `restarts` how often this process has been
    started again. `identity`: who picker is where several stand for election. `is_leaving`: as if `Resign` followed."""

    scrape: ScrapeSettings
    discovery: DiscoverySettings
    kubernetes: KubernetesSettings
    election: ElectionSettings
    admin: AdminSettings
    log: LogSettings
    extractor: CoreMetricsExtractor | None
    identity: str
    pool: str
    fingerprint: str
    confirmed_ns: int
    restarts: int
    shell: str
    is_leaving: bool = False


class Scraping(_Message, frozen=True):
    """Another configuration is in force, by which metrics are to be read."""

    scrape: ScrapeSettings
    extractor: CoreMetricsExtractor | None


class Resign(_Message, frozen=True):
    """Lead no more, and do not ask to: this picker stops."""


class Text(_Message, frozen=True):
    """One word or many lines."""

    text: bytes


class Vitals(_Message, frozen=True):
    """What a metrics page needs beside the figures of the pools.

    `figures`: counters of the data plane, by name. `routing`: the figures of the body-based router, if there is one.
    `rate_limits`: `RateLimiting.figures()`.
    """

    now_ns: int
    figures: dict[str, float]
    routing: dict[str, Any] | None = None
    rate_limits: list[dict[str, Any]] = []


class PoolFigures(_Message, frozen=True):
    """Those of one pool; its `SeriesFigures`, `EndpointFigures`, `FlowFigures` and `RewriteFigures` follow.

    `totals`: `copies.copy_totals`.
    """

    pool: str
    sessions: int
    buffered_bytes: int
    index_blocks: int
    index_bytes: int
    totals: bytes
    plugins: list[dict[str, Any]]


class SeriesFigures(_Message, frozen=True):
    """A piece of `copies.copy_series`."""

    copies: bytes


class EndpointFigures(_Message, frozen=True):
    """A piece of `copies.copy_endpoints`."""

    copies: bytes


class FlowFigures(_Message, frozen=True):
    """`flowcopies.copy_flow`."""

    copies: bytes


class RewriteFigures(_Message, frozen=True):
    """Decisions by rewrite rules: name of the object, model asked for, target, how many."""

    rows: list[tuple[str, str, str, int]]


class Rows(_Message, frozen=True):
    """Decisions, as they are shown."""

    rows: list[dict[str, Any]]


class End(_Message, frozen=True):
    """The answer is whole."""


FromData: TypeAlias = (
    Known
    | Start
    | Scraping
    | Resign
    | Text
    | Vitals
    | PoolFigures
    | SeriesFigures
    | EndpointFigures
    | FlowFigures
    | RewriteFigures
    | Rows
    | End
)
