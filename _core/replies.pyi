from typing_extensions import Buffer

def refusal(failure: int, problem: int = 0, offset: int = 0, retry_after_s: int = 0) -> bytes:
    """The ImmediateResponse for a failure (an index of `stats.FAILURES`); for tests and tools.

    `problem` (one of `apis`'s BODY_*) and `offset` say what a 400 is about. MemoryError only.
    """

def no_pool(said: Buffer, *, is_name: bool = False, is_many: bool = False) -> bytes:
    """The ImmediateResponse for a pool that is not known by this authority, or this name; MemoryError only.

    `is_many`: several are.
    """
