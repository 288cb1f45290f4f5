from typing import Final, final

from picker._core.calls import Methods

NAMES: Final[tuple[str, ...]]

@final
class Health:
    """The health service; not ready until told. Give its `methods()` to a server, `wake` its connections on change."""

    def __new__(cls) -> Health: ...
    @property
    def is_ready(self) -> bool:
        """Whether picker asks for traffic."""

    @is_ready.setter
    def is_ready(self, ready: bool) -> None: ...
    def methods(self) -> Methods:
        """Check, List and Watch."""

    def _check(self) -> None: ...
