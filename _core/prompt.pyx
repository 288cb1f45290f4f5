"""What a request body asks for: which model, which prompt, how long an answer; read from the JSON tape.

Invariants: equal conversations feed equal bytes to the hash chain whatever the order of a message's members; a further
    message only appends. Texts are hashed as they stand in the JSON, not unescaped; separators are control characters,
    which no JSON string can hold as they are.
Cost: O(values on the tape + bytes hashed); allocates nothing.   Memory: borrows tape and body.   Threads: any.
Source: the OpenAI API's chat completions and completions requests.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from picker._core.alloc cimport PK_OK, pk_free, pk_resize
from picker._core.hashing cimport chain_feed, chain_start, hash_xxh64
from picker._core.scan cimport (
    PK_JSON_ARRAY,
    PK_JSON_INTS,
    PK_JSON_NUMBER,
    PK_JSON_OBJECT,
    PK_JSON_STRING,
    PK_JSON_TRUE,
    scan_equals,
    scan_free,
    scan_init,
    scan_json,
    scan_member,
    scan_next_int,
    scan_uint,
    value_t,
)

cdef enum:
    MESSAGE_MARK = 0x1E
    PART_MARK = 0x1F
    MEDIA_WORDS = 128          # an image or a sound stands for 256 tokens, whatever its size in JSON
    MEDIA_BYTES = 1024
    PK_ROOM = 1 << 20

# --- C kernel ---


cdef bint _ends_with(slice_t path, const char* suffix, size_t size) noexcept nogil:
    return path.size >= size and memcmp(path.data + path.size - size, suffix, size) == 0


cdef int prompt_api(slice_t path) noexcept nogil:
    """Which API a `:path` names: by its ending, query and trailing slash aside."""
    cdef size_t i
    for i in range(path.size):
        if path.data[i] == c"?" or path.data[i] == c"#":
            path.size = i
            break
    if path.size > 1 and path.data[path.size - 1] == c"/":
        path.size -= 1
    if _ends_with(path, b"/chat/completions", 17):
        return PK_API_CHAT
    return PK_API_COMPLETIONS if _ends_with(path, b"/completions", 12) else PK_API_OTHER


cdef bint _string(const scan_t* scan, uint32_t index) noexcept nogil:
    """A string with something in it."""
    cdef const value_t* value = &scan.tape[index]
    return index != 0 and value.kind == PK_JSON_STRING and value.end - value.start > 2


cdef bint _filled(const scan_t* scan, uint32_t index) noexcept nogil:
    """An array with something in it."""
    cdef const value_t* value = &scan.tape[index]
    return index != 0 and value.kind == PK_JSON_ARRAY and (value.next > index + 1 or value.flags & PK_JSON_INTS)


cdef int64_t _max_tokens(const scan_t* scan) noexcept nogil:
    cdef uint64_t value
    cdef uint32_t index = scan_member(scan, 0, b"max_completion_tokens", 21)
    if index == 0 or scan.tape[index].kind != PK_JSON_NUMBER:
        index = scan_member(scan, 0, b"max_tokens", 10)
    if index == 0 or not scan_uint(scan, index, &value) or value > 0x7FFFFFFF:
        return -1
    return <int64_t>value


cdef int prompt_read(prompt_t* prompt, const scan_t* scan, int api) noexcept nogil:
    """Find what `api` needs in the document on the tape. PK_BODY_OK, or why the body is refused."""
    cdef uint32_t stream
    prompt.api = api
    if scan.tape[0].kind != PK_JSON_OBJECT:
        return PK_BODY_NOT_OBJECT
    prompt.model = scan_member(scan, 0, b"model", 5)
    if not _string(scan, prompt.model):
        return PK_BODY_NO_MODEL
    stream = scan_member(scan, 0, b"stream", 6)
    prompt.stream = stream != 0 and scan.tape[stream].kind == PK_JSON_TRUE
    prompt.max_tokens = _max_tokens(scan)
    if api == PK_API_CHAT:
        prompt.content = scan_member(scan, 0, b"messages", 8)
        return PK_BODY_OK if _filled(scan, prompt.content) else PK_BODY_NO_MESSAGES
    prompt.content = scan_member(scan, 0, b"prompt", 6)
    if _string(scan, prompt.content) or _filled(scan, prompt.content):
        return PK_BODY_OK
    return PK_BODY_NO_PROMPT


cdef uint64_t _hash_string(const scan_t* scan, uint32_t index, uint64_t seed) noexcept nogil:
    cdef const value_t* value = &scan.tape[index]
    return hash_xxh64(scan.data + value.start, value.end - value.start, seed)


cdef uint64_t prompt_root(const prompt_t* prompt, const scan_t* scan, uint64_t seed) noexcept nogil:
    """Where the chain begins: seed, model (an adapter is a model by its name) and cache_salt."""
    cdef uint64_t root = _hash_string(scan, prompt.model, seed)
    cdef uint32_t salt = scan_member(scan, 0, b"cache_salt", 10)
    return _hash_string(scan, salt, root) if salt else root


cdef void _feed_mark(chain_t* chain, uint8_t mark) noexcept nogil:
    chain_feed(chain, &mark, 1)


cdef void _feed_value(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """The value as it stands: a string without its quotes, anything else whole."""
    cdef const value_t* value = &scan.tape[index]
    if value.kind == PK_JSON_STRING:
        chain_feed(chain, scan.data + value.start + 1, value.end - value.start - 2)
    else:
        chain_feed(chain, scan.data + value.start, value.end - value.start)


cdef void _feed_media(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """A picture or a sound: its hash, as long as the tokens it stands for."""
    cdef uint64_t words[MEDIA_WORDS]
    cdef uint64_t word = _hash_string(scan, index, 0)
    cdef uint32_t i
    for i in range(MEDIA_WORDS):
        words[i] = word
    chain_feed(chain, <const uint8_t*>words, MEDIA_BYTES)


cdef void _feed_ids(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """Token ids, four bytes each."""
    cdef uint32_t ids[PK_BLOCK_TOKENS]
    cdef uint32_t count = 0, at = scan.tape[index].start
    while scan_next_int(scan, &at, &ids[count]):
        count += 1
        if count == PK_BLOCK_TOKENS:
            chain_feed(chain, <const uint8_t*>ids, sizeof(ids))
            count = 0
    chain_feed(chain, <const uint8_t*>ids, count * sizeof(uint32_t))


cdef void _feed_part(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """One content part: its text, or its media."""
    cdef uint32_t text
    _feed_mark(chain, PART_MARK)
    if scan.tape[index].kind != PK_JSON_OBJECT:
        _feed_value(scan, index, chain)
        return
    text = scan_member(scan, index, b"text", 4)
    if text:
        _feed_value(scan, text, chain)
    else:
        _feed_media(scan, index, chain)


cdef void _feed_content(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    cdef uint32_t part
    if scan.tape[index].kind != PK_JSON_ARRAY or scan.tape[index].flags & PK_JSON_INTS:
        _feed_value(scan, index, chain)
        return
    part = index + 1
    while part < scan.tape[index].next:
        _feed_part(scan, part, chain)
        part = scan.tape[part].next


cdef void _feed_message(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """Role, content, then every other member (name, tool calls, tool call id, ...) as it comes."""
    cdef uint32_t role, content, key
    _feed_mark(chain, MESSAGE_MARK)
    if scan.tape[index].kind != PK_JSON_OBJECT:
        _feed_value(scan, index, chain)
        return
    role = scan_member(scan, index, b"role", 4)
    content = scan_member(scan, index, b"content", 7)
    if role:
        _feed_value(scan, role, chain)
    _feed_mark(chain, PART_MARK)
    if content:
        _feed_content(scan, content, chain)
    key = index + 1
    while key < scan.tape[index].next:
        if key + 1 != role and key + 1 != content:
            _feed_mark(chain, PART_MARK)
            _feed_value(scan, key, chain)
            _feed_value(scan, key + 1, chain)
        key = scan.tape[key + 1].next


cdef void _feed_prompt(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """A completions prompt: a text, token ids, or a list of either."""
    cdef uint32_t item
    if scan.tape[index].flags & PK_JSON_INTS:
        _feed_ids(scan, index, chain)
        return
    if scan.tape[index].kind != PK_JSON_ARRAY:
        _feed_value(scan, index, chain)
        return
    item = index + 1
    while item < scan.tape[index].next:
        _feed_mark(chain, MESSAGE_MARK)
        if scan.tape[item].flags & PK_JSON_INTS:
            _feed_ids(scan, item, chain)
        else:
            _feed_value(scan, item, chain)
        item = scan.tape[item].next


cdef void prompt_hash(const prompt_t* prompt, const scan_t* scan, chain_t* chain) noexcept nogil:
    """Feed the whole conversation in the order a chat template renders it: tools, then messages; or the prompt."""
    cdef uint32_t item
    if prompt.api != PK_API_CHAT:
        _feed_prompt(scan, prompt.content, chain)
        return
    item = scan_member(scan, 0, b"tools", 5)
    if item:
        _feed_value(scan, item, chain)
    item = prompt.content + 1
    while item < scan.tape[prompt.content].next:
        _feed_message(scan, item, chain)
        item = scan.tape[item].next


# --- Python face ---

def read(bytes path not None, bytes body not None, uint64_t seed=0) -> dict:
    """What picker reads of a body sent to `path`: api, refused (PK_BODY_*), model, stream, max_tokens, tokens, hashes.

    For tests and tools; raises MemoryError only.
    """
    cdef scan_t scan
    cdef prompt_t prompt
    cdef chain_t chain
    cdef slice_t slice
    cdef uint64_t* out
    cdef int refused
    slice.data, slice.size = <const uint8_t*>path, len(path)
    api = prompt_api(slice)
    if api == PK_API_OTHER:
        return {"api": api, "refused": PK_BODY_OK}
    scan_init(&scan, PK_ROOM, 256)
    out = <uint64_t*>pk_resize(NULL, len(body) // PK_BYTES_PER_TOKEN + MEDIA_BYTES, sizeof(uint64_t))
    try:
        if out == NULL:
            raise MemoryError("no memory for block hashes")
        if scan_json(&scan, <const uint8_t*>body, len(body)) != PK_OK:
            return {"api": api, "refused": PK_BODY_NOT_JSON}
        refused = prompt_read(&prompt, &scan, api)
        if refused != PK_BODY_OK:
            return {"api": api, "refused": refused}
        chain_start(&chain, prompt_root(&prompt, &scan, seed), out, <uint32_t>(len(body) // PK_BYTES_PER_TOKEN + MEDIA_BYTES))
        prompt_hash(&prompt, &scan, &chain)
        return {
            "api": api,
            "refused": refused,
            "model": body[scan.tape[prompt.model].start + 1:scan.tape[prompt.model].end - 1],
            "stream": bool(prompt.stream),
            "max_tokens": prompt.max_tokens,
            "tokens": chain.total // PK_BYTES_PER_TOKEN,
            "hashes": [out[i] for i in range(chain.count)],
        }
    finally:
        pk_free(out)
        scan_free(&scan)
