"""Reading the body of a request: which model it names, which prompt it holds, what a pick needs of both.

Invariants: what is refused is found first, so that a body that cannot be served is never named or hashed; the hashes
    start from the model that the request goes to, whatever its client called it.
Cost: O(bytes); one scan, one pass over the prompt.
Memory: the tape and the hashes lie on the session's scratch; `session.found` points into both, and is good until the
    call ends in which it was filled.   Threads: one at a time per scratch.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK
from picker._core.codec cimport buffer_append, slice_t
from picker._core.dispatch cimport engine_model, scratch_t
from picker._core.exchange cimport found_t, session_t
from picker._core.hashing cimport chain_start, chain_t, hash_xxh64
from picker._core.prompt cimport (
    PK_BODY_NOT_JSON,
    PK_BODY_NOT_OBJECT,
    PK_BODY_NO_MODEL,
    PK_BODY_TOO_COMPLEX,
    prompt_hash,
    prompt_read,
    prompt_root,
    prompt_tokens,
)
from picker._core.scan cimport scan_json, scan_unescape, value_t
from picker._core.stats cimport PK_MODEL_BYTES, PK_OTHER_MODELS

# --- C kernel ---


cdef int reading_find(session_t* session, int* problem) noexcept nogil:
    """Where model and prompt stand; `problem` is PK_BODY_*. PK_OK or PK_E_NOMEM."""
    cdef scratch_t* scratch = session.scratch
    cdef found_t* found = &session.found
    cdef const uint8_t* body = session.body.data if session.body.size else <const uint8_t*>b""
    cdef const value_t* value
    cdef int code = scan_json(&scratch.scan, body, session.body.size)
    found.has_model = False
    found.root = session.engine.hash_seed
    if code == PK_E_NOMEM:
        return code
    if code != PK_OK:
        problem[0] = PK_BODY_TOO_COMPLEX if code == PK_E_LIMIT else PK_BODY_NOT_JSON
        return PK_OK
    problem[0] = prompt_read(&found.prompt, &scratch.scan, session.api)
    if problem[0] == PK_BODY_NOT_OBJECT or problem[0] == PK_BODY_NO_MODEL:
        return PK_OK
    value = &scratch.scan.tape[found.prompt.model]
    found.has_model = True
    found.model_is_json = True
    found.model_start = value.start + 1
    found.model_end = value.end - 1
    return PK_OK


cdef slice_t reading_model(const session_t* session, uint8_t* room) noexcept nogil:
    """The model as the client named it: unescaped into `room` (PK_MODEL_BYTES) where it fits, else as it stands."""
    cdef slice_t name
    cdef int64_t plain
    name.data = room
    name.size = 0
    if not session.found.has_model:
        return name
    name.data = session.body.data + session.found.model_start
    name.size = session.found.model_end - session.found.model_start
    plain = scan_unescape(&session.scratch.scan, session.found.prompt.model, room, PK_MODEL_BYTES)
    if plain >= 0:
        name.data = room
        name.size = <size_t>plain
    return name


cdef int reading_name(session_t* session, const slice_t* target) noexcept nogil:
    """The model that the request goes to: its series, its adapter, where the hashes of its prompts begin.

    `target` as it is, not escaped; NULL: the client's own. PK_OK or PK_E_NOMEM.
    """
    cdef uint8_t room[PK_MODEL_BYTES]
    cdef slice_t name = reading_model(session, room) if target == NULL else target[0]
    session.request.adapter = hash_xxh64(name.data, name.size, 0)
    session.request.series = engine_model(session.engine, name.data, name.size)
    session.found.root = hash_xxh64(name.data, name.size, session.engine.hash_seed)
    if session.engine.keeps_headers or (session.request.series == PK_OTHER_MODELS and name.size <= PK_MODEL_BYTES):
        return buffer_append(&session.model, name.data, name.size)
    return PK_OK


cdef int reading_hash(session_t* session) noexcept nogil:
    """Hashes and size of the prompt, and what bounds the answer."""
    cdef scratch_t* scratch = session.scratch
    cdef found_t* found = &session.found
    cdef chain_t chain
    chain_start(
        &chain, prompt_root(&scratch.scan, found.root), scratch.hashes, session.engine.limits.prompt_blocks
    )
    prompt_hash(&found.prompt, &scratch.scan, &chain)
    session.request.hashes = scratch.hashes
    session.request.hash_count = chain.count
    session.request.prompt_tokens = prompt_tokens(&chain)
    session.request.max_tokens = found.prompt.max_tokens
    return PK_OK
