from typing import final

from typing_extensions import Buffer

@final
class Runs:
    """A trie of runs; for tests. Nodes are numbers, the root is 0. Raises KeyError for a node that does not exist."""

    def __new__(cls) -> Runs: ...
    def add(self, parent: int, hashes: Buffer) -> int:
        """A new child of `parent`. Raises ValueError for no hashes, or if a child begins with the same one."""

    def find(self, hash: int, parent: int) -> int:
        """The child of `parent` whose run begins with `hash`, or 0."""

    def common(self, index: int, hashes: Buffer) -> int:
        """Leading hashes the node shares with `hashes`. Raises ValueError unless the first one is equal."""

    def extend(self, index: int, hashes: Buffer) -> None:
        """Add hashes to a run."""

    def cut(self, index: int, length: int) -> None:
        """Keep the first `length` hashes of a run, at least one. Raises ValueError if it has fewer."""

    def split(self, index: int, at: int) -> int:
        """Cut a run in two: the new node, which is returned, has the hashes before `at`. ValueError if one is empty."""

    def drop(self, index: int) -> None:
        """Remove a node. Raises ValueError if it has children."""

    def hashes(self, index: int) -> list[int]:
        """The run of a node."""

    def parent(self, index: int) -> int:
        """The parent of a node."""

    def __len__(self) -> int: ...
    @property
    def memory_bytes(self) -> int:
        """Bytes allocated."""

    def _check(self) -> None: ...
