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
        """All of the prompt, cached or not: `prompt_tokens`, or `input_tokens` and what came from or into the cache."""

    @property
    def completion_tokens(self) -> int | None:
        """`completion_tokens` or `output_tokens`."""

    @property
    def total_tokens(self) -> int | None:
        """`total_tokens`."""

    @property
    def cached_tokens(self) -> int | None:
        """`cached_tokens` of `prompt_tokens_details` or `input_tokens_details`, or `cache_read_input_tokens`."""

    @property
    def events(self) -> int:
        """Whole JSON events so far, `[DONE]` not counted; a unary body is one."""

    @property
    def malformed(self) -> int:
        """Events lost because their data is no JSON."""

    @property
    def tokens(self) -> int:
        """Events so far that hold a token, as far as they say; of a unary body 1 once it has begun."""

    @property
    def done(self) -> bool:
        """`[DONE]`, or an event that says it is the last one, was seen."""

    @property
    def saw_error(self) -> bool:
        """An event, or the unary body, held an `error` object or said that it is an error."""

    @property
    def end(self) -> str:
        """One of open (before `finish`), complete, cut (the body ended inside an event, or is no JSON)."""

    def _check(self) -> None:
        """Raises AssertionError unless the state is one that can be."""

@final
class Restorer:
    """Puts `client` in the place of the model's name `target` in one response body as it passes.

    Both are as they stand between the quotes of a JSON string; what stands in the body is compared without its escapes.
    Raises ValueError if one is no such text.
    """

    def __new__(cls, target: bytes, client: bytes, *, event_stream: bool) -> Restorer: ...
    def feed(self, chunk: Buffer, *, last: bool = False) -> bytes:
        """The next bytes of the body, cut anywhere; what goes on of them. MemoryError."""

    @property
    def held(self) -> bytes:
        """What is held back: the beginning of a name that may become the target."""

    def _check(self) -> None:
        """Raises AssertionError unless the state is one that can be."""
