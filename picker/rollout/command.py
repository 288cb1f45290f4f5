"""`picker rollout` behind its flags: connects, puts plan, checks and controller together, and shows them."""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec.structs import replace
from rich.console import Console

from picker.errors import KubernetesError, PickerError, UsageError
from picker.kube.client import KubeClient
from picker.rollout.byhand import finish, status
from picker.rollout.checks import Check, check_all
from picker.rollout.controller import Controller, Ended, now_text
from picker.rollout.judge import Thresholds
from picker.rollout.machine import ObjectKind, Phase, Plan
from picker.rollout.metrics import Direct, Metrics, Pages, PodPages, UrlPages
from picker.rollout.pages import Side
from picker.rollout.pods import PoolObject, find_pool
from picker.rollout.record import Record, read_record
from picker.rollout.show import as_json, one_line, show_checks, show_plan, show_status
from picker.rollout.store import Store
from picker.rollout.weights import Json, current, expected, original_of

__all__ = ["run"]

WIDE = 240
"""Columns of a table that goes to a file or another program, which should not cut sentences."""
FAILED, ROLLED_BACK, HELD, STOPPED = 1, 3, 4, 143
_GO_ON = {
    ROLLED_BACK: "not started: this was rolled back; to try the same again give --from, --to and --again",
    HELD: "not started: this is held; go on with --again, or with 'picker rollout promote' or 'rollback'",
}
"""What to do next, by the exit code of a `start` that leaves all as it is."""

IN_CLUSTER_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
DEFAULT_STEPS, DEFAULT_EVERY_S = (10, 25, 50, 100), 600.0
_PLAN_FLAGS = {
    "steps": "steps",
    "every": "every_s",
    "check_interval": "check_s",
    "heartbeat": "heartbeat_s",
    "hold_limit": "hold_limit_s",
    "blind_limit": "blind_limit_s",
    "warm_up": "warm_up_s",
}
_GATE_FLAGS = {
    "max_error_rate_increase": "max_error_rate_increase",
    "max_shed_rate_increase": "max_shed_rate_increase",
    "max_cancel_rate_increase": "max_cancel_rate_increase",
    "max_ttft_ratio": "max_ttft_ratio",
    "ttft_quantile": "ttft_quantile",
    "ttft_slack": "ttft_slack_s",
    "min_requests": "min_requests",
}


async def run(args: argparse.Namespace) -> int:
    """Does what the action says; returns the exit code. Raises PickerError."""
    client = await KubeClient.connect(kubeconfig=args.kubeconfig, context=args.context)
    try:
        return await _Command(args, client).run()
    finally:
        await client.close()


class _Command:
    """One call of the command."""

    def __init__(self, args: argparse.Namespace, client: KubeClient) -> None:
        self._args, self._client = args, client
        self._namespace = args.namespace or client.namespace
        kind: ObjectKind = "HTTPRoute" if args.route else "InferenceModelRewrite"
        self._store = Store(client, kind, self._namespace, args.route or args.rewrite)
        width = None if sys.stdout.isatty() else WIDE
        self._console = Console(highlight=False, soft_wrap=True, width=width)

    async def run(self) -> int:
        action = self._args.action
        if action == "plan":
            return await self._plan()
        if action == "start":
            return await self._start()
        if action == "status":
            record = await status(self._store)
        else:
            record = await finish(self._store, Phase.COMPLETED if action == "promote" else Phase.ROLLED_BACK)
        await self._show(record)
        return 0

    # --- plan ---

    async def _plan(self) -> int:
        plan = self._asked()
        found = await self._store.read()
        async with AsyncExitStack() as stack:
            plan, pools, metrics = await self._sides(plan, found, stack)
            checks = await check_all(self._client, plan, found, pools, metrics)
        self._show_plan(plan, found, checks)
        return FAILED if _failed(checks) else 0

    def _show_plan(self, plan: Plan, found: Json, checks: Sequence[Check]) -> None:
        original = original_of(found, plan)
        steps = [expected(found, plan, original, share) for share in plan.steps]
        if self._args.output == "json":
            shown: Json = {
                "object": str(self._store),
                "plan": msgspec.to_builtins(plan),
                "weights": [{str(rule): weights for rule, weights in step.items()} for step in steps],
                "checks": [{"what": each.what, "is_good": each.is_good, "found": each.found} for each in checks],
                "can_start": not _failed(checks),
            }
            print(json.dumps(shown, indent=1))
            return
        show_plan(self._console, str(self._store), plan, steps)
        show_checks(self._console, checks)

    # --- start ---

    async def _start(self) -> int:
        found = await self._store.read()
        record = read_record(found)
        if record is not None and (code := self._before(record)) is not None:
            await self._show(record)
            if code in _GO_ON:
                print(_GO_ON[code], file=sys.stderr)
            return code
        goes_on = record is not None and record.state.phase in (Phase.PROGRESSING, Phase.HELD)
        plan = record.plan if goes_on and record is not None else self._asked()
        async with AsyncExitStack() as stack:
            plan, pools, metrics = await self._sides(plan, found, stack)
            if not goes_on:
                await self._demand(plan, found, pools, metrics)
            return await self._control(plan, metrics, goes_on=goes_on)

    def _before(self, record: Record) -> int | None:
        """The exit code if an earlier rollout leaves nothing to start. Raises UsageError if it is another one."""
        phase, args = record.state.phase, self._args
        if phase in (Phase.PROGRESSING, Phase.HELD):
            if differs := self._differences(record.plan):
                what = f"a rollout from {record.plan.old} to {record.plan.new} is under way, with other"
                hint = "go on with the same flags or with none, or promote it, or roll it back"
                raise UsageError(f"{what} {', '.join(differs)}; {hint}")
            return HELD if phase is Phase.HELD and not args.again else None
        if args.to and (args.again or self._sides_differ(record.plan)):
            return None
        return 0 if phase is Phase.COMPLETED else ROLLED_BACK

    def _differences(self, plan: Plan) -> list[str]:
        """Flags that were given and are not what it began with."""
        args = self._args
        found = self._sides_differ(plan) if args.to else []
        for flags, there in ((_PLAN_FLAGS, plan), (_GATE_FLAGS, plan.thresholds)):
            for flag, member in flags.items():
                given = getattr(args, flag)
                if given is not None and given != getattr(there, member):
                    found.append(f"--{flag.replace('_', '-')}")
        return found

    def _sides_differ(self, plan: Plan) -> list[str]:
        asked = self._asked()
        flags = {"--from": (asked.old, plan.old), "--to": (asked.new, plan.new), "--model": (asked.model, plan.model)}
        return [flag for flag, (given, there) in flags.items() if given != there]

    async def _demand(self, plan: Plan, found: Json, pools: tuple[PoolObject, PoolObject], metrics: Metrics) -> None:
        checks = await check_all(self._client, plan, found, pools, metrics)
        if failed := _failed(checks):
            raise PickerError("cannot start: " + "; ".join(f"{check.what}: {check.found}" for check in failed))
        for check in checks:
            if check.is_good is None:
                print(f"mind: {check.what}: {check.found}", file=sys.stderr)

    async def _control(self, plan: Plan, metrics: Metrics, *, goes_on: bool) -> int:
        """Until it is over, or a signal comes; then another `start` goes on."""
        name = f"{socket.gethostname()}/{os.getpid()}/{os.urandom(3).hex()}"
        say = _Progress(Console(highlight=False, soft_wrap=True, stderr=self._args.output == "json")).say
        again = self._args.again
        controller = Controller(self._store, metrics, plan, name, goes_on=goes_on, again=again, say=say)
        task = asyncio.ensure_future(controller.run())
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, task.cancel)
        try:
            record = await task
        except asyncio.CancelledError:
            print("stopped; the weights stay, and 'picker rollout start' goes on from here", file=sys.stderr)
            return STOPPED
        except Ended as ended:
            raise PickerError(f"stopped: {ended.reason}") from None
        await self._show(record)
        return {Phase.COMPLETED: 0, Phase.ROLLED_BACK: ROLLED_BACK}.get(record.state.phase, HELD)

    # --- what the flags say ---

    def _asked(self) -> Plan:
        args = self._args
        old, new = getattr(args, "from"), args.to
        if not (old and new):
            raise UsageError("say what is rolled out: --from OLD --to NEW")
        if args.route:
            old, new = (name if "/" in name else f"{self._namespace}/{name}" for name in (old, new))
        limits = {member: getattr(args, flag) for flag, member in _GATE_FLAGS.items()}
        given = {member: getattr(args, flag) for flag, member in _PLAN_FLAGS.items()}
        how: dict[str, Any] = {"steps": DEFAULT_STEPS, "every_s": DEFAULT_EVERY_S} | _without_none(given)
        return Plan(
            kind=self._store.kind,
            old=old,
            new=new,
            model=args.model,
            thresholds=Thresholds(**_without_none(limits)),
            **how,
        )

    async def _sides(
        self, plan: Plan, found: Json, stack: AsyncExitStack
    ) -> tuple[Plan, tuple[PoolObject, PoolObject], Metrics]:
        """The pools of both sides and where each is measured; with the API group of the new pool in the plan."""
        if plan.kind == "HTTPRoute":
            old, new = await find_pool(self._client, plan.old), await find_pool(self._client, plan.new)
            plan = replace(plan, new_group=new.group)
            sides = Side(pool=plan.old), Side(pool=plan.new)
        else:
            name = found.get("spec", {}).get("poolRef", {}).get("name", "")
            old = new = await find_pool(self._client, f"{self._namespace}/{name}")
            both = Side(pool=str(old), model=plan.model)
            sides = both._replace(target=plan.old), both._replace(target=plan.new)
        pages = await self._pages(old, new, stack)
        return plan, (old, new), Metrics((sides[0], pages[0]), (sides[1], pages[1]))

    async def _pages(self, old: PoolObject, new: PoolObject, stack: AsyncExitStack) -> tuple[Pages, Pages]:
        args = self._args
        if args.metrics:
            urls = [_urls(args.metrics, side) for side in ("old", "new")]
            direct = await self._direct(args.metrics_token_file, stack)
            pages = [UrlPages(direct, each) for each in urls]
            return pages[0], pages[0] if urls[0] == urls[1] else pages[1]
        own_token = _own_token()
        is_inside = bool(own_token) and not (args.kubeconfig or args.context)
        goes_straight = args.metrics_via == "pods" or (args.metrics_via == "auto" and is_inside)
        direct_or_none = await self._direct(args.metrics_token_file or own_token, stack) if goes_straight else None
        first, second = (
            PodPages(self._client, pool, port=args.metrics_port, scheme=args.metrics_scheme, direct=direct_or_none)
            for pool in (old, new)
        )
        return first, first if first.place == second.place else second

    async def _direct(self, token_file: str, stack: AsyncExitStack) -> Direct:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        return Direct(session, token_file=token_file, tls=_tls(self._args))

    async def _show(self, record: Record) -> None:
        try:
            now = current(await self._store.read(), record.plan, record.original)
        except KubernetesError:  # how it ended is known all the same
            now = {}
        if self._args.output == "json":
            print(json.dumps(as_json(record, now), indent=1))
        else:
            show_status(self._console, str(self._store), record, now)


class _Progress:
    """What happens, a line for each change; on a terminal the line of the moment is rewritten."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def say(self, record: Record) -> None:
        waits_for = re.split("[,:]", record.state.note)[0]
        place = f"{record.state.phase} {record.state.step} {waits_for}"
        with contextlib.suppress(OSError):  # whoever read along has gone; the rollout has not
            if place != self._last:
                self._console.print(f"{now_text()} {one_line(record)}", markup=False)
            elif self._console.is_terminal:
                self._console.print(
                    one_line(record), markup=False, end="\r", no_wrap=True, overflow="ellipsis", soft_wrap=False
                )
        self._last = place


def _failed(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.is_good is False]


def _without_none(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _own_token() -> str:
    """The file with the token of the pod this runs in, if it does."""
    return IN_CLUSTER_TOKEN if Path(IN_CLUSTER_TOKEN).exists() else ""


def _tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    if not (args.metrics_ca_file or args.metrics_insecure_skip_verify):
        return None
    try:
        context = ssl.create_default_context(cafile=args.metrics_ca_file or None)
    except OSError as problem:
        raise UsageError(f"--metrics-ca-file {args.metrics_ca_file}: {problem}") from None
    if args.metrics_insecure_skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _urls(given: Sequence[str], side: str) -> list[str]:
    """Those of a side, and those of both."""
    found = []
    for each in given:
        name, equals, url = each.partition("=")
        if not (equals and name in ("old", "new")):
            name, url = side, each
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--metrics {each[:100]}: give a URL, old=URL or new=URL")
        if name == side:
            found.append(url)
    if not found:
        raise UsageError(f"--metrics names no page of the {side} side; give {side}=URL too")
    return found
