"""The `rateLimits` section of an EndpointPickerConfig: picker's own, told to users in `docs/rate-limits.md`.

`check` settles what refers to what, and gives rules as the core takes them (`picker._core.quotas.Quota.set_rules`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from picker.config.decode import Decoder
from picker.config.document import MemberPath
from picker.config.suggest import quoted
from picker.config.units import Bytes, Seconds

__all__ = ["RateLimitPlan", "RateLimits", "StorePlan", "check", "told"]

Text = Annotated[str, Meta(min_length=1)]
Weight = Annotated[float, Meta(ge=0, le=1000)]
OnFailure = Literal["local", "failOpen", "failClosed"]
Price: TypeAlias = tuple[float, float, float, float]
"""Of a request, an input token, a cached one, an output token."""
Limit: TypeAlias = tuple[str, int, Price]

KINDS: dict[str, Price] = {
    "requests": (1, 0, 0, 0),
    "inputTokens": (0, 1, 1, 0),
    "outputTokens": (0, 0, 0, 1),
    "tokens": (0, 1, 1, 1),
}
WINDOWS = ("second", "minute", "hour", "day")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,62}\Z")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,63}\Z")
_MOST_STEPS = 4
_MOST_KEYS = 1_000_000


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of the section."""


class Limits(_Section, frozen=True):
    """How much in which window; `cost` is by the rule's weights. None: no such limit."""

    requestsPerSecond: Bytes | None = None
    requestsPerMinute: Bytes | None = None
    requestsPerHour: Bytes | None = None
    requestsPerDay: Bytes | None = None
    inputTokensPerSecond: Bytes | None = None
    inputTokensPerMinute: Bytes | None = None
    inputTokensPerHour: Bytes | None = None
    inputTokensPerDay: Bytes | None = None
    outputTokensPerSecond: Bytes | None = None
    outputTokensPerMinute: Bytes | None = None
    outputTokensPerHour: Bytes | None = None
    outputTokensPerDay: Bytes | None = None
    tokensPerSecond: Bytes | None = None
    tokensPerMinute: Bytes | None = None
    tokensPerHour: Bytes | None = None
    tokensPerDay: Bytes | None = None
    costPerSecond: Bytes | None = None
    costPerMinute: Bytes | None = None
    costPerHour: Bytes | None = None
    costPerDay: Bytes | None = None


class Weights(_Section, frozen=True):
    """What a request, an input token that no cache held, one that a cache held, and an output token cost."""

    request: Weight = 0
    input: Weight = 1
    cached: Weight = 1
    output: Weight = 1


class Claim(_Section, frozen=True):
    """A value in the request's metadata: `filter_metadata[namespace]`, and the way to it from there."""

    namespace: Text
    path: tuple[Text, ...]


class KeySource(_Section, frozen=True):
    """Where the key of a request is found: one of the two."""

    header: str = ""
    claim: Claim | None = None


class NamedKey(_Section, frozen=True):
    """Keys with limits of their own: as they stand here, or one a line in a file. No limits: none for them."""

    name: Text
    values: tuple[Text, ...] = ()
    file: str = ""
    limits: Limits = Limits()


class RateLimitRule(_Section, frozen=True):
    """Limits of each key, or of all requests together."""

    name: Text
    key: KeySource | None = None
    models: Annotated[tuple[Text, ...], Meta(min_length=1)] | None = None
    perModel: bool = False
    limits: Limits = Limits()
    withoutKey: Limits = Limits()
    keys: tuple[NamedKey, ...] = ()
    weights: Weights = Weights()


class RedisStore(_Section, frozen=True):
    """A Redis or Valkey server that the replicas share."""

    url: Text
    passwordFile: str = ""
    prefix: Text = "picker"


class LimitStore(_Section, frozen=True):
    """Where replicas count together, and what is done while that cannot be reached."""

    redis: RedisStore
    timeout: Seconds = Seconds(0.1)
    onFailure: OnFailure = "local"


class RateLimits(_Section, frozen=True):
    """The section. Without a store each replica counts for itself."""

    rules: tuple[RateLimitRule, ...] = ()
    store: LimitStore | None = None
    maxCounters: Annotated[int, Meta(ge=1, le=1 << 26)] = 65536
    outputEstimate: Literal["max-tokens", "learned"] = "max-tokens"


# --- what it comes to ---


@dataclass(frozen=True, slots=True)
class StorePlan:
    """Where replicas count together. `password` is None where the URL says it, or nothing does."""

    url: str = field(repr=False)
    prefix: str
    timeout_s: float
    on_failure: OnFailure
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RateLimitPlan:
    """Rules as the core takes them, and where they are counted. Holds keys: never shown."""

    rules: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    store: StorePlan | None = None
    max_counters: int = 65536
    bounds_output: bool = True
    """Whether `max_tokens`, where a client says it, is what is reserved; else no more than answers usually have."""


def check(section: RateLimits | None, decoder: Decoder) -> RateLimitPlan:
    """What the section comes to. Raises the decoder's error for what cannot be."""
    if section is None:
        return RateLimitPlan()
    return _Checker(decoder).plan(section)


class _Checker:
    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def plan(self, section: RateLimits) -> RateLimitPlan:
        from picker._core.quotas import Quota  # here, so that a file without limits is checked without the core

        names: set[str] = set()
        for index, rule in enumerate(section.rules):
            path: MemberPath = ("rateLimits", "rules", index)
            if not _NAME.match(rule.name):
                hint = "write letters, digits, blanks and . _ / -, 63 of them at most"
                raise self._fail(f"{quoted(rule.name)} is not a rule's name", (*path, "name"), hint)
            if rule.name in names:
                raise self._fail(f"rule {quoted(rule.name)} is there twice", (*path, "name"), "rename one")
            names.add(rule.name)
        rules = tuple(self._rule(("rateLimits", "rules", index), rule) for index, rule in enumerate(section.rules))
        try:
            Quota(seed=0, counters=1).set_rules(rules)
        except (ValueError, OverflowError) as problem:
            raise self._fail(str(problem), ("rateLimits", "rules"), "leave some out") from None
        return RateLimitPlan(
            rules=rules,
            store=None if section.store is None else self._store(section.store),
            max_counters=section.maxCounters,
            bounds_output=section.outputEstimate == "max-tokens",
        )

    def _fail(self, message: str, path: MemberPath, hint: str = "") -> Exception:
        return self._decoder.failure(message, path, hint=hint)

    def _store(self, store: LimitStore) -> StorePlan:
        path: MemberPath = ("rateLimits", "store", "redis")
        if not store.redis.url.startswith(("redis://", "rediss://", "unix://")):
            raise self._fail("this is no URL of a Redis server", (*path, "url"), "write redis://host:6379/0")
        if set(store.redis.prefix) & set("{}"):
            raise self._fail("a prefix holds no braces", (*path, "prefix"), "remove them")
        if not 0.001 <= store.timeout <= 10:
            raise self._fail("a store is waited for 1ms to 10s", ("rateLimits", "store", "timeout"))
        password = None
        if store.redis.passwordFile:
            password = self._read((*path, "passwordFile"), store.redis.passwordFile).strip()
        return StorePlan(store.redis.url, store.redis.prefix, float(store.timeout), store.onFailure, password)

    def _rule(self, path: MemberPath, rule: RateLimitRule) -> dict[str, Any]:
        tiers: list[list[Limit]] = []
        named = self._named(path, rule)
        if rule.key is None and (rule.keys or _limits(rule.withoutKey, rule.weights)):
            raise self._fail("keys are limited, but no key is looked for", path, "add key: {header: x-api-key}")

        def tier(limits: Limits) -> int | None:
            found = _limits(limits, rule.weights)
            if not found:
                return None
            tiers.append(found)
            return len(tiers) - 1

        made: dict[str, Any] = {
            "name": rule.name,
            "source": None if rule.key is None else self._source((*path, "key"), rule.key),
            "models": rule.models,
            "per_model": rule.perModel,
            "default": tier(rule.limits),
            "absent": tier(rule.withoutKey),
        }
        made["keys"] = self._tiers(rule, named, tiers)
        if not any(tiers):
            raise self._fail(f"rule {quoted(rule.name)} limits nothing", path, "add limits: {requestsPerMinute: 60}")
        return {**made, "tiers": tiers}

    def _tiers(self, rule: RateLimitRule, named: list[tuple[str, ...]], tiers: list[list[Limit]]) -> dict[str, int]:
        keys: dict[str, int] = {}
        for one, values in zip(rule.keys, named, strict=True):
            tiers.append(_limits(one.limits, rule.weights))  # perhaps none: such a key is not limited
            keys |= dict.fromkeys(values, len(tiers) - 1)
        return keys

    def _source(self, path: MemberPath, key: KeySource) -> tuple[Any, ...]:
        if bool(key.header) == (key.claim is not None):
            raise self._fail("a key is in a header or in a claim: one of the two", path, "write header: x-api-key")
        if key.claim is not None:
            if not 0 < len(key.claim.path) <= _MOST_STEPS:
                raise self._fail(f"a claim is 1 to {_MOST_STEPS} steps away", (*path, "claim", "path"))
            return "claim", key.claim.namespace, key.claim.path
        if not _HEADER.match(key.header):
            raise self._fail(f"{quoted(key.header)} is not a header's name", (*path, "header"))
        return "header", key.header.lower()

    def _named(self, path: MemberPath, rule: RateLimitRule) -> list[tuple[str, ...]]:
        """The values of each named key; none is named twice. Messages never hold one."""
        seen: set[str] = set()
        found = []
        for index, key in enumerate(rule.keys):
            here = (*path, "keys", index)
            values = (*key.values, *self._lines((*here, "file"), key.file))
            if not values:
                raise self._fail(f"{quoted(key.name)} has no values", here, "add values, or a file of them")
            if len(set(values)) < len(values) or seen & set(values):
                raise self._fail(f"a value of {quoted(key.name)} is there twice", here, "remove one")
            seen |= set(values)
            found.append(values)
        if len(seen) > _MOST_KEYS:
            raise self._fail(f"{len(seen)} keys are more than {_MOST_KEYS}", (*path, "keys"))
        return found

    def _lines(self, path: MemberPath, name: str) -> list[str]:
        return [line.strip() for line in self._read(path, name).splitlines() if line.strip()] if name else []

    def _read(self, path: MemberPath, name: str) -> str:
        try:
            return Path(name).read_text()
        except (OSError, UnicodeDecodeError) as problem:
            reason = getattr(problem, "strerror", None) or "it is no text"
            raise self._fail(f"{quoted(name)} cannot be read: {reason}", path, "check path and permissions") from None


def _limits(limits: Limits, weights: Weights) -> list[Limit]:
    return list(_each_limit(limits, weights))


def _each_limit(limits: Limits, weights: Weights) -> Iterator[Limit]:
    cost = (weights.request, weights.input, weights.cached, weights.output)
    for name in limits.__struct_fields__:
        kind, window = name.split("Per")
        amount = getattr(limits, name)
        if amount is not None:
            yield window.lower(), int(amount), KINDS.get(kind, cost)


# --- in words ---


def told(plan: RateLimitPlan) -> Iterator[str]:
    """The plan in lines; keys are counted, never shown."""
    if not plan.rules:
        return
    where = "in memory, by each replica" if plan.store is None else f"in a store; without it: {plan.store.on_failure}"
    yield f"rate limits, counted {where}"
    for rule in plan.rules:
        models = "" if rule["models"] is None else f" of {', '.join(rule['models'])}"
        each = f"{' each model' if rule['per_model'] else ''}{models}"
        yield f"  {rule['name']}: {_told_source(rule['source'])}{each}"
        for title, tier in (("each key", rule["default"]), ("without a key", rule["absent"])):
            if tier is not None:
                yield f"    {title if rule['source'] else 'together'}: {_told_tier(rule['tiers'][tier])}"
        named = Counter(rule["keys"].values())
        for tier, count in named.items():
            yield f"    {count} named: {_told_tier(rule['tiers'][tier])}"


def _told_source(source: tuple[Any, ...] | None) -> str:
    if source is None:
        return "all requests"
    return (
        f"keys in header {source[1]}" if source[0] == "header" else f"keys in claim {source[1]} {'.'.join(source[2])}"
    )


def _told_tier(tier: list[Limit]) -> str:
    return ", ".join(f"{amount} {_told_price(price)} a {window}" for window, amount, price in tier) or "no limits"


def _told_price(price: Price) -> str:
    kind = next((kind for kind, known in KINDS.items() if known == price), "")
    return {"inputTokens": "input tokens", "outputTokens": "output tokens"}.get(kind, kind or "cost")
