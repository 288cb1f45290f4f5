from typing import Final, final

from picker._core.calls import Methods

NAMES: Final[tuple[str, ...]]
STRICT_NAMES: Final[tuple[str, ...]]

@final
class Health:
    """The health service; not ready until told. Give its `methods()` to a server, `wake` its connections on change.

    A `strict` one knows no names but STRICT_NAMES: others are NOT_FOUND, or SERVICE_UNKNOWN where they are watched.
    """

    def __new__(cls, *, strict: bool = False) -> Health: ...
    @property
    def is_ready(self) -> bool:
        """Whether picker asks for traffic."""

    @is_ready.setter
    def is_ready(self, ready: bool) -> None: ...
    def methods(self) -> Methods:
        """Check, List and Watch."""

    def _check(self) -> None: ...
