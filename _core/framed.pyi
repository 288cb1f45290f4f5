from typing import final

from typing_extensions import Buffer

@final
class FrameScanner:
    """Reads one gRPC response body of a vLLM engine as it passes. Figures are None until known."""

    def __new__(cls) -> FrameScanner: ...
    def feed(self, chunk: Buffer) -> None:
        """The next bytes of the body, cut anywhere."""

    @property
    def prompt_tokens(self) -> int | None:
        """All of the prompt, cached or not."""

    @property
    def cached_tokens(self) -> int | None:
        """Those of the prompt that were cached."""

    @property
    def completion_tokens(self) -> int | None:
        """Generated tokens so far."""

    @property
    def messages(self) -> int:
        """Whole messages so far."""

    @property
    def tokens(self) -> int:
        """Messages so far that hold tokens, or may."""

    @property
    def is_whole(self) -> bool:
        """Does the body end with a message so far?"""

    def _check(self) -> None:
        """Raises AssertionError unless the state is one that can be."""
