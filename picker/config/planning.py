"""The flow control of a file: its section, the older member beside it, and the plugins that work by being declared.

Used by `load.py`, which knows what is declared. What a file says and what changes nothing gets a warning.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from picker.config import admission as a
from picker.config import schema
from picker.config.catalogue import Role
from picker.config.document import MemberPath
from picker.config.flow import FAIRNESS_HEADERS, Admitter, BandPlan, Detector, Fairness, FlowPlan, Ordering
from picker.config.model import PluginSpec
from picker.config.suggest import quoted

__all__ = ["Resolver", "plan_flow"]

_SECTION = "flowControl"
_FAIRNESS: dict[type, Fairness] = {
    a.TokenFairness: "tokens",
    a.ProgramAwareFairness: "tokens",
    a.RoundRobinFairness: "round-robin",
    a.GlobalStrictFairness: "strict",
}
_ORDERING: dict[type, Ordering] = {a.FcfsOrdering: "fcfs", a.EdfOrdering: "edf", a.SloDeadlineOrdering: "slo-deadline"}
_NAMED = frozenset([Role.DETECTOR, Role.FAIRNESS, Role.ORDERING, Role.USAGE_LIMIT])  # these do nothing by being there

_FALLBACK = {
    Role.DETECTOR: ("utilization-detector", "adaptive-detector"),
    Role.FAIRNESS: ("global-strict-fairness-policy", "token-fairness-policy"),
    Role.ORDERING: ("fcfs-ordering-policy",),
    Role.USAGE_LIMIT: ("static-usage-limit-policy",),
}
"""What the peer falls back to, by name, and picker. A file that declares one of that name means it, though it is
referred to nowhere."""

THRESHOLDS = ("queueDepthThreshold", "kvCacheUtilThreshold", "metricsStalenessThreshold")

MOST_BANDS = 256
"""With rules of their own: `PK_RULED_BANDS` of the core."""

MOST_HEADERS = 16
"""That may hold a fairness id: `PK_FLOW_HEADERS` of the core."""

_SECRETS = frozenset(["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"])


class Resolver(Protocol):
    """What is declared in a document, and how things are said of it."""

    @property
    def plugins(self) -> Mapping[str, PluginSpec]: ...

    @property
    def paths(self) -> Mapping[str, MemberPath]: ...

    def refer(self, name: str, path: MemberPath, roles: list[Role]) -> PluginSpec: ...

    def warn(self, message: str, path: MemberPath) -> None: ...

    def fail(self, message: str, path: MemberPath, hint: str = "") -> Exception: ...

    def given(self, path: MemberPath) -> Any: ...


def plan_flow(
    resolver: Resolver, file: schema.EndpointPickerConfig, *, gate: bool | None, filters: frozenset[str]
) -> FlowPlan:
    """What runs. `gate`: the feature gate as the file has it; `filters`: detectors that a profile runs as filters.

    Raises `ConfigError`.
    """
    return _Planner(resolver, file, gate, filters).plan()


class _Planner:
    """One run over one file; collects which plugins are named."""

    def __init__(
        self, resolver: Resolver, file: schema.EndpointPickerConfig, gate: bool | None, filters: frozenset[str]
    ) -> None:
        self._resolver = resolver
        self._file = file
        self._flow = file.flowControl or schema.FlowControl()
        self._gate = gate
        self._queues = gate is not False
        self._is_blind = file.responseTracking in ("off", False)
        self._filters = filters
        self._named: set[str] = set()

    def plan(self) -> FlowPlan:
        if not self._queues:
            self._warn_idle_section()
        flow = self._flow
        default = self._template("defaultPriorityBand", flow.defaultPriorityBand)
        negative = flow.defaultNegativePriorityBand
        plan = FlowPlan(
            queues=self._queues,
            detector=self._detector(),
            bands=tuple(self._bands()),
            default_band=default,
            default_negative_band=self._template("defaultNegativePriorityBand", negative) if negative else default,
            max_requests=flow.maxRequests,
            max_bytes=flow.maxBytes,
            no_endpoint_ttl_s=self._no_endpoint_ttl_s(),
            usage_limit=self._policy(
                flow.usageLimitPolicyPluginRef, (_SECTION, "usageLimitPolicyPluginRef"), Role.USAGE_LIMIT
            ),
            fairness_headers=self._fairness_headers(),
            admitters=tuple(self._admitters()),
            evicts=self._evicts(),
        )
        self._warn_idle_plugins(evicts=plan.evicts)
        return plan

    def _evicts(self) -> bool:
        """Nothing can be taken back whose stream has ended with its pick."""
        if self._flow.enableEviction and self._queues and self._is_blind:
            what = "this has no effect: with responseTracking off nothing is known to be under way"
            self._resolver.warn(what, (_SECTION, "enableEviction"))
        return self._flow.enableEviction and self._queues and not self._is_blind

    # --- plugins that are named, or meant though they are not ---

    def _refer(self, name: str, path: MemberPath, role: Role) -> PluginSpec:
        spec = self._resolver.refer(name, path, [role])
        self._named.add(spec.name)
        return spec

    def _fallback(self, role: Role) -> PluginSpec | None:
        """A plugin declared under a name that is fallen back to."""
        if not self._queues and role is not Role.DETECTOR:
            return None
        for name in _FALLBACK[role]:
            spec = self._resolver.plugins.get(name)
            if spec is not None and spec.role is role and name not in self._filters:
                self._named.add(name)
                return spec
        return None

    def _declared(self, role: Role) -> Iterator[PluginSpec]:
        return (spec for spec in self._resolver.plugins.values() if spec.role is role)

    def _meant(self, name: str, path: MemberPath, role: Role) -> PluginSpec | None:
        """The plugin that is named, or fallen back to; None: picker's own."""
        return self._refer(name, path, role) if name else self._fallback(role)

    def _policy(self, name: str, path: MemberPath, role: Role) -> Any:
        """The parameters of that."""
        spec = self._meant(name, path, role)
        return None if spec is None else spec.parameters

    def _admitters(self) -> Iterator[Admitter]:
        seen: set[str] = set()
        for spec in self._declared(Role.ADMITTER):
            if spec.type in seen:
                what = f"{quoted(spec.name)} has no effect: the first {spec.type} counts"
                self._resolver.warn(what, self._resolver.paths[spec.name])
            elif isinstance(spec.parameters, a.ProbabilisticAdmitter | a.LatencySloAdmitter):
                seen.add(spec.type)
                yield spec.parameters

    # --- detectors ---

    def _detector(self) -> Detector:
        given, path = self._given_detector()
        thresholds = {name: value for name in THRESHOLDS if (value := getattr(given, name)) is not None}
        if thresholds and not given.pluginRef:
            values: dict[str, Any] = {name: value for name, value in thresholds.items() if value}
            return self._fresh(a.UtilizationDetector(**values), path)
        for name in thresholds:
            self._resolver.warn(f"this has no effect: {quoted(given.pluginRef)} has its own", (*path, name))
        spec = self._meant(given.pluginRef, (*path, "pluginRef"), Role.DETECTOR)
        if spec is None:
            return a.AdaptiveDetector()
        if self._is_blind and isinstance(spec.parameters, a.ConcurrencyDetector):
            what = f"{quoted(spec.name)} has no effect: with responseTracking off nothing is known to be under way"
            self._resolver.warn(what, (*path, "pluginRef"))
        parameters: Any = spec.parameters
        return self._fresh(parameters, (*self._resolver.paths.get(spec.name, ()), "parameters"))

    def _given_detector(self) -> tuple[schema.SaturationDetector, MemberPath]:
        """The new place wins over the old one, as in the peer."""
        new, old = self._flow.saturationDetector, self._file.saturationDetector
        if old is not None:
            what = "this has no effect: flowControl.saturationDetector counts"
            if new is None:
                what = "saturationDetector is deprecated; use flowControl.saturationDetector"
            self._resolver.warn(what, ("saturationDetector",))
        if new is not None:
            return new, (_SECTION, "saturationDetector")
        return old or schema.SaturationDetector(), ("saturationDetector",)

    def _fresh(self, detector: Detector, path: MemberPath) -> Detector:
        """The detector, having told of a threshold that is too short to mean anything here."""
        place = (*path, "metricsStalenessThreshold")
        if isinstance(detector, a.UtilizationDetector) and self._resolver.given(place) is not None:
            if detector.metricsStalenessThreshold < a.FRESH_S:
                what = f"this is taken for {a.FRESH_S:g}s, as endpoints are scraped every 200ms; and stale metrics"
                self._resolver.warn(f"{what} stop no traffic", place)
        return detector

    # --- bands ---

    def _bands(self) -> Iterator[tuple[int, BandPlan]]:
        if len(self._flow.priorityBands) > MOST_BANDS:
            what = f"{len(self._flow.priorityBands)} bands are given"
            raise self._resolver.fail(what, (_SECTION, "priorityBands"), f"at most {MOST_BANDS}")
        seen: dict[int, int] = {}
        for index, band in enumerate(self._flow.priorityBands):
            path: MemberPath = (_SECTION, "priorityBands", index)
            priority = band.priority or 0
            if seen.setdefault(priority, index) != index:
                what = f"priority {priority} has two bands"
                raise self._resolver.fail(what, (*path, "priority"), "keep one")
            yield priority, self._band(path, band)

    def _template(self, member: str, band: schema.PriorityBand | None) -> BandPlan:
        path: MemberPath = (_SECTION, member)
        if band is not None and band.priority is not None:
            what = "this has no effect: it is for the priorities that no band is given for"
            self._resolver.warn(what, (*path, "priority"))
        return self._band(path, band or schema.PriorityBand())

    def _band(self, path: MemberPath, band: schema.PriorityBand) -> BandPlan:
        usual = BandPlan()
        fairness = self._policy(band.fairnessPolicyRef, (*path, "fairnessPolicyRef"), Role.FAIRNESS)
        ordering = self._policy(band.orderingPolicyRef, (*path, "orderingPolicyRef"), Role.ORDERING)
        ttl = self._flow.defaultRequestTTL if band.defaultRequestTTL is None else band.defaultRequestTTL
        return BandPlan(
            fairness=usual.fairness if fairness is None else _FAIRNESS[type(fairness)],
            ordering=usual.ordering if ordering is None else _ORDERING[type(ordering)],
            max_requests=band.maxRequests or usual.max_requests,
            max_bytes=band.maxBytes or usual.max_bytes,
            ttl_s=float(ttl),
        )

    def _no_endpoint_ttl_s(self) -> float:
        """As the peer has it where flow control is asked for; else 503 at once."""
        if not self._queues or (self._file.flowControl is None and self._gate is None):
            return 0.0
        given = self._flow.noEndpointRequestTTL
        return float(self._flow.defaultRequestTTL if given is None else given) or math.inf

    # --- who a request is from ---

    def _fairness_headers(self) -> tuple[str, ...]:
        agents = list(self._declared(Role.IDENTITY))
        name, path = self._flow.fairnessIdHeader, (_SECTION, "fairnessIdHeader")
        if name:
            self._check_header(name, path)
            for spec in agents:
                what = f"{spec.role.value} {quoted(spec.name)} has no effect: {name} alone says who a request is from"
                self._resolver.warn(what, self._resolver.paths[spec.name])
            return (name.lower(),)
        own = [header.lower() for spec in agents for header in getattr(spec.parameters, "additionalSessionHeaders", ())]
        for header in own:
            self._check_header(header, self._resolver.paths[agents[-1].name])
        found = tuple(dict.fromkeys((*FAIRNESS_HEADERS, *own, *(a.AGENT_HEADERS if agents else ()))))
        if len(found) > MOST_HEADERS:
            what = f"{len(found)} headers may say who a request is from"
            raise self._resolver.fail(what, self._resolver.paths[agents[-1].name], f"at most {MOST_HEADERS}")
        return found

    def _check_header(self, name: str, path: MemberPath) -> None:
        if not a.is_fairness_header(name):
            raise self._resolver.fail(f"{quoted(name)} is {a.NO_FAIRNESS_HEADER}", path)
        if name.lower() in _SECRETS:
            hint = "have the gateway say in a header of its own who it is from"
            raise self._resolver.fail(f"{quoted(name)} holds secrets, and fairness ids are seen in metrics", path, hint)

    # --- what does nothing ---

    def _warn_idle_section(self) -> None:
        given = self._resolver.given((_SECTION,))
        for name in given if isinstance(given, dict) else ():
            if name != "saturationDetector":
                self._resolver.warn("this has no effect: the feature gate flowControl is off", (_SECTION, name))

    def _warn_idle_plugins(self, *, evicts: bool) -> None:
        for name, spec in self._resolver.plugins.items():
            what = f"{spec.role.value} {quoted(name)}"
            if name in self._filters and name not in self._named:
                self._warn_filter(name)
            elif spec.role in _NAMED and name not in self._named:
                where = "flowControl names it nowhere" if self._queues else "the feature gate flowControl is off"
                self._resolver.warn(f"{what} does nothing: {where}", self._resolver.paths[name])
            if spec.role is Role.EVICTION and not evicts:
                why = "flowControl.enableEviction is not in force"
                self._resolver.warn(f"{what} does nothing: {why}", self._resolver.paths[name])

    def _warn_filter(self, name: str) -> None:
        """Of a detector that is a filter and no more."""
        path = (*self._resolver.paths.get(name, ()), "parameters", "metricsStalenessThreshold")
        if self._resolver.given(path) is not None:
            self._resolver.warn("this has no effect: a filter goes by metrics of any age", path)
