"""Flags of the reference endpoint picker that picker reads but does not act on, so that old manifests still start.

Three answers: *ignored* (a warning says why), *refused* (ignoring it would weaken security or hide a mistake), and
the flags of Kubernetes discovery, which wait for a later release.
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
    _Flag(
        "metrics-endpoint-auth", None, False, "/metrics is served without authentication; restrict it by network policy"
    ),
    _Flag("enable-grpc-stream-metrics", None, False, f"there are no such metrics: {_LATER}"),
    _Flag("ha-enable-leader-election", None, False, "every replica serves; there is no leader"),
    _Flag("refresh-prometheus-metrics-interval", flags.duration, None, "pool metrics are computed when they are read"),
    _Flag("pool-group", flags.text, "inference.networking.k8s.io", f"Kubernetes discovery: {_LATER}"),
    _Flag(
        "endpoint-target-ports", flags.text, None, f"Kubernetes discovery: {_LATER}; ports stand in the endpoints file"
    ),
    _Flag("emit-endpoint-scores", None, False, "scores of the latest picks stand on /debug/decisions"),
    _Flag("zap-devel", None, False, "use --v and --zap-encoder"),
    _Flag("zap-log-level", flags.text, None, "use --v"),
    _Flag("zap-stacktrace-level", flags.text, None, "errors always carry their traceback"),
    _Flag("zap-time-encoding", flags.text, None, "times are seconds since the epoch"),
)
_ENGINE_CONFIGS = "name the series in the configuration: core-metrics-extractor, parameters.engineConfigs"
REFUSED = (
    _Flag("metrics-cert-dir", flags.text, "", f"/metrics over TLS: {_LATER}"),
    _Flag("metrics-client-ca-file", flags.text, "", f"client certificates for /metrics: {_LATER}"),
    _Flag("total-queued-requests-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("total-running-requests-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("kv-cache-usage-percentage-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("lora-info-metric", flags.text, "", _ENGINE_CONFIGS),
    _Flag("cache-info-metric", flags.text, "", _ENGINE_CONFIGS),
)


def add_compatibility_flags(parser: FlagParser) -> None:
    """Adds the flags of this module; their default None tells them from being given."""
    _add(parser, (*IGNORED, *REFUSED))
    parser.flag("endpoint-selector", default="", help=f"label selector of the pods; Kubernetes discovery: {_LATER}")


def _add(parser: FlagParser, table: tuple[_Flag, ...]) -> None:
    for flag in table:
        about = f"accepted for compatibility; {flag.answer}" if flag.answer else "accepted for compatibility"
        if flag.kind is None:
            parser.add_argument(f"--{flag.name}", action=flags.Switch, type=flags.boolean, help=about, metavar="BOOL")
        else:
            parser.flag(flag.name, kind=flag.kind, help=about)


def add_ignored_flags(parser: FlagParser, names: Sequence[str]) -> None:
    """Adds those of the flags without effect that another command takes too."""
    _add(parser, tuple(flag for flag in IGNORED if flag.name in names))


def ignored_warnings(args: argparse.Namespace, names: Sequence[str]) -> tuple[str, ...]:
    """What to warn of if they are given."""
    given = _given(args, tuple(flag for flag in IGNORED if flag.name in names))
    return tuple(f"--{flag.name} has no effect: {flag.answer}" for flag, _ in given if flag.answer)


def compatibility_warnings(args: argparse.Namespace, *, has_endpoints: bool) -> tuple[str, ...]:
    """What to warn of. Raises `UsageError` for a refused flag, or if no endpoints file says where to route."""
    for flag, _ in _given(args, REFUSED):
        raise UsageError(f"picker serve: --{flag.name} cannot be honoured: {flag.answer}")
    kubernetes = [name for name in ("pool-name", "endpoint-selector") if getattr(args, name.replace("-", "_"))]
    if not has_endpoints:
        if kubernetes:
            names = " and ".join(f"--{name}" for name in kubernetes)
            raise UsageError(
                f"picker serve: {names}: finding pods through Kubernetes comes in a later release; "
                "name the endpoints in a file and pass --endpoints-file"
            )
        raise UsageError("picker serve: no endpoints to route to; pass --endpoints-file FILE")
    warnings = [f"--{flag.name} has no effect: {flag.answer}" for flag, _ in _given(args, IGNORED) if flag.answer]
    if "pool-name" in kubernetes:
        warnings.append("--pool-name labels metrics and chooses objects: endpoints come from the endpoints file")
    if "endpoint-selector" in kubernetes:
        warnings.append("--endpoint-selector has no effect: endpoints come from the endpoints file")
    return tuple(warnings)


def _given(args: argparse.Namespace, table: tuple[_Flag, ...]) -> Iterator[tuple[_Flag, Any]]:
    """The flags of `table` that were given a value which asks for something."""
    for flag in table:
        value = getattr(args, flag.name.replace("-", "_"))
        if value is not None and value != flag.neutral:
            yield flag, value
