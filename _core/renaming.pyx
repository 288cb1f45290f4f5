"""Another model than the one a body names: by a rule, or by a header, which a rule overrules.

Invariants: all other bytes of the body stay as they are; a model that is renamed to itself is not touched at all.
Cost: O(length of the names); only in a held body (BUFFERED) what follows the name is moved.
Memory: the names belong to the session.   Threads: one at a time per session.
Source: InferenceModelRewrite of the Gateway API Inference Extension; RFC 8259, 7 (strings).
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy, memmove

from picker._core.alloc cimport PK_E_FORMAT, PK_E_MISSING, PK_E_NOMEM, PK_OK
from picker._core.codec cimport (
    buffer_append,
    buffer_free,
    buffer_reserve,
    buffer_t,
    codec_utf8,
    slice_bytes,
    slice_t,
)
from picker._core.dispatch cimport engine_rewrite
from picker._core.exchange cimport session_t
from picker._core.jsonstring cimport json_quote
from picker._core.reading cimport reading_model, reading_name
from picker._core.replies cimport splice_t
from picker._core.stats cimport PK_MODEL_BYTES

# --- C kernel: names ---


cdef bint _is_name(slice_t text) noexcept nogil:
    """Could a model be called so? Not by what breaks a form or a log line, nor by more than series are kept for."""
    cdef size_t i
    if not 0 < text.size <= PK_MODEL_BYTES:
        return False
    for i in range(text.size):
        if text.data[i] < 0x20 or text.data[i] == 0x7F:
            return False
    return codec_utf8(text)


cdef int _quoted(buffer_t* out, slice_t text) noexcept nogil:
    """`text` as it stands between the quotes of JSON. PK_OK or PK_E_NOMEM."""
    cdef size_t room = 6 * text.size + 2
    out.size = 0
    if buffer_reserve(out, room) != PK_OK:
        return PK_E_NOMEM
    out.size = <size_t>json_quote(text.data, text.size, out.data, room) - 2
    memmove(out.data, out.data + 1, out.size)
    return PK_OK


cdef slice_t _stands(const session_t* session) noexcept nogil:
    """The model as it stands in the body."""
    cdef slice_t name
    name.data = session.body.data + session.found.model_start
    name.size = session.found.model_end - session.found.model_start
    return name


cdef int _keep(session_t* session) noexcept nogil:
    """Both names as JSON has them, for the response."""
    cdef slice_t name = _stands(session)
    cdef int code
    if session.found.model_is_json:
        code = buffer_append(&session.client_model, name.data, name.size)
    else:
        code = _quoted(&session.client_model, name)
    return code if code != PK_OK else _quoted(&session.target_model, slice_bytes(&session.wanted))


# --- C kernel: what sessions call ---


cdef int renaming_ask(session_t* session, slice_t model) noexcept nogil:
    """A header that asks for `model`. PK_OK, PK_E_FORMAT (that is no model's name) or PK_E_NOMEM."""
    if not _is_name(model):
        return PK_E_FORMAT
    session.wanted.size = 0
    return buffer_append(&session.wanted, model.data, model.size)


cdef int renaming_name(session_t* session) noexcept nogil:
    """Name the request whose model was found, as a rule or a header has it. PK_OK or PK_E_NOMEM."""
    cdef uint8_t room[PK_MODEL_BYTES]
    cdef slice_t client = reading_model(session, room)
    cdef slice_t wanted
    cdef int code = engine_rewrite(session.engine, client, &session.wanted)
    if code != PK_OK and code != PK_E_MISSING:
        return code
    wanted = slice_bytes(&session.wanted)
    if wanted.size == 0 or (wanted.size == client.size and memcmp(wanted.data, client.data, client.size) == 0):
        return reading_name(session, NULL)
    code = _keep(session)
    return code if code != PK_OK else reading_name(session, &wanted)


cdef bint renaming_splice(const session_t* session, splice_t* splice) noexcept nogil:
    """What is to stand in the body's place of the model; False: nothing changes."""
    if session.target_model.size == 0:
        return False
    splice.start = session.found.model_start
    splice.end = session.found.model_end
    splice.text = slice_bytes(&session.target_model if session.found.model_is_json else &session.wanted)
    return True


cdef int renaming_apply(session_t* session, const splice_t* splice) noexcept nogil:
    """The same in a body that is held. PK_OK, or PK_E_NOMEM and it is as it was."""
    cdef buffer_t* body = &session.body
    cdef size_t rest = body.size - splice.end
    if buffer_reserve(body, splice.text.size) != PK_OK:
        return PK_E_NOMEM
    memmove(body.data + splice.start + splice.text.size, body.data + splice.end, rest)
    memcpy(body.data + splice.start, splice.text.data, splice.text.size)
    body.size = splice.start + splice.text.size + rest
    return PK_OK


cdef void renaming_drop(session_t* session) noexcept nogil:
    """The session is over."""
    buffer_free(&session.wanted)
    buffer_free(&session.client_model)
    buffer_free(&session.target_model)
