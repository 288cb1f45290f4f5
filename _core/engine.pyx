"""The engine: endpoints, prefix index, pipeline and stats behind one lock; a pick is one short critical section.

Invariants: what is booked by a pick is released exactly once, by first byte and release; the index is told of a pick
    as it is made. JSON and hashing happen outside, on a `scratch_t` of the calling thread.
Cost: a pick is O(blocks on the path + endpoints x steps); allocates only where the index or a table grows.
Memory: owns everything in it.   Threads: kernel functions take the lock, and never the GIL while they hold it.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_grow, pk_resize
from picker._core.endpoints cimport (
    adapters_fill,
    adapters_t,
    endpoint_t,
    endpoint_view,
    endpoints_add,
    endpoints_book,
    endpoints_failed,
    endpoints_first_byte,
    endpoints_free,
    endpoints_get,
    endpoints_init,
    endpoints_open,
    endpoints_release,
    endpoints_remove,
    endpoints_scraped,
    endpoints_succeeded,
    identity_fill,
    identity_t,
    load_t,
)
from picker._core.prompt cimport PK_BLOCK_TOKENS, PK_BYTES_PER_TOKEN
from picker._core.radix cimport (
    radix_bytes,
    radix_forget,
    radix_free,
    radix_init,
    radix_insert,
    radix_match,
    radix_set_capacity,
    radix_total,
    radix_widen,
)
from picker._core.scan cimport scan_free, scan_init
from picker._core.score cimport (
    PK_SCORE_SESSION,
    frame_answer,
    frame_free,
    frame_keep,
    frame_reserve,
    frame_skip,
    pipeline_fill,
    pipeline_run,
)
from picker._core.stats cimport hist_add, series_t, stats_free, stats_init, stats_model, stats_view

cdef enum:
    FIRST_WIDTH = 64           # slots the index and the match array begin with

cdef int64_t NO_ANSWER_SOON_NS = 250_000_000        # a stream that ends this soon without an answer was refused
cdef int64_t NO_ANSWER_LATE_NS = 10_000_000_000     # ... and this late, given up: between the two, minds are changed
cdef double OUTPUT_SHARE = 0.02            # weight of one more answer's length

# --- C kernel: life ---


cdef int scratch_init(scratch_t* scratch, const limits_t* limits) noexcept nogil:
    scan_init(&scratch.scan, limits.json_values, limits.json_depth)
    scratch.hashes = <uint64_t*>pk_resize(NULL, limits.prompt_blocks, sizeof(uint64_t))
    return PK_OK if scratch.hashes != NULL else PK_E_NOMEM


cdef void scratch_free(scratch_t* scratch) noexcept nogil:
    scan_free(&scratch.scan)
    pk_free(scratch.hashes)
    scratch.hashes = NULL


cdef int _init(engine_t* engine, const limits_t* limits, double prior_rate) noexcept nogil:
    """Fill a zeroed engine; after any failure `_free` is safe."""
    pthread_mutex_init(&engine.lock, NULL)
    engine.limits = limits[0]
    engine.output_tokens = 256.0
    endpoints_init(&engine.endpoints, limits.endpoints, prior_rate)
    if radix_init(&engine.radix, FIRST_WIDTH, limits.endpoint_blocks, limits.index_blocks) != PK_OK:
        return PK_E_NOMEM
    if stats_init(&engine.stats, limits.models) != PK_OK:
        return PK_E_NOMEM
    if pk_grow(<void**>&engine.match, &engine.match_room, FIRST_WIDTH, sizeof(uint32_t)) != PK_OK:
        return PK_E_NOMEM
    engine.decisions = <decision_t*>pk_alloc(PK_DECISIONS, sizeof(decision_t))
    return PK_OK if engine.decisions != NULL else PK_E_NOMEM


cdef void _free(engine_t* engine) noexcept nogil:
    endpoints_free(&engine.endpoints)
    radix_free(&engine.radix)
    stats_free(&engine.stats)
    frame_free(&engine.frame)
    pk_free(engine.match)
    pk_free(engine.decisions)
    pthread_mutex_destroy(&engine.lock)


cdef int engine_open(engine_t* engine) noexcept nogil:
    """Count one more session, until `engine_settle`. PK_OK or PK_E_LIMIT."""
    cdef int code = PK_OK
    pthread_mutex_lock(&engine.lock)
    if engine.sessions >= engine.limits.sessions:
        code = PK_E_LIMIT
    else:
        engine.sessions += 1
    pthread_mutex_unlock(&engine.lock)
    return code


cdef uint32_t engine_model(engine_t* engine, const uint8_t* name, size_t size) noexcept nogil:
    """The series of a model name."""
    cdef uint32_t series
    pthread_mutex_lock(&engine.lock)
    series = stats_model(&engine.stats, name, size)
    pthread_mutex_unlock(&engine.lock)
    return series


# --- C kernel: the pick; all with the lock held ---


cdef bint _in_subset(const request_t* request, const endpoint_t* endpoint) noexcept nogil:
    cdef int64_t i
    if request.subset_count < 0:
        return True
    for i in range(request.subset_count):
        if request.subset[i] == endpoint.target_hash or request.subset[i] == endpoint.address_hash:
            return True
    return False


cdef uint32_t _candidates(engine_t* engine, const request_t* request, bint any_breaker) noexcept nogil:
    """Endpoints the request may go to, in slot order; with `any_breaker`, ejected ones too."""
    cdef endpoint_t* endpoint
    cdef uint32_t slot, count = 0
    for slot in range(engine.endpoints.width):
        endpoint = &engine.endpoints.slots[slot]
        if not endpoint.used or not _in_subset(request, endpoint):
            continue
        if any_breaker or endpoints_open(endpoint, request.now_ns):
            engine.frame.slots[count] = slot
            count += 1
    return count


cdef int _prepare(engine_t* engine, const request_t* request) noexcept nogil:
    """Candidates, prefix match and request into the frame."""
    cdef frame_t* frame = &engine.frame
    if frame_reserve(frame, engine.endpoints.width) != PK_OK:
        return PK_E_NOMEM
    frame.count = _candidates(engine, request, False)
    if frame.count == 0:
        frame.count = _candidates(engine, request, True)   # all are ejected: better a bad one than none
    frame.match = NULL
    if request.hash_count:
        radix_match(&engine.radix, request.hashes, request.hash_count, engine.match)
        frame.match = engine.match
    frame.step = 0
    frame.chosen_count = 0
    frame.best = 0.0
    frame.runner_up = -1.0
    frame.block_tokens = PK_BLOCK_TOKENS
    frame.prompt_tokens = request.prompt_tokens
    frame.adapter = request.adapter
    frame.session = request.session
    frame.now_ns = request.now_ns
    return PK_OK


cdef void _destination(engine_t* engine, pick_t* pick) noexcept nogil:
    """The chosen endpoints as a comma list, in order of preference."""
    cdef const identity_t* identity
    cdef uint32_t i
    pick.destination_size = 0
    for i in range(engine.frame.chosen_count):
        identity = &engine.endpoints.details[engine.frame.chosen[i]].identity
        if i:
            pick.destination[pick.destination_size] = c","
            pick.destination_size += 1
        memcpy(pick.destination + pick.destination_size, identity.target, identity.target_size)
        pick.destination_size += identity.target_size


cdef void _record(engine_t* engine, const request_t* request, pick_t* pick) noexcept nogil:
    """Keep why this endpoint was chosen."""
    cdef frame_t* frame = &engine.frame
    cdef const identity_t* identity = &engine.endpoints.details[frame.chosen[0]].identity
    cdef decision_t* record
    cdef uint32_t step, column = 0
    engine.decided += 1
    record = &engine.decisions[engine.decided % PK_DECISIONS]
    record.number = pick.decision = engine.decided
    record.now_ns = request.now_ns
    record.series = request.series
    record.slot = frame.chosen[0]
    record.generation = engine.endpoints.slots[frame.chosen[0]].generation
    record.target_size = identity.target_size
    memcpy(record.target, identity.target, identity.target_size)
    record.candidates = frame.count
    record.prompt_tokens = request.prompt_tokens
    record.cached_tokens = pick.cached_tokens
    record.total = frame.best
    record.runner_up = frame.runner_up
    record.ttft_s = 0.0
    while column + 1 < frame.count and frame.slots[column] != frame.chosen[0]:
        column += 1
    for step in range(engine.pipeline.count):
        record.scores[step] = frame.scores[step * frame.capacity + column]


cdef void _count_hit(engine_t* engine, const request_t* request, int64_t cached) noexcept nogil:
    if request.prompt_tokens > 0 and request.hash_count:
        hist_add(&engine.stats.hit_ratio, <double>cached / request.prompt_tokens)
        hist_add(&engine.stats.hit_bytes, <double>cached * PK_BYTES_PER_TOKEN)


cdef int _book(engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick) noexcept nogil:
    """Book the first choice, tell the index, keep the record."""
    cdef uint32_t slot = engine.frame.chosen[0]
    cdef int64_t uncached, output = <int64_t>engine.output_tokens
    cdef uint32_t held = engine.frame.match[slot] if engine.frame.match != NULL else 0
    pick.cached_tokens = <int64_t>held * PK_BLOCK_TOKENS
    pick.cached_tokens = pick.cached_tokens if pick.cached_tokens < request.prompt_tokens else request.prompt_tokens
    uncached = request.prompt_tokens - pick.cached_tokens
    if 0 <= request.max_tokens < output:
        output = request.max_tokens
    endpoints_book(&engine.endpoints, booking, slot, uncached, request.prompt_tokens + output, request.now_ns)
    if request.hash_count:
        # No memory for the index costs a later hit, not this request.
        radix_insert(&engine.radix, request.hashes, request.hash_count, slot)
    engine.stats.picked += 1
    engine.stats.series[request.series].requests += 1
    engine.stats.series[request.series].running += 1
    _count_hit(engine, request, pick.cached_tokens)
    _destination(engine, pick)
    _record(engine, request, pick)
    return PK_OK


cdef int _finish(
    engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick
) noexcept nogil:
    """Run the pipeline from where it stands; book when it chose. Flow control (`queue`) will stand before this."""
    cdef int code = pipeline_run(&engine.pipeline, &engine.endpoints, &engine.frame, &engine.random)
    if code == PK_OK:
        return _book(engine, request, booking, pick)
    if code == PK_E_MISSING:
        engine.stats.not_picked += 1
    return code


# --- C kernel: what sessions call; each takes the lock ---


cdef int engine_pick(engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick) noexcept nogil:
    """Choose and book. PK_OK, PK_E_MISSING (no candidate), PK_E_NOMEM, or PK_NEED_PLUGIN: run it, then resume."""
    cdef int code
    pthread_mutex_lock(&engine.lock)
    code = _prepare(engine, request)
    if code == PK_OK:
        code = _finish(engine, request, booking, pick)
    pthread_mutex_unlock(&engine.lock)
    return code


cdef int engine_resume(engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick) noexcept nogil:
    """Go on behind a plugin's step, like `engine_pick`."""
    cdef int code
    pthread_mutex_lock(&engine.lock)
    code = _finish(engine, request, booking, pick)
    pthread_mutex_unlock(&engine.lock)
    return code


cdef void engine_answered(engine_t* engine, booking_t* booking, uint32_t status, int64_t now_ns) noexcept nogil:
    """The endpoint's response headers: 5xx counts against it, anything else for it."""
    pthread_mutex_lock(&engine.lock)
    if status < 500:
        endpoints_succeeded(&engine.endpoints, booking.slot, booking.generation, booking.booked_ns)
    elif endpoints_failed(&engine.endpoints, booking.slot, booking.generation, booking.booked_ns, now_ns):
        engine.stats.ejected += 1
    pthread_mutex_unlock(&engine.lock)


cdef void engine_first_byte(
    engine_t* engine, booking_t* booking, uint64_t decision, bint learn, int64_t now_ns
) noexcept nogil:
    """The first byte of the answer: prefill is done."""
    cdef decision_t* record = &engine.decisions[decision % PK_DECISIONS]
    pthread_mutex_lock(&engine.lock)
    endpoints_first_byte(&engine.endpoints, booking, learn, now_ns)
    if learn and record.number == decision:
        record.ttft_s = (now_ns - record.now_ns) * 1e-9
    pthread_mutex_unlock(&engine.lock)


cdef void engine_unanswered(engine_t* engine, booking_t* booking, int64_t now_ns) noexcept nogil:
    """The stream ended before response headers: refused or hanging endpoints look so, and impatient clients."""
    cdef int64_t waited = now_ns - booking.booked_ns
    pthread_mutex_lock(&engine.lock)
    if waited <= NO_ANSWER_SOON_NS or waited >= NO_ANSWER_LATE_NS:
        if endpoints_failed(&engine.endpoints, booking.slot, booking.generation, booking.booked_ns, now_ns):
            engine.stats.ejected += 1
    pthread_mutex_unlock(&engine.lock)


cdef void _count_tokens(engine_t* engine, series_t* series, const outcome_t* outcome) noexcept nogil:
    cdef double after_first = outcome.duration_s - outcome.ttft_s
    if outcome.input_tokens >= 0:
        hist_add(&series.input_tokens, outcome.input_tokens)
    if outcome.cached_tokens >= 0:
        hist_add(&series.cached_tokens, outcome.cached_tokens)
        engine.stats.reported_tokens += outcome.cached_tokens
        engine.stats.predicted_tokens += outcome.predicted_tokens
    if outcome.output_tokens >= 0:
        hist_add(&series.output_tokens, outcome.output_tokens)
        engine.output_tokens += OUTPUT_SHARE * (outcome.output_tokens - engine.output_tokens)
    if outcome.output_tokens > 1 and outcome.ttft_s >= 0:
        hist_add(&series.tpot_s, after_first / (outcome.output_tokens - 1))


cdef void engine_settle(engine_t* engine, booking_t* booking, const outcome_t* outcome) noexcept nogil:
    """A request is over: release its booking and count it."""
    cdef series_t* series
    pthread_mutex_lock(&engine.lock)
    series = engine.stats.series[outcome.series]
    if outcome.is_picked:
        series.running -= 1
        endpoints_release(&engine.endpoints, booking)
    else:
        series.requests += 1
    series.failures[outcome.failure] += 1
    hist_add(&series.duration_s, outcome.duration_s)
    hist_add(&series.request_bytes, outcome.request_bytes)
    if outcome.ttft_s >= 0:
        hist_add(&series.ttft_s, outcome.ttft_s)
        hist_add(&series.response_bytes, outcome.response_bytes)
    _count_tokens(engine, series, outcome)
    engine.sessions -= 1
    pthread_mutex_unlock(&engine.lock)


cdef uint32_t engine_token(engine_t* engine, const booking_t* booking, uint8_t* token) noexcept nogil:
    """The session token of the booked endpoint into `token` (PK_TOKEN_BYTES); its size, 0 when none is handed out."""
    cdef const identity_t* identity
    cdef uint32_t size = 0
    pthread_mutex_lock(&engine.lock)
    if engine.hands_out_tokens and endpoints_get(&engine.endpoints, booking.slot, booking.generation) != NULL:
        identity = &engine.endpoints.details[booking.slot].identity
        size = identity.token_size
        memcpy(token, identity.token, size)
    pthread_mutex_unlock(&engine.lock)
    return size


# --- Python face ---

_LIMITS = {
    "endpoints": 4096, "sessions": 65536, "models": 1000, "prompt_blocks": 65536, "endpoint_blocks": 31250,
    "index_blocks": 1 << 26, "body_bytes": 64 << 20, "chunk_bytes": 62000, "json_values": 1 << 20, "json_depth": 256,
}


cdef bytes _utf8(object text):
    return text.encode() if isinstance(text, str) else bytes(text)


@cython.final
@cython.auto_pickle(False)
cdef class Engine:
    """Owns endpoints, prefix index, policy and stats. Sessions (`picker._core.session`) work on it.

    `limits`: overrides of endpoints, sessions, models, prompt_blocks, endpoint_blocks, index_blocks (index blocks of 64
    tokens), body_bytes, chunk_bytes, json_values, json_depth. `hash_seed` keeps clients from aiming at each other's
    prefixes; replicas that share an index share it. Without `set_policy` every request goes to a random endpoint.
    """

    def __cinit__(self, *, uint64_t hash_seed, uint64_t random_seed=0, double prior_rate=15000.0, limits={}):
        cdef limits_t made
        unknown = set(limits) - set(_LIMITS)
        if unknown:
            raise ValueError(f"no limit called {sorted(unknown)}; there are {sorted(_LIMITS)}")
        values = {**_LIMITS, **limits}
        if min(values.values()) < 1:
            raise ValueError(f"limits must be at least 1: {values}")
        made.endpoints, made.sessions, made.models = values["endpoints"], values["sessions"], values["models"]
        made.prompt_blocks, made.endpoint_blocks = values["prompt_blocks"], values["endpoint_blocks"]
        made.index_blocks, made.body_bytes = values["index_blocks"], values["body_bytes"]
        made.chunk_bytes, made.json_values = values["chunk_bytes"], values["json_values"]
        made.json_depth = values["json_depth"]
        memset(&self._engine, 0, sizeof(engine_t))
        memset(&self._scratch, 0, sizeof(scratch_t))
        self._engine.hash_seed = hash_seed
        self._engine.random = random_seed
        self._ready = True
        if _init(&self._engine, &made, prior_rate) != PK_OK or scratch_init(&self._scratch, &made) != PK_OK:
            raise MemoryError("no memory for the engine")
        self.set_policy([(32, 1.0, (), 0)])

    def __dealloc__(self):
        if self._ready:
            _free(&self._engine)
            scratch_free(&self._scratch)

    def set_policy(self, steps, *, uint32_t wanted=1, plugins=None, bint ignore_subset=False,
                   str session_header="x-session-token") -> None:
        """Replace the pipeline: see `score.pipeline_fill`. In force from the next pick on.

        `plugins(step, request, endpoints)` runs Python steps: `request` and `endpoints` are dicts; it returns what
        `score.frame_answer` takes (filters: slots to keep, scorers: scores in order, pickers: slots in order of
        preference), or None to be skipped. `session_header` holds a session's token, and
        responses carry it when a session scorer runs.
        """
        cdef pipeline_t pipeline
        cdef uint32_t i
        cdef bytes header = session_header.lower().encode()
        if not 0 < len(header) <= PK_HEADER_BYTES:
            raise ValueError(f"a header name has 1 to {PK_HEADER_BYTES} bytes: {session_header!r}")
        pipeline_fill(&pipeline, steps, wanted)
        pthread_mutex_lock(&self._engine.lock)
        memcpy(self._engine.session_header, <const uint8_t*>header, len(header))
        self._engine.session_header_size = <uint32_t>len(header)
        self._engine.pipeline = pipeline
        self._engine.ignores_subset = ignore_subset
        self._engine.keeps_headers = plugins is not None
        self._engine.hands_out_tokens = False
        for i in range(pipeline.count):
            if pipeline.steps[i].kind == PK_SCORE_SESSION:
                self._engine.hands_out_tokens = True
        pthread_mutex_unlock(&self._engine.lock)
        self._plugins = plugins

    cdef int run_plugin(self, const request_t* request, bytes headers, bytes model) except -1:
        """Run the plugin at the frame's step, apply what it says, and move the step on."""
        cdef frame_t* frame = &self._engine.frame
        cdef uint32_t i
        endpoints = []
        for i in range(frame.count):
            view = endpoint_view(&self._engine.endpoints, frame.slots[i], request.now_ns)
            view["cached_tokens"] = (<int64_t>frame.match[frame.slots[i]] * PK_BLOCK_TOKENS) if frame.match != NULL else 0
            view["total"] = frame.totals[i]
            endpoints.append(view)
        asked = {"model": model, "prompt_tokens": request.prompt_tokens, "headers": headers}
        answer = self._plugins(frame.step, asked, endpoints) if self._plugins is not None else None
        try:
            if answer is None:
                frame_skip(frame, &self._engine.pipeline, &self._engine.random)
            else:
                frame_answer(frame, &self._engine.pipeline, answer)
        except (TypeError, ValueError):
            frame_skip(frame, &self._engine.pipeline, &self._engine.random)
        self._drop_gone({view["slot"]: view["generation"] for view in endpoints})
        return 0

    cdef int _drop_gone(self, dict generations) except -1:
        """A plugin may have let go of the GIL: leave out the endpoints that have gone or been replaced meanwhile."""
        cdef frame_t* frame = &self._engine.frame
        cdef uint32_t i, kept = 0
        for i in range(frame.count):
            if endpoints_get(&self._engine.endpoints, frame.slots[i], generations[frame.slots[i]]) != NULL:
                frame_keep(frame, i, kept)
                frame.totals[kept] = frame.totals[i]
                kept += 1
        frame.count = kept
        kept = 0
        for i in range(frame.chosen_count):
            if endpoints_get(&self._engine.endpoints, frame.chosen[i], generations[frame.chosen[i]]) != NULL:
                frame.chosen[kept] = frame.chosen[i]
                kept += 1
        frame.chosen_count = kept
        return 0

    def add_endpoint(self, target, address, *, token=b"", uint64_t labels=0) -> tuple:
        """(slot, generation) of a new endpoint at `target` ("ip:port") of `address` ("ip"), empty and idle.

        OverflowError at the limit, ValueError for texts that are too long, MemoryError.
        """
        cdef identity_t identity
        cdef int64_t slot
        cdef uint32_t width
        identity_fill(&identity, _utf8(target), _utf8(address), _utf8(token), labels)
        pthread_mutex_lock(&self._engine.lock)
        slot = endpoints_add(&self._engine.endpoints, &identity)
        if slot >= 0:
            width = self._engine.endpoints.width
            if (
                radix_widen(&self._engine.radix, width) != PK_OK
                or pk_grow(<void**>&self._engine.match, &self._engine.match_room, (width + 63) // 64 * 64, 4) != PK_OK
            ):
                endpoints_remove(&self._engine.endpoints, <uint32_t>slot, self._engine.endpoints.generation)
                slot = PK_E_NOMEM
            else:
                radix_forget(&self._engine.radix, <uint32_t>slot)
                radix_set_capacity(&self._engine.radix, <uint32_t>slot, self._engine.limits.endpoint_blocks)
        pthread_mutex_unlock(&self._engine.lock)
        if slot == PK_E_LIMIT:
            raise OverflowError(f"at most {self._engine.limits.endpoints} endpoints")
        if slot < 0:
            raise MemoryError("no memory for a further endpoint")
        return slot, self._engine.endpoints.slots[slot].generation

    def remove_endpoint(self, uint32_t slot, uint32_t generation) -> None:
        """Forget an endpoint and what it was thought to cache. KeyError if it has gone already."""
        cdef int code
        pthread_mutex_lock(&self._engine.lock)
        code = endpoints_remove(&self._engine.endpoints, slot, generation)
        if code == PK_OK:
            radix_forget(&self._engine.radix, slot)
        pthread_mutex_unlock(&self._engine.lock)
        if code != PK_OK:
            raise KeyError((slot, generation))

    def set_labels(self, uint32_t slot, uint32_t generation, uint64_t labels) -> None:
        """Which label selectors of the policy the endpoint matches, by bit. KeyError if it has gone."""
        cdef endpoint_t* endpoint
        pthread_mutex_lock(&self._engine.lock)
        endpoint = endpoints_get(&self._engine.endpoints, slot, generation)
        if endpoint != NULL:
            endpoint.labels = labels
        pthread_mutex_unlock(&self._engine.lock)
        if endpoint == NULL:
            raise KeyError((slot, generation))

    def observe(self, uint32_t slot, uint32_t generation, *, int64_t now_ns, double waiting=-1.0, double running=-1.0,
                double kv_usage=-1.0, double max_lora=-1.0, running_adapters=(), waiting_adapters=(),
                int64_t cache_tokens=-1) -> bool:
        """Scraped load of an endpoint; negative means the page did not say. False if the endpoint has gone.

        `cache_tokens`: what its KV cache holds at most; sets what the index thinks it keeps.
        """
        cdef load_t load
        cdef adapters_t active, queued
        cdef int code
        load.waiting, load.running, load.kv_usage, load.max_lora = waiting, running, kv_usage, max_lora
        cdef uint32_t blocks = <uint32_t>min(max(cache_tokens, 0) // PK_BLOCK_TOKENS + 1, 1 << 30)
        adapters_fill(&active, running_adapters)
        adapters_fill(&queued, waiting_adapters)
        pthread_mutex_lock(&self._engine.lock)
        code = endpoints_scraped(&self._engine.endpoints, slot, generation, &load, &active, &queued, now_ns)
        if code == PK_OK and cache_tokens > 0:
            radix_set_capacity(&self._engine.radix, slot, blocks)
        pthread_mutex_unlock(&self._engine.lock)
        return code == PK_OK

    def is_busy(self, uint32_t slot, uint32_t generation) -> bool:
        """Has it requests under way?"""
        cdef endpoint_t* endpoint
        cdef bint busy
        pthread_mutex_lock(&self._engine.lock)
        endpoint = endpoints_get(&self._engine.endpoints, slot, generation)
        busy = endpoint != NULL and endpoint.requests > 0
        pthread_mutex_unlock(&self._engine.lock)
        return busy

    def count_scheduling(self, double took_s) -> None:
        """How long a pick took, from the end of the body to the reply, in seconds."""
        pthread_mutex_lock(&self._engine.lock)
        hist_add(&self._engine.stats.scheduling_s, took_s)
        pthread_mutex_unlock(&self._engine.lock)

    def endpoints(self, int64_t now_ns) -> list:
        """What is known of each endpoint, as dicts in slot order."""
        cdef uint32_t slot
        return [
            endpoint_view(&self._engine.endpoints, slot, now_ns)
            for slot in range(self._engine.endpoints.width)
            if self._engine.endpoints.slots[slot].used
        ]

    def stats(self) -> dict:
        """Counters and histograms as plain Python objects."""
        return stats_view(&self._engine.stats)

    def decisions(self, uint32_t limit=100) -> list:
        """The latest decisions, newest first: what was chosen, among how many, with which scores by step."""
        cdef int64_t number = self._engine.decided
        cdef int64_t oldest = number - min(limit, <uint32_t>PK_DECISIONS)
        cdef decision_t* record
        cdef list found = []
        for number in range(number, max(oldest, 0), -1):
            record = &self._engine.decisions[number % PK_DECISIONS]
            name = self._engine.stats.series[record.series]
            found.append({
                "number": record.number,
                "at_ns": record.now_ns,
                "model": name.name[:name.name_size].decode("utf-8", "replace"),
                "endpoint": record.target[:record.target_size].decode(),
                "candidates": record.candidates,
                "prompt_tokens": record.prompt_tokens,
                "cached_tokens": record.cached_tokens,
                "total": record.total,
                "runner_up": record.runner_up if record.runner_up >= 0 else None,
                "scores": [record.scores[i] for i in range(self._engine.pipeline.count)],
                "ttft_s": record.ttft_s if record.ttft_s > 0 else None,
            })
        return found

    @property
    def sessions(self) -> int:
        """Open ext_proc streams."""
        return self._engine.sessions

    @property
    def index_blocks(self) -> int:
        """(block, endpoint) pairs in the prefix index."""
        return radix_total(&self._engine.radix)

    @property
    def index_bytes(self) -> int:
        """Memory of the prefix index."""
        return radix_bytes(&self._engine.radix)

    @property
    def in_flight(self) -> int:
        """Requests booked on endpoints."""
        cdef uint32_t slot
        return sum(
            self._engine.endpoints.slots[slot].requests
            for slot in range(self._engine.endpoints.width)
            if self._engine.endpoints.slots[slot].used
        )
