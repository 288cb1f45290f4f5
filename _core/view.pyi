from typing import final

PART_HEADERS: int
PART_BODY: int
PART_EVENT: int

@final
class View:
    """A message as a plugin may see and change it; made by a Router. RuntimeError once the plugin's turn is over."""

    @property
    def part(self) -> int:
        """What is before the plugin: PART_HEADERS (no body, or none is shown), PART_BODY or PART_EVENT."""

    @property
    def may_reject(self) -> bool:
        """Can the client still be answered otherwise? If not, `reject` ends the response in the middle."""

    def pairs(self, of_request: bool = False) -> list[tuple[bytes, bytes]]:
        """The headers as they came, in order; `of_request`: also while the response is looked at."""

    def edits(self, of_request: bool = False) -> list[tuple[bytes, bytes | None]]:
        """What plugins want of the headers, in order: (name, value), or (name, None) to remove it."""

    def edit(self, name: bytes, value: bytes | None) -> None:
        """Set a header, or remove it (None). OverflowError for too many or too long ones; MemoryError."""

    @property
    def body(self) -> bytes:
        """The bytes before the plugin."""

    def member(self, path: tuple[bytes | int, ...]) -> bytes | None:
        """The JSON text of what stands at `path` (names as bytes, and indexes); None if nothing does, or no JSON is
        there. The items of an array of plain integers cannot be reached one by one."""

    def set_member(self, parent: tuple[bytes | int, ...], last: bytes | int, quoted: bytes, json: bytes) -> None:
        """Let `json` be the member `last` (its name; `quoted`, as JSON) of the object at `parent`, or the item `last`
        (an index that is there) of the array. LookupError if there is no such object or item; MemoryError."""

    def remove_member(self, parent: tuple[bytes | int, ...], name: bytes) -> None:
        """Let the object at `parent` have no member `name`. LookupError if there is no such object; MemoryError."""

    def reject(self, status: int, body: bytes) -> None:
        """Answer the client with this JSON; a response of which something has gone to it is ended in the middle.

        ValueError for a status that is not 400 to 599; MemoryError.
        """

    def undo(self) -> None:
        """Take back all that was done since the plugin's turn began."""

    def _check(self) -> None: ...
