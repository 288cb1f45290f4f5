"""What the two processes say to each other: small typed messages, msgpack by msgspec.

The control process orders and asks; the data plane obeys and answers, in the order of the questions. Both are the same
build on the same machine, so figures travel as images of C structs (`picker._core.copies`) and times as readings of
the one monotonic clock.
"""

from typing import Any, Literal, TypeAlias

import msgspec

from picker.config.settings import DiscoverySettings, LogSettings, ScrapeSettings
from picker.config.support import CoreMetricsExtractor
from picker.resources.rules import RewriteRules
from picker.types import Endpoint, EndpointKey, ScrapedLoad

__all__ = [
    "Ask",
    "Change",
    "End",
    "EndpointFigures",
    "FromControl",
    "FromData",
    "Known",
    "Observed",
    "Question",
    "RewriteFigures",
    "Rewriting",
    "Rows",
    "SeriesFigures",
    "Start",
    "Text",
    "Vitals",
]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """In a union told apart by the class's name."""


# --- from the control process ---

Question: TypeAlias = Literal["ready", "busy", "snapshot", "decisions"]


class Change(_Message, frozen=True):
    """Endpoints went (`ip:port`), came, or changed."""

    gone: tuple[str, ...]
    come: tuple[Endpoint, ...]


class Observed(_Message, frozen=True):
    """What metrics pages said."""

    loads: tuple[tuple[EndpointKey, ScrapedLoad], ...]


class Rewriting(_Message, frozen=True):
    """A piece of new rewrite rules, in order of precedence; they are in force with the last piece."""

    rules: RewriteRules
    is_first: bool
    is_last: bool


class Ask(_Message, frozen=True):
    """A question; the answer is any number of messages and an `End`."""

    what: Question
    limit: int = 0


FromControl: TypeAlias = Change | Observed | Rewriting | Ask


# --- from the data plane ---


class Known(_Message, frozen=True):
    """Endpoints the data plane has already; comes before `Start`, in pieces."""

    endpoints: tuple[Endpoint, ...]


class Start(_Message, frozen=True):
    """Begin. `fingerprint` is that of the file the endpoints came from ("": not known), `confirmed_ns` when they last
    were known to be current, `restarts` how often this process has been started again. Objects for other
    pools than `resources_pool` do not count ("": all do)."""

    scrape: ScrapeSettings
    discovery: DiscoverySettings
    log: LogSettings
    extractor: CoreMetricsExtractor | None
    pool: str
    fingerprint: str
    resources_pool: str
    confirmed_ns: int
    restarts: int
    shell: str


class Text(_Message, frozen=True):
    """One word or many lines."""

    text: bytes


class Vitals(_Message, frozen=True):
    """What a metrics page needs beside the figures by model and endpoint.

    `totals`: `copies.copy_totals`. `routing`: the figures of the body-based router, if there is one.
    """

    now_ns: int
    sessions: int
    buffered_bytes: int
    index_blocks: int
    index_bytes: int
    totals: bytes
    plugins: list[dict[str, Any]]
    routing: dict[str, Any] | None = None


class SeriesFigures(_Message, frozen=True):
    """A piece of `copies.copy_series`."""

    copies: bytes


class EndpointFigures(_Message, frozen=True):
    """A piece of `copies.copy_endpoints`."""

    copies: bytes


class RewriteFigures(_Message, frozen=True):
    """Decisions by rewrite rules: name of the object, model asked for, target, how many."""

    rows: list[tuple[str, str, str, int]]


class Rows(_Message, frozen=True):
    """Decisions, as they are shown."""

    rows: list[dict[str, Any]]


class End(_Message, frozen=True):
    """The answer is whole."""


FromData: TypeAlias = Known | Start | Text | Vitals | SeriesFigures | EndpointFigures | RewriteFigures | Rows | End
