"""The request direction of an exchange: gathers and reads the body, picks, answers.

Invariants: nothing is answered for the body before the headers; no byte of the body is dropped or answered twice; a
    session holds the bytes of its body in the engine's account until the body is answered.
Cost: O(bytes); a body is copied once into the session and once into the reply. A body that is not read (an API picker
    does not know) is not kept either: in full duplex it goes back chunk by chunk.
Memory: at most `body_bytes` for one body, `buffered_bytes` for all.   Threads: one at a time per session.

Which reply carries the pick: the body's in BUFFERED modes, else the headers'; where the body does not come before the
headers are answered (STREAMED, NONE), the pick is made without it.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK
from picker._core.apis cimport PK_API_OTHER, PK_BODY_NOT_JSON, PK_BODY_OK, route_api, route_header
from picker._core.codec cimport (
    PK_BODY_BUFFERED_PARTIAL,
    PK_BODY_NONE,
    PK_BODY_STREAMED,
    PK_REPLY_REQUEST_BODY,
    PK_REPLY_REQUEST_TRAILERS,
    PK_REQUEST_BODY,
    PK_REQUEST_HEADERS,
    buffer_append,
    buffer_free,
    codec_next_header,
    header_t,
    message_t,
    slice_bytes,
    slice_equals,
    slice_is,
    slice_number,
    slice_t,
)
from picker._core.dispatch cimport PK_TRACK_OFF, engine_hold, engine_objective, engine_resume
from picker._core.exchange cimport (
    PK_STATE_BODY,
    PK_STATE_ENDED,
    PK_STATE_NEW,
    PK_STATE_PICKED,
    PK_STATE_WAITING,
    is_duplex,
    session_header,
    session_t,
)
from picker._core.flow cimport PK_QUEUED, PK_QUOTA_ANSWERED, PK_REFUSED, PK_TURN_CALLED, PK_TURN_NONE
from picker._core.hashing cimport hash_xxh64
from picker._core.metering cimport meter_answer, meter_ask, meter_open, meter_refuse, meter_said_t
from picker._core.outbox cimport out_t
from picker._core.quota cimport PK_QUOTA_WAITS, quota_header, quota_metadata
from picker._core.reading cimport reading_find, reading_find_cut, reading_hash, reading_name, reading_unnamed
from picker._core.renaming cimport renaming_apply, renaming_ask, renaming_name, renaming_splice
from picker._core.replies cimport (
    PK_OBJECTIVE_HEADER,
    PK_OLD_OBJECTIVE_HEADER,
    PK_OLD_REWRITE_HEADER,
    PK_OLD_SLO_HEADER,
    PK_REWRITE_HEADER,
    PK_SLO_HEADER,
    out_body,
    out_chunk,
    out_control,
    out_pick,
    out_plain,
    out_refusal,
    out_strip,
    out_trailers,
    refusal_t,
    splice_t,
)
from picker._core.score cimport PK_NEED_PLUGIN
from picker._core.stats cimport (
    PK_FAIL_BAD_REQUEST,
    PK_FAIL_BAD_REWRITE,
    PK_FAIL_EVICTED,
    PK_FAIL_EXHAUSTED,
    PK_FAIL_INTERNAL,
    PK_FAIL_LARGE_HEADERS,
    PK_FAIL_NO_ENDPOINT,
    PK_FAIL_QUOTA,
    PK_FAIL_STOPPING,
    PK_FAIL_TIMEOUT,
    PK_FAIL_TOO_LARGE,
)
from picker._core.subset cimport subset_pin, subset_read
from picker._core.turns cimport turn_ask, turn_keep_hashes, turn_leave, turn_read_header, turn_read_slo

cdef enum:
    LENGTH_DIGITS = 18         # of a content-length
    REWRITE = 1 << PK_REWRITE_HEADER
    OLD_REWRITE = 1 << PK_OLD_REWRITE_HEADER
    OBJECTIVE = 1 << PK_OBJECTIVE_HEADER
    OLD_OBJECTIVE = 1 << PK_OLD_OBJECTIVE_HEADER
    SLO = 1 << PK_SLO_HEADER
    OLD_SLO = 1 << PK_OLD_SLO_HEADER

# --- C kernel: small things ---


cdef void request_drop(session_t* session) noexcept nogil:
    """The request body is answered, or nobody waits for it any more."""
    buffer_free(&session.body)
    if session.held:
        engine_hold(session.engine, &session.held, 0)


# --- C kernel: answers of picker's own ---


cdef int _refuse(session_t* session, int failure, int problem, out_t* out) noexcept nogil:
    """An ImmediateResponse; the session is over."""
    cdef refusal_t refusal
    cdef meter_said_t said
    memset(&refusal, 0, sizeof(refusal))
    refusal.failure, refusal.problem = failure, problem
    refusal.offset = session.scratch.scan.error_at if problem == PK_BODY_NOT_JSON else 0
    refusal.retry_after_s = session.asked.turn.retry_after_s
    if failure == PK_FAIL_QUOTA:
        meter_refuse(session, &said, &refusal)
    turn_leave(session, session.request.now_ns)
    session.failure = failure
    session.is_refused = True
    session.state = PK_STATE_ENDED
    request_drop(session)
    return out_refusal(out, &refusal)


cdef int request_refuse(session_t* session, int failure, out_t* out) noexcept nogil:
    """Answer the client in picker's own name, once: 408, 413, 429, 503, or 500 for all else."""
    if session.is_refused or session.is_let_go or session.is_counted:
        return PK_OK
    if not (
        failure == PK_FAIL_TOO_LARGE or failure == PK_FAIL_NO_ENDPOINT or failure == PK_FAIL_TIMEOUT
        or failure == PK_FAIL_EXHAUSTED or failure == PK_FAIL_STOPPING
    ):
        failure = PK_FAIL_INTERNAL
    return _refuse(session, failure, PK_BODY_OK, out)


# --- C kernel: the request comes in ---


cdef inline bint _counts(uint32_t control, uint32_t new, uint32_t old, uint32_t seen) noexcept nogil:
    """Is it a header of that kind, and one that counts? The first does, and the new name before the old."""
    return (control == new and not seen & new) or (control == old and not seen & (new | old))


cdef int _read_control(session_t* session, uint32_t control, slice_t value) noexcept nogil:
    """A control header: it goes no further."""
    cdef uint32_t seen = session.controls
    session.controls |= control
    if _counts(control, OBJECTIVE, OLD_OBJECTIVE, seen):
        engine_objective(session.engine, value, &session.request.objective)
    elif _counts(control, SLO, OLD_SLO, seen):
        turn_read_slo(session, value)
    elif _counts(control, REWRITE, OLD_REWRITE, seen):
        return renaming_ask(session, value)
    return PK_OK


cdef int _read_header(session_t* session, const header_t* header) noexcept nogil:
    """PK_OK; PK_E_FORMAT, if it cannot be obeyed; PK_E_NOMEM."""
    cdef slice_t token_header = session_header(session)
    cdef uint32_t control = out_control(header.key)
    if session.engine.flow.rules.is_on:
        turn_read_header(session, header)
    if session.meter != NULL:
        quota_header(session.meter, header)
    if control:
        return _read_control(session, control, header.value)
    route_header(&session.route, header)
    if slice_equals(header.key, b"content-length"):
        session.content_length = slice_number(header.value, LENGTH_DIGITS)
    elif slice_is(header.key, <const char*>token_header.data, token_header.size) and header.value.size:
        session.request.session = hash_xxh64(header.value.data, header.value.size, 0)
    elif session.engine.reads_test_header and slice_equals(header.key, b"test-epp-endpoint-selection"):
        return subset_pin(&session.subset, header.value)
    return PK_OK


cdef int _read_headers(session_t* session, slice_t headers, out_t* out) noexcept nogil:
    """PK_OK, with the session refused if there are too many or one cannot be obeyed, or PK_E_NOMEM."""
    cdef slice_t rest = headers
    cdef header_t header
    cdef uint32_t count = 0
    cdef int code = PK_OK
    if headers.size > session.engine.limits.header_bytes:
        return _refuse(session, PK_FAIL_LARGE_HEADERS, PK_BODY_OK, out)
    while code == PK_OK and codec_next_header(&rest, &header):
        count += 1
        code = _read_header(session, &header)
    if code == PK_E_FORMAT:
        return _refuse(session, PK_FAIL_BAD_REWRITE, PK_BODY_OK, out)
    if count > session.engine.limits.headers:
        return _refuse(session, PK_FAIL_LARGE_HEADERS, PK_BODY_OK, out)
    if code == PK_OK and session.engine.keeps_headers:
        return buffer_append(&session.headers, headers.data, headers.size)
    return code


cdef int _request_headers(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef bint passes
    cdef int code
    if session.state != PK_STATE_NEW:
        return PK_E_FORMAT
    session.state = PK_STATE_BODY
    code = meter_open(session)
    if code == PK_OK:
        code = _read_headers(session, message.headers, out)
    if code != PK_OK or session.is_refused:
        return code
    if session.meter != NULL:
        quota_metadata(session.meter, message.metadata)
    session.api = route_api(&session.route, session.engine.families)
    session.request_done = message.end_of_stream or session.request_mode == PK_BODY_NONE
    session.asked.is_free = message.end_of_stream       # a request without a body: no model works for it
    passes = session.api == PK_API_OTHER or session.request_mode == PK_BODY_STREAMED
    if passes or session.request_done:
        return _complete(session, now_ns, out)
    if is_duplex(session.request_mode):
        return PK_OK                        # answered with the body
    session.reply = PK_REPLY_REQUEST_BODY
    code = out_strip(out, session.controls)
    session.controls = 0
    return code


cdef int _gather(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    """More of a body that is answered when the pick is made."""
    cdef uint64_t size = session.body.size + message.body.size
    session.has_body = True
    if session.state == PK_STATE_WAITING and not is_duplex(session.request_mode):
        session.owed += 1                   # answered behind the pick; what it holds stays with the gateway
        return PK_OK
    if size > session.engine.limits.body_bytes:
        return _refuse(session, PK_FAIL_TOO_LARGE, PK_BODY_OK, out)
    if message.body.size and engine_hold(session.engine, &session.held, size) != PK_OK:
        return _refuse(session, PK_FAIL_EXHAUSTED, PK_BODY_OK, out)
    if buffer_append(&session.body, message.body.data, message.body.size) != PK_OK:
        return PK_E_NOMEM
    if session.state == PK_STATE_BODY and (session.request_done or not is_duplex(session.request_mode)):
        return _complete(session, now_ns, out)
    return PK_OK


cdef int _request_body(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef bint was_done = session.request_done
    if session.state == PK_STATE_NEW:
        return PK_E_FORMAT
    if was_done and is_duplex(session.request_mode):
        # A second end of stream (Envoy, bodies of 1 MB and more) wants no answer; more body cannot be.
        return PK_E_FORMAT if message.body.size else PK_OK
    session.request_bytes += message.body.size
    session.request_done = was_done or message.end_of_stream
    if session.state < PK_STATE_PICKED:
        return _gather(session, message, now_ns, out)
    if not is_duplex(session.request_mode):
        return out_plain(out, PK_REPLY_REQUEST_BODY)
    if session.is_picked:
        return out_chunk(out, PK_REPLY_REQUEST_BODY, message.body, message.end_of_stream)
    return PK_OK                            # the gateway has answered the client itself


cdef int _request_trailers(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    cdef bint duplex = is_duplex(session.request_mode)
    if session.state == PK_STATE_NEW or session.has_trailers or (session.request_done and duplex):
        return PK_E_FORMAT
    if session.state == PK_STATE_BODY and not duplex:
        return _refuse(session, PK_FAIL_BAD_REQUEST, PK_BODY_OK, out)      # there is no body
    session.has_trailers = True
    session.request_done = True
    if session.state == PK_STATE_BODY:
        return _complete(session, now_ns, out)
    if session.state == PK_STATE_WAITING:
        return PK_OK                        # answered behind the pick
    if duplex and not session.is_picked:
        return PK_OK
    return out_trailers(out, PK_REPLY_REQUEST_TRAILERS)


# --- C kernel: the pick ---


cdef inline bint _is_cut(const session_t* session) noexcept nogil:
    """Did the gateway perhaps send only the beginning of the body?"""
    return session.request_mode == PK_BODY_BUFFERED_PARTIAL and not session.request_done


cdef int _read(session_t* session, int* problem) noexcept nogil:
    """Read and name the request; `problem` (PK_BODY_*) is why it is refused. PK_OK or PK_E_NOMEM."""
    cdef int code = reading_find(session, problem)
    cdef bint is_cut = code == PK_OK and problem[0] == PK_BODY_NOT_JSON and _is_cut(session)
    if is_cut:
        problem[0] = PK_BODY_OK
        code = reading_find_cut(session)
    if code == PK_OK and session.found.has_model:
        code = renaming_name(session) if problem[0] == PK_BODY_OK else reading_name(session, NULL)
    if code == PK_OK and problem[0] == PK_BODY_OK and not is_cut:
        code = reading_hash(session)
    return code


cdef int _complete(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    """All of the request that comes before the pick is here: read it, pick, answer."""
    cdef int problem = PK_BODY_OK
    cdef int code
    session.request.max_tokens = -1
    if session.api != PK_API_OTHER and (session.has_body or session.has_trailers):
        code = _read(session, &problem)
        if code != PK_OK:
            return code
        if problem != PK_BODY_OK:
            return _refuse(session, PK_FAIL_BAD_REQUEST, problem, out)
    if not session.found.has_model:
        reading_unnamed(session)
    session.request.subset = &session.subset
    session.request.now_ns = now_ns
    session.state = PK_STATE_WAITING
    return _metered(session, meter_ask(session, now_ns), out)


cdef int _metered(session_t* session, int code, out_t* out) noexcept nogil:
    """What its rate limits say."""
    if code == PK_QUOTA_WAITS:
        return PK_OK                        # told when it is known
    if code == PK_E_LIMIT or code == PK_E_MISSING:
        return _refuse(session, PK_FAIL_QUOTA, PK_BODY_OK, out)
    return _turned(session, turn_ask(session), out) if code == PK_OK else code


cdef int _turned(session_t* session, int code, out_t* out) noexcept nogil:
    """What came of asking for its turn."""
    if code == PK_QUEUED:
        return PK_OK                        # told when it waits no longer
    if code == PK_REFUSED:
        return _refuse(session, session.asked.turn.failure, PK_BODY_OK, out)
    return _picked(session, code, out)


cdef int _evicted(session_t* session, out_t* out) noexcept nogil:
    """It is to make room, if it can still be answered: gateways can only cut a response that has begun, or a request
    that is on its way."""
    if session.state == PK_STATE_PICKED and session.request_done and not session.is_counted:
        return _refuse(session, PK_FAIL_EVICTED, PK_BODY_OK, out)
    turn_leave(session, session.request.now_ns)
    return PK_OK


cdef int request_turn(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    """It was called: answer, or PK_NEED_PLUGIN. Nothing while it waits, and if it has moved on meanwhile."""
    cdef int code = session.asked.turn.code
    if session.asked.turn.state == PK_TURN_CALLED and session.asked.turn.is_evicted:
        return _evicted(session, out)
    if session.asked.turn.state != PK_TURN_CALLED or session.state != PK_STATE_WAITING or session.is_counted:
        return PK_OK
    if code != PK_NEED_PLUGIN:
        session.asked.turn.state = PK_TURN_NONE
    if code == PK_QUOTA_ANSWERED:
        session.request.now_ns = now_ns     # the store took its time: that is no endpoint's
        return _let_go(session, _metered(session, meter_answer(session), out))
    return _let_go(session, _turned(session, code, out))


cdef int request_resume(session_t* session, out_t* out) noexcept nogil:
    """Go on after PK_NEED_PLUGIN; a session that has moved on meanwhile says nothing."""
    if session.state != PK_STATE_WAITING or session.is_counted:
        return PK_OK
    return _let_go(session, _picked(session, engine_resume(session.engine, &session.asked), out))


cdef int _picked(session_t* session, int code, out_t* out) noexcept nogil:
    if code == PK_E_MISSING:
        return _refuse(session, PK_FAIL_NO_ENDPOINT, PK_BODY_OK, out)
    if code == PK_NEED_PLUGIN and turn_keep_hashes(session) != PK_OK:
        return PK_E_NOMEM
    if code != PK_OK:
        return code
    session.state = PK_STATE_PICKED
    session.is_picked = session.is_booked = True
    code = _write_pick(session, out)
    request_drop(session)
    buffer_free(&session.headers)
    return code


cdef int64_t _new_length(const session_t* session, const splice_t* splice) noexcept nogil:
    """The content-length that goes with the body once it is spliced; -1 if there is none to go with it."""
    cdef int64_t change = <int64_t>splice.text.size - <int64_t>(splice.end - splice.start)
    if session.request_done:
        return <int64_t>session.body.size + change
    return session.content_length + change if session.content_length >= 0 else -1      # there is more to come


cdef int _answer_buffered(session_t* session, slice_t destination, out_t* out) noexcept nogil:
    """The destination with a held body, that goes back only if it is another."""
    cdef splice_t splice
    cdef slice_t body
    cdef int64_t length
    if not renaming_splice(session, &splice):
        return out_pick(out, session.reply, destination, session.controls, NULL, -1)
    length = _new_length(session, &splice)
    if renaming_apply(session, &splice) != PK_OK:
        return PK_E_NOMEM
    body = slice_bytes(&session.body)
    return out_pick(out, session.reply, destination, session.controls, &body, length)


cdef int _answer_duplex(session_t* session, slice_t destination, out_t* out) noexcept nogil:
    """The destination, then the body that waited for it."""
    cdef splice_t splice
    cdef bint is_spliced = renaming_splice(session, &splice)
    cdef int code = out_pick(out, session.reply, destination, session.controls, NULL, -1)
    if code != PK_OK or not session.has_body:
        return code
    return out_body(
        out, PK_REPLY_REQUEST_BODY, &session.body, &splice if is_spliced else NULL, session.engine.limits.chunk_bytes,
        session.request_done and not session.has_trailers
    )


cdef int _write_pick(session_t* session, out_t* out) noexcept nogil:
    """The destination, what waited of the body, the trailers."""
    cdef slice_t destination
    cdef int code
    destination.data = session.pick.destination
    destination.size = session.pick.destination_size
    if is_duplex(session.request_mode):
        code = _answer_duplex(session, destination, out)
    else:
        code = _answer_buffered(session, destination, out)
    while code == PK_OK and session.owed:
        session.owed -= 1
        code = out_plain(out, PK_REPLY_REQUEST_BODY)
    if code == PK_OK and session.has_trailers:
        code = out_trailers(out, PK_REPLY_REQUEST_TRAILERS)
    return code


# --- C kernel: the direction ---


cdef int _let_go(session_t* session, int code) noexcept nogil:
    """The request is answered: if nobody asks for the response, that was all."""
    cdef bint is_answered = session.state == PK_STATE_PICKED and session.request_done
    if code == PK_OK and is_answered and session.engine.tracks == PK_TRACK_OFF:
        session.is_let_go = True
        session.state = PK_STATE_ENDED
    return code


cdef int request_feed(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef int code = PK_OK
    if session.state < PK_STATE_WAITING and not session.engine.ignores_subset:
        code = subset_read(&session.subset, message.metadata)
    if code != PK_OK:
        return code
    if message.kind == PK_REQUEST_HEADERS:
        code = _request_headers(session, message, now_ns, out)
    elif message.kind == PK_REQUEST_BODY:
        code = _request_body(session, message, now_ns, out)
    else:
        code = _request_trailers(session, now_ns, out)
    return _let_go(session, code)
