"""Scans response bodies for usage, tokens, error and end, in chunks cut anywhere.

An event stream (`data: {...}` lines, blank line, any line ends) or a plain JSON body. Figures of an event count once
the event is whole: one that is no JSON, or is cut off, is lost without harm to the others. Which events hold a token is
told by what they are called; events without a name (Chat Completions) all do.
Invariants: the answer does not depend on where chunks are cut. Nothing of the body is kept but `sse_t` itself.
Cost: O(bytes); nothing is allocated.
Memory: one struct of fixed size.   Threads: any; one scanner belongs to one response.
Source: the HTML standard, section "Server-sent events"; OpenAI API reference, "Streaming"; Anthropic API reference,
    "Streaming Messages" and "Prompt caching" (input_tokens leave out what was read from or written to the cache).
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memset

from picker._core.alloc cimport PK_OK
from picker._core.codec cimport slice_t
from picker._core.jsonstring import unescape
from picker._core.restore cimport restore_finish, restore_free, restore_init, restore_start, restore_t
from picker._core.usage cimport (
    PK_SAID_END, PK_SAID_ERROR, PK_USAGE_CACHED, PK_USAGE_CACHE_CREATION, PK_USAGE_CACHE_READ,
    PK_USAGE_COMPLETION, PK_USAGE_DEPTH, PK_USAGE_FIELDS, PK_USAGE_INPUT, PK_USAGE_KEY, PK_USAGE_PROMPT, PK_USAGE_TOTAL,
    usage_feed, usage_finish, usage_in_model, usage_init, usage_is_blank, usage_t,
)

cdef enum:               # what a line is
    FIELD                # its name, `line_at` bytes of `data` read so far
    VALUE_START          # behind the colon of `data:`
    VALUE
    OTHER                # a comment, or another field

cdef enum:
    MARK = 6             # bytes of `[DONE]`


# --- C kernel ---

cdef inline void _take(sse_t* sse) noexcept nogil:
    """What a whole document says."""
    cdef const usage_t* usage = &sse.usage
    cdef int i
    sse.events += 1
    sse.saw_error = sse.saw_error or usage.error or usage.said & PK_SAID_ERROR != 0
    sse.done = sse.done or usage.said & PK_SAID_END != 0
    sse.tokens += usage.said == 0 and not usage.error
    for i in range(PK_USAGE_FIELDS):
        if usage.fields[i] >= 0:
            sse.fields[i] = usage.fields[i]


cdef void _end_document(sse_t* sse) noexcept nogil:
    """An event's data, or the unary body, is complete: books it if it is whole."""
    if sse.mark == MARK:
        sse.done = True
    elif usage_finish(&sse.usage):
        _take(sse)
    else:
        sse.malformed += 1
        sse.tokens += 1


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
    memset(sse.fields, 0xFF, sizeof(sse.fields))
    sse.is_stream = is_event_stream
    usage_init(&sse.usage)


cdef void sse_feed(sse_t* sse, const uint8_t* data, size_t size) noexcept nogil:
    if sse.end != PK_SSE_OPEN:
        return
    if sse.is_stream:
        _stream(sse, data, data + size)
        return
    usage_feed(&sse.usage, data, size)
    sse.tokens = not usage_is_blank(&sse.usage)


cdef int sse_restore(sse_t* sse, restore_t* restore, slice_t chunk, bint is_last, slice_t* result) noexcept nogil:
    """Like `sse_feed`, names of the model restored: what goes on of the chunk is in `result`. PK_OK or PK_E_NOMEM."""
    sse.usage.restore = restore
    restore_start(restore, chunk.data)
    if chunk.size:
        sse_feed(sse, chunk.data, chunk.size)
    return restore_finish(restore, chunk, not is_last and usage_in_model(&sse.usage), result)


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
    sse.tokens = sse.tokens if sse.is_stream else 1


# --- C kernel: what the figures come to ---


cdef inline int64_t _plus(int64_t total, int64_t more) noexcept nogil:
    if more < 0:
        return total
    return total + more if more <= INT64_MAX - total else INT64_MAX


cdef int64_t sse_prompt_tokens(const sse_t* sse) noexcept nogil:
    """All of the prompt, cached or not; -1: not known."""
    cdef const int64_t* fields = sse.fields
    cdef int64_t total = fields[PK_USAGE_PROMPT]
    if total < 0 and fields[PK_USAGE_INPUT] >= 0:
        total = _plus(fields[PK_USAGE_INPUT], fields[PK_USAGE_CACHE_READ])
        total = _plus(total, fields[PK_USAGE_CACHE_CREATION])
    elif total < 0 and fields[PK_USAGE_COMPLETION] < 0:
        total = fields[PK_USAGE_TOTAL]           # rerank: nothing is generated
    return total


cdef int64_t sse_completion_tokens(const sse_t* sse) noexcept nogil:
    return sse.fields[PK_USAGE_COMPLETION]


cdef int64_t sse_cached_tokens(const sse_t* sse) noexcept nogil:
    if sse.fields[PK_USAGE_CACHED] >= 0:
        return sse.fields[PK_USAGE_CACHED]
    return sse.fields[PK_USAGE_CACHE_READ]


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
        """All of the prompt, cached or not: `prompt_tokens`, or `input_tokens` and what came from or into the cache."""
        return _known(sse_prompt_tokens(&self.sse))

    @property
    def completion_tokens(self) -> int | None:
        """`completion_tokens` or `output_tokens`."""
        return _known(sse_completion_tokens(&self.sse))

    @property
    def total_tokens(self) -> int | None:
        """`total_tokens`."""
        return _known(self.sse.fields[PK_USAGE_TOTAL])

    @property
    def cached_tokens(self) -> int | None:
        """`cached_tokens` of `prompt_tokens_details` or `input_tokens_details`, or `cache_read_input_tokens`."""
        return _known(sse_cached_tokens(&self.sse))

    @property
    def events(self) -> int:
        """Whole JSON events so far, `[DONE]` not counted; a unary body is one."""
        return self.sse.events

    @property
    def malformed(self) -> int:
        """Events lost because their data is no JSON."""
        return self.sse.malformed

    @property
    def tokens(self) -> int:
        """Events so far that hold a token, as far as they say; of a unary body 1 once it has begun."""
        return self.sse.tokens

    @property
    def done(self) -> bool:
        """`[DONE]`, or an event that says it is the last one, was seen."""
        return self.sse.done

    @property
    def saw_error(self) -> bool:
        """An event, or the unary body, held an `error` object or said that it is an error."""
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
        assert self.sse.usage.restore == NULL


@cython.final
@cython.auto_pickle(False)
cdef class Restorer:
    """Puts `client` in the place of the model's name `target` in one response body as it passes.

    Both are as they stand between the quotes of a JSON string; what stands in the body is compared without its escapes.
    Raises ValueError if one is no such text.
    """
    cdef sse_t sse
    cdef restore_t restore
    cdef bytes _client

    def __cinit__(self, bytes target not None, bytes client not None, *, bint event_stream):
        cdef slice_t old, new
        unescape(b'"%b"' % target)
        unescape(b'"%b"' % client)
        self._client = client
        old.data, old.size = target, len(target)
        new.data, new.size = client, len(client)
        sse_init(&self.sse, event_stream)
        if restore_init(&self.restore, old, new) != PK_OK:
            raise MemoryError("no memory for a model's name")

    def __dealloc__(self):
        restore_free(&self.restore)

    def feed(self, const unsigned char[::1] chunk not None, *, bint last=False) -> bytes:
        """The next bytes of the body, cut anywhere; what goes on of them. MemoryError."""
        cdef slice_t given, result
        given.data = &chunk[0] if chunk.shape[0] else <const uint8_t*>b""
        given.size = chunk.shape[0]
        if sse_restore(&self.sse, &self.restore, given, last, &result) != PK_OK:
            raise MemoryError("no memory for a model's name")
        return result.data[:result.size] if result.size else b""

    @property
    def held(self) -> bytes:
        """What is held back: the beginning of a name that may become the target."""
        return self.restore.held.data[:self.restore.held.size] if self.restore.held.size else b""

    def _check(self) -> None:
        """Raises AssertionError unless the state is one that can be."""
        assert self.restore.held.size == 0 or self.restore.is_open
        assert self.restore.held.size <= 6 * self.restore.target.size
        assert not self.restore.failed
