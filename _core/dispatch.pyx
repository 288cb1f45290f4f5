"""Where a request goes: the engine's kernel. A pick is one short critical section.

Invariants: what is booked by a pick is released exactly once, by first byte and release; the index is told of a pick
    as it is made. JSON and hashing happen outside, on a `scratch_t` of the calling thread. A frame that a plugin is
    being asked about is void, and its pick starts anew, once the policy, the pool or another pick has touched it.
Cost: a pick is O(blocks on the path + endpoints x steps); allocates only where the index or a table grows.
Memory: an engine owns everything in it.   Threads: any; every function takes the lock but those that say otherwise.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from picker._core.alloc cimport (
    PK_E_LIMIT,
    PK_E_MISSING,
    PK_E_NOMEM,
    PK_OK,
    pk_free,
    pk_grow,
    pk_resize,
)
from picker._core.codec cimport slice_t
from picker._core.decisions cimport (
    PK_OBJECTIVE_BYTES,
    decision_t,
    decisions_free,
    decisions_get,
    decisions_init,
    decisions_new,
    objective_t,
)
from picker._core.endpoints cimport (
    details_t,
    endpoint_t,
    endpoints_book,
    endpoints_failed,
    endpoints_first_byte,
    endpoints_free,
    endpoints_get,
    endpoints_init,
    endpoints_open,
    endpoints_release,
    endpoints_succeeded,
)
from picker._core.credits cimport (
    credits_allow,
    credits_ask,
    credits_booked,
    credits_first_byte,
    credits_released,
)
from picker._core.flow cimport (
    PK_QUEUED,
    flow_drained,
    flow_forget,
    flow_free,
    flow_init,
    flow_run,
    flow_share,
    flow_stir,
)
from picker._core.flowstats cimport flowstats_evicted, flowstats_init
from picker._core.hashing cimport hash_xxh64
from picker._core.names cimport names_find
from picker._core.prompt cimport PK_BLOCK_TOKENS, PK_BYTES_PER_TOKEN
from picker._core.radix cimport radix_free, radix_init, radix_insert, radix_match
from picker._core.rewrite cimport rewrites_any, rewrites_choose, rewrites_free, rewrites_init
from picker._core.scan cimport scan_free, scan_init
from picker._core.score cimport (
    PK_NEED_PLUGIN,
    PK_PICK_MAX,
    PK_SCORE_QUEUE,
    frame_free,
    frame_reserve,
    frame_skip,
    pipeline_run,
    random_next,
)
from picker._core.stats cimport (
    PK_CLASSES,
    PK_FAIL_EVICTED,
    PK_FAIL_NONE,
    PK_OTHER_MODELS,
    PK_SERIES_BYTES,
    hist_add,
    hist_add_gaps,
    series_t,
    stats_base,
    stats_find,
    stats_free,
    stats_init,
    stats_model,
    stats_name,
    stats_series,
)
from picker._core.subset cimport subset_allows

cdef enum:
    ENDPOINTS_AT_FIRST = 64    # there is room for
    MOST_RESTARTS = 3          # of one pick; then it goes on without plugins

cdef int64_t NO_ANSWER_SOON_NS = 250_000_000        # a stream that ends this soon without an answer was refused
cdef int64_t NO_ANSWER_LATE_NS = 10_000_000_000     # ... and this late, given up: between the two, minds are changed
cdef int64_t ALIVE_NS = 500_000_000        # metrics read so recently speak for an endpoint
cdef int64_t MOST_TOKENS = 1 << 30         # a model server that reports more does not know what it says
cdef double OUTPUT_SHARE = 0.02            # weight of one more answer's length

# --- C kernel: life ---


cdef int scratch_init(scratch_t* scratch, const limits_t* limits) noexcept nogil:
    """PK_OK or PK_E_NOMEM; `scratch_free` is due either way."""
    scan_init(&scratch.scan, limits.json_values, limits.json_depth)
    scratch.hashes = <uint64_t*>pk_resize(NULL, limits.prompt_blocks, sizeof(uint64_t))
    return PK_OK if scratch.hashes != NULL else PK_E_NOMEM


cdef void scratch_free(scratch_t* scratch) noexcept nogil:
    scan_free(&scratch.scan)
    pk_free(scratch.hashes)
    scratch.hashes = NULL


cdef int engine_init(engine_t* engine, const limits_t* limits, double prior_rate) noexcept nogil:
    """Fill a zeroed engine. PK_OK or PK_E_NOMEM; `engine_free` is due either way."""
    pthread_mutex_init(&engine.lock, NULL)
    engine.limits = limits[0]
    engine.restores_models = True
    rewrites_init(&engine.rewrites, limits.models)
    flow_init(&engine.flow)
    engine.output_tokens = 256.0
    endpoints_init(&engine.endpoints, limits.endpoints, prior_rate)
    flowstats_init(&engine.flowstats)
    if radix_init(&engine.radix, ENDPOINTS_AT_FIRST, limits.endpoint_blocks, limits.index_blocks) != PK_OK:
        return PK_E_NOMEM
    if pk_grow(<void**>&engine.match, &engine.match_room, ENDPOINTS_AT_FIRST, sizeof(uint32_t)) != PK_OK:
        return PK_E_NOMEM
    if stats_init(&engine.stats, limits.models) != PK_OK:
        return PK_E_NOMEM
    return decisions_init(&engine.decisions)


cdef void engine_free(engine_t* engine) noexcept nogil:
    flow_free(&engine.flow)
    endpoints_free(&engine.endpoints)
    radix_free(&engine.radix)
    stats_free(&engine.stats)
    frame_free(&engine.frame)
    pk_free(engine.match)
    decisions_free(&engine.decisions)
    rewrites_free(&engine.rewrites)
    pthread_mutex_destroy(&engine.lock)


cdef int engine_open(engine_t* engine, bint* is_surplus) noexcept nogil:
    """Count one more session, until `engine_settle`. `is_surplus`: it is beyond the number that there may be.

    PK_OK, or PK_E_LIMIT: there are too many even to tell them so.
    """
    cdef int code = PK_OK
    pthread_mutex_lock(&engine.lock)
    is_surplus[0] = engine.sessions - engine.surplus >= engine.limits.sessions
    if is_surplus[0] and engine.surplus >= engine.limits.surplus:
        code = PK_E_LIMIT
    else:
        engine.sessions += 1
        engine.surplus += is_surplus[0]
    pthread_mutex_unlock(&engine.lock)
    return code


cdef int engine_hold(engine_t* engine, uint64_t* held, uint64_t wanted) noexcept nogil:
    """A session that holds `held` bytes of a body now holds `wanted`. PK_OK, or PK_E_LIMIT when that is too much."""
    cdef int code = PK_OK
    cdef uint64_t others
    pthread_mutex_lock(&engine.lock)
    others = engine.buffered - held[0]
    if wanted > held[0] and wanted > engine.limits.buffered_bytes - others:
        code = PK_E_LIMIT
    else:
        engine.buffered = others + wanted
        held[0] = wanted
    pthread_mutex_unlock(&engine.lock)
    return code


cdef int engine_rewrite(engine_t* engine, slice_t model, buffer_t* target) noexcept nogil:
    """Where a request for `model` (plain UTF-8, empty if none was named) goes by the rewrite rules; counts it.

    PK_OK and the name in `target`, in place of what was there; PK_E_MISSING if no rule says anything; PK_E_NOMEM.
    """
    cdef int code = PK_E_MISSING
    pthread_mutex_lock(&engine.lock)
    if rewrites_any(&engine.rewrites):
        code = rewrites_choose(&engine.rewrites, model, random_next(&engine.random), target)
    pthread_mutex_unlock(&engine.lock)
    return code


cdef void engine_objective(engine_t* engine, slice_t name, objective_t* objective) noexcept nogil:
    """What a request is for that names an objective: its priority, 0 if it is not known."""
    cdef slice_t priority
    cdef uint32_t i
    objective.priority = 0
    pthread_mutex_lock(&engine.lock)
    if engine.objectives != NULL and names_find(engine.objectives, name, &priority):
        memcpy(&objective.priority, priority.data, sizeof(objective.priority))
    pthread_mutex_unlock(&engine.lock)
    objective.name_size = <uint32_t>name.size if name.size < PK_OBJECTIVE_BYTES else PK_OBJECTIVE_BYTES
    for i in range(objective.name_size):
        objective.name[i] = name.data[i] if 0x20 <= name.data[i] <= 0x7E else c"?"


cdef void engine_model(engine_t* engine, slice_t model, slice_t target, request_t* request) noexcept nogil:
    """Where a request for a model, or for the one it is rewritten to if any, is counted, by its objective as it stands.

    That is `other` until a request for the model has gone well. So names that no model server knows take no room,
    however many a client thinks of.
    """
    cdef uint8_t name[PK_SERIES_BYTES]
    cdef size_t size = stats_name(name, model, target)
    cdef uint32_t series
    pthread_mutex_lock(&engine.lock)
    series = stats_find(&engine.stats, name, size)
    request.is_known = series != PK_OTHER_MODELS
    request.series = stats_series(&engine.stats, series, &request.objective, False)
    pthread_mutex_unlock(&engine.lock)


# --- C kernel: the pick; all with the lock held ---


cdef inline int64_t _expected(const engine_t* engine, const request_t* request) noexcept nogil:
    """Tokens of the answer."""
    cdef int64_t output = <int64_t>engine.output_tokens
    return request.max_tokens if 0 <= request.max_tokens < output else output


cdef inline bint _may_go_to(
    const engine_t* engine, const request_t* request, const endpoint_t* endpoint
) noexcept nogil:
    """Labels are looked at here as well as in the pipeline: what is asked for credit must be what is picked from."""
    if not endpoint.used or endpoint.labels & engine.labels != engine.labels:
        return False
    return request.subset == NULL or subset_allows(request.subset, endpoint.target_hash, endpoint.address_hash)


cdef bint pick_is_possible(const engine_t* engine, const request_t* request) noexcept nogil:
    """Is there an endpoint that the request may go to, ever so full?"""
    cdef uint32_t slot
    for slot in range(engine.endpoints.width):
        if _may_go_to(engine, request, &engine.endpoints.slots[slot]):
            return True
    return False


cdef uint32_t _candidates(engine_t* engine, const request_t* request, bint any_breaker) noexcept nogil:
    """Endpoints the request may go to, in slot order; with `any_breaker`, ejected ones too."""
    cdef const endpoint_t* endpoint
    cdef uint32_t slot, count = 0
    for slot in range(engine.endpoints.width):
        endpoint = &engine.endpoints.slots[slot]
        if not (any_breaker or endpoints_open(endpoint, request.now_ns)):
            continue
        if _may_go_to(engine, request, endpoint):
            engine.frame.slots[count] = slot
            count += 1
    return count


cdef inline int64_t _cached(const engine_t* engine, const request_t* request, uint32_t slot) noexcept nogil:
    """Tokens of its prompt that the endpoint is thought to hold."""
    cdef int64_t cached = 0
    if engine.frame.match != NULL:
        cached = <int64_t>engine.frame.match[slot] * PK_BLOCK_TOKENS
    return cached if cached < request.prompt_tokens else request.prompt_tokens


cdef uint32_t _with_credit(engine_t* engine, const request_t* request, double share) noexcept nogil:
    """Keep the candidates that can take the request now."""
    cdef frame_t* frame = &engine.frame
    cdef int64_t resident = request.prompt_tokens + _expected(engine, request)
    cdef int64_t cached
    cdef uint32_t i, kept = 0
    credits_ask(&engine.flow.credits, resident, share, request.now_ns)
    for i in range(frame.count):
        cached = _cached(engine, request, frame.slots[i])
        if credits_allow(
            &engine.flow.credits, &engine.endpoints, frame.slots[i], request.prompt_tokens - cached, cached, resident,
            share, request.now_ns
        ):
            frame.slots[kept] = frame.slots[i]
            kept += 1
    return kept


cdef int _narrow(engine_t* engine, const request_t* request, double share) noexcept nogil:
    """Candidates into the frame. PK_OK; PK_E_MISSING, if there are none; PK_QUEUED, if none can take the request."""
    cdef frame_t* frame = &engine.frame
    frame.count = _candidates(engine, request, False)
    if frame.count == 0:
        frame.count = _candidates(engine, request, True)   # all are ejected: better a bad one than none
    if frame.count == 0:
        return PK_E_MISSING
    if share >= 0.0:
        frame.count = _with_credit(engine, request, share)
    return PK_OK if frame.count else PK_QUEUED


cdef int _prepare(engine_t* engine, const request_t* request, pick_t* pick, double share) noexcept nogil:
    """Candidates, prefix match and request into a new frame. `share`: of each endpoint, that must not be exceeded;
    negative: credit does not matter. PK_OK, PK_E_NOMEM, PK_E_MISSING or PK_QUEUED."""
    cdef frame_t* frame = &engine.frame
    cdef int code
    if frame_reserve(frame, engine.endpoints.width) != PK_OK:
        return PK_E_NOMEM
    engine.frames += 1
    pick.frame = engine.frames
    frame.match = NULL
    if request.hash_count:
        radix_match(&engine.radix, request.hashes, request.hash_count, engine.match)
        frame.match = engine.match
    code = _narrow(engine, request, share)
    if code != PK_OK:
        return code
    frame.step = 0
    frame.chosen_count = 0
    frame.block_tokens = PK_BLOCK_TOKENS
    frame.prompt_tokens = request.prompt_tokens
    frame.adapter = request.adapter
    frame.session = request.session
    frame.now_ns = request.now_ns
    return PK_OK


cdef void _destination(engine_t* engine, pick_t* pick) noexcept nogil:
    """The chosen endpoints as a comma list, in order of preference."""
    cdef const details_t* details
    cdef uint32_t i
    pick.destination_size = 0
    for i in range(engine.frame.chosen_count):
        details = &engine.endpoints.details[engine.frame.chosen[i]]
        if i:
            pick.destination[pick.destination_size] = c","
            pick.destination_size += 1
        memcpy(pick.destination + pick.destination_size, details.identity.target, details.identity.target_size)
        pick.destination_size += details.identity.target_size


cdef void _record(engine_t* engine, const request_t* request, pick_t* pick) noexcept nogil:
    """Keep why this endpoint was chosen."""
    cdef const frame_t* frame = &engine.frame
    cdef const details_t* details = &engine.endpoints.details[frame.chosen[0]]
    cdef decision_t* decision = decisions_new(&engine.decisions)
    cdef uint32_t step, column = 0
    pick.decision = decision.number
    decision.now_ns = request.now_ns
    decision.series = request.series
    decision.target_size = details.identity.target_size
    memcpy(decision.target, details.identity.target, details.identity.target_size)
    decision.candidates = frame.count
    decision.prompt_tokens = request.prompt_tokens
    decision.cached_tokens = pick.cached_tokens
    decision.total = frame.best
    decision.runner_up = frame.runner_up
    decision.objective = request.objective
    decision.waited_ns = request.waited_ns
    while column + 1 < frame.count and frame.slots[column] != frame.chosen[0]:
        column += 1
    decision.steps = engine.pipeline.count
    for step in range(engine.pipeline.count):
        if PK_SCORE_QUEUE <= engine.pipeline.steps[step].kind < PK_PICK_MAX:
            decision.scores[step] = frame.scores[<size_t>step * frame.capacity + column]


cdef void _count_hit(engine_t* engine, const request_t* request, int64_t cached) noexcept nogil:
    if request.prompt_tokens > 0 and request.hash_count:
        hist_add(&engine.stats.hit_ratio, <double>cached / <double>request.prompt_tokens)
        hist_add(&engine.stats.hit_bytes, <double>cached * PK_BYTES_PER_TOKEN)


cdef int _book(engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick) noexcept nogil:
    """Book the first choice, tell the index, keep the record."""
    cdef uint32_t slot = engine.frame.chosen[0]
    cdef int64_t cached
    cdef int code
    cached = _cached(engine, request, slot)
    code = endpoints_book(
        &engine.endpoints, booking, slot, request.prompt_tokens - cached,
        request.prompt_tokens + _expected(engine, request), request.now_ns
    )
    if code != PK_OK:
        return code
    credits_booked(&engine.flow.credits, &engine.endpoints, booking, request.now_ns)
    flow_drained(&engine.flow, request.now_ns)
    if request.hash_count:
        # No memory for the index costs a later hit, not this request.
        radix_insert(&engine.radix, request.hashes, request.hash_count, slot)
    pick.cached_tokens = cached
    engine.stats.picked += 1
    engine.stats.series[request.series].running += 1
    _count_hit(engine, request, cached)
    _destination(engine, pick)
    _record(engine, request, pick)
    return PK_OK


cdef int _run(engine_t* engine, pick_t* pick) noexcept nogil:
    """Run the pipeline to its end, or to a plugin."""
    cdef int code = pipeline_run(&engine.pipeline, &engine.endpoints, &engine.frame, &engine.random)
    while code == PK_NEED_PLUGIN and pick.restarts > MOST_RESTARTS:
        frame_skip(&engine.frame, &engine.pipeline, &engine.random)
        code = pipeline_run(&engine.pipeline, &engine.endpoints, &engine.frame, &engine.random)
    pick.step = engine.frame.step
    return code


cdef int _finish(
    engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick
) noexcept nogil:
    """Go on from where the frame stands; book when a choice is made."""
    cdef int code = _run(engine, pick)
    if code == PK_OK:
        return _book(engine, request, booking, pick)
    if code == PK_E_MISSING:
        engine.stats.not_picked += 1
    return code


cdef int pick_among(
    engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick, double share
) noexcept nogil:
    """Choose among the endpoints that can take the request without more than `share` of them filled, and book.
    Negative: among all.

    PK_OK; PK_QUEUED: none can take it now; PK_E_MISSING: there is none; PK_E_NOMEM; or PK_NEED_PLUGIN: run it, then
    `engine_resume`.
    """
    cdef int code
    pick.restarts = 0
    code = _prepare(engine, request, pick, share)
    pick.number = pick.frame
    if code == PK_OK:
        return _finish(engine, request, booking, pick)
    if code == PK_E_MISSING:
        engine.stats.not_picked += 1
    return code


cdef void pick_may_be_taken_back(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    """Should a higher priority need its place before it is answered."""
    if engine.flow.rules.evicts and asked.request.objective.priority < 0 and not asked.is_free:
        flow_run(&engine.flow, &asked.turn)


# --- C kernel: what sessions call; each takes the lock ---


cdef int _pick_again(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    """The frame is void. The request has had its turn: it does not wait again, should credit have gone meanwhile."""
    cdef double share = -1.0
    cdef int code
    if engine.flow.rules.is_on and not asked.is_free:
        share = flow_share(
            &engine.flow, &engine.endpoints, asked.request.objective.priority, asked.request.now_ns
        )
    code = _prepare(engine, asked.request, asked.pick, share)
    if code == PK_QUEUED:
        code = _prepare(engine, asked.request, asked.pick, -1.0)
    if code == PK_E_MISSING:
        engine.stats.not_picked += 1
    return code


cdef int engine_resume(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    """Go on behind a plugin's step, like `pick_among`; a plugin that did not answer is skipped.

    Starts anew if the frame is void by now.
    """
    cdef pick_t* pick = asked.pick
    cdef int code = PK_OK
    pthread_mutex_lock(&engine.lock)
    if pick.frame != engine.frames:
        pick.restarts += 1
        code = _pick_again(engine, asked)
    elif engine.frame.step == pick.step:
        frame_skip(&engine.frame, &engine.pipeline, &engine.random)
    if code == PK_OK:
        code = _finish(engine, asked.request, asked.booking, pick)
    if code != PK_NEED_PLUGIN:
        flow_forget(&engine.flow, &asked.turn)
    if code == PK_OK:
        pick_may_be_taken_back(engine, asked)
    pthread_mutex_unlock(&engine.lock)
    return code


cdef void _fail(engine_t* engine, const booking_t* booking, int64_t now_ns) noexcept nogil:
    if endpoints_failed(&engine.endpoints, booking.slot, booking.generation, booking.booked_ns, now_ns):
        engine.stats.ejected += 1


cdef void _release(engine_t* engine, booking_t* booking, int64_t now_ns) noexcept nogil:
    credits_released(&engine.flow.credits, &engine.endpoints, booking, now_ns)
    endpoints_release(&engine.endpoints, booking)
    flow_stir(&engine.flow)


cdef void _move(engine_t* engine, booking_t* booking, uint64_t target_hash, int64_t now_ns) noexcept nogil:
    """Another endpoint than the booked one answers: what is booked moves there, or is released if it is not ours."""
    cdef booking_t old = booking[0]
    cdef const endpoint_t* endpoint
    cdef uint32_t slot
    _release(engine, booking, now_ns)
    for slot in range(engine.endpoints.width):
        endpoint = &engine.endpoints.slots[slot]
        if endpoint.used and endpoint.target_hash == target_hash:
            _fail(engine, &old, now_ns)
            endpoints_book(&engine.endpoints, booking, slot, old.prefill_tokens, old.resident_tokens, now_ns)
            booking.ahead_tokens = 0           # how long it takes teaches nothing
            credits_booked(&engine.flow.credits, &engine.endpoints, booking, now_ns)
            return


cdef void engine_served(engine_t* engine, booking_t* booking, slice_t target, int64_t now_ns) noexcept nogil:
    """The gateway says which endpoint ("ip:port") answers. If it is not the booked one, that one failed before."""
    cdef uint64_t target_hash = hash_xxh64(target.data, target.size, 0)
    cdef const endpoint_t* endpoint
    pthread_mutex_lock(&engine.lock)
    endpoint = endpoints_get(&engine.endpoints, booking.slot, booking.generation)
    if endpoint == NULL or endpoint.target_hash != target_hash:
        _move(engine, booking, target_hash, now_ns)
    pthread_mutex_unlock(&engine.lock)


cdef void engine_answered(engine_t* engine, booking_t* booking, uint32_t status, int64_t now_ns) noexcept nogil:
    """The endpoint's response headers: 5xx counts against it, anything else for it."""
    pthread_mutex_lock(&engine.lock)
    engine.shows_responses = True
    if status < 500:
        endpoints_succeeded(&engine.endpoints, booking.slot, booking.generation, booking.booked_ns)
        flow_stir(&engine.flow)               # a breaker may have closed
    else:
        _fail(engine, booking, now_ns)
    pthread_mutex_unlock(&engine.lock)


cdef void engine_first_byte(
    engine_t* engine, booking_t* booking, uint64_t decision, bint learn, int64_t now_ns
) noexcept nogil:
    """The first byte of the answer: prefill is done."""
    cdef decision_t* record
    pthread_mutex_lock(&engine.lock)
    credits_first_byte(&engine.flow.credits, &engine.endpoints, booking, learn, now_ns)
    endpoints_first_byte(&engine.endpoints, booking, learn, now_ns)
    flow_stir(&engine.flow)
    record = decisions_get(&engine.decisions, decision)
    if learn and record != NULL:
        record.ttft_s = <double>(now_ns - record.now_ns) * 1e-9
    pthread_mutex_unlock(&engine.lock)


cdef bint _is_alive(const engine_t* engine, const booking_t* booking, int64_t now_ns) noexcept nogil:
    """Were its metrics read while the request waited, or a moment ago?"""
    cdef const endpoint_t* endpoint = endpoints_get(&engine.endpoints, booking.slot, booking.generation)
    if endpoint == NULL or endpoint.scraped_ns == 0:
        return False
    return endpoint.scraped_ns > booking.booked_ns or now_ns - endpoint.scraped_ns < ALIVE_NS


cdef bint engine_unanswered(engine_t* engine, booking_t* booking, int64_t now_ns) noexcept nogil:
    """The stream ended before response headers: refused or hanging endpoints look so, and impatient clients.

    It counts against an endpoint that gives no other sign of life, so that clients cannot eject healthy ones. False if
    it means nothing at all: this gateway never shows responses.
    """
    cdef int64_t waited = now_ns - booking.booked_ns
    cdef bint shows_responses
    pthread_mutex_lock(&engine.lock)
    shows_responses = engine.shows_responses
    if shows_responses and (waited <= NO_ANSWER_SOON_NS or waited >= NO_ANSWER_LATE_NS):
        if not _is_alive(engine, booking, now_ns):
            _fail(engine, booking, now_ns)
    pthread_mutex_unlock(&engine.lock)
    return shows_responses


cdef bint _is_figure(int64_t tokens) noexcept nogil:
    return 0 <= tokens <= MOST_TOKENS


cdef void _count_tokens(engine_t* engine, series_t* series, const outcome_t* outcome) noexcept nogil:
    cdef double output = <double>outcome.output_tokens
    if _is_figure(outcome.input_tokens):
        hist_add(&series.input_tokens, <double>outcome.input_tokens)
    if _is_figure(outcome.cached_tokens):
        hist_add(&series.cached_tokens, <double>outcome.cached_tokens)
        engine.stats.reported_tokens += <uint64_t>outcome.cached_tokens
        engine.stats.predicted_tokens += <uint64_t>outcome.predicted_tokens
    if not _is_figure(outcome.output_tokens):
        return
    hist_add(&series.output_tokens, output)
    engine.output_tokens += OUTPUT_SHARE * (output - engine.output_tokens)
    if output > 0 and outcome.duration_s >= 0:
        hist_add(&series.ntpot_s, outcome.duration_s / output)
    if output > 1.0 and outcome.is_stream and outcome.duration_s >= 0 and outcome.ttft_s >= 0:
        hist_add(&series.tpot_s, (outcome.duration_s - outcome.ttft_s) / (output - 1.0))


cdef uint32_t _settled_model(engine_t* engine, const outcome_t* outcome) noexcept nogil:
    """The series of the model of a request that went well; it is made for its first."""
    cdef uint8_t name[PK_SERIES_BYTES]
    cdef size_t size
    if outcome.model.size == 0:
        return stats_base(&engine.stats, outcome.series)
    size = stats_name(name, outcome.model, outcome.target)
    return stats_model(&engine.stats, name, size) if size <= PK_SERIES_BYTES else <uint32_t>PK_OTHER_MODELS


cdef series_t* _settled_series(engine_t* engine, const outcome_t* outcome) noexcept nogil:
    """Where the request is counted. A model that has served one gets a series of its own, and so does who was served.
    """
    cdef decision_t* decision
    cdef uint32_t series = outcome.series
    if outcome.failure == PK_FAIL_NONE and outcome.is_picked and (outcome.model.size or outcome.objective.flow_size):
        series = stats_series(&engine.stats, _settled_model(engine, outcome), outcome.objective, True)
        decision = decisions_get(&engine.decisions, outcome.decision)
        if decision != NULL:
            decision.series = series
    return engine.stats.series[series]


cdef void _count(engine_t* engine, series_t* series, const outcome_t* outcome) noexcept nogil:
    series.requests += 1
    series.failures[outcome.failure] += 1
    if 100 <= outcome.status < 100 * PK_CLASSES:
        series.statuses[outcome.status // 100] += 1
    if outcome.duration_s >= 0:
        hist_add(&series.duration_s, outcome.duration_s)
    hist_add(&series.request_bytes, <double>outcome.request_bytes)
    if outcome.ttft_s >= 0:
        hist_add(&series.ttft_s, outcome.ttft_s)
    if outcome.ttft_s >= 0 and outcome.is_stream:
        hist_add(&series.streaming_ttft_s, outcome.ttft_s)
        hist_add_gaps(&series.itl_s, &outcome.gaps)
    if outcome.response_bytes >= 0:
        hist_add(&series.response_bytes, <double>outcome.response_bytes)
    _count_tokens(engine, series, outcome)


cdef void engine_settle(
    engine_t* engine, booking_t* booking, const outcome_t* outcome, int64_t now_ns
) noexcept nogil:
    """A request is over: release its booking and count it."""
    pthread_mutex_lock(&engine.lock)
    if outcome.is_picked:
        engine.stats.series[outcome.series].running -= 1
        _release(engine, booking, now_ns)
    if outcome.failure == PK_FAIL_EVICTED:
        flowstats_evicted(&engine.flowstats, outcome.objective.priority)
    if outcome.is_counted:
        _count(engine, _settled_series(engine, outcome), outcome)
    engine.sessions -= 1
    engine.surplus -= outcome.is_surplus
    pthread_mutex_unlock(&engine.lock)


cdef uint32_t engine_token(engine_t* engine, const booking_t* booking, uint8_t* token) noexcept nogil:
    """The session token of the booked endpoint into `token` (PK_TOKEN_BYTES); its size, 0 when none is handed out."""
    cdef const details_t* details
    cdef uint32_t size = 0
    pthread_mutex_lock(&engine.lock)
    if engine.hands_out_tokens and endpoints_get(&engine.endpoints, booking.slot, booking.generation) != NULL:
        details = &engine.endpoints.details[booking.slot]
        size = details.identity.token_size
        memcpy(token, details.identity.token, size)
    pthread_mutex_unlock(&engine.lock)
    return size
