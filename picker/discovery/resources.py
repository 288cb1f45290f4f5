"""Kubernetes objects from a YAML file, followed while picker runs as the endpoints file is."""

from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

from picker.config.following import FollowedFile
from picker.errors import ResourcesError
from picker.resources.objects import Resource
from picker.resources.parse import parse_resources

__all__ = ["ResourcesFile"]


class ResourcesFile(FollowedFile[tuple[Resource, ...]]):
    """The objects of one file, kept current."""

    holds = "resources"
    error = ResourcesError

    def __init__(
        self,
        path: Path | str,
        *,
        on_change: Callable[[tuple[Resource, ...]], None] = lambda _: None,
        interval_s: float = 0.5,
        tick: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(path, (), on_change=on_change, interval_s=interval_s, tick=tick)

    def parse(self, data: bytes) -> Generator[None, None, tuple[Resource, ...]]:
        """The objects in `data`."""
        return parse_resources(data, source=str(self.path))
