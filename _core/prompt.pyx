"""What a JSON body asks for: which model, which prompt, how long an answer; read from the tape.

Invariants: what stands where is what the table of `apis` says; of members of one name the last counts, and one that is
    null is as good as none. What no model runs over is not hashed.
Cost: O(values on the tape + bytes hashed); allocates nothing. What is hashed is at most a few times the body's size.
Memory: borrows tape and body.   Threads: any.
"""
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_free, pk_resize
from picker._core.apis cimport (
    PK_API_OTHER,
    PK_BODY_LACKS,
    PK_BODY_NOT_JSON,
    PK_BODY_NOT_OBJECT,
    PK_BODY_OK,
    PK_BODY_TOO_COMPLEX,
    PK_FORMAT_GRPC,
    PK_NEED_ARRAY,
    PK_NEED_NOTHING,
    PK_NEED_STRING,
    PK_NEED_VALUE,
    PK_ROLE_LIMIT,
    PK_ROLE_MEDIA,
    PK_ROLE_MESSAGES,
    PK_ROLE_MODEL,
    PK_ROLE_PLACES,
    PK_ROLE_PROMPT,
    PK_ROLE_SALT,
    PK_ROLE_STREAM,
    PK_ROLE_SYSTEM,
    PK_ROLE_TOOLS,
    PK_WORK_ANSWER,
    PK_WORK_NONE,
    api_get,
    api_lacking,
    api_of,
    pk_field_t,
)
from picker._core.codec cimport slice_t
from picker._core.digests cimport json_content, json_is_there, places_feed, places_t
from picker._core.feeds cimport feed_media, feed_messages, feed_prompt, feed_said, feed_value, find_places
from picker._core.hashing cimport chain_start, hash_xxh64
from picker._core.scan cimport (
    PK_JSON_ARRAY,
    PK_JSON_ESCAPED,
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
    scan_uint,
    scan_unescape,
    value_t,
)

# --- C kernel: what is there ---


cdef bint _string(const scan_t* scan, uint32_t index) noexcept nogil:
    """A string with something in it."""
    cdef const value_t* value = &scan.tape[index]
    return index != 0 and value.kind == PK_JSON_STRING and value.end - value.start > 2


cdef bint _filled(const scan_t* scan, uint32_t index) noexcept nogil:
    """An array with something in it."""
    cdef const value_t* value = &scan.tape[index]
    return index != 0 and value.kind == PK_JSON_ARRAY and (value.next > index + 1 or value.flags & PK_JSON_INTS)


cdef bint _fits(const scan_t* scan, uint32_t index, int need) noexcept nogil:
    if need == PK_NEED_VALUE:
        return index != 0
    if need != PK_NEED_STRING and _filled(scan, index):
        return True
    return need != PK_NEED_ARRAY and _string(scan, index)


cdef void _find(prompt_t* prompt, const scan_t* scan) noexcept nogil:
    """Where each field of the API stands: the last member called so, unless it is null."""
    cdef const pk_field_t* fields = prompt.api.fields
    cdef const value_t* name
    cdef uint32_t key = 1, size, i
    while key < scan.tape[0].next:
        name = &scan.tape[key]
        size = name.end - name.start - 2
        for i in range(prompt.api.field_count):
            if (size == fields[i].name_size or name.flags & PK_JSON_ESCAPED) and scan_equals(
                scan, key, fields[i].name, fields[i].name_size
            ):
                prompt.at[i] = key + 1
        key = scan.tape[key + 1].next
    for i in range(prompt.api.field_count):
        if not json_is_there(scan, prompt.at[i]):
            prompt.at[i] = 0


cdef int _lacking(const prompt_t* prompt, const scan_t* scan) noexcept nogil:
    """The field to be named of the first group of which there is none; -1: nothing lacks."""
    cdef const pk_field_t* field
    cdef uint32_t i, needed = 0, met = 0
    cdef int lacking = -1
    for i in range(prompt.api.field_count):
        field = &prompt.api.fields[i]
        if field.need != PK_NEED_NOTHING:
            needed |= <uint32_t>1 << field.group
            met |= <uint32_t>_fits(scan, prompt.at[i], field.need) << field.group
    if met == needed:
        return -1
    for i in range(prompt.api.field_count):
        field = &prompt.api.fields[i]
        if field.need != PK_NEED_NOTHING and not met & <uint32_t>1 << field.group:
            if lacking < 0 or field.group <= prompt.api.fields[lacking].group:
                lacking = <int>i
    return lacking


cdef bint _limit(const scan_t* scan, uint32_t index, const pk_field_t* field, int64_t* most) noexcept nogil:
    """What a number says that bounds the answer; False if there is none."""
    cdef uint64_t value
    if field.inner != NULL:
        index = scan_member(scan, index, field.inner, field.inner_size)
    if index == 0 or scan.tape[index].kind != PK_JSON_NUMBER:
        return False
    if scan_uint(scan, index, &value) and value <= PK_MOST_TOKENS:
        most[0] = <int64_t>value
    return True


cdef int prompt_read(prompt_t* prompt, const scan_t* scan, int api) noexcept nogil:
    """Find what `api` needs in the document on the tape. PK_BODY_OK, or why the body is refused."""
    cdef const pk_field_t* field
    cdef uint32_t i
    cdef int lacking
    cdef bint is_limited
    memset(prompt, 0, sizeof(prompt_t))
    prompt.api = api_get(api)
    prompt.max_tokens = -1 if prompt.api.work == PK_WORK_ANSWER else 0
    is_limited = prompt.api.work != PK_WORK_ANSWER
    if scan.tape[0].kind != PK_JSON_OBJECT:
        return PK_BODY_NOT_OBJECT
    _find(prompt, scan)
    for i in range(prompt.api.field_count):
        field = &prompt.api.fields[i]
        if prompt.at[i] == 0:
            continue
        if field.role == PK_ROLE_MODEL and _string(scan, prompt.at[i]):
            prompt.model = prompt.at[i]
        elif field.role == PK_ROLE_STREAM:
            prompt.stream = scan.tape[prompt.at[i]].kind == PK_JSON_TRUE
        elif field.role == PK_ROLE_LIMIT and not is_limited:
            is_limited = _limit(scan, prompt.at[i], field, &prompt.max_tokens)
    lacking = _lacking(prompt, scan)
    return PK_BODY_OK if lacking < 0 else PK_BODY_LACKS + api * PK_API_FIELDS + lacking


cdef uint64_t prompt_root(const prompt_t* prompt, const scan_t* scan, uint64_t root) noexcept nogil:
    """Where the chain begins: `root` (of the seed, and of the model: adapters are models by name), and salts."""
    cdef const pk_field_t* field
    cdef slice_t text
    cdef uint32_t i
    for i in range(prompt.api.field_count):
        field = &prompt.api.fields[i]
        if field.role == PK_ROLE_SALT and prompt.at[i]:
            text = json_content(scan, prompt.at[i])
            root = hash_xxh64(<const uint8_t*>field.name, field.name_size, root)
            root = hash_xxh64(text.data, text.size, root)
    return root


# --- C kernel: what is hashed ---


cdef void prompt_hash(const prompt_t* prompt, const scan_t* scan, chain_t* chain) noexcept nogil:
    """Feed the whole prompt in the order of the API's fields."""
    cdef const pk_field_t* field
    cdef places_t places
    cdef uint32_t i, index
    places.count = places.next = 0
    if prompt.api.work == PK_WORK_NONE:
        return
    for i in range(prompt.api.field_count):
        field = &prompt.api.fields[i]
        index = prompt.at[i]
        if index == 0:
            continue
        if field.role == PK_ROLE_MESSAGES:
            feed_messages(scan, index, chain)
        elif field.role == PK_ROLE_TOOLS:
            feed_value(scan, index, chain)
        elif field.role == PK_ROLE_SYSTEM:
            feed_said(scan, index, field.name, field.name_size, chain)
        elif field.role == PK_ROLE_PROMPT:
            feed_prompt(scan, index, &places, chain)
        elif field.role == PK_ROLE_MEDIA:
            feed_media(scan, index, chain)
        elif field.role == PK_ROLE_PLACES:
            find_places(scan, index, &places)
    places_feed(&places, UINT64_MAX, chain)


cdef int64_t prompt_tokens(const chain_t* chain) noexcept nogil:
    """Estimate of the tokens fed, at most what the chain has room for: no request is booked as more than that."""
    cdef uint64_t tokens = (chain.total + PK_BYTES_PER_TOKEN - 1) // PK_BYTES_PER_TOKEN
    cdef uint64_t most = <uint64_t>chain.room * PK_BLOCK_TOKENS
    return <int64_t>(tokens if tokens < most else most)


# --- Python face ---


cdef bytes _unescaped(const scan_t* scan, uint32_t index):
    cdef bytes text = bytes(scan.tape[index].end - scan.tape[index].start)
    return text[:scan_unescape(scan, index, <uint8_t*>text, len(text))]


cdef dict _read(scan_t* scan, int api, uint64_t root, uint64_t* hashes, uint32_t blocks):
    cdef prompt_t prompt
    cdef chain_t chain
    cdef uint32_t i
    cdef bytes model = b""
    cdef int problem = prompt_read(&prompt, scan, api)
    if problem != PK_BODY_OK:
        return _refused(api, problem)
    if prompt.model:
        model = _unescaped(scan, prompt.model)
        root = hash_xxh64(<const uint8_t*>model, len(model), root)
    chain_start(&chain, prompt_root(&prompt, scan, root), hashes, blocks)
    prompt_hash(&prompt, scan, &chain)
    return {
        **_refused(api, problem),
        "model": model,
        "stream": bool(prompt.stream),
        "max_tokens": prompt.max_tokens,
        "tokens": prompt_tokens(&chain),
        "hashes": [hashes[i] for i in range(chain.count)],
    }


cdef dict _refused(int api, int problem):
    cdef const char* field = api_lacking(problem)
    name = "" if field == NULL else field.decode()
    return {"api": api, "refused": PK_BODY_LACKS if name else problem, "field": name}


def read(bytes path not None, bytes body not None, uint64_t seed=0, *, uint32_t blocks=65536,
         uint32_t values=1 << 20, uint32_t depth=256) -> dict:
    """What picker reads of a JSON body sent to `path`, for tests and tools.

    Keys: api (see `apis.find`), refused (one of `apis`'s BODY_*), field (what the body lacks, ""); of a body that is
    not refused and whose API is read also model (UTF-8, b"" = none), stream, max_tokens (-1 = not said), tokens
    (estimate) and hashes (of at most `blocks` blocks). `values` and `depth` limit the JSON; ValueError for a depth of
    more than 1024.
    """
    cdef scan_t scan
    cdef slice_t slice
    cdef uint64_t* hashes
    cdef int api, code
    if depth > PK_MOST_DEPTH:
        raise ValueError(f"JSON can be read to a depth of {PK_MOST_DEPTH}, not {depth}")
    slice.data, slice.size = <const uint8_t*>path, len(path)
    api = api_of(slice)
    if api == PK_API_OTHER or api_get(api).format == PK_FORMAT_GRPC:
        return _refused(api, PK_BODY_OK)
    scan_init(&scan, values, depth)
    hashes = <uint64_t*>pk_resize(NULL, blocks, sizeof(uint64_t))
    try:
        code = scan_json(&scan, <const uint8_t*>body, len(body)) if hashes != NULL else PK_E_NOMEM
        if code == PK_E_NOMEM:
            raise MemoryError("no memory to read a body")
        if code != PK_OK:
            return _refused(api, PK_BODY_TOO_COMPLEX if code == PK_E_LIMIT else PK_BODY_NOT_JSON)
        return _read(&scan, api, seed, hashes, blocks)
    finally:
        pk_free(hashes)
        scan_free(&scan)
