from typing import final

from typing_extensions import Buffer

@final
class PromSpec:
    """The series wanted from metrics pages, compiled once: a list of (name, filters, combine, captured label names).

    `filters` maps label names to the values they must have; `combine` says how several matching series become one
    value: "sum", "max", or "newest" (the series of greatest value, for values that are timestamps). Limits: 32 series,
    4 filters and 8 captured labels each. Raises ValueError for a bad name or combine, OverflowError over a limit.
    """

    def __new__(cls, wants: list[tuple[str, dict[str, str], str, tuple[str, ...]]]) -> PromSpec: ...
    @property
    def malformed(self) -> int: ...
    def __len__(self) -> int: ...
    def scan(self, page: Buffer) -> list[tuple[float, tuple[bytes | None, ...]] | None]:
        """Per wanted series (value, captured label values), or None where the page has no sample of it.

        A label the series lacks is None. Bad lines are skipped and counted in `malformed`, which each scan sets anew;
        NaN samples are passed over. Raises OverflowError for a page of 4 GiB or more.
        """

    def _check(self) -> None:
        """Raises AssertionError unless every want is on exactly one chain, with wants of its own name."""
