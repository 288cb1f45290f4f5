from typing import final

@final
class Subset:
    """The hint alone, for tests and tools; sessions hold their own."""

    def __new__(cls) -> Subset: ...
    def read(self, metadata: bytes) -> None:
        """Take the hint out of a serialised Metadata, in place of the last one. ValueError if it cannot be read."""

    def pin(self, text: bytes) -> None:
        """Allow what a comma list names, whatever hints say, before and after."""

    def __len__(self) -> int:
        """Endpoints and addresses named; 0 without a hint."""

    def allows(self, target: bytes, address: bytes) -> bool:
        """May the endpoint at `target` ("ip:port") of `address` ("ip", IPv6 bare) be picked?"""

    def _check(self) -> None:
        """Assert the invariants."""
