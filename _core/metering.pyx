"""A session's way through rate limits: what it asks for, what it is told of them, what it came to.

Invariants: whatever ends a session, its hold is settled once. A request that did not go to a model server costs
    nothing; one that went costs what its usage says, else as much of its estimate as it may have used.
Cost: that of `quota`; without rules nothing.   Memory: the hold is the quota's.
Threads: one at a time per session; `quota` takes its own lock, `meter_wake` that of each engine.
Source: names and form of the x-ratelimit headers and of the error: the OpenAI API.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK
from picker._core.apis cimport PK_API_OTHER, PK_WORK_ANSWER, PK_WORK_NONE, api_get
from picker._core.codec cimport slice_t, slice_text
from picker._core.counters cimport PK_WINDOW_DAY, PK_WINDOW_HOUR, PK_WINDOW_MINUTE
from picker._core.dispatch cimport (
    PK_TRACK_OFF,
    outcome_t,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from picker._core.exchange cimport PK_ANSWER_EVENTS, PK_ANSWER_FRAMES, session_t
from picker._core.flow cimport PK_QUOTA_ANSWERED, PK_TURN_ASKED, flow_wake
from picker._core.quota cimport (
    PK_HOLD_FAILED,
    PK_QUOTA_WAITS,
    hold_t,
    quota_open,
    quota_reserve,
    quota_settle,
    quota_t,
    quota_verdict,
    quota_woken,
    used_t,
)
from picker._core.quotarules cimport PK_QUOTA_UNIT, limit_t, rules_counts_tokens, text_t
from picker._core.reading cimport reading_model
from picker._core.stats cimport PK_MODEL_BYTES
from picker._core.turns cimport turn_keep_hashes

cdef int64_t SECOND_NS = 1_000_000_000
cdef int64_t MS = 1_000_000

# --- C kernel: asking ---


cdef int meter_open(session_t* session) noexcept nogil:
    """The request begins. PK_OK or PK_E_NOMEM."""
    return quota_open(session.engine.quota, &session.meter) if session.engine.quota != NULL else PK_OK


cdef int64_t _expected(const session_t* session) noexcept nogil:
    """Tokens of the answer."""
    cdef int64_t learned = <int64_t>session.engine.output_tokens, most = session.request.max_tokens
    if session.api == PK_API_OTHER or session.asked.is_free or api_get(session.api).work != PK_WORK_ANSWER:
        return 0
    if most < 0:
        return learned
    return most if session.engine.quota.bounds_output or most < learned else learned


cdef int meter_ask(session_t* session, int64_t now_ns) noexcept nogil:
    """May the request go, by its rate limits? As `quota_reserve`; with PK_QUOTA_WAITS it waits."""
    cdef uint8_t room[PK_MODEL_BYTES]
    cdef slice_t model
    cdef int64_t input = session.request.prompt_tokens
    cdef int code
    if session.meter == NULL:
        return PK_OK
    model.data, model.size = room, 0
    if session.found.has_model:
        model = reading_model(session, room)
    if session.api != PK_API_OTHER and api_get(session.api).work == PK_WORK_NONE:
        input = 0
    code = quota_reserve(session.engine.quota, session.meter, model, input, _expected(session), session, now_ns)
    if code == PK_QUOTA_WAITS:
        session.asked.turn.state = PK_TURN_ASKED
        if turn_keep_hashes(session) != PK_OK:
            return PK_E_NOMEM
    return code


cdef int meter_answer(session_t* session) noexcept nogil:
    """The store has answered, or did not: as `meter_ask`."""
    return quota_verdict(session.engine.quota, session.meter, session.request.now_ns)


cdef uint32_t meter_wake(quota_t* quota) noexcept nogil:
    """Sessions that have been answered are called as those whose turn has come; how many."""
    cdef session_t* session = <session_t*>quota_woken(quota)
    cdef uint32_t count = 0
    while session != NULL:
        pthread_mutex_lock(&session.engine.lock)
        if session.asked.turn.state == PK_TURN_ASKED:
            flow_wake(&session.engine.flow, &session.asked.turn, PK_QUOTA_ANSWERED, 0)
            count += 1
        pthread_mutex_unlock(&session.engine.lock)
        session = <session_t*>quota_woken(quota)
    return count


# --- C kernel: telling ---


cdef void _duration(int64_t ns, char* text) noexcept nogil:
    """As in `6m0s`, `1.5s`, `120ms`; rounded up to milliseconds, of a minute and more to seconds."""
    cdef int64_t ms = (ns + MS - 1) // MS if ns > 0 else 0
    cdef int64_t seconds = (ms + 999) // 1000
    if ms < 1000:
        snprintf(text, PK_METER_BYTES, b"%lldms", <long long>ms)
    elif ms < 60_000 and ms % 1000:
        snprintf(text, PK_METER_BYTES, b"%lld.%03llds", <long long>(ms // 1000), <long long>(ms % 1000))
    elif seconds < 60:
        snprintf(text, PK_METER_BYTES, b"%llds", <long long>seconds)
    elif seconds < 3600:
        snprintf(text, PK_METER_BYTES, b"%lldm%llds", <long long>(seconds // 60), <long long>(seconds % 60))
    else:
        snprintf(
            text, PK_METER_BYTES, b"%lldh%lldm%llds", <long long>(seconds // 3600),
            <long long>(seconds // 60 % 60), <long long>(seconds % 60)
        )


cdef void _add(meter_said_t* said, const char* name) noexcept nogil:
    """A header, of the value that stands in its room."""
    said.headers[said.count].key = slice_text(name)
    said.headers[said.count].value = slice_text(said.values[said.count])
    said.count += 1


cdef void _number(meter_said_t* said, const char* name, int64_t thousandths) noexcept nogil:
    snprintf(said.values[said.count], PK_METER_BYTES, b"%lld", <long long>(thousandths // PK_QUOTA_UNIT))
    _add(said, name)


cdef void meter_show(const session_t* session, meter_said_t* said, int64_t now_ns) noexcept nogil:
    """What the client is told of its limits: as they were when it was let go, or refused."""
    cdef const hold_t* hold = session.meter
    said.count = 0
    if hold == NULL:
        return
    if hold.requests.amount >= 0:
        _number(said, b"x-ratelimit-limit-requests", hold.requests.amount)
        _number(said, b"x-ratelimit-remaining-requests", hold.requests.remaining)
        _duration(hold.requests.reset_ns - now_ns, said.values[said.count])
        _add(said, b"x-ratelimit-reset-requests")
    if hold.tokens.amount >= 0:
        _number(said, b"x-ratelimit-limit-tokens", hold.tokens.amount)
        _number(said, b"x-ratelimit-remaining-tokens", hold.tokens.remaining)
        _duration(hold.tokens.reset_ns - now_ns, said.values[said.count])
        _add(said, b"x-ratelimit-reset-tokens")


cdef const char* _window(uint32_t kind) noexcept nogil:
    if kind == PK_WINDOW_DAY:
        return b"day"
    if kind == PK_WINDOW_HOUR:
        return b"hour"
    return b"minute" if kind == PK_WINDOW_MINUTE else b"second"


cdef void _explain(const hold_t* hold, const limit_t* limit, int64_t left_ns, meter_said_t* said) noexcept nogil:
    """Which limit it is, and what can be done; never whose key."""
    cdef const text_t* rule = &hold.rules.rules[limit.rule].name
    cdef const char* what = b"tokens" if rules_counts_tokens(limit) else b"requests"
    cdef int64_t cost = hold.charges[hold.refused].cost
    cdef char reset[PK_METER_BYTES]
    cdef int size
    size = snprintf(
        said.message, PK_METER_TEXT, b"Rate limit reached: %.*s, %lld %s per %s. Used %lld, requested %lld. ",
        <int>rule.size, <const char*>rule.bytes, <long long>(limit.amount // PK_QUOTA_UNIT), what,
        _window(limit.kind), <long long>(hold.used // PK_QUOTA_UNIT),
        <long long>((cost + PK_QUOTA_UNIT - 1) // PK_QUOTA_UNIT)
    )
    if cost > limit.amount:
        snprintf(said.message + size, PK_METER_TEXT - size, b"The request is larger than the limit.")
        return
    _duration(left_ns, reset)
    snprintf(said.message + size, PK_METER_TEXT - size, b"Please try again in %s.", reset)


cdef void meter_refuse(const session_t* session, meter_said_t* said, refusal_t* refusal) noexcept nogil:
    """Complete the refusal of a request that is over its limits."""
    cdef const hold_t* hold = session.meter
    cdef const limit_t* limit = &hold.rules.limits[hold.charges[hold.refused].limit]
    cdef int64_t left_ns
    if hold.state == PK_HOLD_FAILED:
        refusal.is_away = True
        return
    left_ns = hold.reset_ns - session.request.now_ns
    meter_show(session, said, session.request.now_ns)
    _explain(hold, limit, left_ns, said)
    refusal.message = said.message
    refusal.type = b"tokens" if rules_counts_tokens(limit) else b"requests"
    refusal.headers, refusal.header_count = said.headers, said.count
    refusal.retry_after_s = <uint32_t>((left_ns + SECOND_NS - 1) // SECOND_NS) if left_ns > 0 else 1


# --- C kernel: settling ---


cdef bint _sees_tokens(const session_t* session) noexcept nogil:
    """Were the tokens of the answer seen one by one?"""
    return session.answer.format == PK_ANSWER_EVENTS or session.answer.format == PK_ANSWER_FRAMES


cdef void _guess(const session_t* session, used_t* used) noexcept nogil:
    """What is thought to have been used where nobody says it."""
    cdef const hold_t* hold = session.meter
    used.input, used.output = hold.input, hold.output
    if session.answer.status >= 400:
        used.input = used.output = 0
    elif session.has_response and _sees_tokens(session):
        used.output = <int64_t>session.answer.tokens
    elif not session.has_response and session.engine.tracks != PK_TRACK_OFF and session.engine.shows_responses:
        used.output = 0                      # its client did not wait for the answer


cdef void meter_settle(session_t* session, const outcome_t* outcome, int64_t now_ns) noexcept nogil:
    """The session is over, whatever ended it."""
    cdef used_t used
    if session.meter == NULL:
        return
    memset(&used, 0, sizeof(used))
    used.has_gone = session.is_picked
    if used.has_gone:
        _guess(session, &used)
    if outcome.input_tokens >= 0:
        used.input = outcome.input_tokens
        used.cached = outcome.cached_tokens
    if outcome.output_tokens >= 0:
        used.output = outcome.output_tokens
    quota_settle(session.engine.quota, session.meter, &used, now_ns)
    session.meter = NULL
