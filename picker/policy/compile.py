"""Compiles a `PickerConfig` into the core's pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from picker._core import score
from picker.config import parameters as p
from picker.config.catalogue import Role
from picker.config.extras import InstalledTypes
from picker.config.model import PickerConfig, PluginSpec, WeightedPlugin
from picker.errors import ConfigError
from picker.policy.api import Plugin
from picker.policy.host import PluginHost, PluginRecord

__all__ = ["Policy", "compile_policy"]

Step = tuple[int, float, tuple[float, ...], int]
Selector = Callable[[Mapping[str, str]], bool]

ROLE_LABEL = "llm-d.ai/role"
_DECODE = frozenset({"decode", "prefill-decode", "encode-prefill-decode", "both"})
_PREFILL = frozenset({"prefill", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both"})
_ENCODE = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})
MAX_SELECTORS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A pipeline ready for `Engine.set_policy`, and what goes with it.

    `names` explains each step; `selectors[k]` decides bit k of an endpoint's labels; `prior_rate` in tokens per second.
    """

    steps: tuple[Step, ...]
    names: tuple[str, ...]
    wanted: int
    selectors: tuple[Selector, ...] = ()
    host: PluginHost | None = None
    prior_rate: float = 15_000.0
    session_header: str = "x-session-token"

    def label_bits(self, labels: Mapping[str, str]) -> int:
        """Which selectors an endpoint with these labels matches, as a bit set."""
        return sum(1 << bit for bit, matches in enumerate(self.selectors) if matches(labels))


@dataclass(slots=True)
class _Draft:
    """What the steps need beside themselves, gathered while they are built."""

    selectors: list[Selector] = field(default_factory=list)
    records: dict[int, PluginRecord] = field(default_factory=dict)

    def select(self, matches: Selector) -> int:
        self.selectors.append(matches)
        return 1 << (len(self.selectors) - 1)


def _has_role(allowed: frozenset[str], *, unlabelled: bool) -> Selector:
    def matches(labels: Mapping[str, str]) -> bool:
        return labels[ROLE_LABEL] in allowed if ROLE_LABEL in labels else unlabelled

    return matches


def _selector(parameters: Any) -> Selector | None:
    """How a label filter decides, or None if it is no label filter."""
    if isinstance(parameters, p.LabelSelectorFilter | p.ByLabelFilter):
        return lambda labels: parameters.matches(dict(labels))
    if isinstance(parameters, p.DecodeFilter):
        return _has_role(_DECODE, unlabelled=True)
    if isinstance(parameters, p.PrefillFilter):
        return _has_role(_PREFILL, unlabelled=False)
    if isinstance(parameters, p.EncodeFilter):
        return _has_role(_ENCODE, unlabelled=False)
    return None


_SCORERS: dict[type, tuple[int, Callable[[Any], tuple[float, ...]]]] = {
    p.QueueScorer: (score.SCORE_QUEUE, lambda _: ()),
    p.RunningRequestsSizeScorer: (score.SCORE_RUNNING, lambda _: ()),
    p.KvCacheUtilizationScorer: (score.SCORE_KV, lambda _: ()),
    p.PrefixCacheScorer: (score.SCORE_PREFIX, lambda q: (q.matchLengthWeight, q.matchLengthScaleTokens)),
    p.LoraAffinityScorer: (score.SCORE_LORA, lambda _: ()),
    p.LoadAwareScorer: (score.SCORE_LOAD_AWARE, lambda q: (q.threshold,)),
    p.TokenLoadScorer: (score.SCORE_TOKEN_LOAD, lambda q: (q.queueThresholdTokens,)),
    p.ActiveRequestScorer: (score.SCORE_ACTIVE, lambda q: (q.idleThreshold, q.maxBusyScore)),
    p.SessionAffinityScorer: (score.SCORE_SESSION, lambda _: ()),
    p.TtftScorer: (score.SCORE_TTFT, lambda q: (q.residentTokenWeight, q.waitingRequestTokens)),
}
_PICKERS: dict[type, int] = {
    p.MaxScorePicker: score.PICK_MAX,
    p.WeightedRandomPicker: score.PICK_WEIGHTED,
    p.RandomPicker: score.PICK_RANDOM,
}
_PLUGIN_KINDS = {
    Role.FILTER: score.FILTER_PLUGIN,
    Role.SCORER: score.SCORE_PLUGIN,
    Role.PICKER: score.PICK_PLUGIN,
}


def _native(plugin: WeightedPlugin, draft: _Draft) -> Step | None:
    """The core's own step for a plugin, or None if it is a Python plugin."""
    given = plugin.spec.parameters
    matches = _selector(given)
    if matches is not None:
        return score.FILTER_LABELS, 1.0, (), draft.select(matches)
    if isinstance(given, p.PrefixCacheAffinityFilter):
        penalty_s = given.maxTTFTPenaltyMs / 1e3
        params = (given.affinityThreshold, given.explorationProbability, penalty_s, given.peakPrefillThroughput)
        return score.FILTER_PREFIX, 1.0, params, 0
    if type(given) in _SCORERS:
        kind, params_of = _SCORERS[type(given)]
        return kind, plugin.weight, tuple(map(float, params_of(given))), 0
    if type(given) in _PICKERS:
        return _PICKERS[type(given)], 1.0, (), 0
    return None


def _load(spec: PluginSpec, installed: Mapping[str, object] | InstalledTypes) -> Plugin:
    """An instance of the Python class a configuration names."""
    made = installed.load(spec.type) if isinstance(installed, InstalledTypes) else installed[spec.type]
    if not (isinstance(made, type) and issubclass(made, Plugin)):
        raise ConfigError(
            f"plugin {spec.type!r} is no subclass of picker.policy.api.Scorer, Filter or Picker",
            source="plugins",
            field=spec.name,
            hint="derive its class from one of them",
        )
    try:
        return made(spec.parameters)
    except Exception as problem:  # whatever the constructor of a foreign class raises
        raise ConfigError(
            f"plugin {spec.type!r} cannot be made: {type(problem).__name__}: {problem}",
            source="plugins",
            field=spec.name,
            hint="check its parameters",
        ) from problem


def _foreign(plugin: WeightedPlugin, number: int, draft: _Draft, installed: Any) -> Step:
    made = _load(plugin.spec, installed)
    draft.records[number] = PluginRecord(made, plugin.spec.type, plugin.spec.name)
    return _PLUGIN_KINDS[Role(made.role)], plugin.weight, (), 0


def compile_policy(config: PickerConfig, *, installed: Mapping[str, object] | InstalledTypes | None = None) -> Policy:
    """The pipeline of `config`'s profile: its filters, scorers and picker, each in the order of the file.

    `installed` holds Python plugin classes by type name (default: those found by entry point). Raises ConfigError.
    """
    source = InstalledTypes() if installed is None else installed
    ordered: Sequence[WeightedPlugin] = [
        plugin for role in (Role.FILTER, Role.SCORER, Role.PICKER) for plugin in config.profile.of(role)
    ]
    if len(ordered) > score.MAX_STEPS:
        raise ConfigError(
            f"the profile has {len(ordered)} plugins", source=config.source, hint=f"at most {score.MAX_STEPS} can run"
        )
    draft = _Draft()
    steps = tuple(
        _native(plugin, draft) or _foreign(plugin, number, draft, source) for number, plugin in enumerate(ordered)
    )
    ttft, session = config.parameters(p.TtftScorer), config.parameters(p.SessionAffinityScorer)
    return Policy(
        steps=steps,
        names=tuple(plugin.spec.name for plugin in ordered),
        wanted=int(getattr(ordered[-1].spec.parameters, "maxNumOfEndpoints", 1)),
        selectors=tuple(draft.selectors),
        host=PluginHost(draft.records) if draft.records else None,
        prior_rate=ttft.priorPrefillTokensPerSecond if ttft else p.TtftScorer().priorPrefillTokensPerSecond,
        session_header=session.headerName if session else "x-session-token",
    )
