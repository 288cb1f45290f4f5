"""One ext_proc stream, which is one HTTP request: bytes of a ProcessingRequest in, bytes of replies out.

Invariants: every message the gateway waits on is answered, in the form its body mode demands; nothing is answered for
    the request body before its headers; no byte of a body is dropped or answered twice; whatever ends the stream, what
    was booked is released once and counted once.
Cost: O(bytes); see `request` and `response`, its two directions.
Memory: a session owns its buffers; it borrows engine and scratch.   Threads: one at a time per session.
Source: envoy external_processor.proto and processing_mode.proto; Gateway API Inference Extension, endpoint picker
    protocol (proposal 004).

What the body modes demand of a direction's replies:
    FULL_DUPLEX_STREAMED  headers, then body chunks as streamed_response, then trailers; the number of chunks is free
    any other             one reply per message, bodies without streamed_response
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_FORMAT, PK_OK, pk_free
from picker._core.codec cimport (
    PK_BODY_FULL_DUPLEX_STREAMED,
    PK_REPLY_REQUEST_HEADERS,
    PK_REQUEST_BODY,
    PK_REQUEST_HEADERS,
    PK_REQUEST_TRAILERS,
    buffer_free,
    buffer_t,
    codec_decode,
    message_t,
    slice_bytes,
)
from picker._core.dispatch cimport (
    engine_open,
    engine_settle,
    engine_t,
    engine_unanswered,
    outcome_t,
    scratch_t,
)
from picker._core.exchange cimport (
    PK_STATE_BODY,
    PK_STATE_ENDED,
    PK_STATE_NEW,
    PK_STATE_PICKED,
    PK_STATE_RESPONSE,
    PK_STATE_WAITING,
    session_t,
)
from picker._core.jsonstring cimport json_unescape
from picker._core.metering cimport meter_settle
from picker._core.outbox cimport out_clear, out_free, out_list, out_t
from picker._core.renaming cimport renaming_drop
from picker._core.request cimport request_drop, request_feed, request_refuse, request_resume, request_turn
from picker._core.response cimport (
    response_close,
    response_failed,
    response_feed,
    response_free,
    response_init,
    response_outcome,
    response_whole,
)
from picker._core.score cimport PK_NEED_PLUGIN
from picker._core.stats cimport (
    PK_FAIL_ABANDONED,
    PK_FAIL_CANCELED,
    PK_FAIL_EXHAUSTED,
    PK_FAIL_INTERNAL,
    PK_FAIL_MODEL_SERVER,
    PK_FAIL_NONE,
    PK_FAIL_NO_ANSWER,
    PK_FAIL_STOPPING,
    PK_FAIL_TIMEOUT,
    PK_MODEL_BYTES,
)
from picker._core.subset cimport subset_free, subset_init
from picker._core.turns cimport turn_init, turn_is_awaited, turn_leave

# --- C kernel ---


cdef void session_init(session_t* session, engine_t* engine, scratch_t* scratch, int64_t now_ns) noexcept nogil:
    """A session that `engine_open` has counted."""
    memset(session, 0, sizeof(session_t))
    session.engine = engine
    session.scratch = scratch
    session.opened_ns = now_ns
    session.content_length = -1
    session.reply = PK_REPLY_REQUEST_HEADERS
    session.request_mode = PK_BODY_FULL_DUPLEX_STREAMED      # what gateways use that do not say
    session.response_mode = PK_BODY_FULL_DUPLEX_STREAMED
    subset_init(&session.subset)
    turn_init(session, now_ns)
    response_init(&session.answer)


cdef int session_open(session_t* session, engine_t* engine, scratch_t* scratch, int64_t now_ns) noexcept nogil:
    """Begin a session; `session_close` is due either way. PK_OK, or PK_E_LIMIT: there are too many.

    One that is beyond the number there may be is answered 429, as long as there is room for such.
    """
    cdef bint is_surplus
    cdef int code = engine_open(engine, &is_surplus)
    session_init(session, engine, scratch, now_ns)
    session.is_surplus = is_surplus
    session.is_counted = code != PK_OK
    return code


cdef int _start(session_t* session, const message_t* message, out_t* out) noexcept nogil:
    """The first message says how bodies are sent, and whether anybody asks."""
    session.is_started = True
    if message.is_observed:
        session.is_let_go = True
        session.state = PK_STATE_ENDED
        return PK_OK
    if session.is_surplus:
        return session_refuse(session, PK_FAIL_EXHAUSTED, out)
    if not message.has_protocol:
        return PK_OK
    session.request_mode = message.request_mode
    session.response_mode = message.response_mode
    # Later modes have rules of their own: better no pick than answers the gateway does not understand.
    if message.request_mode > PK_BODY_FULL_DUPLEX_STREAMED or message.response_mode > PK_BODY_FULL_DUPLEX_STREAMED:
        return PK_E_FORMAT
    return PK_OK


cdef int session_feed(
    session_t* session, const uint8_t* data, size_t size, int64_t now_ns, out_t* out
) noexcept nogil:
    """One ProcessingRequest. Replies are appended to `out`.

    PK_OK; PK_NEED_PLUGIN (run it, then `session_resume`); PK_E_FORMAT (not a message, or out of order); PK_E_NOMEM.
    After an error the stream must end, with one; what `out` holds of this call must not be sent.
    """
    cdef message_t message
    cdef int code = codec_decode(&message, data, size)
    if code != PK_OK or session.is_counted:
        return PK_E_FORMAT
    if not session.is_started:
        code = _start(session, &message, out)
    if code != PK_OK or session.is_refused or session.is_let_go:
        return code                         # the stream is about to close
    if message.kind == PK_REQUEST_HEADERS or message.kind == PK_REQUEST_BODY or message.kind == PK_REQUEST_TRAILERS:
        return request_feed(session, &message, now_ns, out)
    return response_feed(session, &message, now_ns, out)


cdef int session_turn(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    """Its wait is over, says `engine_call`: as `session_feed`."""
    return request_turn(session, now_ns, out)


cdef int session_resume(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    """Go on after PK_NEED_PLUGIN; a session that has moved on meanwhile says nothing."""
    return request_resume(session, out)


cdef int session_refuse(session_t* session, int failure, out_t* out) noexcept nogil:
    """Answer the client in picker's own name, once: 408, 413, 429, 503, or 500 for all else."""
    return request_refuse(session, failure, out)


cdef int _outcome(session_t* session, int64_t now_ns) noexcept nogil:
    """PK_FAIL_* of a session that is over."""
    if session.failure != PK_FAIL_NONE:
        return session.failure
    if session.is_let_go:
        return PK_FAIL_NONE
    if not session.is_picked or not (session.request_done or session.has_response):
        return PK_FAIL_CANCELED
    if not session.has_response:
        return PK_FAIL_NO_ANSWER if engine_unanswered(session.engine, &session.booking, now_ns) else PK_FAIL_NONE
    if response_failed(&session.answer):
        return PK_FAIL_MODEL_SERVER
    return PK_FAIL_NONE if session.response_done or response_whole(session) else PK_FAIL_CANCELED


cdef void _name(const session_t* session, uint8_t* room, outcome_t* outcome) noexcept nogil:
    """The model of a request that has no series of its own yet, and the one it was rewritten to."""
    cdef const buffer_t* client = &session.client_model
    cdef int64_t size
    outcome.model = slice_bytes(&session.model)
    if session.target_model.size == 0:
        return
    size = json_unescape(client.data, client.data + client.size, room, PK_MODEL_BYTES)
    outcome.model.data = room
    outcome.model.size = <size_t>size if size >= 0 else 0
    outcome.target = slice_bytes(&session.wanted)


cdef void _settle(session_t* session, int64_t now_ns) noexcept nogil:
    cdef uint8_t room[PK_MODEL_BYTES]
    cdef outcome_t outcome
    memset(&outcome, 0, sizeof(outcome_t))
    outcome.series = session.request.series
    outcome.failure = session.failure
    outcome.is_picked = session.is_booked
    outcome.is_counted = session.is_started
    outcome.is_surplus = session.is_surplus
    outcome.objective = &session.request.objective
    if not session.request.is_known:
        _name(session, room, &outcome)
    outcome.decision = session.pick.decision
    outcome.request_bytes = session.request_bytes
    response_outcome(session, &outcome)
    outcome.predicted_tokens = session.pick.cached_tokens
    meter_settle(session, &outcome, now_ns)
    engine_settle(session.engine, &session.booking, &outcome, now_ns)


cdef void session_close(session_t* session, int64_t now_ns) noexcept nogil:
    """The stream is over, whatever ended it: release and count, once."""
    if session.is_counted:
        return
    session.is_counted = True
    if turn_is_awaited(session) and session.state == PK_STATE_WAITING:
        session.failure = PK_FAIL_ABANDONED
    turn_leave(session, now_ns)
    response_close(session, now_ns)
    session.failure = _outcome(session, now_ns)
    request_drop(session)
    _settle(session, now_ns)
    buffer_free(&session.headers)
    buffer_free(&session.model)
    renaming_drop(session)
    pk_free(session.hashes)
    session.hashes = NULL
    subset_free(&session.subset)
    response_free(session)


# --- C function table: the same core for a shell without Python ---

cdef api_t _API
_API.version = PK_API_VERSION
_API.session_size = sizeof(session_t)
_API.open = session_open
_API.feed = session_feed
_API.turn = session_turn
_API.resume = session_resume
_API.refuse = session_refuse
_API.close = session_close

C_API = PyCapsule_New(&_API, b"picker._core.session.C_API", NULL)
"""PyCapsule of the function table; readers compare its first field, the version, before anything else."""

# --- Python face ---


class SessionError(ValueError):
    """The gateway sent what no gateway may: the stream must be ended with INVALID_ARGUMENT."""


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # the engine must be there when the session is closed at the last moment
cdef class Session:
    """One ext_proc stream on `engine`, opened at `now_ns` (any monotonic clock, the same in every call).

    OverflowError when the engine has too many of them even to answer 429. Close it, whatever happens. One thread at a
    time feeds the sessions of an engine.
    """

    def __cinit__(self, Engine engine not None, int64_t now_ns):
        memset(&self._out, 0, sizeof(out_t))
        self._engine = engine
        if session_open(&self._session, &engine._engine, &engine._scratch, now_ns) != PK_OK:
            raise OverflowError(f"{engine._engine.sessions} streams at once are too many")
        self._is_open = True
        self._session.asked.turn.python = <void*>self

    def __dealloc__(self):
        if self._is_open:
            session_close(&self._session, self._session.opened_ns)
        out_free(&self._out)

    def feed(self, const unsigned char[::1] message not None, int64_t now_ns) -> list:
        """Serialised ProcessingRequest in, serialised ProcessingResponses out, to be sent in this order.

        SessionError for what is not a message, comes out of order, or after `close`; MemoryError; what a plugin host
        raises. After any of them end the stream: by `refuse` if the request was not answered yet, else with an error.
        """
        cdef const uint8_t* data = &message[0] if message.shape[0] else <const uint8_t*>b""
        cdef session_t* session = &self._session
        cdef int code
        try:
            code = session_feed(session, data, message.shape[0], now_ns, &self._out)
            return self._answer(code, now_ns)
        finally:
            out_clear(&self._out)

    def resume(self, int64_t now_ns) -> list:
        """Its wait is over, as `Engine.dispatch` says: the replies, as of `feed`; nothing if it still waits.

        MemoryError; what a plugin host raises. After any of them end the stream by `refuse`.
        """
        try:
            return self._answer(session_turn(&self._session, now_ns, &self._out), now_ns)
        finally:
            out_clear(&self._out)

    cdef list _answer(self, int code, int64_t now_ns):
        """Ask plugins as long as there are any to ask."""
        cdef session_t* session = &self._session
        while code == PK_NEED_PLUGIN:
            self._engine.run_plugin(
                &session.pick,
                &session.request,
                session.headers.data[:session.headers.size] if session.headers.size else b"",
                session.model.data[:session.model.size] if session.model.size else b"",
            )
            code = session_resume(session, now_ns, &self._out)
        return _replies(&self._out, code)

    def refuse(self, int failure) -> list:
        """Answer the client in picker's own name: `failure` is FAIL_TIMEOUT, FAIL_EXHAUSTED or FAIL_INTERNAL.

        Nothing if that was done already. MemoryError.
        """
        try:
            return _replies(&self._out, session_refuse(&self._session, failure, &self._out))
        finally:
            out_clear(&self._out)

    def close(self, int64_t now_ns) -> None:
        """The stream has ended, by whatever cause. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            session_close(&self._session, now_ns)

    @property
    def state(self) -> int:
        """Where it stands: STATE_NEW, STATE_BODY, STATE_WAITING, STATE_PICKED, STATE_RESPONSE or STATE_ENDED."""
        return self._session.state

    @property
    def is_waiting(self) -> bool:
        """Does it wait for its turn? `Engine.dispatch` says when it does no longer."""
        return turn_is_awaited(&self._session) and self._session.state == PK_STATE_WAITING

    @property
    def is_evictable(self) -> bool:
        """May `Engine.dispatch` name it though it does not wait? It is to make room for another then."""
        return bool(self._session.asked.turn.is_evictable or self._session.asked.turn.is_evicted)

    @property
    def is_over(self) -> bool:
        """Has picker no more to say? Then the stream must be ended, without an error."""
        return bool(self._session.is_refused or self._session.is_let_go)

    @property
    def destination(self) -> str:
        """The endpoint(s) picked, "" when none was."""
        if not self._session.is_picked:
            return ""
        return self._session.pick.destination[:self._session.pick.destination_size].decode()

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const session_t* session = &self._session
        assert session.is_picked or turn_is_awaited(session) or session.booking.generation == 0 or session.is_booked
        assert not turn_is_awaited(session) or session.state == PK_STATE_WAITING or session.asked.turn.is_evicted
        assert session.state < PK_STATE_PICKED or session.body.data == NULL
        assert session.held >= session.body.size
        assert max(session.is_refused, session.is_let_go) <= (session.state == PK_STATE_ENDED)
        assert not (session.is_refused and session.is_let_go)
        assert session.response_done <= session.has_response <= (session.state >= PK_STATE_RESPONSE)
        assert session.state < PK_STATE_PICKED or session.has_response or max(
            session.is_picked, session.is_refused, session.is_let_go
        )
        assert session.is_counted or self._is_open
        assert not session.is_counted or (session.held == 0 and session.hashes == NULL and session.subset.table == NULL)
        assert self._out.count == 0 and self._out.bytes.size == 0


cdef list _replies(const out_t* out, int code):
    if code == PK_E_FORMAT:
        raise SessionError("not a ProcessingRequest, or out of order")
    if code != PK_OK:
        raise MemoryError("no memory for this message")
    return out_list(out)


FAIL_TIMEOUT = PK_FAIL_TIMEOUT
FAIL_INTERNAL = PK_FAIL_INTERNAL
FAIL_EXHAUSTED = PK_FAIL_EXHAUSTED
FAIL_STOPPING = PK_FAIL_STOPPING
STATE_NEW = PK_STATE_NEW
STATE_BODY = PK_STATE_BODY
STATE_WAITING = PK_STATE_WAITING
STATE_PICKED = PK_STATE_PICKED
STATE_RESPONSE = PK_STATE_RESPONSE
STATE_ENDED = PK_STATE_ENDED
