"""Why there is no page."""

from typing import Final, Literal

__all__ = ["REASONS", "FetchFailed", "Reason"]

Reason = Literal["timeout", "connect", "http", "http_status", "too_large", "no_series", "internal"]
REASONS: Final[tuple[Reason, ...]] = ("timeout", "connect", "http", "http_status", "too_large", "no_series", "internal")
"""Why a scrape failed: no answer in time; no connection; not HTTP, or cut off; a status other than 200; a page over the
cap; a page without the engine's series; a bug of ours."""


class FetchFailed(Exception):
    """No page; `reason` is one of `REASONS`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Final = reason
