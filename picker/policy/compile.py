"""Compiles a `PickerConfig` into the core's pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from picker._core import score
from picker.config import parameters as p
from picker.config.admission import ConcurrencyDetector, UtilizationDetector
from picker.config.catalogue import SUPPORTED, Role
from picker.config.extras import InstalledTypes
from picker.config.model import PickerConfig, PluginSpec, WeightedPlugin
from picker.config.schema import ResponseTracking
from picker.config.support import DestinationEndpointServedVerifier
from picker.errors import ConfigError
from picker.policy.api import Filter, Picker, Plugin, Scorer
from picker.policy.flow import compile_flow
from picker.policy.host import PluginHost, PluginRecord

__all__ = ["ROLE_LABEL", "Policy", "compile_policy"]

Step = tuple[int, float, tuple[float, ...], int]
Selector = Callable[[Mapping[str, str]], bool]
Installed = Mapping[str, object]
P = TypeVar("P", bound=msgspec.Struct)

ROLE_LABEL = "llm-d.ai/role"
"""The label that says whether a model server decodes, prefills, encodes, or several of these."""

_DECODE = frozenset({"decode", "prefill-decode", "encode-prefill-decode", "both"})
_PREFILL = frozenset({"prefill", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both"})
_ENCODE = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A pipeline ready for `Engine.set_policy`, and what goes with it.

    `names` has a plugin name for each step; `selectors[k]` decides bit k of an endpoint's labels; `prior_rate` in
    prefill tokens per second. `response_tracking`: what is looked at of responses. `apis`: families whose bodies are
    read (None: all). `reads_test_header` and `tells_served` are for conformance tests: clients may say which endpoints
    to pick from, and are told who served. `flow` goes to `Engine.set_flow`.
    """

    steps: tuple[Step, ...]
    names: tuple[str, ...]
    wanted: int
    selectors: tuple[Selector, ...]
    host: PluginHost | None
    prior_rate: float
    session_header: str
    flow: Mapping[str, Any]
    response_tracking: ResponseTracking = "full"
    apis: tuple[str, ...] | None = None
    reads_test_header: bool = False
    tells_served: bool = False

    def label_bits(self, labels: Mapping[str, str]) -> int:
        """Which selectors an endpoint with these labels matches, as a bit set."""
        return sum(1 << bit for bit, matches in enumerate(self.selectors) if matches(labels))

    def explain(self, scores: Sequence[float]) -> dict[str, float]:
        """The scores of a decision (`Engine.decisions`, one per step) by name, without steps that score nothing."""
        rows = zip(self.steps, self.names, scores, strict=True)
        return {name: value for (kind, *_), name, value in rows if kind in _SCORING}


def _has_role(allowed: frozenset[str], *, unlabelled: bool) -> Selector:
    return lambda labels: labels[ROLE_LABEL] in allowed if ROLE_LABEL in labels else unlabelled


# What each native type compiles to: label filters, scorers, pickers; prefix-cache-affinity-filter is one of its own.
_SELECTORS: dict[type, Callable[[Any], Selector]] = {
    p.LabelSelectorFilter: lambda given: lambda labels: given.matches(dict(labels)),
    p.ByLabelFilter: lambda given: lambda labels: given.matches(dict(labels)),
    p.DecodeFilter: lambda _: _has_role(_DECODE, unlabelled=True),
    p.PrefillFilter: lambda _: _has_role(_PREFILL, unlabelled=False),
    p.EncodeFilter: lambda _: _has_role(_ENCODE, unlabelled=False),
}
_SCORERS: dict[type, tuple[int, Callable[[Any], tuple[float, ...]]]] = {
    p.QueueScorer: (score.SCORE_QUEUE, lambda _: ()),
    p.RunningRequestsSizeScorer: (score.SCORE_RUNNING, lambda _: ()),
    p.KvCacheUtilizationScorer: (score.SCORE_KV, lambda _: ()),
    p.PrefixCacheScorer: (score.SCORE_PREFIX, lambda given: (given.matchLengthWeight, given.matchLengthScaleTokens)),
    p.LoraAffinityScorer: (score.SCORE_LORA, lambda _: ()),
    p.LoadAwareScorer: (score.SCORE_LOAD_AWARE, lambda given: (given.threshold,)),
    p.TokenLoadScorer: (score.SCORE_TOKEN_LOAD, lambda given: (given.queueThresholdTokens,)),
    p.ActiveRequestScorer: (score.SCORE_ACTIVE, lambda given: (given.idleThreshold, given.maxBusyScore)),
    p.SessionAffinityScorer: (score.SCORE_SESSION, lambda _: ()),
    p.TtftScorer: (
        score.SCORE_TTFT,
        lambda given: (given.residentTokenWeight, given.waitingRequestTokens, given.uncachedTokenWeight),
    ),
}
_LOADS: dict[type, Callable[[Any], tuple[float, ...]]] = {
    UtilizationDetector: lambda given: (given.queueDepthThreshold, given.kvCacheUtilThreshold, 0, 0),
    ConcurrencyDetector: lambda given: (
        0,
        0,
        given.maxConcurrency if given.concurrencyMode != "tokens" else 0,
        given.maxTokenConcurrency if given.concurrencyMode != "requests" else 0,
    ),
}
_PICKERS: dict[type, int] = {
    p.MaxScorePicker: score.PICK_MAX,
    p.WeightedRandomPicker: score.PICK_WEIGHTED,
    p.RandomPicker: score.PICK_RANDOM,
}
_PYTHON: dict[Role, tuple[int, type[Plugin]]] = {
    Role.FILTER: (score.FILTER_PLUGIN, Filter),
    Role.SCORER: (score.SCORE_PLUGIN, Scorer),
    Role.PICKER: (score.PICK_PLUGIN, Picker),
}
_SCORING = frozenset(kind for kind, _ in _SCORERS.values()) | {score.SCORE_PLUGIN}


@dataclass(slots=True)
class _Draft:
    """The steps so far, and what they need beside themselves."""

    config: PickerConfig
    installed: Installed
    steps: list[Step] = field(default_factory=list)
    selectors: list[Selector] = field(default_factory=list)
    records: dict[int, PluginRecord] = field(default_factory=dict)

    def add(self, plugin: WeightedPlugin) -> None:
        """Raises `ConfigError` for a Python plugin that cannot be used."""
        kind = SUPPORTED.get(plugin.spec.type)
        is_native = kind is not None and type(plugin.spec.parameters) is kind.parameters
        self.steps.append(self._native(plugin) if is_native else self._python(plugin))

    def _native(self, plugin: WeightedPlugin) -> Step:
        given = plugin.spec.parameters
        if type(given) in _SELECTORS:
            self.selectors.append(_SELECTORS[type(given)](given))
            return score.FILTER_LABELS, 1.0, (), 1 << (len(self.selectors) - 1)
        if isinstance(given, p.PrefixCacheAffinityFilter):
            penalty_s = given.maxTTFTPenaltyMs / 1e3
            params = (given.affinityThreshold, given.explorationProbability, penalty_s, given.peakPrefillThroughput)
            return score.FILTER_PREFIX, 1.0, params, 0
        if isinstance(given, UtilizationDetector | ConcurrencyDetector):
            room = 1.0 + given.headroom
            most = tuple(min(bound * room, score.MAX_PARAM) for bound in _LOADS[type(given)](given))
            return score.FILTER_LOAD, 1.0, most, 0
        if type(given) in _SCORERS:
            kind, params_of = _SCORERS[type(given)]
            return kind, plugin.weight, tuple(map(float, params_of(given))), 0
        return _PICKERS[type(given)], 1.0, (), 0

    def _python(self, plugin: WeightedPlugin) -> Step:
        spec = plugin.spec
        kind, base = _PYTHON[spec.role]
        made = self._instance(spec, base)
        self.records[len(self.steps)] = PluginRecord(made, spec.type, spec.name)
        return kind, plugin.weight, (), 0

    def _instance(self, spec: PluginSpec, base: type[Plugin]) -> Plugin:
        found = self.installed
        if spec.type not in found:
            raise self._refusal(spec, f"no installed package brings plugin type {spec.type!r}", "install it")
        made = found.load(spec.type) if isinstance(found, InstalledTypes) else found[spec.type]
        if not (isinstance(made, type) and issubclass(made, base)):
            what = f"plugin type {spec.type!r} is no subclass of picker.policy.api.{base.__name__}"
            raise self._refusal(spec, what, "derive its class from that")
        try:
            return made(spec.parameters)
        except Exception as problem:  # whatever the constructor of a foreign class raises
            what = f"plugin type {spec.type!r} cannot be made: {type(problem).__name__}: {problem}"
            raise self._refusal(spec, what, "check its parameters") from problem

    def _refusal(self, spec: PluginSpec, what: str, hint: str) -> ConfigError:
        return ConfigError(what, source=self.config.source, field=f"plugin {spec.name}", hint=hint)


def _ordered(config: PickerConfig) -> list[WeightedPlugin]:
    """Filters, scorers, the picker. Raises `ConfigError` for what the core cannot run."""
    profile = config.profile
    for plugin in profile.of(Role.SCHEDULING):
        what = f"plugin type {plugin.spec.type!r} does not say whether it filters, scores or picks"
        raise ConfigError(what, source=config.source, field=f"plugin {plugin.spec.name}", hint="give its class a role")
    ordered = [
        plugin
        for roles in ((Role.FILTER, Role.DETECTOR), (Role.SCORER,), (Role.PICKER,))
        for plugin in profile.of(*roles)
        if not isinstance(plugin.spec.parameters, p.HeaderBasedTestingFilter)  # read with the request, not a step
    ]
    if len(ordered) > score.MAX_STEPS:
        what = f"profile {profile.name!r} has {len(ordered)} plugins"
        raise ConfigError(what, source=config.source, hint=f"at most {score.MAX_STEPS} can run")
    return ordered


def _one(config: PickerConfig, plugins: Sequence[WeightedPlugin], wanted: type[P], member: str) -> P:
    """The parameters of the profile's plugin of that kind, or the defaults; two must not differ in `member`."""
    found = [plugin.spec.parameters for plugin in plugins if isinstance(plugin.spec.parameters, wanted)]
    if len({getattr(parameters, member) for parameters in found}) > 1:
        what = f"plugins of one type differ in {member}"
        raise ConfigError(what, source=config.source, hint="there is one for all; make them equal or keep one")
    return found[0] if found else wanted()


def compile_policy(config: PickerConfig, *, installed: Installed | None = None) -> Policy:
    """The pipeline of `config`'s profile: its filters, scorers and picker, each in the order of the file.

    `installed` holds Python plugin classes by type name (default: those found by entry point). Raises ConfigError.
    """
    plugins = _ordered(config)
    draft = _Draft(config, InstalledTypes() if installed is None else installed)
    for plugin in plugins:
        draft.add(plugin)
    is_native = draft.steps[-1][0] != score.PICK_PLUGIN
    return Policy(
        steps=tuple(draft.steps),
        names=tuple(plugin.spec.name for plugin in plugins),
        wanted=getattr(plugins[-1].spec.parameters, "maxNumOfEndpoints", 1) if is_native else 1,
        selectors=tuple(draft.selectors),
        host=PluginHost(draft.records) if draft.records else None,
        prior_rate=_one(config, plugins, p.TtftScorer, "priorPrefillTokensPerSecond").priorPrefillTokensPerSecond,
        session_header=_one(config, plugins, p.SessionAffinityScorer, "headerName").headerName,
        response_tracking=config.response_tracking,
        apis=config.apis,
        reads_test_header=any(
            isinstance(plugin.spec.parameters, p.HeaderBasedTestingFilter) for plugin in config.profile.plugins
        ),
        tells_served=config.parameters(DestinationEndpointServedVerifier) is not None,
        flow=compile_flow(config),
    )
