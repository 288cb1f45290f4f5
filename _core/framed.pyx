"""Reads what a vLLM engine's gRPC answers say of usage, in chunks cut anywhere; keeps nothing else of them.

A body is frames: a flag, a size in network order, a message. GenerateResponse holds a stream chunk (field 1) or a
complete answer (field 2); EmbedResponse tells its prompt tokens in field 2, a number, by which it is known.
Counts: stream chunks hold the ids of new tokens only, and what they call completion_tokens is new tokens in some
versions and all so far in others, as is what closes a stream; so ids are counted, and the highest of all is taken.
Invariants: the answer does not depend on where chunks are cut. A message counts once it is whole.
Cost: O(bytes); what is not of interest is passed over. Nothing is allocated.
Memory: one struct of fixed size.   Threads: any; one reader belongs to one response.
Source: gRPC over HTTP/2, Length-Prefixed-Message; vllm.grpc.engine.VllmEngine (Generate, Embed); protobuf encoding.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

cdef enum:               # states of a message
    TAG
    NUMBER
    SIZE
    SKIP
    IDS                  # packed varints, which are counted
    LOST

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_FIXED32 = 5
    CHUNK = 1            # fields of GenerateResponse
    COMPLETE = 2


# --- C kernel: one message ---


cdef void _lose(framed_t* framed) noexcept nogil:
    """What is read makes no sense: pass over the rest of it."""
    framed.figures.is_lost = True
    if framed.inner and framed.inner_left:
        framed.skipped = framed.inner_left
        framed.state = SKIP
    elif not framed.inner:
        framed.state = LOST


cdef void _number(framed_t* framed) noexcept nogil:
    """A number is complete."""
    cdef frame_figures_t* figures = &framed.figures
    cdef uint32_t field = framed.tag >> 3
    framed.state = TAG
    if not framed.inner:
        if field == 2:
            figures.is_embedding = True
            figures.embedded = framed.number
        return
    field -= framed.inner == COMPLETE and field > 1
    if field == 1:
        # ids may come one by one; behind the reason to stop, a text, the fields of a complete answer are one further on
        figures.token_ids += framed.tag >> 3 == 1
    elif field == 2:
        figures.prompt = framed.number
    elif field == 3:
        figures.completion = framed.number
    elif field == 4:
        figures.cached = framed.number


cdef void _size(framed_t* framed) noexcept nogil:
    """The size of what comes is known."""
    cdef uint32_t field = framed.tag >> 3
    if framed.number > (framed.inner_left if framed.inner else framed.left):
        _lose(framed)
    elif framed.inner == 0 and (field == CHUNK or field == COMPLETE):
        framed.inner = framed.last = <uint8_t>field
        framed.inner_left = <uint32_t>framed.number
        framed.state = TAG
    else:
        framed.skipped = <uint32_t>framed.number
        framed.state = IDS if framed.inner and field == 1 else SKIP


cdef void _tag(framed_t* framed) noexcept nogil:
    """A field begins."""
    cdef uint32_t wire = <uint32_t>(framed.number & 7)
    if framed.number > UINT32_MAX or framed.number < 8:
        _lose(framed)
        return
    framed.tag = <uint32_t>framed.number
    if wire == WIRE_VARINT:
        framed.state = NUMBER
    elif wire == WIRE_BYTES:
        framed.state = SIZE
    elif wire == WIRE_FIXED32 or wire == WIRE_FIXED64:
        framed.skipped = 4 if wire == WIRE_FIXED32 else 8
        framed.state = SKIP
        if framed.skipped > (framed.inner_left if framed.inner else framed.left):
            _lose(framed)
    else:
        _lose(framed)


cdef inline void _varint(framed_t* framed, uint8_t byte) noexcept nogil:
    """One more byte of a tag, a size or a number."""
    cdef uint8_t state = framed.state
    if framed.shift < 64:
        framed.number |= <uint64_t>(byte & 0x7F) << framed.shift
    framed.shift += 7
    if byte >= 0x80:
        if framed.shift >= 70:
            framed.number = framed.shift = 0
            _lose(framed)
        return
    framed.shift = 0
    if state == TAG:
        _tag(framed)
    elif state == SIZE:
        _size(framed)
    else:
        _number(framed)
    framed.number = 0


cdef inline size_t _run(framed_t* framed, const uint8_t* p, size_t size) noexcept nogil:
    """More bytes that are passed over, or ids that are counted."""
    cdef size_t i
    size = size if size < framed.skipped else framed.skipped
    if framed.state == IDS:
        for i in range(size):
            framed.figures.token_ids += p[i] < 0x80
    framed.skipped -= <uint32_t>size
    return size


cdef void _message(framed_t* framed, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """More bytes of a message, not beyond its end."""
    cdef size_t taken
    while p < end and framed.state != LOST:
        taken = 1
        if framed.state == SKIP or framed.state == IDS:
            taken = _run(framed, p, end - p)
        framed.left -= <uint32_t>taken
        if framed.inner:
            framed.inner_left -= <uint32_t>taken
        if framed.state != SKIP and framed.state != IDS:
            _varint(framed, p[0])
        p += taken
        if (framed.state == SKIP or framed.state == IDS) and framed.skipped == 0:
            framed.state = TAG
        if framed.inner and framed.inner_left == 0:
            framed.figures.is_lost = framed.figures.is_lost or framed.state != TAG or framed.shift != 0
            framed.inner = framed.shift = 0
            framed.number = 0
            framed.state = TAG
    framed.left -= <uint32_t>(end - p)


# --- C kernel: frames ---


cdef inline uint64_t _most(uint64_t known, uint64_t told) noexcept nogil:
    """The greater; what no count can be is not taken."""
    return told if known < told <= <uint64_t>UINT32_MAX else known


cdef void _take_answer(framed_t* framed, const frame_figures_t* figures) noexcept nogil:
    """A stream chunk or a complete answer."""
    if framed.last == COMPLETE:
        framed.completed += _most(figures.token_ids, figures.completion)
        framed.tokens += framed.tokens == 0
    else:
        framed.streamed += figures.token_ids
        framed.counted = _most(framed.counted, figures.completion)
        framed.tokens += figures.token_ids > 0
    if 0 < figures.prompt <= UINT32_MAX:
        framed.prompt_tokens = _most(framed.prompt_tokens, figures.prompt)
        framed.cached_tokens = _most(framed.cached_tokens, figures.cached)
        framed.is_known = True


cdef void _end_message(framed_t* framed) noexcept nogil:
    """Book what it says."""
    cdef const frame_figures_t* figures = &framed.figures
    framed.messages += 1
    if framed.is_compressed:
        framed.tokens += 1
    elif framed.state != TAG or framed.shift:
        return
    elif figures.is_embedding:
        framed.prompt_tokens = _most(framed.prompt_tokens, figures.embedded)
        framed.is_embedding = True
        framed.tokens += 1
    elif framed.last and not figures.is_lost:
        _take_answer(framed, figures)


cdef inline void _prefix(framed_t* framed, uint8_t byte) noexcept nogil:
    """One more byte between messages."""
    if framed.prefix_at == 0:
        framed.is_compressed = byte != 0
        framed.left = 0
    else:
        framed.left = framed.left << 8 | byte
    framed.prefix_at += 1
    if framed.prefix_at == PK_FRAME_PREFIX:
        memset(&framed.figures, 0, sizeof(framed.figures))
        framed.state = LOST if framed.is_compressed else TAG
        framed.inner = framed.last = framed.shift = 0
        framed.number = 0


cdef void framed_init(framed_t* framed) noexcept nogil:
    memset(framed, 0, sizeof(framed_t))


cdef void framed_feed(framed_t* framed, const uint8_t* data, size_t size) noexcept nogil:
    """The next bytes of the body."""
    cdef const uint8_t* p = data
    cdef const uint8_t* end = data + size
    cdef size_t run
    while p < end:
        if framed.prefix_at < PK_FRAME_PREFIX:
            _prefix(framed, p[0])
            p += 1
        else:
            run = <size_t>(end - p)
            run = run if run < framed.left else framed.left
            _message(framed, p, p + run)
            p += run
        if framed.prefix_at == PK_FRAME_PREFIX and framed.left == 0:
            _end_message(framed)
            framed.prefix_at = 0


cdef bint framed_is_whole(const framed_t* framed) noexcept nogil:
    return framed.prefix_at == 0


cdef int64_t framed_prompt_tokens(const framed_t* framed) noexcept nogil:
    return <int64_t>framed.prompt_tokens if framed.is_known or framed.is_embedding else -1


cdef int64_t framed_cached_tokens(const framed_t* framed) noexcept nogil:
    return <int64_t>framed.cached_tokens if framed.is_known else -1


cdef int64_t framed_completion_tokens(const framed_t* framed) noexcept nogil:
    cdef uint64_t most = framed.streamed if framed.streamed > framed.counted else framed.counted
    most = most if most > framed.completed else framed.completed
    return <int64_t>most if framed.is_known else -1


# --- Python face ---


cdef object _known(int64_t figure):
    return None if figure < 0 else figure


@cython.final
@cython.auto_pickle(False)
cdef class FrameScanner:
    """Reads one gRPC response body of a vLLM engine as it passes. Figures are None until known."""
    cdef framed_t framed

    def __cinit__(self):
        framed_init(&self.framed)

    def feed(self, const unsigned char[::1] chunk not None) -> None:
        """The next bytes of the body, cut anywhere."""
        if chunk.shape[0]:
            framed_feed(&self.framed, &chunk[0], chunk.shape[0])

    @property
    def prompt_tokens(self) -> int | None:
        """All of the prompt, cached or not."""
        return _known(framed_prompt_tokens(&self.framed))

    @property
    def cached_tokens(self) -> int | None:
        """Those of the prompt that were cached."""
        return _known(framed_cached_tokens(&self.framed))

    @property
    def completion_tokens(self) -> int | None:
        """Generated tokens so far."""
        return _known(framed_completion_tokens(&self.framed))

    @property
    def messages(self) -> int:
        """Whole messages so far."""
        return self.framed.messages

    @property
    def tokens(self) -> int:
        """Messages so far that hold tokens, or may."""
        return self.framed.tokens

    @property
    def is_whole(self) -> bool:
        """Does the body end with a message so far?"""
        return bool(framed_is_whole(&self.framed))

    def _check(self) -> None:
        """Raises AssertionError unless the state is one that can be."""
        assert self.framed.prefix_at <= PK_FRAME_PREFIX and self.framed.shift < 70
        assert self.framed.prefix_at == 0 or self.framed.prefix_at < PK_FRAME_PREFIX or self.framed.left
        assert not self.framed.inner or self.framed.inner_left <= self.framed.left
