"""Requests of vLLM's gRPC service: token ids or text, and what bounds the answer.

Invariants: reads no byte outside the body; what is hashed was found well-formed first. Token ids feed the bytes that
    they feed from JSON, so that one prompt has one chain by whichever API it comes.
Cost: O(bytes), tensors are skipped over. Allocates nothing.
Memory: borrows the body.   Threads: any.
Source: vllm_engine.proto (package vllm.grpc.engine) as far as numbers of fields go; gRPC over HTTP/2 (length-prefixed
    messages).

There is no model in these requests, and nothing in them is refused: a model server says in gRPC's own way what it
cannot do.
"""
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.alloc cimport PK_E_FORMAT, PK_OK, pk_free, pk_resize
from picker._core.codec cimport codec_field, codec_varint, field_t, slice_t
from picker._core.digests cimport PK_MEDIA_BYTES, digest_t, feed_digest, places_add, places_feed, places_t
from picker._core.feeds cimport PK_PART_MARK, feed_mark
from picker._core.hashing cimport PK_BLOCK_BYTES, chain_feed, chain_start, chain_t, hash_xxh64
from picker._core.prompt cimport PK_MOST_TOKENS, prompt_tokens

cdef enum:
    PREFIX_BYTES = 5
    IDS = PK_BLOCK_BYTES // 4

# Fields by number << 3 | wire type: 0 is a varint, 2 has a length
cdef enum:
    TOKENIZED = 2 << 3 | 2         # of GenerateRequest and EmbedRequest
    TEXT = 3 << 3 | 2              # of GenerateRequest
    SAMPLING_PARAMS = 4 << 3 | 2
    MM_INPUTS = 7 << 3 | 2
    MEDIA_REFS = 10 << 3 | 2
    EXTRA_MM_INPUTS = 11 << 3 | 2
    INPUT_IDS = 2 << 3             # of TokenizedInput
    PACKED_INPUT_IDS = 2 << 3 | 2
    MAX_TOKENS = 8 << 3            # of SamplingParams
    MM_PLACEHOLDERS = 5 << 3 | 2   # of MultimodalInputs
    MM_HASHES = 6 << 3 | 2
    OFFSET = 1 << 3                # of PlaceholderRange
    ITEMS = 1 << 3 | 2             # of MediaRefs

ctypedef struct ids_t:
    chain_t* chain
    places_t* places
    uint64_t offset
    uint32_t count
    uint32_t ids[IDS]

# --- C kernel: finding ---


cdef bint _next_frame(slice_t* frames, slice_t* message, int* code) noexcept nogil:
    """The next message; False at the end, `code` set if that is not where it should be."""
    cdef size_t size
    if frames.size == 0:
        return False
    code[0] = PK_E_FORMAT
    if frames.size < PREFIX_BYTES or frames.data[0] != 0:
        return False
    size = (
        <size_t>frames.data[1] << 24 | <size_t>frames.data[2] << 16 | <size_t>frames.data[3] << 8 | frames.data[4]
    )
    if frames.size - PREFIX_BYTES < size:
        return False
    code[0] = PK_OK
    message.data, message.size = frames.data + PREFIX_BYTES, size
    frames.data += PREFIX_BYTES + size
    frames.size -= PREFIX_BYTES + size
    return True


cdef int _walk(slice_t message) noexcept nogil:
    """Is this a message, as far as its own fields go?"""
    cdef field_t field
    cdef int code = 1
    while code > 0:
        code = codec_field(&message, &field)
    return code


cdef int _ids_are_whole(slice_t tokenized) noexcept nogil:
    cdef field_t field
    cdef uint64_t id
    cdef int code = codec_field(&tokenized, &field)
    while code > 0:
        if field.tag == PACKED_INPUT_IDS:
            while field.bytes.size:
                if not codec_varint(&field.bytes, &id):
                    return PK_E_FORMAT
        code = codec_field(&tokenized, &field)
    return code


cdef int _max_tokens(slice_t params, int64_t* most) noexcept nogil:
    cdef field_t field
    cdef int code = codec_field(&params, &field)
    while code > 0:
        if field.tag == MAX_TOKENS:
            most[0] = <int64_t>field.number if field.number <= PK_MOST_TOKENS else -1
        code = codec_field(&params, &field)
    return code


cdef int _media_are_whole(slice_t inputs) noexcept nogil:
    cdef field_t field
    cdef int inner, code = codec_field(&inputs, &field)
    while code > 0:
        if field.tag == MM_PLACEHOLDERS:
            inner = _walk(field.bytes)
            if inner < 0:
                return inner
        code = codec_field(&inputs, &field)
    return code


cdef int _request(vllm_t* request, slice_t message) noexcept nogil:
    cdef field_t field
    cdef int inner = PK_OK, code = codec_field(&message, &field)
    while code > 0:
        if field.tag == TOKENIZED:
            inner = _ids_are_whole(field.bytes)
        elif field.tag == SAMPLING_PARAMS:
            inner = _max_tokens(field.bytes, &request.max_tokens)
        elif field.tag == MM_INPUTS or field.tag == EXTRA_MM_INPUTS:
            inner = _media_are_whole(field.bytes)
        elif field.tag == MEDIA_REFS:
            inner = _walk(field.bytes)
        if inner < 0:
            return inner
        code = codec_field(&message, &field)
    return code


cdef int vllm_read(vllm_t* request, const uint8_t* data, size_t size) noexcept nogil:
    """Check the body of a Generate or Embed call, and find what bounds the answer. PK_OK or PK_E_FORMAT."""
    cdef slice_t frames, message
    cdef int code = PK_OK
    request.max_tokens = -1
    request.frames.data, request.frames.size = data, size
    frames = request.frames
    while _next_frame(&frames, &message, &code):
        code = _request(request, message)
        if code != PK_OK:
            return code
    return code


# --- C kernel: hashing; everything was found well-formed ---


cdef void _flush(ids_t* ids) noexcept nogil:
    chain_feed(ids.chain, <const uint8_t*>ids.ids, ids.count * sizeof(uint32_t))
    ids.count = 0


cdef void _feed_id(ids_t* ids, uint64_t id) noexcept nogil:
    cdef const places_t* places = ids.places
    if places.next < places.count and places.items[places.next].offset <= ids.offset:
        _flush(ids)
        places_feed(ids.places, ids.offset, ids.chain)
    ids.ids[ids.count] = <uint32_t>id
    ids.count += 1
    ids.offset += 1
    if ids.count == IDS:
        _flush(ids)


cdef void _feed_tokenized(slice_t tokenized, places_t* places, chain_t* chain) noexcept nogil:
    cdef field_t field
    cdef uint64_t id
    cdef ids_t ids
    ids.chain, ids.places = chain, places
    ids.offset = ids.count = 0
    while codec_field(&tokenized, &field) > 0:
        if field.tag == INPUT_IDS:
            _feed_id(&ids, field.number)
        elif field.tag == PACKED_INPUT_IDS:
            while codec_varint(&field.bytes, &id):
                _feed_id(&ids, id)
    _flush(&ids)


cdef uint64_t _offset(slice_t range) noexcept nogil:
    cdef field_t field
    cdef uint64_t offset = 0
    while codec_field(&range, &field) > 0:
        if field.tag == OFFSET:
            offset = field.number
    return offset


cdef void _find_media(slice_t inputs, places_t* places) noexcept nogil:
    """The n-th hash stands where the n-th range of token ids does."""
    cdef slice_t ranges = inputs
    cdef field_t media, range
    cdef uint64_t offset = 0
    while codec_field(&inputs, &media) > 0:
        if media.tag != MM_HASHES:
            continue
        while codec_field(&ranges, &range) > 0:
            if range.tag == MM_PLACEHOLDERS:
                offset = _offset(range.bytes)
                break
        places_add(places, offset, hash_xxh64(media.bytes.data, media.bytes.size, 0))


cdef void _feed_references(slice_t references, chain_t* chain) noexcept nogil:
    """Media the model server fetches itself: as any other image or sound."""
    cdef field_t field
    cdef digest_t digest
    while codec_field(&references, &field) > 0:
        if field.tag == ITEMS:
            digest.hash = hash_xxh64(field.bytes.data, field.bytes.size, 0)
            digest.size = PK_MEDIA_BYTES
            feed_mark(chain, PK_PART_MARK)
            feed_digest(digest, chain)


cdef void _feed_message(slice_t message, chain_t* chain) noexcept nogil:
    """Media that have no place first: then what stands among the token ids, and these."""
    cdef slice_t rest = message
    cdef field_t field
    cdef places_t places
    places.count = places.next = 0
    while codec_field(&rest, &field) > 0:
        if field.tag == MEDIA_REFS:
            _feed_references(field.bytes, chain)
        elif field.tag == MM_INPUTS or field.tag == EXTRA_MM_INPUTS:
            _find_media(field.bytes, &places)
    while codec_field(&message, &field) > 0:
        if field.tag == TOKENIZED:
            _feed_tokenized(field.bytes, &places, chain)
        elif field.tag == TEXT:
            chain_feed(chain, field.bytes.data, field.bytes.size)
    places_feed(&places, UINT64_MAX, chain)


cdef void vllm_hash(const vllm_t* request, chain_t* chain) noexcept nogil:
    """Feed the prompts of a body that `vllm_read` found good."""
    cdef slice_t frames = request.frames, message
    cdef int code = PK_OK
    while _next_frame(&frames, &message, &code):
        _feed_message(message, chain)


# --- Python face ---


def read(bytes body not None, uint64_t seed=0, *, uint32_t blocks=65536) -> dict | None:
    """What picker reads of the body of a Generate or Embed call, for tests and tools; None if it cannot be read.

    Keys: max_tokens (-1 = not said), tokens (estimate) and hashes (of at most `blocks` blocks).
    """
    cdef vllm_t request
    cdef chain_t chain
    cdef uint32_t i
    cdef uint64_t* hashes
    if vllm_read(&request, <const uint8_t*>body, len(body)) != PK_OK:
        return None
    hashes = <uint64_t*>pk_resize(NULL, blocks, sizeof(uint64_t))
    if hashes == NULL:
        raise MemoryError("no memory to read a request")
    try:
        chain_start(&chain, seed, hashes, blocks)
        vllm_hash(&request, &chain)
        return {
            "max_tokens": request.max_tokens,
            "tokens": prompt_tokens(&chain),
            "hashes": [hashes[i] for i in range(chain.count)],
        }
    finally:
        pk_free(hashes)
