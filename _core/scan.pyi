from typing import final

from typing_extensions import Buffer

@final
class Scanner:
    """The tape of one body: values numbered in the order in which they begin; value 0 is the document.

    In an object, keys and values alternate. The items of an array of plain integers 0..2**32-1 are not on the tape:
    see `ints`. The body is held until the next `scan`; it must not change meanwhile. Methods raise
    IndexError for an index that is not on the tape, ValueError for a value of another kind than they are for.
    """

    def __new__(cls, max_values: int = 1048576, max_depth: int = 256) -> Scanner: ...
    def scan(self, body: Buffer) -> None:
        """Lay the values of `body` on the tape in place of the former ones.

        Raises ValueError naming the first byte that is wrong, OverflowError beyond max_values values, max_depth nested
        containers or 4 GiB; the tape is then empty.
        """

    def values(self) -> list[tuple[int, int, int, int, int]]:
        """(start, end, next, kind, flags) of each value; offsets in bytes, `next` the value after all it holds."""

    def __len__(self) -> int: ...
    def member(self, index: int, name: Buffer) -> int | None:
        """Index of the value of the last member `name` (UTF-8, unescaped) of the object at `index`, or None."""

    def equals(self, index: int, text: Buffer) -> bool:
        """Is `text` (UTF-8) what the string at `index` stands for?"""

    def text(self, index: int) -> bytes:
        """What the string at `index` stands for, in UTF-8; lone surrogates as with `surrogatepass`."""

    def ints(self, index: int) -> list[int]:
        """The items of the array at `index`, which must be flagged as one of plain integers (flag 2)."""

    def uint(self, index: int) -> int | None:
        """The number at `index` if it is whole and in 0..2**64-1, however it is written (5, 5.0, 0.5e1), else None."""

    def _check(self) -> None:
        """Raises AssertionError unless all invariants of the tape hold. For tests."""

def splice(body: Buffer, name: Buffer, value: str) -> bytes:
    """`body` with the value of its last top-level member `name` (UTF-8) replaced by the JSON string `value`.

    Every other byte stays. Raises KeyError if the body is no object or has no such member, ValueError if it is not JSON
    or `value` has lone surrogates, OverflowError as `Scanner` does.
    """
