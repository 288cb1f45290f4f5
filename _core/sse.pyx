"""Scans response bodies for usage, first token, error and end, in chunks cut anywhere.

An event stream (`data: {...}` lines, blank line, any line ends) or a plain JSON body. Figures of an event count once
the event is whole: one that is no JSON, or is cut off, is lost without harm to the others.
Invariants: the answer does not depend on where chunks are cut. Nothing of the body is kept but `sse_t` itself.
Cost: O(bytes); nothing is allocated.
Memory: one struct of fixed size.   Threads: any; one scanner belongs to one response.
Source: the HTML standard, section "Server-sent events"; OpenAI API reference, "Streaming".
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memset

from picker._core.usage cimport (
    PK_USAGE_CACHED, PK_USAGE_COMPLETION, PK_USAGE_DEPTH, PK_USAGE_KEY, PK_USAGE_PROMPT, PK_USAGE_TOTAL,
    usage_feed, usage_finish, usage_init, usage_is_blank, usage_t,
)

cdef enum:               # what a line is
    FIELD                # its name, `line_at` bytes of `data` read so far
    VALUE_START          # behind the colon of `data:`
    VALUE
    OTHER                # a comment, or another field

cdef enum:
    MARK = 6             # bytes of `[DONE]`


# --- C kernel ---

cdef inline void _take(int64_t* known, int64_t seen) noexcept nogil:
    if seen >= 0:
        known[0] = seen


cdef void _end_document(sse_t* sse) noexcept nogil:
    """An event's data, or the unary body, is complete: books it if it is whole."""
    cdef usage_t* usage = &sse.usage
    if sse.mark == MARK:
        sse.done = True
    elif usage_finish(usage):
        sse.events += 1
        sse.saw_error = sse.saw_error or usage.error
        _take(&sse.prompt_tokens, usage.fields[PK_USAGE_PROMPT])
        _take(&sse.completion_tokens, usage.fields[PK_USAGE_COMPLETION])
        _take(&sse.total_tokens, usage.fields[PK_USAGE_TOTAL])
        _take(&sse.cached_tokens, usage.fields[PK_USAGE_CACHED])
    else:
        sse.malformed += 1


cdef inline void _end_event(sse_t* sse) noexcept nogil:
    """A blank line. Events without data are none."""
    if not usage_is_blank(&sse.usage):
        _end_document(sse)
        usage_init(&sse.usage)
    sse.mark = 0
    sse.second = False


cdef inline void _data(sse_t* sse, const uint8_t* p, size_t size) noexcept nogil:
    """More of the event's data."""
    cdef const uint8_t* end = p + size
    cdef const uint8_t* q = p
    if usage_is_blank(&sse.usage):
        while q < end and q[0] in (b" ", b"\t", b"\n"):
            q += 1
        sse.first_token = sse.first_token or q < end
        sse.mark = 1 if q < end and q[0] == b"[" else 0
        q += 1
    while 0 < sse.mark < MARK and q < end:
        sse.mark = sse.mark + 1 if q[0] == (<const uint8_t*>b"[DONE]")[sse.mark] else 0
        q += 1
    usage_feed(&sse.usage, p, size)


cdef inline void _begin_value(sse_t* sse) noexcept nogil:
    """Data lines of one event are joined by newlines."""
    if sse.second:
        _data(sse, b"\n", 1)
    sse.second = True


cdef inline void _line(sse_t* sse, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """More bytes of the current line; `end` is its end, or that of the chunk."""
    while sse.line == FIELD and p < end:
        if sse.line_at < 4 and p[0] == (<const uint8_t*>b"data")[sse.line_at]:
            sse.line_at += 1
        else:
            sse.line = VALUE_START if sse.line_at == 4 and p[0] == b":" else OTHER
        p += 1
    if sse.line == VALUE_START and p < end:
        _begin_value(sse)
        sse.line = VALUE
        p += p[0] == b" "
    if sse.line == VALUE:
        _data(sse, p, end - p)


cdef inline void _end_line(sse_t* sse) noexcept nogil:
    if sse.line == FIELD and sse.line_at == 0:
        _end_event(sse)
    elif sse.line == VALUE_START or (sse.line == FIELD and sse.line_at == 4):
        _begin_value(sse)
    sse.line = FIELD
    sse.line_at = 0


cdef inline const uint8_t* _find(uint8_t byte, const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef const uint8_t* found = <const uint8_t*>memchr(p, byte, end - p)
    return end if found == NULL else found


cdef void _stream(sse_t* sse, const uint8_t* p, const uint8_t* end) noexcept nogil:
    # Each kind of line end is looked for anew only when passed: no byte is looked at more than twice.
    cdef const uint8_t* newline = _find(b"\n", p, end)
    cdef const uint8_t* ret = _find(b"\r", p, newline)
    cdef const uint8_t* stop
    while p < end:
        if sse.after_return and p[0] == b"\n":
            p += 1
        sse.after_return = False
        if newline < p:
            newline = _find(b"\n", p, end)
        if ret < p:
            ret = _find(b"\r", p, newline)
        stop = ret if ret < newline else newline
        _line(sse, p, stop)
        if stop == end:
            return
        _end_line(sse)
        sse.after_return = stop[0] == b"\r"
        p = stop + 1


cdef void sse_init(sse_t* sse, bint is_event_stream) noexcept nogil:
    memset(sse, 0, sizeof(sse_t))
    sse.prompt_tokens = sse.completion_tokens = sse.total_tokens = sse.cached_tokens = -1
    sse.is_stream = is_event_stream
    usage_init(&sse.usage)


cdef void sse_feed(sse_t* sse, const uint8_t* data, size_t size) noexcept nogil:
    if sse.end != PK_SSE_OPEN:
        return
    if sse.is_stream:
        _stream(sse, data, data + size)
        return
    usage_feed(&sse.usage, data, size)
    sse.first_token = sse.first_token or not usage_is_blank(&sse.usage)


cdef void sse_finish(sse_t* sse) noexcept nogil:
    cdef uint64_t malformed = sse.malformed
    if sse.end != PK_SSE_OPEN:
        return
    if sse.is_stream:
        _end_line(sse)
        _end_event(sse)
    elif usage_is_blank(&sse.usage):
        sse.end = PK_SSE_CUT
        return
    else:
        _end_document(sse)
    sse.end = PK_SSE_COMPLETE if sse.malformed == malformed else PK_SSE_CUT


# --- Python face ---

cdef object _known(int64_t figure):
    return None if figure < 0 else figure


@cython.final
@cython.auto_pickle(False)
cdef class UsageScanner:
    """Reads one response body as it passes: an event stream, or plain JSON if `event_stream` is false.

    Figures are those of the last usage seen, None until known; an event counts once it is whole.
    """
    cdef sse_t sse

    def __cinit__(self, bint event_stream):
        sse_init(&self.sse, event_stream)

    def feed(self, const unsigned char[::1] chunk not None) -> None:
        """The next bytes of the body, cut anywhere. After `finish` they are not looked at."""
        if chunk.shape[0]:
            sse_feed(&self.sse, &chunk[0], chunk.shape[0])

    def finish(self) -> None:
        """The body has ended: takes an event that lacks only its blank line, or the unary body. Once is enough."""
        sse_finish(&self.sse)

    @property
    def prompt_tokens(self) -> int | None:
        """`prompt_tokens` or `input_tokens`."""
        return _known(self.sse.prompt_tokens)

    @property
    def completion_tokens(self) -> int | None:
        """`completion_tokens` or `output_tokens`."""
        return _known(self.sse.completion_tokens)

    @property
    def total_tokens(self) -> int | None:
        """`total_tokens`."""
        return _known(self.sse.total_tokens)

    @property
    def cached_tokens(self) -> int | None:
        """`cached_tokens` of `prompt_tokens_details` or `input_tokens_details`."""
        return _known(self.sse.cached_tokens)

    @property
    def events(self) -> int:
        """Whole JSON events so far, `[DONE]` not counted; a unary body is one."""
        return self.sse.events

    @property
    def malformed(self) -> int:
        """Events lost because their data is no JSON."""
        return self.sse.malformed

    @property
    def first_token(self) -> bool:
        """The first data of the stream, or the first byte of the unary body, has come."""
        return self.sse.first_token

    @property
    def done(self) -> bool:
        """`[DONE]` was seen."""
        return self.sse.done

    @property
    def saw_error(self) -> bool:
        """An event, or the unary body, held an `error` object."""
        return self.sse.saw_error

    @property
    def end(self) -> str:
        """One of open (before `finish`), complete, cut (the body ended inside an event, or is no JSON)."""
        return ("open", "complete", "cut")[self.sse.end]

    def _check(self) -> None:
        """Raises AssertionError unless the state is one that can be."""
        assert self.sse.usage.depth <= PK_USAGE_DEPTH
        assert self.sse.mark <= MARK and self.sse.line <= OTHER and self.sse.line_at <= 4
        assert self.sse.mark == 0 or not usage_is_blank(&self.sse.usage)
        assert self.sse.usage.key_size <= PK_USAGE_KEY or self.sse.usage.key_size == 255
