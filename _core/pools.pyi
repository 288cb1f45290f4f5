from collections.abc import Iterable
from typing import Final, final

from typing_extensions import Buffer

UNKNOWN: Final[int]
MANY: Final[int]

@final
class PoolNames:
    """What each pool is found by: (name, (authority, ...)) each, found by its place among them.

    An authority is a service and its namespace, `picker.ns`, or a service alone; more of it does not count. Two pools
    may share one: then neither is found by it. ValueError for a name that is there twice, for what is longer than 320
    bytes, and for an authority that names no service; OverflowError for more than 64 of them; MemoryError.
    """

    def __new__(cls, pools: Iterable[tuple[str, Iterable[str]]]) -> PoolNames: ...
    def find(self, pool: Buffer, authority: Buffer) -> int:
        """Place of the pool that a stream is for, UNKNOWN, or MANY: more than one is called so.

        `pool`: its name, which counts alone unless it is empty. `authority`: else, that of the stream.
        """

    def __len__(self) -> int: ...
    def _check(self) -> None: ...
