"""Reading the body of a request: which model it names, which prompt it holds, what a pick needs of both.

Invariants: what is refused is found first, so that a body that cannot be served is never hashed; the hashes start from
    the model that the request goes to, whatever its client called it. Only JSON is refused: a form or a gRPC message
    that cannot be read is as good as empty, and its model server says so in its own way.
Cost: O(bytes); one pass to find, one over the prompt.
Memory: the tape and the hashes lie on the session's scratch; `session.found` points into both, and is good until the
    call ends in which it was filled.   Threads: one at a time per scratch.
"""
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK
from picker._core.apis cimport (
    PK_BODY_NOT_JSON,
    PK_BODY_OK,
    PK_BODY_TOO_COMPLEX,
    PK_FORMAT_FORM,
    PK_FORMAT_GRPC,
    PK_FORMAT_JSON,
    PK_WORK_ANSWER,
    api_get,
)
from picker._core.codec cimport buffer_append, codec_utf8, slice_bytes, slice_t
from picker._core.dispatch cimport engine_model, scratch_t
from picker._core.exchange cimport PK_FORMAT_UNREAD, found_t, session_t
from picker._core.form cimport form_hash, form_read
from picker._core.hashing cimport chain_start, chain_t, hash_xxh64
from picker._core.prompt cimport prompt_hash, prompt_read, prompt_root, prompt_tokens
from picker._core.scan cimport scan_json, scan_unescape, value_t
from picker._core.stats cimport PK_MODEL_BYTES
from picker._core.vllmgrpc cimport vllm_hash, vllm_read

# --- C kernel: finding ---


cdef int _find_json(session_t* session, slice_t body, int* problem) noexcept nogil:
    cdef scratch_t* scratch = session.scratch
    cdef found_t* found = &session.found
    cdef const value_t* value
    cdef int code = scan_json(&scratch.scan, body.data, body.size)
    if code == PK_E_NOMEM:
        return code
    if code != PK_OK:
        problem[0] = PK_BODY_TOO_COMPLEX if code == PK_E_LIMIT else PK_BODY_NOT_JSON
        return PK_OK
    problem[0] = prompt_read(&scratch.prompt, &scratch.scan, session.api)
    found.format = PK_FORMAT_JSON
    found.max_tokens = scratch.prompt.max_tokens
    if scratch.prompt.model:
        value = &scratch.scan.tape[scratch.prompt.model]
        found.has_model = found.model_is_json = True
        found.model_start = value.start + 1
        found.model_end = value.end - 1
    return PK_OK


cdef void _find_form(session_t* session, slice_t body) noexcept nogil:
    cdef scratch_t* scratch = session.scratch
    cdef found_t* found = &session.found
    cdef slice_t boundary, model
    boundary.data, boundary.size = session.route.boundary, session.route.boundary_size
    if body.size > UINT32_MAX or form_read(&scratch.form, body.data, body.size, boundary) != PK_OK:
        return
    found.format = PK_FORMAT_FORM
    model = scratch.form.model
    if model.size and codec_utf8(model):
        found.has_model = True
        found.model_start = <uint32_t>(model.data - body.data)
        found.model_end = found.model_start + <uint32_t>model.size


cdef void _find_grpc(session_t* session, slice_t body) noexcept nogil:
    cdef scratch_t* scratch = session.scratch
    cdef found_t* found = &session.found
    if vllm_read(&scratch.vllm, body.data, body.size) == PK_OK:
        found.format = PK_FORMAT_GRPC
        found.max_tokens = scratch.vllm.max_tokens if api_get(session.api).work == PK_WORK_ANSWER else 0


cdef int reading_find(session_t* session, int* problem) noexcept nogil:
    """Where model and prompt stand; `problem` is PK_BODY_*. PK_OK or PK_E_NOMEM."""
    cdef unsigned char format = api_get(session.api).format
    cdef slice_t body
    body.data = session.body.data if session.body.size else <const uint8_t*>b""
    body.size = session.body.size
    session.found.format = PK_FORMAT_UNREAD
    session.found.has_model = session.found.model_is_json = False
    session.found.max_tokens = -1
    session.found.root = session.engine.hash_seed
    problem[0] = PK_BODY_OK
    if format == PK_FORMAT_GRPC:
        _find_grpc(session, body)
    elif format == PK_FORMAT_FORM and session.route.is_form:
        _find_form(session, body)
    else:
        return _find_json(session, body, problem)
    return PK_OK


cdef size_t _last_comma(slice_t text) noexcept nogil:
    """Of those that stand between members of the object at the top; 0: there is none."""
    cdef size_t i, last = 0
    cdef uint32_t depth = 0
    cdef bint in_string = False, is_escaped = False
    cdef uint8_t byte
    for i in range(text.size):
        byte = text.data[i]
        if is_escaped:
            is_escaped = False
        elif in_string:
            is_escaped = byte == c"\\"
            in_string = byte != c'"'
        elif byte == c'"':
            in_string = True
        elif byte == c"{" or byte == c"[":
            depth += 1
        elif byte == c"}" or byte == c"]":
            depth -= 1
        elif byte == c"," and depth == 1:
            last = i
    return last


cdef int reading_find_cut(session_t* session) noexcept nogil:
    """The model alone of a body that is JSON and cut: its last whole member is taken for the end of it."""
    cdef size_t size = session.body.size, comma = _last_comma(slice_bytes(&session.body))
    cdef int problem, code
    if comma == 0:
        return PK_OK
    session.body.size = comma + 1
    session.body.data[comma] = c"}"
    code = reading_find(session, &problem)
    session.body.data[comma] = c","
    session.body.size = size
    return code


# --- C kernel: naming ---


cdef slice_t reading_model(const session_t* session, uint8_t* room) noexcept nogil:
    """The model as the client named it: unescaped into `room` (PK_MODEL_BYTES) where it fits, else as it stands."""
    cdef const scratch_t* scratch = session.scratch
    cdef const found_t* found = &session.found
    cdef slice_t name
    cdef int64_t plain
    name.data, name.size = room, 0
    if not found.has_model:
        return name
    name.data = session.body.data + found.model_start
    name.size = found.model_end - found.model_start
    if found.model_is_json:
        plain = scan_unescape(&scratch.scan, scratch.prompt.model, room, PK_MODEL_BYTES)
        if plain >= 0:
            name.data, name.size = room, <size_t>plain
    return name


cdef int reading_name(session_t* session, const slice_t* target) noexcept nogil:
    """The model that the request goes to: its series, its adapter, where the hashes of its prompts begin.

    `target` as it is, not escaped; NULL: the client's own. PK_OK or PK_E_NOMEM.
    """
    cdef uint8_t room[PK_MODEL_BYTES]
    cdef slice_t client = reading_model(session, room), rewritten
    cdef slice_t name = client if target == NULL else target[0]
    rewritten.data, rewritten.size = NULL, 0
    session.request.adapter = hash_xxh64(name.data, name.size, 0)
    engine_model(session.engine, client, rewritten if target == NULL else name, &session.request)
    session.found.root = hash_xxh64(name.data, name.size, session.engine.hash_seed)
    if session.engine.keeps_headers or (not session.request.is_known and name.size <= PK_MODEL_BYTES):
        return buffer_append(&session.model, name.data, name.size)
    return PK_OK


cdef void reading_unnamed(session_t* session) noexcept nogil:
    """Where a request is counted whose model nobody knows."""
    cdef slice_t none
    none.data, none.size = NULL, 0
    engine_model(session.engine, none, none, &session.request)


# --- C kernel: hashing ---


cdef int reading_hash(session_t* session) noexcept nogil:
    """Hashes and size of the prompt, and what bounds the answer."""
    cdef scratch_t* scratch = session.scratch
    cdef found_t* found = &session.found
    cdef chain_t chain
    cdef uint64_t root = found.root
    if found.format == PK_FORMAT_UNREAD:
        return PK_OK
    if found.format == PK_FORMAT_JSON:
        root = prompt_root(&scratch.prompt, &scratch.scan, root)
    chain_start(&chain, root, scratch.hashes, session.engine.limits.prompt_blocks)
    if found.format == PK_FORMAT_JSON:
        prompt_hash(&scratch.prompt, &scratch.scan, &chain)
    elif found.format == PK_FORMAT_FORM:
        form_hash(&scratch.form, &chain)
    else:
        vllm_hash(&scratch.vllm, &chain)
    session.request.hashes = scratch.hashes
    session.request.hash_count = chain.count
    session.request.prompt_tokens = prompt_tokens(&chain)
    session.request.max_tokens = found.max_tokens
    return PK_OK
