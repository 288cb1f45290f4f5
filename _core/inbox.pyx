"""gRPC messages out of the bytes of a stream, however the bytes are cut.

Invariants: a message that lies whole in what came is lent where it lies; any other is gathered, copied once. A prefix
    that promises much takes no memory before the bytes come.
Cost: O(bytes).   Memory: the message under way, at most `largest`.   Threads: one at a time per inbox.
Source: gRPC over HTTP/2, Length-Prefixed-Message: a flag (1 = compressed), four bytes of size, the message.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_NOMEM, PK_OK
from picker._core.codec cimport buffer_append, buffer_free, buffer_reserve, slice_t

cdef enum:
    PREFIX = 5
    AT_ONCE = 1 << 17          # bytes reserved for a message before it comes

# --- C kernel ---


cdef inline slice_t _take(slice_t* rest, size_t size) noexcept nogil:
    """The first bytes of `rest`, at most `size`."""
    cdef slice_t taken = rest[0]
    taken.size = size if size < rest.size else rest.size
    rest.data += taken.size
    rest.size -= taken.size
    return taken


cdef int _begin(inbox_t* inbox, uint32_t largest) noexcept nogil:
    """The prefix is whole."""
    cdef const uint8_t* prefix = inbox.prefix
    if prefix[0] > 1:
        return PK_E_FORMAT
    if prefix[0] == 1:
        return PK_INBOX_COMPRESSED
    inbox.expected = (
        <uint32_t>prefix[1] << 24 | <uint32_t>prefix[2] << 16 | <uint32_t>prefix[3] << 8 | <uint32_t>prefix[4]
    )
    return PK_E_LIMIT if inbox.expected > largest else PK_OK


cdef int _read_prefix(inbox_t* inbox, slice_t* rest, uint32_t largest) noexcept nogil:
    """PK_INBOX_MORE while it is not whole, else PK_INBOX_MESSAGE or why there is none."""
    cdef slice_t taken
    cdef int code
    if inbox.prefix_size == PREFIX:
        return PK_INBOX_MESSAGE
    taken = _take(rest, PREFIX - inbox.prefix_size)
    memcpy(inbox.prefix + inbox.prefix_size, taken.data, taken.size)
    inbox.prefix_size += <uint8_t>taken.size
    if inbox.prefix_size < PREFIX:
        return PK_INBOX_MORE
    code = _begin(inbox, largest)
    return PK_INBOX_MESSAGE if code == PK_OK else code


cdef int inbox_next(inbox_t* inbox, slice_t* rest, uint32_t largest, slice_t* message) noexcept nogil:
    """The next message of `rest`, which moves on behind it; `message` is good until the next call.

    PK_INBOX_MESSAGE; PK_INBOX_MORE (all is taken); PK_INBOX_COMPRESSED; PK_E_LIMIT (larger than `largest`);
    PK_E_FORMAT (no such flag); PK_E_NOMEM. After any but the first two the stream is of no more use.
    """
    cdef int code
    if inbox.is_given:
        inbox.is_given = False
        buffer_free(&inbox.gathered)
    code = _read_prefix(inbox, rest, largest)
    if code != PK_INBOX_MESSAGE:
        return code
    if rest.size == 0 and inbox.expected:
        return PK_INBOX_MORE
    if inbox.gathered.size == 0 and rest.size >= inbox.expected:
        message[0] = _take(rest, inbox.expected)
        inbox.prefix_size = 0
        return PK_INBOX_MESSAGE
    return _gather(inbox, _take(rest, inbox.expected - inbox.gathered.size), message)


cdef int _gather(inbox_t* inbox, slice_t part, slice_t* message) noexcept nogil:
    """More of a message that comes in pieces."""
    if inbox.gathered.capacity == 0:
        if buffer_reserve(&inbox.gathered, inbox.expected if inbox.expected < AT_ONCE else AT_ONCE) != PK_OK:
            return PK_E_NOMEM
    if buffer_append(&inbox.gathered, part.data, part.size) != PK_OK:
        return PK_E_NOMEM
    if inbox.gathered.size < inbox.expected:
        return PK_INBOX_MORE
    message.data = inbox.gathered.data
    message.size = inbox.gathered.size
    inbox.prefix_size = 0
    inbox.is_given = True
    return PK_INBOX_MESSAGE


cdef bint inbox_is_empty(const inbox_t* inbox) noexcept nogil:
    """Is no message under way?"""
    return inbox.prefix_size == 0


cdef void inbox_free(inbox_t* inbox) noexcept nogil:
    buffer_free(&inbox.gathered)
    memset(inbox, 0, sizeof(inbox_t))


# --- Python face ---


@cython.final
@cython.auto_pickle(False)
cdef class Inbox:
    """Takes a stream of messages of at most `largest` bytes each apart; for tests and tools."""

    def __cinit__(self, uint32_t largest):
        memset(&self._inbox, 0, sizeof(inbox_t))
        self._largest = largest

    def __dealloc__(self):
        inbox_free(&self._inbox)

    def feed(self, const unsigned char[::1] data not None) -> list:
        """The messages that `data` completes. OverflowError for one that is too large, ValueError for one that is
        compressed or none at all; no more may be fed then. MemoryError."""
        cdef slice_t rest, message
        cdef list found = []
        cdef int code
        rest.data = &data[0] if data.shape[0] else <const uint8_t*>b""
        rest.size = data.shape[0]
        while True:
            code = inbox_next(&self._inbox, &rest, self._largest, &message)
            if code != PK_INBOX_MESSAGE:
                break
            found.append(message.data[:message.size])
        if code == PK_E_LIMIT:
            raise OverflowError(f"a message has at most {self._largest} bytes, not {self._inbox.expected}")
        if code == PK_E_NOMEM:
            raise MemoryError("no memory for this message")
        if code != PK_INBOX_MORE:
            raise ValueError(f"flag {self._inbox.prefix[0]} instead of 0")
        return found

    @property
    def is_empty(self) -> bool:
        """Is no message under way?"""
        return bool(inbox_is_empty(&self._inbox))

    def _check(self) -> None:
        """Assert the invariants."""
        assert self._inbox.prefix_size <= PREFIX
        assert self._inbox.prefix_size == PREFIX or self._inbox.gathered.size == 0
        assert self._inbox.gathered.capacity <= 2 * max(self._inbox.gathered.size, AT_ONCE)
        assert self._inbox.gathered.size or not self._inbox.gathered.capacity
