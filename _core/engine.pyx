"""The engine: endpoints, prefix index, pipeline and stats behind one lock.

Invariants: see `dispatch`, its kernel; this is its Python face.
Cost: what is read of an engine is copied piece by piece, so that requests wait for no more than one piece.
Memory: owns everything in it.   Threads: what holds the lock neither takes the GIL nor runs Python, which might let go
    of the GIL. `set_policy` belongs to the thread that feeds sessions.
"""
cimport cython
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.admission cimport engine_call, engine_dispatch, engine_turn_out
from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_grow
from picker._core.apis cimport PK_ALL_FAMILIES, families_of
from picker._core.codec cimport slice_t
from picker._core.credits cimport (
    credit_rules_t,
    credits_cache,
    credits_saturation,
    credits_scraped,
    credits_start,
    credits_view,
    credits_widen,
)
from picker._core.decisions cimport (
    PK_DECISIONS,
    decision_t,
    decision_view,
    decisions_clear,
    decisions_get,
)
from picker._core.dispatch cimport (
    PK_HEADER_BYTES,
    PK_TRACK_FULL,
    PK_TRACK_HEADERS,
    PK_TRACK_OFF,
    candidate_t,
    engine_free,
    engine_init,
    engine_t,
    limits_t,
    pick_t,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    request_t,
    scratch_free,
    scratch_init,
)
from picker._core.endpoints cimport (
    adapters_fill,
    adapters_t,
    details_t,
    endpoint_t,
    endpoint_view,
    endpoints_add,
    endpoints_get,
    endpoints_remove,
    endpoints_scraped,
    endpoints_t,
    identity_fill,
    identity_t,
    load_t,
)
from picker._core.flow cimport (
    PK_WOKEN_AT_ONCE,
    flow_bands_t,
    flow_fill,
    flow_rule,
    flow_rules_t,
    flow_stir,
    flow_t,
    flow_view,
    turn_t,
)
from picker._core.names cimport Names
from picker._core.prompt cimport PK_BLOCK_TOKENS, PK_MOST_DEPTH
from picker._core.quotas cimport Quota
from picker._core.radix cimport (
    radix_bytes,
    radix_forget,
    radix_set_capacity,
    radix_total,
    radix_widen,
)
from picker._core.rewrite cimport (
    Rewrites,
    rewrites_carry,
    rewrites_free,
    rewrites_init,
    rewrites_name,
    rewrites_t,
    rewrites_tally,
    tally_t,
    tally_view,
)
from picker._core.queue cimport band_count_t, flow_count_t, queue_bands, queue_flows
from picker._core.schedule cimport PK_FAIR_ROUND_ROBIN, PK_FAIR_STRICT, PK_ORDER_EDF, PK_ORDER_FCFS, schedule_check
from picker._core.score cimport (
    PK_FILTER_LABELS,
    PK_PICK_RANDOM,
    PK_SCORE_SESSION,
    frame_answer,
    pipeline_fill,
    pipeline_t,
)
from picker._core.stats cimport (
    PK_MOST_MODELS,
    hist_add,
    series_counted,
    series_names,
    series_t,
    series_view,
    stats_keep,
    stats_t,
    stats_totals,
)

# --- C kernel: copies to look at, and what the face changes; each takes the lock ---


cdef void _copy(const engine_t* engine, uint32_t slot, candidate_t* out) noexcept nogil:
    out.slot = slot
    out.endpoint = engine.endpoints.slots[slot]
    out.details = engine.endpoints.details[slot]
    out.fleet_rate = engine.endpoints.fleet_rate


cdef int _look(engine_t* engine, uint32_t slot, candidate_t* out) noexcept nogil:
    """1 and a copy, 0 if the slot is free, -1 behind the last."""
    cdef int found = -1
    pthread_mutex_lock(&engine.lock)
    if slot < engine.endpoints.width:
        found = engine.endpoints.slots[slot].used
        if found:
            _copy(engine, slot, out)
    pthread_mutex_unlock(&engine.lock)
    return found


cdef bint _candidate(engine_t* engine, const pick_t* pick, uint32_t index, candidate_t* out) noexcept nogil:
    """A copy of the index-th candidate of the pick; False behind the last, or when its frame is void."""
    cdef bint found
    pthread_mutex_lock(&engine.lock)
    found = pick.frame == engine.frames and index < engine.frame.count
    if found:
        _copy(engine, engine.frame.slots[index], out)
        out.total = engine.frame.totals[index]
        out.cached_tokens = 0
        if engine.frame.match != NULL:
            out.cached_tokens = <int64_t>engine.frame.match[out.slot] * PK_BLOCK_TOKENS
    pthread_mutex_unlock(&engine.lock)
    return found


cdef bint _is_current(engine_t* engine, const pick_t* pick) noexcept nogil:
    """May the frame of this pick still be gone on with?"""
    cdef bint current
    pthread_mutex_lock(&engine.lock)
    current = pick.frame == engine.frames and engine.frame.step == pick.step
    pthread_mutex_unlock(&engine.lock)
    return current


cdef int64_t _add(engine_t* engine, const identity_t* identity, uint32_t* generation) noexcept nogil:
    """The slot of a new endpoint, PK_E_LIMIT or PK_E_NOMEM."""
    cdef int64_t slot
    cdef uint32_t width
    pthread_mutex_lock(&engine.lock)
    engine.frames += 1                       # what frames point to may move
    slot = endpoints_add(&engine.endpoints, identity)
    if slot >= 0:
        generation[0] = engine.endpoints.slots[slot].generation
        width = engine.endpoints.width
        if (
            radix_widen(&engine.radix, width) != PK_OK
            or credits_widen(&engine.flow.credits, width) != PK_OK
            or pk_grow(<void**>&engine.match, &engine.match_room, width, sizeof(uint32_t)) != PK_OK
        ):
            endpoints_remove(&engine.endpoints, <uint32_t>slot, generation[0])
            slot = PK_E_NOMEM
        else:
            radix_forget(&engine.radix, <uint32_t>slot)
            radix_set_capacity(&engine.radix, <uint32_t>slot, engine.limits.endpoint_blocks)
            credits_start(&engine.flow.credits, &engine.endpoints, <uint32_t>slot)
            flow_stir(&engine.flow)
    pthread_mutex_unlock(&engine.lock)
    return slot


cdef int _remove(engine_t* engine, uint32_t slot, uint32_t generation) noexcept nogil:
    cdef int code
    pthread_mutex_lock(&engine.lock)
    code = endpoints_remove(&engine.endpoints, slot, generation)
    if code == PK_OK:
        engine.frames += 1
        radix_forget(&engine.radix, slot)
        flow_stir(&engine.flow)
    pthread_mutex_unlock(&engine.lock)
    return code


cdef int _tally(engine_t* engine, uint32_t index, tally_t* out) noexcept nogil:
    """A counter of the rewrite rules: see `rewrites_tally`."""
    cdef int found
    pthread_mutex_lock(&engine.lock)
    found = rewrites_tally(&engine.rewrites, index, out)
    pthread_mutex_unlock(&engine.lock)
    return found


cdef void _keep_models(engine_t* engine) noexcept nogil:
    """Models that rules name have figures of their own, however many clients think of. One at a time under the lock."""
    cdef uint32_t index = 0
    cdef slice_t name
    cdef bint found = True
    while found:
        pthread_mutex_lock(&engine.lock)
        found = rewrites_name(&engine.rewrites, index, &name)
        if found:
            stats_keep(&engine.stats, name.data, name.size)
        pthread_mutex_unlock(&engine.lock)
        index += 1


cdef int64_t _in_flight(engine_t* engine) noexcept nogil:
    cdef int64_t total = 0
    cdef uint32_t slot
    pthread_mutex_lock(&engine.lock)
    for slot in range(engine.endpoints.width):
        if engine.endpoints.slots[slot].used:
            total += engine.endpoints.slots[slot].requests
    pthread_mutex_unlock(&engine.lock)
    return total


# --- Python face ---

_TRACKING = {"full": PK_TRACK_FULL, "headers": PK_TRACK_HEADERS, "off": PK_TRACK_OFF}

_LIMITS = {
    "endpoints": 4096, "sessions": 65536, "surplus": 65536, "models": 1000, "prompt_blocks": 65536,
    "endpoint_blocks": 31250, "index_blocks": 1 << 26, "headers": 1000, "header_bytes": 1 << 18, "body_bytes": 64 << 20,
    "buffered_bytes": 1 << 30, "chunk_bytes": 62000, "json_values": 1 << 20, "json_depth": 256,
}
cdef enum:
    MOST_OBJECTIVES = 4096
    OBJECTIVE_NAME_BYTES = 253     # of a Kubernetes object

_MOST = {"models": PK_MOST_MODELS, "index_blocks": (1 << 31) - 1, "json_depth": PK_MOST_DEPTH}


cdef int _limits_fill(limits_t* limits, object given) except -1:
    given = dict(given)
    unknown = set(given) - set(_LIMITS)
    if unknown:
        raise ValueError(f"no limit called {sorted(unknown)}; there are {sorted(_LIMITS)}")
    values = {**_LIMITS, **given}
    for name, value in values.items():
        if not 1 <= value <= _MOST.get(name, value):
            raise ValueError(f"limit {name} is 1 to {_MOST.get(name, 'as much as you like')}, not {value}")
    limits.endpoints, limits.sessions, limits.models = values["endpoints"], values["sessions"], values["models"]
    limits.surplus, limits.headers, limits.header_bytes = values["surplus"], values["headers"], values["header_bytes"]
    limits.prompt_blocks, limits.endpoint_blocks = values["prompt_blocks"], values["endpoint_blocks"]
    limits.index_blocks, limits.body_bytes = values["index_blocks"], values["body_bytes"]
    limits.buffered_bytes, limits.chunk_bytes = values["buffered_bytes"], values["chunk_bytes"]
    limits.json_values, limits.json_depth = values["json_values"], values["json_depth"]
    return 0


cdef Names _priorities(dict given):
    """As `dispatch.engine_objective` reads them."""
    cdef int32_t priority
    cdef dict mapping = {}
    if len(given) > MOST_OBJECTIVES:
        raise OverflowError(f"at most {MOST_OBJECTIVES} objectives, not {len(given)}")
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(f"objectives are called by text, not {name!r}")
        text = name.encode()
        if len(text) > OBJECTIVE_NAME_BYTES:
            raise OverflowError(f"objective {name!r} has more than {OBJECTIVE_NAME_BYTES} bytes")
        priority = value
        mapping[text] = (<const char*>&priority)[:sizeof(priority)]
    return Names(mapping)


def check_objectives(objectives) -> None:
    """Raise what `Engine.set_objectives` would raise for these."""
    _priorities(dict(objectives))


cdef bytes _visible(object text, str what):
    """ASCII without blanks, as bytes: it becomes a header's value."""
    cdef bytes made = text.encode() if isinstance(text, str) else bytes(text)
    cdef uint8_t byte
    for byte in made:
        if not 0x21 <= byte <= 0x7E or (byte == c"," and what == "target"):
            raise ValueError(f"{what} {text!r} cannot stand in a header")
    return made


cdef dict _view(const candidate_t* candidate, int64_t now_ns):
    cdef endpoints_t one
    memset(&one, 0, sizeof(endpoints_t))
    one.slots = <endpoint_t*>&candidate.endpoint
    one.details = <details_t*>&candidate.details
    one.width = one.count = 1
    one.fleet_rate = candidate.fleet_rate
    return {**endpoint_view(&one, 0, now_ns), "slot": candidate.slot}


_ORDERS = {PK_ORDER_FCFS: "fcfs", PK_ORDER_EDF: "edf"}
_FAIRNESS = {PK_FAIR_STRICT: "strict", PK_FAIR_ROUND_ROBIN: "round-robin"}

cdef enum:
    SHOWN_BANDS = 64
    SHOWN_FLOWS = 64


cdef double _age_s(int64_t since_ns, int64_t now_ns) noexcept nogil:
    return <double>(now_ns - since_ns) * 1e-9 if 0 <= since_ns < now_ns else 0.0


cdef list _band_views(engine_t* engine, int64_t now_ns):
    cdef band_count_t rows[SHOWN_BANDS]
    cdef band_count_t* row
    cdef size_t i, count
    cdef list views = []
    pthread_mutex_lock(&engine.lock)
    count = queue_bands(&engine.flow.queue, rows, SHOWN_BANDS)
    pthread_mutex_unlock(&engine.lock)
    for i in range(min(count, <size_t>SHOWN_BANDS)):
        row = &rows[i]
        views.append({
            "priority": row.priority, "requests": row.requests, "bytes": row.bytes, "flows": row.flows,
            "max_requests": row.rules.max_requests, "max_bytes": row.rules.max_bytes,
            "ttl_s": <double>row.rules.ttl_ns * 1e-9, "oldest_wait_s": _age_s(row.oldest_ns, now_ns),
            "order": _ORDERS.get(row.rules.order, "slo-deadline"),
            "fairness": _FAIRNESS.get(row.rules.fairness, "tokens"),
        })
    return views


cdef list _flow_views(engine_t* engine, int64_t now_ns):
    cdef flow_count_t rows[SHOWN_FLOWS]
    cdef flow_count_t* row
    cdef size_t i, count
    cdef list views = []
    pthread_mutex_lock(&engine.lock)
    count = queue_flows(&engine.flow.queue, rows, SHOWN_FLOWS)
    pthread_mutex_unlock(&engine.lock)
    for i in range(min(count, <size_t>SHOWN_FLOWS)):
        row = &rows[i]
        views.append({
            "priority": row.priority, "fairness_id": row.name[:row.name_size].decode("latin-1"),
            "is_shared": bool(row.is_shared), "requests": row.requests, "bytes": row.bytes,
            "oldest_wait_s": _age_s(row.oldest_ns, now_ns),
        })
    return views


cdef list _credit_views(engine_t* engine, int64_t now_ns):
    """Taken without the lock: nobody else changes it while Python runs."""
    cdef uint32_t slot
    cdef list views = []
    cdef const details_t* details
    for slot in range(engine.endpoints.width):
        if engine.endpoints.slots[slot].used:
            details = &engine.endpoints.details[slot]
            views.append({
                "target": details.identity.target[:details.identity.target_size].decode(),
                **credits_view(&engine.flow.credits, &engine.endpoints, slot, now_ns),
            })
    return views


cdef object _check_flow(engine_t* engine):
    """Assert the invariants of flow control."""
    cdef const flow_t* flow = &engine.flow
    cdef const turn_t* turn = flow.woken.first
    cdef uint32_t woken = 0, evicted = 0
    schedule_check(&flow.queue.schedule)
    while turn != NULL:
        woken += 1
        evicted += turn.is_evicted
        assert turn.after == NULL or turn.after.before == turn
        assert turn.queued.lane == NULL
        turn = turn.after
    assert woken == flow.woken.count and evicted <= flow.evicted
    assert flow.evictable.count == 0 or flow.evictable.first.is_evictable
    assert flow.granted <= 1
    assert flow.queue.requests + flow.woken.count + flow.evictable.count <= engine.sessions
    assert flow.credits.capacity >= engine.endpoints.width


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # sessions that go with it still need its rate limits
cdef class Engine:
    """Owns endpoints, prefix index, policy and stats. Sessions (`picker._core.session`) work on it.

    `limits`: overrides of endpoints, sessions, surplus (further ones, which are answered 429), models, prompt_blocks,
    endpoint_blocks, index_blocks (index blocks of 64 tokens), headers and header_bytes (of a request), body_bytes,
    buffered_bytes, chunk_bytes, json_values, json_depth. `hash_seed` keeps clients from aiming at each other's
    prefixes; replicas that share an index share it. `prior_rate` in prefill tokens per second. Without `set_policy`
    every request goes to a random endpoint. ValueError or OverflowError for limits that cannot be.
    """

    def __cinit__(self, *, uint64_t hash_seed, uint64_t random_seed=0, double prior_rate=15000.0, limits=()):
        cdef limits_t made
        _limits_fill(&made, limits)
        memset(&self._engine, 0, sizeof(engine_t))
        memset(&self._scratch, 0, sizeof(scratch_t))
        self._engine.hash_seed = hash_seed
        self._engine.random = random_seed
        self._ready = True
        if engine_init(&self._engine, &made, prior_rate) != PK_OK or scratch_init(&self._scratch, &made) != PK_OK:
            raise MemoryError("no memory for the engine")
        self.set_policy([(PK_PICK_RANDOM, 1.0, (), 0)])

    def __dealloc__(self):
        if self._ready:
            engine_free(&self._engine)
            scratch_free(&self._scratch)

    def set_policy(self, steps, *, uint32_t wanted=1, plugins=None, bint ignore_subset=False,
                   str session_header not None="x-session-token", str response_tracking not None="full",
                   bint restores_models=True, apis=None, bint reads_test_header=False,
                   bint tells_served=False) -> None:
        """Replace the pipeline: see `score.pipeline_fill`. In force from the next pick on; past decisions are dropped.

        `plugins(step, request, endpoints)` runs Python steps: `request` and `endpoints` are dicts; it returns what
        `score.frame_answer` takes (filters: slots to keep, scorers: scores in order, pickers: slots in order of
        preference), or None to be skipped. What it raises comes out of `Session.feed`. `session_header` holds a
        session's token, and responses carry it when a session scorer runs. `response_tracking` is full, headers
        (bodies of responses pass, or are not asked for) or off (sessions end when the request is answered, so that
        responses cost nothing and teach nothing). Responses of rewritten requests name the model as the client did
        unless `restores_models` is false. `apis`: names of the API families (`apis.FAMILIES`) whose bodies are read,
        None for all; others are picked for without model and prompt. For conformance tests: `reads_test_header` lets
        the request header test-epp-endpoint-selection pin the subset, `tells_served` adds
        x-conformance-test-served-endpoint to responses. ValueError or OverflowError for what no policy can be; the old
        one then stays.
        """
        cdef pipeline_t pipeline
        cdef uint32_t i, size
        cdef int tracks
        cdef bint hands_out_tokens = False
        cdef uint64_t labels = 0
        cdef uint32_t families = PK_ALL_FAMILIES if apis is None else families_of(apis)
        cdef bytes header = _visible(session_header.lower(), "session_header")
        cdef const uint8_t* data = header
        if not 0 < len(header) <= PK_HEADER_BYTES:
            raise ValueError(f"a header name has 1 to {PK_HEADER_BYTES} bytes: {session_header!r}")
        size = <uint32_t>len(header)
        if response_tracking not in _TRACKING:
            raise ValueError(f"response_tracking is one of {', '.join(_TRACKING)}, not {response_tracking!r}")
        tracks = _TRACKING[response_tracking]
        pipeline_fill(&pipeline, steps, wanted)
        for i in range(pipeline.count):
            hands_out_tokens = hands_out_tokens or pipeline.steps[i].kind == PK_SCORE_SESSION
            if pipeline.steps[i].kind == PK_FILTER_LABELS:
                labels |= pipeline.steps[i].bits
        pthread_mutex_lock(&self._engine.lock)
        memcpy(self._engine.session_header, data, size)
        self._engine.session_header_size = size
        self._engine.pipeline = pipeline
        self._engine.labels = labels
        self._engine.families = families
        self._engine.ignores_subset = ignore_subset
        self._engine.reads_test_header = reads_test_header
        self._engine.tells_served = tells_served
        self._engine.keeps_headers = plugins is not None
        self._engine.hands_out_tokens = hands_out_tokens
        self._engine.tracks = tracks
        self._engine.restores_models = restores_models
        self._engine.frames += 1
        flow_stir(&self._engine.flow)
        decisions_clear(&self._engine.decisions)
        pthread_mutex_unlock(&self._engine.lock)
        self._plugins = plugins

    def set_rewrites(self, rules) -> None:
        """Replace the rewrite rules: (name of the object, model or None for any, ((target, weight or None), ...)) each.

        By precedence: the first for a model counts, and the first for any model where none is for the model itself. In
        force from the next request on, all at once. What was decided by what stays, stays counted. The models named
        have series of their own. Rules made before, a piece at a time, are taken out of a `Rewrites`. ValueError or
        OverflowError for what no rules can be, MemoryError; the old ones then stay.
        """
        cdef Rewrites made = rules if isinstance(rules, Rewrites) else Rewrites(rules)
        cdef rewrites_t old
        made._rewrites.seen.limit = self._engine.limits.models + 1
        pthread_mutex_lock(&self._engine.lock)
        old = self._engine.rewrites
        rewrites_carry(&made._rewrites, &old)
        self._engine.rewrites = made._rewrites
        pthread_mutex_unlock(&self._engine.lock)
        rewrites_init(&made._rewrites, made._limit)
        rewrites_free(&old)
        _keep_models(&self._engine)

    def set_objectives(self, objectives) -> None:
        """Replace the objectives there are: a mapping of names to priorities, at most 4096 of them.

        A request that names one (x-llm-d-inference-objective, x-gateway-inference-objective) has its priority, else 0.
        In force from the next request on, all at once. OverflowError for too many of them, for a name of more than 253
        bytes and for a priority of more than 32 bits; TypeError, MemoryError; the old ones then stay.
        """
        cdef Names made = _priorities(dict(objectives))
        cdef Names old = self._objectives
        pthread_mutex_lock(&self._engine.lock)
        self._engine.objectives = &made.names
        pthread_mutex_unlock(&self._engine.lock)
        self._objectives = made
        del old                              # nobody looks at it any more

    def set_flow(self, rules) -> None:
        """Flow control: who waits for whom, and how long. None: nobody does, and nobody is turned away.

        In force from the next turn on, also for those who wait; what was learned of endpoints stays. `rules` may hold:
        `detector`: ("adaptive",), ("utilization", queue, kv, headroom, staleness_s) or ("concurrency", mode, requests,
        tokens, headroom): when an endpoint has room; `queues` (true): false is to turn away what has a priority below 0
        where nobody has room, and to let all else through; `bands`: (priority, order, fairness, max_requests,
        max_bytes, ttl_s) each, `default_band`, `default_negative_band`: the same of other priorities, without the
        priority. `order`: fcfs, edf, slo-deadline. `fairness`: strict, round-robin, tokens. `max_requests`,
        `max_bytes`: of all who wait; caps of 0: none; a time of 0: no limit. `no_endpoint_ttl_s`: how long a request
        may wait for an endpoint to exist; 0: not at all. `ceiling`: None (a reserve for higher priorities),
        ("static", share), ("holdback", shape, domain, min, max) or ("reflective",). `fairness_headers`: names, the
        first that a request has says whose it is. `admitters`: ("probabilistic", queue, kv, power, k) and
        ("latency-slo",). `evicts`: running requests with a priority below 0 make room. ValueError, OverflowError or
        TypeError for what cannot be, MemoryError; the old rules then stay.
        """
        cdef flow_rules_t made
        cdef flow_bands_t bands
        cdef credit_rules_t credits
        cdef int code
        flow_fill(&made, &bands, &credits, rules)
        pthread_mutex_lock(&self._engine.lock)
        code = flow_rule(&self._engine.flow, &made, &bands, &credits)
        pthread_mutex_unlock(&self._engine.lock)
        if code == PK_E_NOMEM:
            raise MemoryError("no memory for the rules of flow control")
        if code != PK_OK:
            raise ValueError("a priority has rules twice")

    def dispatch(self, int64_t now_ns, uint32_t most=PK_WOKEN_AT_ONCE) -> list:
        """Give turns to those who wait and can have them; the sessions to `resume`, also those that lost theirs.

        At most `most` at once: while `is_due` call again, behind them. Of the sessions that Python serves.
        """
        cdef turn_t* turn
        cdef list called = []
        engine_dispatch(&self._engine, now_ns, most)
        turn = engine_call(&self._engine, True)
        while turn != NULL:
            called.append(<object>turn.python)
            turn = engine_call(&self._engine, True)
        return called

    def turn_out(self, int failure, int64_t now_ns) -> None:
        """Refuse all who wait, with one of `session`'s FAIL_*; the next `dispatch` has them."""
        engine_turn_out(&self._engine, failure, now_ns)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._engine.flow.queue.requests

    @property
    def is_due(self) -> bool:
        """Is there somebody whose turn may have come? Time alone may also bring it: look every 10 ms while any wait."""
        return bool(self._engine.flow.queue.requests and self._engine.flow.is_due) or self._engine.flow.woken.count > 0

    def flow(self, int64_t now_ns) -> dict:
        """What is known of flow control: rules in force, who waits, what endpoints have room for."""
        cdef dict view
        pthread_mutex_lock(&self._engine.lock)
        cdef double saturation = credits_saturation(&self._engine.flow.credits, &self._engine.endpoints, now_ns)
        pthread_mutex_unlock(&self._engine.lock)
        view = flow_view(&self._engine.flow)
        view["saturation"] = saturation
        view["bands"] = _band_views(&self._engine, now_ns)
        view["flows"] = _flow_views(&self._engine, now_ns)
        view["credits"] = _credit_views(&self._engine, now_ns)
        return view

    def set_quota(self, Quota quota not None) -> None:
        """Hold requests to these rate limits, for as long as the engine lives; engines may share them.

        ValueError if there are others: requests under way hold something of theirs.
        """
        if self._quota is not None and self._quota is not quota:
            raise ValueError("an engine has its rate limits for good; replace their rules")
        self._quota = quota
        self._engine.quota = &quota._quota

    def rewrite_counts(self, uint32_t first, uint32_t most):
        """Decisions among the counters `first` to `first + most - 1`; None behind the last.

        Each as (name of the object, model asked for, target, decisions); what never happened is left out.
        """
        cdef tally_t tally
        cdef uint32_t i = 0
        cdef int found = -1
        cdef list rows = []
        for i in range(most):
            found = _tally(&self._engine, first + i, &tally)
            if found < 0:
                break
            if found:
                rows.append(tally_view(&tally))
        return None if found < 0 and i == 0 else rows

    cdef int run_plugin(self, const pick_t* pick, const request_t* request, bytes headers, bytes model) except -1:
        """Ask the plugin the pick waits for, and take its answer into the frame; without one it is skipped later."""
        cdef candidate_t candidate
        cdef list endpoints = []
        while _candidate(&self._engine, pick, <uint32_t>len(endpoints), &candidate):
            view = _view(&candidate, request.now_ns)
            view["cached_tokens"] = candidate.cached_tokens
            view["total"] = candidate.total
            endpoints.append(view)
        if self._plugins is None or not endpoints:
            return 0
        asked = {
            "pick": pick.number, "model": model, "prompt_tokens": request.prompt_tokens, "headers": headers
        }
        answer = self._plugins(pick.step, asked, endpoints)
        if answer is None or not _is_current(&self._engine, pick):
            return 0
        try:
            frame_answer(&self._engine.frame, &self._engine.pipeline, answer)
        except (TypeError, ValueError):
            pass
        return 0

    def add_endpoint(self, target, address, *, token=b"", uint64_t labels=0) -> tuple:
        """(slot, generation) of a new endpoint at `target` ("ip:port") of `address` ("ip"), empty and idle.

        OverflowError at the limit, ValueError for texts that are too long or no header value, MemoryError.
        """
        cdef identity_t identity
        cdef int64_t slot
        cdef uint32_t generation = 0
        identity_fill(
            &identity, _visible(target, "target"), _visible(address, "address"), _visible(token, "token"), labels
        )
        slot = _add(&self._engine, &identity, &generation)
        if slot == PK_E_LIMIT:
            raise OverflowError(f"at most {self._engine.limits.endpoints} endpoints")
        if slot < 0:
            raise MemoryError("no memory for a further endpoint")
        return slot, generation

    def remove_endpoint(self, uint32_t slot, uint32_t generation) -> None:
        """Forget an endpoint and what it was thought to cache. KeyError if it has gone already."""
        if _remove(&self._engine, slot, generation) != PK_OK:
            raise KeyError((slot, generation))

    def set_labels(self, uint32_t slot, uint32_t generation, uint64_t labels) -> None:
        """Which label selectors of the policy the endpoint matches, by bit. KeyError if it has gone."""
        cdef endpoint_t* endpoint
        pthread_mutex_lock(&self._engine.lock)
        endpoint = endpoints_get(&self._engine.endpoints, slot, generation)
        if endpoint != NULL:
            endpoint.labels = labels
            flow_stir(&self._engine.flow)
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
        cdef int64_t blocks = cache_tokens // PK_BLOCK_TOKENS + 1
        load.waiting, load.running, load.kv_usage, load.max_lora = waiting, running, kv_usage, max_lora
        adapters_fill(&active, running_adapters)
        adapters_fill(&queued, waiting_adapters)
        blocks = blocks if blocks < 1 << 30 else 1 << 30
        pthread_mutex_lock(&self._engine.lock)
        code = endpoints_scraped(&self._engine.endpoints, slot, generation, &load, &active, &queued, now_ns)
        if code == PK_OK:
            credits_scraped(&self._engine.flow.credits, &self._engine.endpoints, slot, now_ns)
            flow_stir(&self._engine.flow)
        if code == PK_OK and cache_tokens > 0:
            radix_set_capacity(&self._engine.radix, slot, <uint32_t>blocks)
            credits_cache(&self._engine.flow.credits, &self._engine.endpoints, slot, cache_tokens)
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
        return bool(busy)

    def count_scheduling(self, double took_s) -> None:
        """How long a pick took, from the end of the body to the reply, in seconds."""
        pthread_mutex_lock(&self._engine.lock)
        hist_add(&self._engine.stats.scheduling_s, took_s)
        pthread_mutex_unlock(&self._engine.lock)

    def count_dispatch(self, double took_s) -> None:
        """How long one round of dispatching what waits took, in seconds."""
        pthread_mutex_lock(&self._engine.lock)
        hist_add(&self._engine.flowstats.dispatch_s, took_s)
        pthread_mutex_unlock(&self._engine.lock)

    def endpoints(self, int64_t now_ns) -> list:
        """What is known of each endpoint, as dicts in slot order."""
        cdef candidate_t candidate
        cdef uint32_t slot = 0
        cdef int found = _look(&self._engine, 0, &candidate)
        cdef list views = []
        while found >= 0:
            if found:
                views.append(_view(&candidate, now_ns))
            slot += 1
            found = _look(&self._engine, slot, &candidate)
        return views

    def stats(self) -> dict:
        """Counters and histograms as plain Python objects.

        A histogram is (((bound, observations not above it), ...), sum of observations); the last bound is infinity.
        """
        cdef stats_t totals
        cdef series_t series
        cdef uint32_t i
        cdef list rows = []
        pthread_mutex_lock(&self._engine.lock)
        totals = self._engine.stats
        pthread_mutex_unlock(&self._engine.lock)
        for i in range(totals.count):
            pthread_mutex_lock(&self._engine.lock)
            series = self._engine.stats.series[i][0]
            pthread_mutex_unlock(&self._engine.lock)
            if series_counted(&series):
                rows.append(series_view(&series))
        return {"series": rows, **stats_totals(&totals)}

    def decisions(self, uint32_t limit=100, *, uint64_t before=0) -> list:
        """The latest decisions, newest first: what was chosen, among how many, with which scores by step.

        `before`: none of this number or a later one; 0 for all.
        """
        cdef decision_t decision
        cdef const decision_t* kept
        cdef const series_t* series
        cdef uint64_t number = self._engine.decisions.count
        cdef list found = []
        limit = min(limit, <uint32_t>PK_DECISIONS)
        if before:
            number = min(number, before - 1)
        while number and len(found) < limit:
            pthread_mutex_lock(&self._engine.lock)
            kept = decisions_get(&self._engine.decisions, number)
            if kept != NULL:
                decision = kept[0]
                series = self._engine.stats.series[decision.series]     # lives as long as the engine, its name too
            pthread_mutex_unlock(&self._engine.lock)
            if kept == NULL:
                break
            model, target = series_names(series)
            found.append({**decision_view(&decision), "model": model, "target_model": target})
            number -= 1
        return found

    @property
    def sessions(self) -> int:
        """Open ext_proc streams."""
        return self._engine.sessions

    @property
    def buffered_bytes(self) -> int:
        """Of request bodies that wait to be complete."""
        return self._engine.buffered

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
        return _in_flight(&self._engine)

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const endpoint_t* endpoint
        cdef uint32_t slot
        cdef int64_t running = 0
        for slot in range(self._engine.endpoints.width):
            endpoint = &self._engine.endpoints.slots[slot]
            if endpoint.used:
                assert min(endpoint.requests, endpoint.prefill_tokens, endpoint.resident_tokens) >= 0
                assert endpoint.requests > 0 or endpoint.prefill_tokens == endpoint.resident_tokens == 0
        for slot in range(self._engine.stats.count):
            assert self._engine.stats.series[slot].running >= 0
            running += self._engine.stats.series[slot].running
        assert _in_flight(&self._engine) <= running <= self._engine.sessions
        assert self._engine.sessions - self._engine.surplus <= self._engine.limits.sessions
        assert self._engine.surplus <= self._engine.limits.surplus
        assert self._engine.buffered <= self._engine.limits.buffered_bytes
        assert self._engine.buffered == 0 or self._engine.sessions > 0
        assert self._engine.match_room >= self._engine.endpoints.width
        assert isfinite(self._engine.output_tokens) and self._engine.output_tokens >= 0
        _check_flow(&self._engine)
