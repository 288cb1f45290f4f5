"""Configuration: an `EndpointPickerConfig` text decoded strictly, and the settings of the serve command.

May be imported by every floor above; imports `picker.types` and `picker.errors` only.
"""

from picker.config.catalogue import PluginType, Role
from picker.config.load import load_config
from picker.config.model import DEFAULT_CONFIG, PickerConfig, PluginSpec, Profile, WeightedPlugin

__all__ = [
    "DEFAULT_CONFIG",
    "PickerConfig",
    "PluginSpec",
    "PluginType",
    "Profile",
    "Role",
    "WeightedPlugin",
    "load_config",
]
