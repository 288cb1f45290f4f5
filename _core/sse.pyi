from typing import final

from typing_extensions import Buffer

@final
class UsageScanner:
    """Reads one response body as it passes: an event stream, or plain JSON if `event_stream` is false.

    Figures are those of the last usage seen, None until known; an event counts once it is whole.
    """

    def __new__(cls, event_stream: bool) -> UsageScanner: ...
    def feed(self, chunk: Buffer) -> None:
        """The next bytes of the body, cut anywhere. After `finish` they are not looked at."""

    def finish(self) -> None:
        """The body has ended: takes an event that lacks only its blank line, or the unary body. Once is enough."""

    @property
    def prompt_tokens(self) -> int | None:
        """`prompt_tokens` or `input_tokens`."""

    @property
    def completion_tokens(self) -> int | None:
        """`completion_tokens` or `output_tokens`."""

    @property
    def total_tokens(self) -> int | None:
        """`total_tokens`."""

    @property
    def cached_tokens(self) -> int | None:
        """`cached_tokens` of `prompt_tokens_details` or `input_tokens_details`."""

    @property
    def events(self) -> int:
        """Whole JSON events so far, `[DONE]` not counted; a unary body is one."""

    @property
    def malformed(self) -> int:
        """Events lost because their data is no JSON."""

    @property
    def first_token(self) -> bool:
        """The first data of the stream, or the first byte of the unary body, has come."""

    @property
    def done(self) -> bool:
        """`[DONE]` was seen."""

    @property
    def saw_error(self) -> bool:
        """An event, or the unary body, held an `error` object."""

    @property
    def end(self) -> str:
        """One of open (before `finish`), complete, cut (the body ended inside an event, or is no JSON)."""

    def _check(self) -> None:
        """Raises AssertionError unless the state is one that can be."""
