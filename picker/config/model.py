"""What a configuration comes to: the profile picker runs, and the settings beside it. Frozen, fully resolved."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from picker.config.catalogue import Role
from picker.config.flow import FlowPlan
from picker.config.parameters import MaxScorePicker, TtftScorer
from picker.config.ratelimits import RateLimitPlan
from picker.config.schema import ResponseTracking
from picker.config.support import Parser

__all__ = ["DEFAULT_CONFIG", "PickerConfig", "PluginSpec", "Profile", "WeightedPlugin"]

P = TypeVar("P", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSpec:
    """A plugin instance.

    `type` is the current name of its type (an older name is translated); `parameters` is the struct of its type, or a
    dict for a type added without one.
    """

    type: str
    name: str
    role: Role
    parameters: msgspec.Struct | dict[str, Any]


@dataclass(frozen=True, slots=True)
class WeightedPlugin:
    """A plugin in a profile; only a scorer's weight counts."""

    spec: PluginSpec
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Filters, scorers and one picker, in the order of the file."""

    name: str
    plugins: tuple[WeightedPlugin, ...]

    def of(self, *roles: Role) -> tuple[WeightedPlugin, ...]:
        """The plugins with one of these roles, in order."""
        return tuple(plugin for plugin in self.plugins if plugin.spec.role in roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerConfig:
    """An effective configuration.

    `plugins` holds every declared plugin, in a profile or not; `scraping` is false if the file switched metrics
    off; `source` names where `text` came from; `warnings` are complete sentences that name their line.
    """

    profiles: tuple[Profile, ...]
    plugins: tuple[PluginSpec, ...]
    parsers: tuple[PluginSpec, ...] = ()
    discovery: PluginSpec | None = None
    scraping: bool = True
    flow_control: FlowPlan = field(default_factory=FlowPlan)
    rate_limits: RateLimitPlan = field(default_factory=RateLimitPlan)
    response_tracking: ResponseTracking = "full"
    warnings: tuple[str, ...] = ()
    source: str = "built-in default"
    text: str = field(default="", repr=False)

    def __len__(self) -> int:
        """How many plugins it declares."""
        return len(self.plugins)

    @property
    def profile(self) -> Profile:
        """The one profile (several are not supported yet)."""
        return self.profiles[0]

    @property
    def apis(self) -> tuple[str, ...] | None:
        """The families of APIs whose bodies are read, by the parsers that are named; None: all that picker knows."""
        if not self.parsers:
            return None
        found = (spec.parameters.family for spec in self.parsers if isinstance(spec.parameters, Parser))
        return tuple(family for family in found if family)

    def parameters(self, wanted: type[P]) -> P | None:
        """The parameters of the first declared plugin of that kind, for settings that stand outside a profile."""
        return next((spec.parameters for spec in self.plugins if isinstance(spec.parameters, wanted)), None)


def default_plugins() -> tuple[PluginSpec, ...]:
    """The default policy: the least estimated time to first token."""
    return (
        PluginSpec(type="ttft-scorer", name="ttft-scorer", role=Role.SCORER, parameters=TtftScorer()),
        PluginSpec(type="max-score-picker", name="max-score-picker", role=Role.PICKER, parameters=MaxScorePicker()),
    )


DEFAULT_CONFIG = PickerConfig(
    profiles=(Profile("default", tuple(map(WeightedPlugin, default_plugins()))),),
    plugins=default_plugins(),
)
"""What picker runs without a configuration."""
