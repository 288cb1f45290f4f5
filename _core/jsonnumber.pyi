from typing_extensions import Buffer

def whole(token: Buffer) -> int | None:
    """The JSON number `token` if it is whole and in 0..2**64-1, however it is written (5, 5.0, 0.5e1), else None.

    Raises ValueError if `token` is anything else than one JSON number.
    """

def integers(token: Buffer) -> list[int] | None:
    """The items of a JSON array of plain integers 0..2**32-1 (no sign, point or exponent); None for anything else."""
