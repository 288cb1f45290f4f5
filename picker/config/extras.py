"""Plugin types other Python packages bring, found by entry point.

A package declares `[project.entry-points."picker.plugins"]` with `my-scorer = "package.module:MyScorer"`. The class
says what it is with two attributes: `role` ("filter", "scorer" or "picker") and `parameters` (a `msgspec.Struct`
class, or None for a free-form mapping). A class is imported only when a configuration names its type.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

import msgspec

from picker.config.catalogue import ParameterType, PluginType, Role
from picker.errors import ConfigError

__all__ = ["GROUP", "InstalledTypes"]

GROUP = "picker.plugins"
_ROLES = {"filter": Role.FILTER, "scorer": Role.SCORER, "picker": Role.PICKER}


class InstalledTypes(Mapping[str, PluginType | ParameterType]):
    """The plugin types of the installed packages, by name; for `load_config(extra_types=...)`.

    Looking one up imports its class. Raises `ConfigError` if that fails or the class does not say its role.
    """

    def __init__(self, group: str = GROUP) -> None:
        self._entries = {entry.name: entry for entry in entry_points(group=group)}

    def __getitem__(self, name: str) -> PluginType:
        entry = self._entries[name]
        plugin = self.load(name)
        parameters = getattr(plugin, "parameters", None)
        if parameters is not None and not (isinstance(parameters, type) and issubclass(parameters, msgspec.Struct)):
            raise _broken(entry, "its parameters attribute is not a msgspec.Struct class")
        role = _ROLES.get(str(getattr(plugin, "role", None)))
        if role is None:
            raise _broken(entry, 'its role attribute is not "filter", "scorer" or "picker"')
        return PluginType(name, role, parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def load(self, name: str) -> object:
        """The plugin class itself. Raises `ConfigError` if importing it fails, `KeyError` if nothing has that name."""
        entry = self._entries[name]
        try:
            plugin: object = entry.load()
        except Exception as problem:  # whatever a foreign module raises while it is imported
            raise _broken(entry, f"importing it failed: {type(problem).__name__}: {problem}") from problem
        return plugin


def _broken(entry: EntryPoint, what: str) -> ConfigError:
    package = entry.dist.name if entry.dist is not None else "an installed package"
    hint = f"fix or uninstall {package}"
    return ConfigError(f"plugin {entry.name!r} ({entry.value}) cannot be used: {what}", source=package, hint=hint)
