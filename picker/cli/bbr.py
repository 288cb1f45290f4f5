"""Runs the body-based router: an ext_proc server that makes routing headers of request bodies, until SIGTERM drains it.

Its flags are those of the reference body-based router and picker's own.
"""

import argparse
import dataclasses
import importlib

from picker.cli.compat import add_ignored_flags, ignored_warnings
from picker.cli.core import require_core
from picker.cli.flags import FlagParser
from picker.cli.groups import add_group, largest_message, read_group
from picker.config.bbr import BbrListenSettings, BbrSettings
from picker.config.settings import BodyRoutingSettings, LimitSettings, LogSettings
from picker.errors import UsageError

__all__ = ["configure", "run", "settings_from"]

_PREFIX = "bbr-"  # of the same flags of `picker serve`
_HERE = frozenset(["port"])  # is --grpc-port
_IGNORED = (
    "enable-pprof",
    "tracing",
    "metrics-endpoint-auth",
    "zap-devel",
    "zap-log-level",
    "zap-stacktrace-level",
    "zap-time-encoding",
)


def configure(parser: FlagParser) -> None:
    """Every flag of the reference body-based router, and picker's own."""
    parser.usage = "picker bbr [--base-models-file FILE] [--plugin TYPE:NAME[:JSON]]... [FLAGS]"
    for group in (BbrListenSettings, LimitSettings, LogSettings):
        add_group(parser, group)
    add_group(parser, BodyRoutingSettings, without=_PREFIX, leave_out=_HERE)
    add_ignored_flags(parser, _IGNORED)


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Raises `UsageError`, `ConfigError` or `CoreUnavailable` if it cannot start."""
    settings = settings_from(args)
    require_core()
    code: int = importlib.import_module("picker.bbr.app").serve(settings)  # here: a wrong flag needs no server
    return code


def settings_from(args: argparse.Namespace) -> BbrSettings:
    """The settings these flags come to. Raises `UsageError`."""
    listen, limits = read_group(args, BbrListenSettings), read_group(args, LimitSettings)
    _check_ports(listen)
    received = listen.grpc_max_recv_msg_bytes or largest_message(limits)
    return BbrSettings(
        listen=dataclasses.replace(listen, grpc_max_recv_msg_bytes=received),
        limits=limits,
        routing=read_group(args, BodyRoutingSettings, without=_PREFIX, leave_out=_HERE),
        log=read_group(args, LogSettings),
        warnings=ignored_warnings(args, _IGNORED),
    )


def _check_ports(listen: BbrListenSettings) -> None:
    """Three servers, three ports; 0 is a free one each time."""
    used: dict[int, str] = {}
    for flag, port in (
        ("grpc-port", listen.grpc_port),
        ("grpc-health-port", listen.grpc_health_port),
        ("metrics-port", listen.metrics_port),
    ):
        if port and used.setdefault(port, flag) != flag:
            raise UsageError(f"picker bbr: --{used[port]} and --{flag} are both {port}; they must differ")
