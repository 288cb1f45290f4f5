"""The error tree: what picker raises on purpose, and the exit code each kind ends a command with.

Every message is written for the person who must act on it: where, what is wrong, what to do next.
Anything else that escapes is a bug. Imports nothing, so that every floor may import it.
"""

__all__ = [
    "BaseModelsError",
    "ConfigError",
    "CoreUnavailable",
    "EndpointsFileError",
    "KubernetesError",
    "KubernetesRefusal",
    "LoraConfigError",
    "PickerError",
    "ResourcesError",
    "UsageError",
    "printable",
]

_LONGEST = 1000


def printable(text: str) -> str:
    """`text` with control characters escaped, so that what a file holds cannot forge a log line or a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PickerError(Exception):
    """Base of all errors picker raises on purpose; `exit_code` is what a command ends with."""

    exit_code = 1


class UsageError(PickerError):
    """The command line cannot be used as given."""

    exit_code = 2


class ConfigError(PickerError):
    """A configuration text cannot be used.

    `source` is the file (or flag) the text came from, `line` counts from 1 (None: the text as a whole), `field` is
    the path of the member, such as `plugins[2].parameters.threshold`, and `hint` says what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, source: str, line: int | None = None, field: str = "", hint: str = "") -> None:
        self.message, self.source, self.line, self.field, self.hint = message, source, line, field, hint
        where = source if line is None else f"{source}:{line}"
        text = f"{where}: {field}: {message}" if field else f"{where}: {message}"
        super().__init__(printable(f"{text}; {hint}" if hint else text)[:_LONGEST])


class EndpointsFileError(ConfigError):
    """The endpoints file cannot be used: unreadable, not YAML, or an entry that is wrong."""


class ResourcesError(ConfigError):
    """A text of Kubernetes objects cannot be used: not YAML, or an object that is wrong."""


class BaseModelsError(ConfigError):
    """The base models cannot be used: not YAML, or a ConfigMap that is wrong."""


class LoraConfigError(ConfigError):
    """The adapters of a side-car cannot be used: not YAML, or an entry that is wrong."""


class KubernetesError(PickerError):
    """A Kubernetes API server did not answer, or not in a way that can be used."""


class KubernetesRefusal(KubernetesError):
    """It answered with an error.

    `status` is that of HTTP, `reason` what the server calls it (`Conflict`, `Expired`, ...; "" if it does not say), and
    `retry_after_s` how long it asks to be left alone, 0 if it does not.
    """

    def __init__(self, message: str, *, status: int, reason: str = "", retry_after_s: float = 0.0) -> None:
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s
        super().__init__(printable(message)[:_LONGEST])


class CoreUnavailable(PickerError):
    """The compiled core (`picker._core`) does not load; there is no slower stand-in, on purpose."""
