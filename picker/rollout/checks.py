"""What must be so before traffic moves. Every check is made, so that all that is wrong is said at once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from picker.errors import KubernetesError, PickerError
from picker.kube.client import KubeClient
from picker.rollout.machine import Plan
from picker.rollout.metrics import Metrics
from picker.rollout.pods import Pod, PoolObject, pods_of, read_pod
from picker.rollout.weights import Json, current, in_words, original_of

__all__ = ["Check", "check_all"]

MOST_PODS = 20
"""Of each pool whose model list is read."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `is_good` is None for a warning, which stops nothing."""

    what: str
    is_good: bool | None
    found: str


class _Warned(Exception):
    """It is not as it should be, but that stops nothing."""


class _Failed(Exception):
    """It is not as it must be."""


async def check_all(
    client: KubeClient, plan: Plan, found: Json, pools: tuple[PoolObject, PoolObject], metrics: Metrics
) -> list[Check]:
    """The outcome of each, in an order that people read. `pools`: of the old and the new side; one, for adapters."""
    old, new = pools
    lists = asyncio.gather(_model_lists(client, old), _model_lists(client, new), return_exceptions=True)
    checks = [
        await _check("weights", lambda: _weights(plan, found)),
        await _check("thresholds", lambda: _thresholds(plan)),
        await _check("servers of the new side", lambda: _ready(client, new)),
    ]
    listed = await lists
    if plan.kind == "HTTPRoute":
        checks.append(await _check("adapters of the old pool in the new", lambda: _adapters(*listed)))
        checks.append(await _check("base models", lambda: _bases(*listed)))
    else:
        checks.append(await _check(f"adapter {plan.new}", lambda: _adapter(plan.new, listed[1])))
    checks.append(await _check("metrics", lambda: _metrics(metrics)))
    return checks


async def _check(what: str, look: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(what, True, await look())
    except _Warned as problem:
        return Check(what, None, str(problem))
    except (_Failed, PickerError) as problem:
        return Check(what, False, str(problem))


async def _weights(plan: Plan, found: Json) -> str:
    original = original_of(found, plan)
    if not original:
        rule = f"no rule for {plan.model}" if plan.model else "no rule"
        raise _Failed(f"{rule} sends traffic to {plan.old}; check --from")
    now = current(found, plan, original)
    if any(weights.get(plan.new) for weights in now.values()):
        raise _Failed(f"{plan.new} has traffic already ({in_words(now)}); take it out, or set its weight to 0")
    return in_words(now)


async def _thresholds(plan: Plan) -> str:
    limits = plan.thresholds
    rate = min(limits.max_error_rate_increase, limits.max_shed_rate_increase)
    if limits.min_requests * rate < 1:
        one = f"one failure in {limits.min_requests} requests is more than an increase of {rate:g}"
        raise _Warned(f"{one}: a step can end in a rollback by chance; raise --min-requests or the rate")
    return f"with {limits.min_requests} requests or more in each step"


async def _ready(client: KubeClient, pool: PoolObject) -> str:
    pods = await pods_of(client, pool.namespace, pool.labels)
    ready = sum(pod.is_ready for pod in pods)
    if not ready:
        raise _Failed(f"InferencePool {pool} has no ready pod, of {len(pods)}")
    return f"{ready} of {len(pods)} pods of InferencePool {pool} are ready"


async def _metrics(metrics: Metrics) -> str:
    old, _ = await metrics.check()
    if not old.requests:
        raise _Warned("readable, but the old side has counted no requests: until it has, only rates are judged")
    timed = "" if old.timed else ", none with a time to first token: that is not judged then"
    return f"readable on both sides; the old one has counted {old.requests:.0f} requests{timed}"


# --- what model servers list ---


class _Card(msgspec.Struct):
    id: str = ""
    parent: str | None = None


class _Cards(msgspec.Struct):
    data: list[_Card] = []


async def _model_lists(client: KubeClient, pool: PoolObject) -> list[_Cards]:
    """What the ready pods of the pool list, one by one. Raises KubernetesError."""
    pods = [pod for pod in await pods_of(client, pool.namespace, pool.labels) if pod.is_ready][:MOST_PODS]
    return list(await asyncio.gather(*(_models(client, pod, pool.port) for pod in pods)))


async def _models(client: KubeClient, pod: Pod, port: int) -> _Cards:
    try:
        return msgspec.json.decode(await read_pod(client, pod, port, "/v1/models"), type=_Cards)
    except (msgspec.MsgspecError, RecursionError, TimeoutError) as problem:
        raise KubernetesError(f"the model list of pod {pod.namespace}/{pod.name} cannot be read: {problem}") from None


def _known(lists: Any) -> list[_Cards]:
    if isinstance(lists, PickerError):
        raise _Warned(f"not compared: {lists}")
    if isinstance(lists, BaseException):
        raise lists
    found: list[_Cards] = lists
    if not found:
        raise _Warned("not compared: no pod is ready")
    return found


def _everywhere(lists: list[_Cards], *, adapters: bool) -> set[str]:
    names = [{card.id for card in each.data if (card.parent is not None) == adapters} for each in lists]
    return set.intersection(*names)


def _anywhere(lists: list[_Cards], *, adapters: bool) -> set[str]:
    return {card.id for each in lists for card in each.data if (card.parent is not None) == adapters}


async def _adapters(old: Any, new: Any) -> str:
    wanted = _anywhere(_known(old), adapters=True)
    missing = wanted - _everywhere(_known(new), adapters=True)
    if missing:
        names = ", ".join(sorted(missing))
        raise _Failed(f"not on every server of the new pool: {names}; load them there, for the new base model")
    return f"all {len(wanted)} are on every server" if wanted else "the old pool has none"


async def _bases(old: Any, new: Any) -> str:
    served = _everywhere(_known(new), adapters=False)
    missing = _anywhere(_known(old), adapters=False) - served
    if missing:
        names = f"{', '.join(sorted(missing))} of the old pool, but {', '.join(sorted(served)) or 'none'}"
        raise _Warned(
            f"the new pool does not serve {names}: clients that ask for it would fail, "
            "unless a rewrite or --served-model-name answers to it"
        )
    return "the new pool serves those of the old"


async def _adapter(name: str, lists: Any) -> str:
    if any(name not in {card.id for card in each.data} for each in _known(lists)):
        raise _Failed("not loaded on every server of the pool; load it first (picker lora-sync)")
    return "loaded on every server"
