"""Flags of the reference endpoint picker that picker reads but does not act on, so that old manifests still start.

Two answers: *ignored* (a warning says why) and *refused* (ignoring it would weaken security or hide a mistake).
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from picker.cli import flags
from picker.cli.flags import FlagParser
from picker.errors import UsageError

__all__ = ["add_compatibility_flags", "add_ignored_flags", "compatibility_warnings", "ignored_warnings"]


class _Flag(NamedTuple):
    """A flag, how it is read (None: boolean), the value that says nothing new, and what is answered otherwise."""

    name: str
    kind: Callable[[str], Any] | None
    neutral: Any
    answer: str


_LATER = "it comes in a later release"
IGNORED = (
    _Flag("allow-experimental-plugins", None, None, ""),
    _Flag("enable-pprof", None, False, "there is no profiling endpoint"),
    _Flag("tracing", None, False, f"nothing is traced: {_LATER}"),
    _Flag("enable-grpc-stream-metrics", None, False, f"there are no such metrics: {_LATER}"),
    _Flag("refresh-prometheus-metrics-interval", flags.duration, None, "pool metrics are computed when they are read"),
    _Flag("emit-endpoint-scores", None, False, "scores of the latest picks stand on /debug/decisions"),
    _Flag("zap-devel", None, False, "use --v and --zap-encoder"),
    _Flag("zap-log-level", flags.text, None, "use --v"),
    _Flag("zap-stacktrace-level", flags.text, None, "errors always carry their traceback"),
    _Flag("zap-time-encoding", flags.text, None, "times are seconds since the epoch"),
)
_OPEN = "/metrics is served without authentication; restrict it by network policy"
ELSEWHERE = (_Flag("metrics-endpoint-auth", None, False, _OPEN),)
"""Without effect in commands other than `picker serve`."""

_ENGINE_CONFIGS = "name the series in the configuration: core-metrics-extractor, parameters.engineConfigs"
REFUSED = (
    _Flag("total-queued-requests-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("total-running-requests-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("kv-cache-usage-percentage-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("lora-info-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("cache-info-metric", flags.text, "", _ENGINE_CONFIGS),
)


def add_compatibility_flags(parser: FlagParser) -> None:
    """Adds the flags of this module; their default None tells them from being given."""
    _add(parser, (*IGNORED, *REFUSED))


def _add(parser: FlagParser, table: tuple[_Flag, ...]) -> None:
    for flag in table:
        about = f"accepted for compatibility; {flag.answer}" if flag.answer else "accepted for compatibility"
        if flag.kind is None:
            parser.add_argument(f"--{flag.name}", action=flags.Switch, type=flags.boolean, help=about, metavar="BOOL")
        else:
            parser.flag(flag.name, kind=flag.kind, help=about)


def add_ignored_flags(parser: FlagParser, names: Sequence[str]) -> None:
    """Adds those of the flags without effect that another command takes too."""
    _add(parser, tuple(flag for flag in (*IGNORED, *ELSEWHERE) if flag.name in names))


def ignored_warnings(args: argparse.Namespace, names: Sequence[str]) -> tuple[str, ...]:
    """What to warn of if they are given."""
    given = _given(args, tuple(flag for flag in (*IGNORED, *ELSEWHERE) if flag.name in names))
    return tuple(f"--{flag.name} has no effect: {flag.answer}" for flag, _ in given if flag.answer)


def compatibility_warnings(args: argparse.Namespace) -> tuple[str, ...]:
    """What to warn of. Raises `UsageError` for a refused flag."""
    for flag, _ in _given(args, REFUSED):
        raise UsageError(f"picker serve: --{flag.name} cannot be honoured: {flag.answer}")
    return tuple(f"--{flag.name} has no effect: {flag.answer}" for flag, _ in _given(args, IGNORED) if flag.answer)


def _given(args: argparse.Namespace, table: tuple[_Flag, ...]) -> Iterator[tuple[_Flag, Any]]:
    """The flags of `table` that were given a value which asks for something."""
    for flag in table:
        value = getattr(args, flag.name.replace("-", "_"))
        if value is not None and value != flag.neutral:
            yield flag, value
