from typing import final

from typing_extensions import Buffer

@final
class Radix:
    """Which endpoint holds how long a prefix.

    `width` endpoints, numbered from 0, each with room for `capacity` blocks; `max_blocks`, below 2**31, limits the
    (block, endpoint) pairs. Blocks are given by their chained hashes, an array of 64-bit unsigned integers
    (`array("Q")`). Raises ValueError for an endpoint that is not below the width.
    """

    def __new__(cls, width: int, *, capacity: int, max_blocks: int) -> Radix: ...
    def match(self, hashes: Buffer) -> list[int]:
        """How many leading blocks of `hashes` each endpoint holds."""

    def match_into(self, hashes: Buffer, out: Buffer) -> int:
        """The same, written to `out` (`array("I")`); returns the largest. Raises ValueError if `out` is too short."""

    def insert(self, hashes: Buffer, slot: int) -> None:
        """An endpoint now holds these blocks, and they are its newest.

        To stay within its capacity and the index within `max_blocks`, the endpoint's own oldest blocks are evicted,
        the deepest first. What still has no room is left out at the end. Raises MemoryError; the endpoint then holds
        fewer of the blocks, and may have lost older ones.
        """

    def forget(self, slot: int) -> None:
        """An endpoint holds nothing any more. Its capacity stays."""

    def set_capacity(self, slot: int, blocks: int) -> None:
        """Blocks an endpoint may hold. Evicts at once if it holds more."""

    def held(self, slot: int) -> int:
        """Blocks an endpoint holds."""

    def widen(self, width: int) -> None:
        """Room for endpoints 0..width-1; never shrinks."""

    def __len__(self) -> int:
        """(Block, endpoint) pairs held."""

    @property
    def width(self) -> int:
        """Endpoints there is room for."""

    @property
    def memory_bytes(self) -> int:
        """Bytes allocated, without the allocator's own overhead."""

    @property
    def nodes(self) -> int:
        """Runs of blocks in the tree."""

    def _check(self) -> None: ...
