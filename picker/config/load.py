"""Text to `PickerConfig`: decode the shape, each plugin's parameters, then settle who refers to whom.

Whatever the text, the only exception is `ConfigError`. What is accepted but changes nothing gets a warning.
"""

from collections.abc import Generator, Iterable, Mapping
from typing import Any

import msgspec

from picker.config import ratelimits, schema
from picker.config.admission import AdaptiveDetector
from picker.config.catalogue import (
    DEPRECATED,
    IMPLICIT,
    SCHEDULING,
    SUPPORTED,
    ParameterType,
    PluginType,
    Role,
)
from picker.config.decode import Decoder, member
from picker.config.document import MemberPath, compose, decode_text, drain
from picker.config.model import DEFAULT_CONFIG, PickerConfig, PluginSpec, Profile, WeightedPlugin, default_plugins
from picker.config.parameters import MaxScorePicker, Parameters
from picker.config.planning import plan_flow
from picker.config.refused import KNOWN_UNSUPPORTED
from picker.config.suggest import one_of, quoted
from picker.errors import printable

__all__ = ["ExtraTypes", "load_config", "parse_config"]

ExtraTypes = Mapping[str, PluginType | ParameterType]
"""Plugin types a caller adds, by name. A bare struct (or None: any mapping) is a scheduling plugin of unstated role."""

GATES_WITHOUT_EFFECT = frozenset(
    ["haPopulateNonLeaderDatastore", "dataLayer", "prepareDataPlugins", "enableLegacyMetrics"]
)


def load_config(
    text: str | bytes, *, source: str = "configuration", extra_types: ExtraTypes | None = None
) -> PickerConfig:
    """The effective configuration `text` (YAML or JSON) stands for; `source` names it in errors.

    Raises `ConfigError` naming source, line and field for anything that is not valid.
    """
    return drain(parse_config(text, source=source, extra_types=extra_types))


def parse_config(
    text: str | bytes, *, source: str, extra_types: ExtraTypes | None = None
) -> Generator[None, None, PickerConfig]:
    """As `load_config`, in slices: yields now and then, returns it."""
    if isinstance(text, bytes):
        text = decode_text(text, source=source)
    document = yield from compose(text, source=source)
    return _Loader(Decoder(document, source=source), extra_types or {}).load(source, text)


class _Loader:
    """One run over one document; collects warnings and the plugins by name."""

    def __init__(self, decoder: Decoder, extra_types: ExtraTypes) -> None:
        self._decoder = decoder
        self._extra = extra_types
        self.plugins: dict[str, PluginSpec] = {}
        self.paths: dict[str, MemberPath] = {}
        self._warnings: list[str] = []

    def load(self, source: str, text: str) -> PickerConfig:
        self._check_version()
        file = self._decoder.convert((), self._decoder.document.value, schema.EndpointPickerConfig)
        for index, entry in enumerate(file.plugins):
            self._declare(("plugins", index), entry)
        self._check_plugin_refs()
        profile = self._profile(file.schedulingProfiles)
        gate = self._check_gates(file.featureGates)
        filters = frozenset(plugin.spec.name for plugin in profile.of(Role.DETECTOR))
        parsers = self._parsers(file)
        discovery = self._data_layer(file.dataLayer)
        return PickerConfig(
            profiles=(profile,),
            plugins=tuple(self.plugins.values()),
            parsers=parsers,
            discovery=discovery,
            scraping=file.dataLayer is None or file.dataLayer.injectDefaults or bool(file.dataLayer.sources),
            flow_control=plan_flow(self, file, gate=gate, filters=filters),
            rate_limits=ratelimits.check(file.rateLimits, self._decoder),
            response_tracking=self._response_tracking(file.responseTracking),
            warnings=tuple(self._warnings),
            source=source,
            text=text,
        )

    def _response_tracking(self, given: schema.ResponseTracking | bool) -> schema.ResponseTracking:
        if given is True:
            wrong = "true is not a way to track responses"
            raise self.fail(wrong, ("responseTracking",), "use one of: full, headers, off")
        return "off" if given is False else given

    # --- helpers ---

    def fail(self, message: str, path: MemberPath, hint: str = "") -> Exception:
        return self._decoder.failure(message, path, hint=hint)

    def warn(self, message: str, path: MemberPath) -> None:
        self._warnings.append(printable(f"{self._decoder.where(path)}: {message}"))

    def given(self, path: MemberPath) -> Any:
        """What the document says at `path`; None if nothing."""
        return member(self._decoder.document.value, path)

    def _check_version(self) -> None:
        """Before anything else: a file of another kind deserves that answer, not a list of unknown fields."""
        value = self._decoder.document.value
        if not isinstance(value, dict):
            return
        kind, version = value.get("kind"), value.get("apiVersion")
        if isinstance(kind, str) and kind != schema.KIND:
            raise self.fail(f"{quoted(kind)} is not a configuration of picker", ("kind",), f"write {schema.KIND}")
        if isinstance(version, str) and version not in schema.API_VERSIONS:
            raise self.fail(
                f"version {quoted(version)} is not supported", ("apiVersion",), f"write {schema.API_VERSIONS[0]}"
            )
        for field, wanted in (("apiVersion", schema.API_VERSIONS[0]), ("kind", schema.KIND)):
            if field not in value:
                raise self.fail(f"required field {quoted(field)} is missing", (), f"add {field}: {wanted}")

    # --- plugins ---

    def _declare(self, path: MemberPath, entry: schema.PluginEntry) -> None:
        kind = self._type(entry.type, (*path, "type"))
        name = entry.name or entry.type
        if name in self.plugins:
            first = self._decoder.document.line(self.paths[name])
            hint = f"the first is on line {first}; give each its own name"
            raise self.fail(f"plugin name {quoted(name)} is used twice", (*path, "name"), hint)
        parameters = self._parameters((*path, "parameters"), entry.parameters or {}, kind.parameters)
        self.paths[name] = path
        self.plugins[name] = PluginSpec(type=kind.name, name=name, role=kind.role, parameters=parameters)
        if entry.type in DEPRECATED and entry.type not in self._extra:
            self.warn(f"{entry.type} is deprecated; use {DEPRECATED[entry.type]}", (*path, "type"))

    def _type(self, name: str, path: MemberPath) -> PluginType:
        if name in self._extra:
            added = self._extra[name]
            return added if isinstance(added, PluginType) else PluginType(name, Role.SCHEDULING, added)
        if name in SUPPORTED:
            return SUPPORTED[name]
        if name in KNOWN_UNSUPPORTED:
            what = f"plugin type {quoted(name)} is known, but picker does not run it"
            raise self.fail(what, path, KNOWN_UNSUPPORTED[name])
        names = [*SUPPORTED, *self._extra]
        raise self.fail(f"unknown plugin type {quoted(name)}", path, one_of(name, names))

    def _parameters(self, path: MemberPath, given: dict[str, Any], wanted: ParameterType) -> Any:
        if wanted is None:
            return given
        parameters: msgspec.Struct = self._decoder.convert(path, given, wanted)
        self._warn_no_effect(path, given, parameters)
        return parameters

    def _warn_no_effect(self, path: MemberPath, given: Any, decoded: Any) -> None:
        """For each member that changes nothing and asks for something, at any depth."""
        if isinstance(given, list) and isinstance(decoded, tuple):
            for index, item in enumerate(given):
                self._warn_no_effect((*path, index), item, decoded[index])
        if not (isinstance(given, dict) and isinstance(decoded, Parameters)):
            return
        defaults = {field.name: field.default for field in msgspec.structs.fields(decoded)}
        for name in given:
            value = getattr(decoded, name)
            if name not in decoded.no_effect:
                self._warn_no_effect((*path, name), given[name], value)
            elif value != defaults[name]:
                self.warn(f"this has no effect: {decoded.no_effect[name]}", (*path, name))

    def _check_plugin_refs(self) -> None:
        """Parameters that name another plugin (`prefixMatchInfoProducerName`) must name one that is declared."""
        for name, spec in self.plugins.items():
            for parameter in getattr(spec.parameters, "plugin_refs", ()):
                if reference := getattr(spec.parameters, parameter):
                    self.refer(reference, (*self.paths[name], "parameters", parameter), ())

    def refer(self, name: str, path: MemberPath, roles: Iterable[Role]) -> PluginSpec:
        """The plugin called `name`, which must have one of `roles` (empty: any)."""
        spec = self.plugins.get(name)
        allowed = tuple(roles)
        if spec is None and name in IMPLICIT and allowed:
            kind = SUPPORTED[name]
            spec = PluginSpec(
                type=name, name=name, role=kind.role, parameters=self._parameters(path, {}, kind.parameters)
            )
        if spec is None:
            hint = one_of(name, self.plugins) if self.plugins else "declare it under plugins"
            raise self.fail(f"no plugin is named {quoted(name)}", path, hint)
        if allowed and spec.role not in allowed:
            wanted = " or ".join(role.value for role in allowed)
            raise self.fail(f"{quoted(name)} is a {spec.role.value}, not a {wanted}", path, f"name a {wanted}")
        return spec

    # --- scheduling ---

    def _profile(self, profiles: tuple[schema.SchedulingProfile, ...]) -> Profile:
        self._check_handlers()
        if len(profiles) > 1:
            hint = (
                "keep one, and use a picker for each: there is no header-profile-handler or disagg-profile-handler here"
            )
            raise self.fail(f"{len(profiles)} profiles are given", ("schedulingProfiles", 1), hint)
        if not profiles:
            return self._default_profile()
        path: MemberPath = ("schedulingProfiles", 0, "plugins")
        plugins = [self._weighted((*path, index), item) for index, item in enumerate(profiles[0].plugins)]
        self._check_repeats(path, plugins)
        profile = self._with_picker(profiles[0].name, plugins)
        self._warn_unused(profile)
        return profile

    def _check_handlers(self) -> None:
        handlers = [name for name, spec in self.plugins.items() if spec.role is Role.PROFILE_HANDLER]
        if len(handlers) > 1:
            path = (*self.paths[handlers[1]], "type")
            raise self.fail(f"a second profile handler {quoted(handlers[1])}", path, "keep one")

    def _default_profile(self) -> Profile:
        """Without profiles every scheduling plugin takes part; without those, picker's default policy runs."""
        plugins = [WeightedPlugin(spec) for spec in self.plugins.values() if spec.role in SCHEDULING]
        if not plugins:
            return DEFAULT_CONFIG.profile
        return self._with_picker("default", plugins)

    def _weighted(self, path: MemberPath, item: schema.ProfilePlugin) -> WeightedPlugin:
        reference = (*path, "pluginRef")
        spec = self.refer(item.pluginRef, reference, ())
        if spec.role not in SCHEDULING and spec.role is not Role.DETECTOR:
            hint = "remove it from the profile; it works by being declared"
            raise self.fail(
                f"{quoted(spec.name)} is a {spec.role.value}; it takes no part in a profile", reference, hint
            )
        if isinstance(spec.parameters, AdaptiveDetector):
            hint = "name it under flowControl.saturationDetector, or remove it: it is in force by itself"
            raise self.fail(f"{quoted(spec.name)} is no filter; it takes no part in a profile", reference, hint)
        if item.weight is None:
            return WeightedPlugin(spec)
        if spec.role in (Role.FILTER, Role.PICKER, Role.DETECTOR):
            self.warn(f"the weight of a {spec.role.value} has no effect", (*path, "weight"))
            return WeightedPlugin(spec)
        return WeightedPlugin(spec, item.weight)

    def _check_repeats(self, path: MemberPath, plugins: list[WeightedPlugin]) -> None:
        seen: dict[str, int] = {}
        for index, plugin in enumerate(plugins):
            first = seen.setdefault(plugin.spec.name, index)
            if first != index:
                hint = f"the first is on line {self._decoder.document.line((*path, first))}; remove one"
                raise self.fail(f"{quoted(plugin.spec.name)} is listed twice", (*path, index, "pluginRef"), hint)

    def _with_picker(self, name: str, plugins: list[WeightedPlugin]) -> Profile:
        """As the peer completes a profile: its own picker, else one declared elsewhere, else max-score-picker."""
        pickers = [plugin.spec for plugin in plugins if plugin.spec.role is Role.PICKER]
        if len(pickers) > 1:
            path = self.paths[pickers[1].name]
            raise self.fail(f"a second picker {quoted(pickers[1].name)} in profile {quoted(name)}", path, "keep one")
        if not pickers:
            declared = (spec for spec in self.plugins.values() if spec.role is Role.PICKER)
            pickers = [next(declared, default_plugins()[1])]
            plugins = [*plugins, WeightedPlugin(pickers[0])]
        scores = any(plugin.spec.role in (Role.SCORER, Role.SCHEDULING) for plugin in plugins)
        if not scores and isinstance(pickers[0].parameters, MaxScorePicker):
            path = self.paths.get(pickers[0].name, ())
            self.warn(f"profile {quoted(name)} has no scorer: endpoints are picked at random", path)
        return Profile(name, tuple(plugins))

    def _warn_unused(self, profile: Profile) -> None:
        used = {plugin.spec.name for plugin in profile.plugins}
        for name, spec in self.plugins.items():
            if spec.role in SCHEDULING and name not in used:
                self.warn(f"{spec.role.value} {quoted(name)} is in no profile: it does nothing", self.paths[name])

    # --- the rest of the file ---

    def _check_gates(self, gates: tuple[str, ...]) -> bool | None:
        """What the gate `flowControl` is set to; None if the file does not say."""
        flow_control = None
        for index, gate in enumerate(gates):
            path: MemberPath = ("featureGates", index)
            name, _, state = gate.partition("=")
            if state not in ("", "true", "false"):
                raise self.fail(f"feature gate {quoted(gate)} is not a name or name=true|false", path, "correct it")
            if name == "flowControl":
                flow_control = state != "false"
            elif name in GATES_WITHOUT_EFFECT:
                self.warn(f"feature gate {name} has no effect", path)
            else:
                hint = one_of(name, ["flowControl", *GATES_WITHOUT_EFFECT])
                raise self.fail(f"unknown feature gate {quoted(name)}", path, hint)
        return flow_control

    def _parsers(self, file: schema.EndpointPickerConfig) -> tuple[PluginSpec, ...]:
        """The new place wins over the old one, as in the peer."""
        if file.requestHandler is not None and file.requestHandler.parsers:
            parsers = enumerate(file.requestHandler.parsers)
            return tuple(
                self.refer(ref.pluginRef, ("requestHandler", "parsers", index, "pluginRef"), [Role.PARSER])
                for index, ref in parsers
            )
        if file.parser is not None:
            self.warn("parser is deprecated; use requestHandler.parsers", ("parser",))
            return (self.refer(file.parser.pluginRef, ("parser", "pluginRef"), [Role.PARSER]),)
        return ()

    def _data_layer(self, layer: schema.DataLayer | None) -> PluginSpec | None:
        if layer is None:
            return None
        for index, item in enumerate(layer.sources):
            path = ("dataLayer", "sources", index)
            self.refer(item.pluginRef, (*path, "pluginRef"), [Role.DATA_SOURCE])
            for number, extractor in enumerate(item.extractors):
                self.refer(extractor.pluginRef, (*path, "extractors", number, "pluginRef"), [Role.EXTRACTOR])
        self._refuse_sharing(layer)
        if layer.discovery is None:
            return None
        return self.refer(layer.discovery.pluginRef, ("dataLayer", "discovery", "pluginRef"), [Role.DISCOVERY])

    def _refuse_sharing(self, layer: schema.DataLayer) -> None:
        peers = layer.peerDiscovery.pluginRef if layer.peerDiscovery else ""
        named = {"peerDiscovery": peers, "crossReplicaSyncerPluginRef": layer.crossReplicaSyncerPluginRef}
        for field, plugin in named.items():
            if plugin:
                hint = "remove it: each replica learns by itself, from its own requests and from metrics"
                what = f"plugin {quoted(plugin)} cannot be used: replicas share no state yet"
                raise self.fail(what, ("dataLayer", field), hint)
        if layer.crossReplicaSyncInterval is not None:
            self.warn("this has no effect: replicas share no state yet", ("dataLayer", "crossReplicaSyncInterval"))
