"""Replies on their way out: written one behind the other, given on as a list or as a stream of gRPC messages.

Invariants: a reply is there whole or not at all. What is sent is what was written, in order, whatever the pieces. A
    request body that is given back is not copied on its way here: replies lend of it until it is sent.
Cost: O(bytes); of a lent piece nothing until it is sent.
Memory: `out_t` belongs to whoever declared it, the body it lends of to `out_t`.   Threads: any.
Source: gRPC over HTTP/2, Length-Prefixed-Message.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t
from libc.string cimport memmove, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.codec cimport buffer_append, buffer_free, buffer_reserve, buffer_t, slice_t

cdef enum:
    FIRST_BYTES = 512          # enough for all that is said of a small request
    KEPT_BYTES = 1 << 16       # a larger buffer is not kept for the next replies
    COMPACT_BYTES = 1 << 16

# --- C kernel: the life of the box ---


cdef void _forget_lent(out_t* out) noexcept nogil:
    buffer_free(&out.body)
    pk_free(out.lent)
    out.lent = NULL
    out.lent_capacity = out.lent_count = out.lent_bytes = out.lent_sent = out.lent_done = 0


cdef void out_clear(out_t* out) noexcept nogil:
    """Forget the replies; keep a small buffer for the next ones."""
    out.count = 0
    out.end = out.bytes.size = out.sent = out.waiting = 0
    if out.lent != NULL or out.body.data != NULL:
        _forget_lent(out)
    if out.bytes.capacity > KEPT_BYTES:
        buffer_free(&out.bytes)


cdef void out_free(out_t* out) noexcept nogil:
    cdef bint framed = out.framed
    _forget_lent(out)
    buffer_free(&out.bytes)
    pk_free(out.ends)
    memset(out, 0, sizeof(out_t))
    out.framed = framed


# --- C kernel: writing ---


cdef buffer_t* out_open(out_t* out) noexcept nogil:
    """Where the next reply is written, behind room for its prefix. `out_close` is due, and says if that failed."""
    out.lent_bytes = 0
    if out.framed:
        out.failed = (
            (out.bytes.capacity == 0 and buffer_reserve(&out.bytes, FIRST_BYTES) != PK_OK)
            or buffer_append(&out.bytes, <const char*>b"\0\0\0\0", PK_PREFIX_BYTES) != PK_OK
        )
    return &out.bytes


cdef void out_own(out_t* out, buffer_t* body) noexcept nogil:
    """Take a body to lend of, once, in a framed box."""
    out.body = body[0]
    memset(body, 0, sizeof(buffer_t))


cdef int out_lend(out_t* out, slice_t text, size_t at) noexcept nogil:
    """The reply under way has `text`, of the body, before the byte `at` of `bytes`. PK_OK or PK_E_NOMEM."""
    cdef lent_t* lent
    if pk_grow(<void**>&out.lent, &out.lent_capacity, out.lent_count + 1, sizeof(lent_t)) != PK_OK:
        return PK_E_NOMEM
    lent = &out.lent[out.lent_count]
    lent.at = at
    lent.text = text
    out.lent_count += 1
    out.lent_bytes += text.size
    return PK_OK


cdef int _frame(out_t* out) noexcept nogil:
    """Fill in the prefix: no compression, the size in network order."""
    cdef uint8_t* prefix = out.bytes.data + out.end
    cdef size_t size = out.bytes.size - out.end - PK_PREFIX_BYTES + out.lent_bytes
    cdef uint32_t i
    if size > UINT32_MAX:
        return PK_E_LIMIT
    for i in range(4):
        prefix[1 + i] = <uint8_t>(size >> (24 - 8 * i))
    out.waiting += size + PK_PREFIX_BYTES
    return PK_OK


cdef void _drop_lent(out_t* out, size_t end) noexcept nogil:
    """Forget the pieces behind `end`."""
    while out.lent_count and out.lent[out.lent_count - 1].at > end:
        out.lent_count -= 1
    out.lent_bytes = 0


cdef int out_close(out_t* out, int code) noexcept nogil:
    """The reply is written, or by `code` it is not: then it is taken back."""
    if code == PK_OK and out.framed:
        code = PK_E_NOMEM if out.failed else _frame(out)
    elif code == PK_OK:
        code = pk_grow(<void**>&out.ends, &out.capacity, out.count + 1, sizeof(size_t))
    if code != PK_OK:
        out.bytes.size = out.end
        _drop_lent(out, out.end)
        return code
    out.end = out.bytes.size
    if not out.framed:
        out.ends[out.count] = out.end
        out.count += 1
    return PK_OK


cdef size_t out_mark(const out_t* out) noexcept nogil:
    """Where a framed box stands, for `out_rewind`; good until something is sent."""
    return out.waiting


cdef void out_rewind(out_t* out, size_t mark) noexcept nogil:
    """Take back the replies written since `mark`, of which nothing was sent."""
    cdef size_t surplus = out.waiting - mark
    cdef size_t piece
    while surplus:
        if out.lent_count and out.lent[out.lent_count - 1].at == out.bytes.size:
            piece = out.lent[out.lent_count - 1].text.size
            out.lent_count -= 1
        else:
            piece = out.bytes.size - (out.lent[out.lent_count - 1].at if out.lent_count else 0)
            piece = piece if piece < surplus else surplus
            out.bytes.size -= piece
        surplus -= piece
    out.end = out.bytes.size
    out.waiting = mark


# --- C kernel: sending ---


cdef void _compact(out_t* out) noexcept nogil:
    """What was sent makes room, where more was sent than still waits: at most one move for each byte."""
    if out.sent < COMPACT_BYTES or out.sent < out.waiting or out.lent_count:
        return
    memmove(out.bytes.data, out.bytes.data + out.sent, out.waiting)
    out.bytes.size = out.end = out.waiting
    out.sent = 0


cdef slice_t _next(const out_t* out) noexcept nogil:
    """The bytes that are sent next, as far as they lie together."""
    cdef slice_t piece
    cdef size_t stop = out.bytes.size
    if out.lent_sent < out.lent_count:
        stop = out.lent[out.lent_sent].at
        if stop == out.sent:
            piece = out.lent[out.lent_sent].text
            piece.data += out.lent_done
            piece.size -= out.lent_done
            return piece
    piece.data = out.bytes.data + out.sent
    piece.size = stop - out.sent
    return piece


cdef void _advance(out_t* out, size_t size) noexcept nogil:
    """So much of the next piece was sent."""
    out.waiting -= size
    if out.lent_sent == out.lent_count or out.lent[out.lent_sent].at != out.sent:
        out.sent += size
        return
    out.lent_done += size
    if out.lent_done == out.lent[out.lent_sent].text.size:
        out.lent_done = 0
        out.lent_sent += 1


cdef int out_send(out_t* out, buffer_t* into, size_t size) noexcept nogil:
    """Move the next `size` bytes, not more than wait, to the end of `into`. PK_OK; PK_E_NOMEM: nothing has moved."""
    cdef slice_t piece
    if buffer_reserve(into, size) != PK_OK:
        return PK_E_NOMEM
    while size:
        piece = _next(out)
        piece.size = piece.size if piece.size < size else size
        buffer_append(into, piece.data, piece.size)        # cannot fail: the room was reserved
        _advance(out, piece.size)
        size -= piece.size
    if out.waiting == 0:
        out_clear(out)
    else:
        _compact(out)
    return PK_OK


# --- Python face ---


cdef list out_list(const out_t* out):
    """The replies of a box that is not framed, as bytes objects."""
    cdef size_t i, start = 0
    cdef list replies = []
    for i in range(out.count):
        replies.append(out.bytes.data[start:out.ends[i]])
        start = out.ends[i]
    return replies


@cython.final
@cython.auto_pickle(False)
cdef class Outbox:
    """A framed box; for tests."""

    def __cinit__(self):
        memset(&self._out, 0, sizeof(out_t))
        self._out.framed = True

    def __dealloc__(self):
        out_free(&self._out)

    def write(self, const unsigned char[::1] reply not None) -> None:
        """A whole reply. MemoryError."""
        cdef const uint8_t* data = &reply[0] if reply.shape[0] else <const uint8_t*>b""
        if out_close(&self._out, buffer_append(out_open(&self._out), data, reply.shape[0])) != PK_OK:
            raise MemoryError("no memory for a reply")

    def own(self, const unsigned char[::1] body not None) -> None:
        """A body to lend of, before anything is lent. MemoryError; ValueError if there is one."""
        cdef buffer_t made
        memset(&made, 0, sizeof(made))
        if self._out.body.data != NULL:
            raise ValueError("there is a body already")
        if buffer_append(&made, &body[0] if body.shape[0] else <const uint8_t*>b"", body.shape[0]) != PK_OK:
            raise MemoryError("no memory for a body")
        out_own(&self._out, &made)

    def lend(self, bytes head not None, size_t start, size_t size, bytes tail not None) -> None:
        """A reply of `head`, a piece of the body, and `tail`. IndexError for what is not in the body; MemoryError."""
        cdef buffer_t* bytes_ = out_open(&self._out)
        cdef const uint8_t* head_data = head
        cdef const uint8_t* tail_data = tail
        cdef slice_t text
        cdef int code
        if start > self._out.body.size or size > self._out.body.size - start:
            out_close(&self._out, PK_E_LIMIT)
            raise IndexError(f"{start} + {size} of {self._out.body.size} bytes")
        text.data = self._out.body.data + start
        text.size = size
        code = buffer_append(bytes_, head_data, len(head))
        if code == PK_OK and size:
            code = out_lend(&self._out, text, bytes_.size)
        if code == PK_OK:
            code = buffer_append(bytes_, tail_data, len(tail))
        if out_close(&self._out, code) != PK_OK:
            raise MemoryError("no memory for a reply")

    def mark(self) -> None:
        """`rewind` takes back what is written from here on."""
        self._marked = out_mark(&self._out)

    def rewind(self) -> None:
        """Take back what was written since `mark`; nothing of it may have been sent."""
        out_rewind(&self._out, self._marked)

    def send(self, size_t size) -> bytes:
        """The next bytes, `size` of them or all there are. MemoryError, and nothing was sent."""
        cdef buffer_t into
        memset(&into, 0, sizeof(into))
        size = size if size < self._out.waiting else self._out.waiting
        try:
            if out_send(&self._out, &into, size) != PK_OK:
                raise MemoryError("no memory to send from")
            return into.data[:into.size] if into.size else b""
        finally:
            buffer_free(&into)

    def __len__(self) -> int:
        """Bytes that wait."""
        return self._out.waiting

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const out_t* out = &self._out
        cdef size_t i, waiting = out.bytes.size - out.sent
        for i in range(out.lent_sent, out.lent_count):
            waiting += out.lent[i].text.size
            assert out.sent <= out.lent[i].at <= out.bytes.size
        assert waiting == out.waiting + out.lent_done
        assert out.end == out.bytes.size
        assert out.waiting or (out.lent == NULL and out.bytes.size == 0) or out.body.data != NULL
