"""What a request body asks for: which model, which prompt, how long an answer; read from the JSON tape.

Invariants: equal conversations feed equal bytes to the hash chain whatever the order of a message's members; a further
    message only appends. Texts are hashed as they stand in the JSON, not unescaped; separators are control characters,
    which no JSON string can hold as they are.
Cost: O(values on the tape + bytes hashed); allocates nothing. What is hashed is at most a few times the body's size.
Memory: borrows tape and body.   Threads: any.
Source: the OpenAI API's chat completions and completions requests; `cache_salt` is vLLM's.

A message is its role, its content, and its other members (name, tool calls, tool call id, ...) together: those stand in
the chain as one digest, which does not depend on the order of members, as long as they are. A member that is null is as
good as none: clients send answers back with all the nulls they came with.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_free, pk_resize
from picker._core.hashing cimport chain_feed, chain_start, hash_xxh64
from picker._core.scan cimport (
    PK_JSON_ARRAY,
    PK_JSON_INTS,
    PK_JSON_NULL,
    PK_JSON_NUMBER,
    PK_JSON_OBJECT,
    PK_JSON_STRING,
    PK_JSON_TRUE,
    scan_free,
    scan_init,
    scan_json,
    scan_member,
    scan_next_int,
    scan_uint,
    scan_unescape,
    value_t,
)

cdef enum:
    MESSAGE_MARK = 0x1E        # before each message, between the prompts of a list
    PART_MARK = 0x1F           # before content, each part of it, and the other members
    MEDIA_BYTES = 1024         # an image or a sound stands for 256 tokens, whatever its size in JSON
    DIGEST_WORDS = 32

ctypedef struct digest_t:
    uint64_t hash
    uint64_t size              # bytes of names, strings and literals in it

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


cdef slice_t _content(const scan_t* scan, uint32_t index) noexcept nogil:
    """The value as it stands: a string without its quotes, anything else whole."""
    cdef const value_t* value = &scan.tape[index]
    cdef uint32_t quote = value.kind == PK_JSON_STRING
    cdef slice_t text
    text.data = scan.data + value.start + quote
    text.size = value.end - value.start - 2 * quote
    return text


cdef inline bint _is_there(const scan_t* scan, uint32_t index) noexcept nogil:
    return index != 0 and scan.tape[index].kind != PK_JSON_NULL


cdef uint64_t prompt_root(const scan_t* scan, uint64_t root) noexcept nogil:
    """Where the chain begins: `root` (the seed, and the model: an adapter is a model by its name), and cache_salt."""
    cdef slice_t text
    cdef uint32_t salt = scan_member(scan, 0, b"cache_salt", 10)
    if not _is_there(scan, salt):
        return root
    text = _content(scan, salt)
    return hash_xxh64(text.data, text.size, root)


# --- C kernel: digests, for what has no order of its own ---


cdef inline uint64_t _join(uint64_t one, uint64_t other) noexcept nogil:
    cdef uint64_t words[2]
    words[0] = one
    words[1] = other
    return hash_xxh64(<const uint8_t*>words, sizeof(words), 0)


cdef digest_t _digest_text(const scan_t* scan, uint32_t index) noexcept nogil:
    """A string, number or literal, as it stands. The kind is its seed: "1" is not 1."""
    cdef slice_t text = _content(scan, index)
    cdef digest_t digest
    digest.hash = hash_xxh64(text.data, text.size, scan.tape[index].kind)
    digest.size = text.size
    return digest


cdef digest_t _digest_ints(const scan_t* scan, uint32_t index) noexcept nogil:
    cdef uint32_t at = scan.tape[index].start, value
    cdef digest_t digest
    digest.hash = PK_JSON_ARRAY
    digest.size = 0
    while scan_next_int(scan, &at, &value):
        digest.hash = _join(digest.hash, value)
        digest.size += sizeof(uint32_t)
    return digest


cdef digest_t _digest(const scan_t* scan, uint32_t index) noexcept nogil:
    """Any value: the members of an object in any order. As deep as the scanner allowed."""
    cdef const value_t* value = &scan.tape[index]
    cdef uint32_t item = index + 1
    cdef digest_t digest, part
    if value.kind == PK_JSON_OBJECT:
        return _digest_members(scan, index, 0, 0)
    if value.kind != PK_JSON_ARRAY:
        return _digest_text(scan, index)
    if value.flags & PK_JSON_INTS:
        return _digest_ints(scan, index)
    digest.hash = PK_JSON_ARRAY
    digest.size = 0
    while item < value.next:
        part = _digest(scan, item)
        digest.hash = _join(digest.hash, part.hash)
        digest.size += part.size
        item = scan.tape[item].next
    return digest


cdef digest_t _digest_members(const scan_t* scan, uint32_t index, uint32_t left_out, uint32_t also) noexcept nogil:
    """The members of an object but the two with these values, and those that are null."""
    cdef uint32_t key = index + 1
    cdef digest_t digest, name, part
    digest.hash = digest.size = 0
    while key < scan.tape[index].next:
        if key + 1 != left_out and key + 1 != also and scan.tape[key + 1].kind != PK_JSON_NULL:
            name = _digest_text(scan, key)
            part = _digest(scan, key + 1)
            digest.hash += _join(name.hash, part.hash)
            digest.size += name.size + part.size
        key = scan.tape[key + 1].next
    digest.hash = _join(PK_JSON_OBJECT, digest.hash)
    return digest


# --- C kernel: what goes into the chain ---


cdef void _feed_mark(chain_t* chain, uint8_t mark) noexcept nogil:
    chain_feed(chain, &mark, 1)


cdef void _feed_value(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    cdef slice_t text = _content(scan, index)
    chain_feed(chain, text.data, text.size)


cdef void _feed_digest(digest_t digest, chain_t* chain) noexcept nogil:
    """The hash again and again, `digest.size` bytes in all."""
    cdef uint64_t words[DIGEST_WORDS]
    cdef uint32_t i
    for i in range(DIGEST_WORDS):
        words[i] = digest.hash
    while digest.size > sizeof(words):
        chain_feed(chain, <const uint8_t*>words, sizeof(words))
        digest.size -= sizeof(words)
    chain_feed(chain, <const uint8_t*>words, digest.size)


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
    cdef uint32_t text = 0
    cdef digest_t media
    _feed_mark(chain, PART_MARK)
    if scan.tape[index].kind == PK_JSON_OBJECT:
        text = scan_member(scan, index, b"text", 4)
    if _is_there(scan, text):
        _feed_value(scan, text, chain)
    elif scan.tape[index].kind == PK_JSON_OBJECT:
        media = _digest(scan, index)
        media.size = MEDIA_BYTES
        _feed_digest(media, chain)
    else:
        _feed_value(scan, index, chain)


cdef void _feed_content(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    cdef uint32_t part = index + 1
    if scan.tape[index].kind != PK_JSON_ARRAY or scan.tape[index].flags & PK_JSON_INTS:
        _feed_value(scan, index, chain)
        return
    while part < scan.tape[index].next:
        _feed_part(scan, part, chain)
        part = scan.tape[part].next


cdef void _feed_message(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """Role, content, then all other members together."""
    cdef uint32_t role, content
    cdef digest_t others
    _feed_mark(chain, MESSAGE_MARK)
    if scan.tape[index].kind != PK_JSON_OBJECT:
        _feed_value(scan, index, chain)
        return
    role = scan_member(scan, index, b"role", 4)
    content = scan_member(scan, index, b"content", 7)
    others = _digest_members(scan, index, role, content)
    if _is_there(scan, role):
        _feed_value(scan, role, chain)
    _feed_mark(chain, PART_MARK)
    if _is_there(scan, content):
        _feed_content(scan, content, chain)
    if others.size:
        _feed_mark(chain, PART_MARK)
        _feed_digest(others, chain)


cdef void _feed_prompt(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """A completions prompt: a text, token ids, or a list of either."""
    cdef uint32_t item = index + 1
    if scan.tape[index].flags & PK_JSON_INTS:
        _feed_ids(scan, index, chain)
        return
    if scan.tape[index].kind != PK_JSON_ARRAY:
        _feed_value(scan, index, chain)
        return
    while item < scan.tape[index].next:
        if item != index + 1:
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
    if _is_there(scan, item):
        _feed_value(scan, item, chain)
    item = prompt.content + 1
    while item < scan.tape[prompt.content].next:
        _feed_message(scan, item, chain)
        item = scan.tape[item].next


cdef int64_t prompt_tokens(const chain_t* chain) noexcept nogil:
    """Estimate of the tokens fed, at most what the chain has room for: no request is booked as more than that."""
    cdef uint64_t tokens = (chain.total + PK_BYTES_PER_TOKEN - 1) // PK_BYTES_PER_TOKEN
    cdef uint64_t most = <uint64_t>chain.room * PK_BLOCK_TOKENS
    return <int64_t>(tokens if tokens < most else most)


# --- Python face ---

API_OTHER = PK_API_OTHER
API_CHAT = PK_API_CHAT
API_COMPLETIONS = PK_API_COMPLETIONS
BODY_OK = PK_BODY_OK
BODY_NOT_JSON = PK_BODY_NOT_JSON
BODY_TOO_COMPLEX = PK_BODY_TOO_COMPLEX
BODY_NOT_OBJECT = PK_BODY_NOT_OBJECT
BODY_NO_MODEL = PK_BODY_NO_MODEL
BODY_NO_MESSAGES = PK_BODY_NO_MESSAGES
BODY_NO_PROMPT = PK_BODY_NO_PROMPT


cdef bytes _unescaped(const scan_t* scan, uint32_t index):
    cdef bytes text = bytes(scan.tape[index].end - scan.tape[index].start)
    return text[:scan_unescape(scan, index, <uint8_t*>text, len(text))]


cdef dict _read(scan_t* scan, int api, uint64_t seed, uint64_t* hashes, uint32_t blocks):
    cdef prompt_t prompt
    cdef chain_t chain
    cdef uint32_t i
    cdef bytes model
    cdef int refused = prompt_read(&prompt, scan, api)
    if refused != PK_BODY_OK:
        return {"api": api, "refused": refused}
    model = _unescaped(scan, prompt.model)
    chain_start(&chain, prompt_root(scan, hash_xxh64(<const uint8_t*>model, len(model), seed)), hashes, blocks)
    prompt_hash(&prompt, scan, &chain)
    return {
        "api": api,
        "refused": refused,
        "model": model,
        "stream": bool(prompt.stream),
        "max_tokens": prompt.max_tokens,
        "tokens": prompt_tokens(&chain),
        "hashes": [hashes[i] for i in range(chain.count)],
    }


def read(bytes path not None, bytes body not None, uint64_t seed=0, *, uint32_t blocks=65536,
         uint32_t values=1 << 20, uint32_t depth=256) -> dict:
    """What picker reads of a body sent to `path`, for tests and tools.

    Keys: api (API_*), refused (BODY_*); of a body that is not refused and whose API is read also model (UTF-8), stream,
    max_tokens (-1 = not said), tokens (estimate) and hashes (of at most `blocks` blocks). `values` and `depth` limit
    the JSON; ValueError for a depth of more than 1024.
    """
    cdef scan_t scan
    cdef slice_t slice
    cdef uint64_t* hashes
    cdef int api, code
    if depth > PK_MOST_DEPTH:
        raise ValueError(f"JSON can be read to a depth of {PK_MOST_DEPTH}, not {depth}")
    slice.data, slice.size = <const uint8_t*>path, len(path)
    api = prompt_api(slice)
    if api == PK_API_OTHER:
        return {"api": api, "refused": PK_BODY_OK}
    scan_init(&scan, values, depth)
    hashes = <uint64_t*>pk_resize(NULL, blocks, sizeof(uint64_t))
    try:
        code = scan_json(&scan, <const uint8_t*>body, len(body)) if hashes != NULL else PK_E_NOMEM
        if code == PK_E_NOMEM:
            raise MemoryError("no memory to read a body")
        if code != PK_OK:
            return {"api": api, "refused": PK_BODY_TOO_COMPLEX if code == PK_E_LIMIT else PK_BODY_NOT_JSON}
        return _read(&scan, api, seed, hashes, blocks)
    finally:
        pk_free(hashes)
        scan_free(&scan)
