"""The EndpointPickerConfig of a file, followed while picker runs."""

from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

from picker.config.following import FollowedFile, digest
from picker.config.load import ExtraTypes, parse_config
from picker.config.model import PickerConfig
from picker.errors import ConfigError

__all__ = ["ConfigFile"]


class ConfigFile(FollowedFile[PickerConfig]):
    """The configuration of one file, kept current. `extra_types`: as of `load_config`."""

    holds = "configuration"
    counts = "plugins"
    error = ConfigError

    def __init__(
        self,
        path: Path | str,
        in_use: PickerConfig,
        *,
        extra_types: ExtraTypes | None = None,
        on_change: Callable[[PickerConfig], None] = lambda _: None,
        interval_s: float = 0.5,
        tick: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(path, in_use, on_change=on_change, interval_s=interval_s, tick=tick)
        self.resume(in_use, digest(in_use.text.encode()))
        self._extra_types = extra_types

    def parse(self, data: bytes) -> Generator[None, None, PickerConfig]:
        """The configuration in `data`."""
        return parse_config(data, source=str(self.path), extra_types=self._extra_types)
