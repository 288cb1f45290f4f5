"""Rolls out a new pool or adapter step by step, and back by itself if it does worse than the old one.

plan: what would happen, and whether it can. start: do it, and stay until it is over; after a crash, go on.
status: where it is. promote: all traffic to the new side now. rollback: all as it was now.
"""

import argparse
import asyncio
import importlib

from picker.cli.flags import FlagParser, choice, count, duration, port
from picker.errors import UsageError

__all__ = ["configure", "run"]

ACTIONS = ("plan", "start", "status", "promote", "rollback")


def share(given: str) -> float:
    """A share of requests."""
    return _real(given, 0.0, 1.0, "a share of requests, from 0 to 1, such as 0.01")


def quantile(given: str) -> float:
    """A quantile."""
    return _real(given, 0.01, 0.999, "a quantile from 0.01 to 0.999, such as 0.9")


def ratio(given: str) -> float:
    """How many times as long."""
    return _real(given, 1.0, 1e6, "a ratio of 1 or more, such as 1.5")


def steps(given: str) -> tuple[int, ...]:
    """Shares in per cent that rise to 100."""
    words = given.split(",")
    found = tuple(int(word) for word in words if word.isascii() and word.isdigit() and len(word) <= 3)
    rises = all(low < high for low, high in zip((0, *found), found, strict=False))
    if len(found) != len(words) or not rises or found[-1] != 100:
        raise argparse.ArgumentTypeError(
            f"{given[:60]!r} are not whole per cents that rise to 100, such as 10,25,50,100"
        )
    return found


def _real(given: str, low: float, high: float, what: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{given[:60]!r} is not {what}")
    return value


def configure(parser: FlagParser) -> None:
    """Adds the flags."""
    parser.usage = "picker rollout ACTION (--route NAME | --rewrite NAME --model ALIAS) --from OLD --to NEW [FLAGS]"
    parser.add_argument("action", choices=ACTIONS, help=f"one of: {', '.join(ACTIONS)}")
    _what(parser)
    _how(parser)
    _gates(parser)
    _where(parser)


def _what(parser: FlagParser) -> None:
    parser.flag("route", default="", help="HTTPRoute whose weights move: for nodes and base models")
    parser.flag("rewrite", default="", help="InferenceModelRewrite whose weights move: for adapters")
    parser.flag("model", default="", help="with --rewrite: the model that clients ask for")
    parser.flag("from", default="", help="the old InferencePool (name, or namespace/name), or the old target model")
    parser.flag("to", default="", help="the new one")


def _how(parser: FlagParser) -> None:
    parser.flag("steps", kind=steps, help="shares of the new side in per cent, rising to 100 (default 10,25,50,100)")
    parser.flag("every", kind=duration, help="how long each step is watched, at least (default 10m)")
    parser.flag("check-interval", kind=duration, help="between two looks at the metrics (default 5s)")
    parser.flag(
        "heartbeat", kind=duration, help="between signs of life; three missing: it may be taken over (default 10s)"
    )
    parser.flag(
        "hold-limit", kind=duration, help="how long a step waits for enough requests, then it is held (default 1h)"
    )
    parser.flag("blind-limit", kind=duration, help="how long metrics may be unreadable (default 5m)")
    parser.flag("warm-up", kind=duration, help="of each step, in which times to first token do not count (default 0)")
    parser.switch("again", help="start: go on although it is held, or try again after a rollback")


def _gates(parser: FlagParser) -> None:
    parser.flag("max-error-rate-increase", kind=share, help="new less old, as a share of requests (default 0.01)")
    parser.flag("max-shed-rate-increase", kind=share, help="the same of requests refused for load (default 0.02)")
    parser.flag("max-cancel-rate-increase", kind=share, help="the same of requests that clients gave up (default 0.1)")
    parser.flag("max-ttft-ratio", kind=ratio, help="time to first token of new to old (default 1.5)")
    parser.flag("ttft-quantile", kind=quantile, help="which of these times are compared (default 0.9)")
    parser.flag("ttft-slack", kind=duration, help="times longer by no more than this are never too long (default 50ms)")
    parser.flag("min-requests", kind=count, help="of the new side in a step, before it can end (default 100)")


def _where(parser: FlagParser) -> None:
    parser.flag("namespace", default="", help="of the object and of pools (default: that of the kubeconfig or pod)")
    parser.flag("kubeconfig", default="", help="file (default: in-cluster, else KUBECONFIG, else ~/.kube/config)")
    parser.flag("context", default="", help="of the kubeconfig")
    parser.several(
        "metrics",
        help="metrics page to read instead of those of picker's pods: URL, or old=URL and new=URL; repeatable",
    )
    parser.flag(
        "metrics-via",
        default="auto",
        kind=choice("auto", "api", "pods"),
        help="how picker's pods are read: api is through the API server, pods straight, with a token; "
        "auto (the default) is pods inside a cluster, else api",
    )
    parser.flag("metrics-token-file", default="", help="bearer token for metrics (default: the pod's own, if any)")
    parser.flag("metrics-ca-file", default="", help="certificate authorities of metrics pages")
    parser.switch("metrics-insecure-skip-verify", help="do not verify the certificates of metrics pages")
    parser.flag(
        "metrics-port", default=0, kind=port, help="of picker's pods (default: the port named metrics, else 9090)"
    )
    parser.flag("metrics-scheme", default="http", kind=choice("http", "https"), help="of picker's pods (default http)")
    parser.flag("output", default="text", kind=choice("text", "json"), help="text or json")


def run(args: argparse.Namespace) -> int:
    """Does it; the exit code says how it ended: 0 well, 1 not possible, 3 rolled back, 4 held. Raises PickerError."""
    _check(args)
    code: int = asyncio.run(importlib.import_module("picker.rollout.command").run(args))
    return code


def _check(args: argparse.Namespace) -> None:
    old, new = getattr(args, "from"), args.to
    if bool(args.route) == bool(args.rewrite):
        raise UsageError("name the object whose weights move: either --route NAME (pools) or --rewrite NAME (adapters)")
    if args.model and args.route:
        raise UsageError("--model goes with --rewrite; a route has pools, not models")
    if args.action == "plan" and not (old and new):
        raise UsageError("say what is rolled out: --from OLD --to NEW")
    if bool(old) != bool(new):
        raise UsageError("--from and --to go together")
    if old and old == new:
        raise UsageError(f"--from and --to are both {old}")
    if args.rewrite and old and not args.model:
        raise UsageError("say which model clients ask for: --model ALIAS")
    for flag in ("every", "check_interval", "heartbeat", "blind_limit"):
        if getattr(args, flag) == 0:
            raise UsageError(f"--{flag.replace('_', '-')} must be more than 0")
