def refusal(failure: int, problem: int = 0, offset: int = 0) -> bytes:
    """The ImmediateResponse for a failure (an index of `stats.FAILURES`); for tests and tools.

    `problem` (one of `apis`'s BODY_*) and `offset` say what a 400 is about. MemoryError only.
    """
