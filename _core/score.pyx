"""Compiled scheduling pipeline: filters narrow the candidates, scorers add weighted scores in [0, 1], a picker chooses.

Invariants: candidates stay in slot order; every score is clamped to [0, 1]; equal totals are broken by a seeded RNG.
Cost: O(steps x candidates), two passes for scorers that normalise; nothing is allocated in a run.
Memory: a frame owns its rows, borrows the match array.   Threads: a frame belongs to one run at a time.
Formulas of the scorers named as the reference picker's are the reference picker's; `PK_SCORE_TTFT` is picker's own.
"""
cimport cython
from libc.math cimport INFINITY, log
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_resize
from picker._core.endpoints cimport (
    adapters_fill,
    adapters_hold,
    adapters_t,
    endpoint_t,
    endpoints_add,
    endpoints_ahead,
    endpoints_free,
    endpoints_freshness,
    endpoints_init,
    endpoints_rate,
    endpoints_scraped,
    endpoints_t,
    identity_fill,
    identity_t,
    load_t,
)
from picker._core.hashing cimport hash_xxh64

# --- C kernel: frames and random numbers ---


cdef int frame_reserve(frame_t* frame, uint32_t candidates) noexcept nogil:
    """Room for `candidates`; the frame's contents are not kept."""
    cdef void* slots
    cdef void* totals
    cdef void* scores
    if candidates <= frame.capacity:
        return PK_OK
    slots = pk_resize(NULL, candidates, sizeof(uint32_t))
    totals = pk_resize(NULL, candidates, sizeof(double))
    scores = pk_alloc(<size_t>candidates * PK_MAX_STEPS, sizeof(double))
    if slots == NULL or totals == NULL or scores == NULL:
        pk_free(slots)
        pk_free(totals)
        pk_free(scores)
        return PK_E_NOMEM
    frame_free(frame)
    frame.slots, frame.totals, frame.scores = <uint32_t*>slots, <double*>totals, <double*>scores
    frame.capacity = candidates
    return PK_OK


cdef void frame_free(frame_t* frame) noexcept nogil:
    pk_free(frame.slots)
    pk_free(frame.totals)
    pk_free(frame.scores)
    frame.slots = NULL
    frame.totals = frame.scores = NULL
    frame.capacity = 0


cdef uint64_t random_next(uint64_t* state) noexcept nogil:
    """splitmix64."""
    cdef uint64_t z
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    z = state[0]
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef double random_unit(uint64_t* state) noexcept nogil:
    """Uniform in [0, 1)."""
    return (random_next(state) >> 11) * (1.0 / 9007199254740992.0)


cdef inline int64_t _cached(const frame_t* frame, uint32_t slot) noexcept nogil:
    """Prompt tokens the endpoint holds; unsigned, the product cannot overflow."""
    cdef uint64_t cached
    if frame.match == NULL:
        return 0
    cached = <uint64_t>frame.match[slot] * frame.block_tokens
    return <int64_t>cached if cached < <uint64_t>frame.prompt_tokens else frame.prompt_tokens


cdef int64_t frame_uncached(const frame_t* frame, uint32_t slot) noexcept nogil:
    """Prompt tokens the endpoint would have to compute."""
    return frame.prompt_tokens - _cached(frame, slot)


cdef inline double _match_ratio(const frame_t* frame, uint32_t slot) noexcept nogil:
    """Share of the prompt that the endpoint holds."""
    return <double>_cached(frame, slot) / frame.prompt_tokens if frame.prompt_tokens > 0 else 0.0


# --- C kernel: filters ---


cdef void frame_keep(frame_t* frame, uint32_t index, uint32_t place) noexcept nogil:
    """Move candidate `index` down to `place`; scores of earlier steps are not moved: filters run before scorers."""
    frame.slots[place] = frame.slots[index]


cdef void _filter_labels(const step_t* step, const endpoints_t* table, frame_t* frame) noexcept nogil:
    cdef uint32_t i, kept = 0
    for i in range(frame.count):
        if table.slots[frame.slots[i]].labels & step.bits == step.bits:
            frame_keep(frame, i, kept)
            kept += 1
    frame.count = kept


cdef void _filter_prefix(
    const step_t* step, const endpoints_t* table, frame_t* frame, double* ratios, uint64_t* random
) noexcept nogil:
    """Keep the endpoints that hold most of the prompt, unless the best of them is too far behind the best other."""
    cdef double warm = -1.0, cold = -1.0, wait
    cdef uint32_t i, kept = 0
    if step.params[1] > 0 and random_unit(random) < step.params[1]:
        return
    for i in range(frame.count):
        ratios[i] = _match_ratio(frame, frame.slots[i])
        wait = table.slots[frame.slots[i]].prefill_tokens / step.params[3]
        if ratios[i] >= step.params[0]:
            warm = wait if warm < 0 or wait < warm else warm
        else:
            cold = wait if cold < 0 or wait < cold else cold
    if warm < 0 or (cold >= 0 and warm - cold > step.params[2]):
        return
    for i in range(frame.count):
        if ratios[i] >= step.params[0]:
            frame_keep(frame, i, kept)
            kept += 1
    frame.count = kept


cdef inline bint _is_over(double value, double most) noexcept nogil:
    # Written so that NaN is not over anything.
    return most > 0 and value > most


cdef inline bint _is_loaded(const step_t* step, const endpoint_t* endpoint) noexcept nogil:
    return (
        _is_over(endpoint.load.waiting, step.params[0])
        or _is_over(endpoint.load.kv_usage, step.params[1])
        or _is_over(<double>endpoint.requests, step.params[2])
        or _is_over(<double>endpoint.prefill_tokens, step.params[3])
    )


cdef void _filter_load(const step_t* step, const endpoints_t* table, frame_t* frame) noexcept nogil:
    """Keep the endpoints with room; where none has any, load tells nothing and all stay."""
    cdef uint32_t i, loaded = 0, kept = 0
    for i in range(frame.count):
        loaded += _is_loaded(step, &table.slots[frame.slots[i]])
    if loaded == frame.count:
        return
    for i in range(frame.count):
        if not _is_loaded(step, &table.slots[frame.slots[i]]):
            frame_keep(frame, i, kept)
            kept += 1
    frame.count = kept


# --- C kernel: scorers; each fills one row ---
# They loop over a copy of the frame: the compiler then knows that storing into the row leaves it alone.


cdef inline double _unit(double score) noexcept nogil:
    # Written so that NaN becomes 0.
    score = score if score > 0.0 else 0.0
    return score if score < 1.0 else 1.0


cdef inline double _known(double value) noexcept nogil:
    """What was never scraped counts as none."""
    return value if value > 0 else 0.0


cdef void _extent(const double* row, uint32_t count, double* least, double* most) noexcept nogil:
    """Lower `least` and raise `most` to the row's. In two lanes: each comparison waits for the one before it."""
    cdef double low0 = least[0], low1 = least[0], most0 = most[0], most1 = most[0]
    cdef uint32_t i
    for i in range(0, count - count % 2, 2):
        low0 = row[i] if row[i] < low0 else low0
        most0 = row[i] if row[i] > most0 else most0
        low1 = row[i + 1] if row[i + 1] < low1 else low1
        most1 = row[i + 1] if row[i + 1] > most1 else most1
    if count % 2:
        low0 = row[count - 1] if row[count - 1] < low0 else low0
        most0 = row[count - 1] if row[count - 1] > most0 else most0
    least[0] = low0 if low0 < low1 else low1
    most[0] = most0 if most0 > most1 else most1


cdef void _low(double* row, uint32_t count) noexcept nogil:
    """Min-max normalise so that the least is 1 and the greatest 0; all equal are 1."""
    cdef double least = INFINITY, most = 0.0
    cdef uint32_t i
    _extent(row, count, &least, &most)
    if least < most:
        for i in range(count):
            row[i] = (most - row[i]) / (most - least)
    else:
        for i in range(count):
            row[i] = 1.0


cdef void _score_queue(const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    cdef const endpoint_t* all = table.slots
    cdef frame_t f = frame[0]
    cdef uint32_t i
    for i in range(f.count):
        row[i] = _known(all[f.slots[i]].load.waiting)
    _low(row, f.count)


cdef void _score_running(const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    cdef const endpoint_t* all = table.slots
    cdef frame_t f = frame[0]
    cdef uint32_t i
    for i in range(f.count):
        row[i] = _known(all[f.slots[i]].load.running)
    _low(row, f.count)


cdef void _score_kv(const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    cdef const endpoint_t* all = table.slots
    cdef frame_t f = frame[0]
    cdef uint32_t i
    for i in range(f.count):
        row[i] = 1.0 - _unit(all[f.slots[i]].load.kv_usage)


cdef void _score_prefix(const step_t* step, const frame_t* frame, double* row) noexcept nogil:
    """Share of the prompt that is held, and with params[0] its square on the scale of params[1] tokens."""
    cdef frame_t f = frame[0]
    cdef double by_length = step.params[0], whole = f.prompt_tokens / step.params[1], ratio, length
    cdef uint32_t i
    for i in range(f.count):
        ratio = _match_ratio(&f, f.slots[i])
        length = _unit(ratio * whole)
        row[i] = _unit((1.0 - by_length) * ratio + by_length * length * length)


cdef double _lora(const endpoints_t* table, uint32_t slot, uint64_t adapter) noexcept nogil:
    cdef const endpoint_t* endpoint = &table.slots[slot]
    cdef bint listed = (endpoint.adapter_bits >> (adapter & 63)) & 1
    if listed and adapters_hold(&table.details[slot].running_adapters, adapter):
        return 1.0
    if endpoint.adapter_count < endpoint.load.max_lora:
        return 0.8
    return 0.6 if listed and adapters_hold(&table.details[slot].waiting_adapters, adapter) else 0.0


cdef void _score_lora(const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    cdef frame_t f = frame[0]
    cdef uint32_t i
    for i in range(f.count):
        row[i] = _lora(table, f.slots[i], f.adapter)


cdef void _score_load_aware(
    const step_t* step, const endpoints_t* table, const frame_t* frame, double* row
) noexcept nogil:
    cdef const endpoint_t* all = table.slots
    cdef frame_t f = frame[0]
    cdef double threshold = step.params[0]
    cdef uint32_t i
    for i in range(f.count):
        row[i] = 0.5 * (1.0 - _unit(all[f.slots[i]].load.waiting / threshold))


cdef void _score_token_load(
    const step_t* step, const endpoints_t* table, const frame_t* frame, double* row
) noexcept nogil:
    cdef const endpoint_t* all = table.slots
    cdef frame_t f = frame[0]
    cdef double threshold = step.params[0]
    cdef uint32_t i
    for i in range(f.count):
        row[i] = 1.0 - _unit(<double>(all[f.slots[i]].prefill_tokens + frame_uncached(&f, f.slots[i])) / threshold)


cdef void _score_active(const step_t* step, const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    cdef const endpoint_t* all = table.slots
    cdef frame_t f = frame[0]
    cdef double idle = step.params[0], greatest = step.params[1], least = INFINITY, most = 1.0
    cdef uint32_t i
    for i in range(f.count):
        row[i] = <double>all[f.slots[i]].requests
    _extent(row, f.count, &least, &most)
    for i in range(f.count):
        row[i] = 1.0 if row[i] <= idle else _unit((most - row[i]) / most * greatest)


cdef void _score_session(const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    cdef const endpoint_t* all = table.slots
    cdef frame_t f = frame[0]
    cdef uint32_t i
    for i in range(f.count):
        row[i] = 1.0 if f.session != 0 and all[f.slots[i]].token_hash == f.session else 0.0


cdef inline double _ttft(
    const step_t* step, const endpoints_t* table, const frame_t* frame, uint32_t slot
) noexcept nogil:
    """Estimated seconds to first token: work ahead, own uncached tokens, pressure of running and unknown requests."""
    cdef const endpoint_t* endpoint = &table.slots[slot]
    cdef double fresh = endpoints_freshness(endpoint, frame.now_ns)
    cdef double rate = endpoints_rate(table, endpoint, frame.now_ns)
    cdef double work = endpoints_ahead(endpoint, rate, frame.now_ns)
    cdef double unknown = _known(endpoint.load.waiting) + _known(endpoint.load.running) - <double>endpoint.requests
    cdef double pressure = (_known(endpoint.load.kv_usage) - 0.9) * 10.0
    work += step.params[2] * <double>frame_uncached(frame, slot)
    work += step.params[0] * <double>endpoint.resident_tokens + fresh * _known(unknown) * step.params[1]
    work *= 1.0 + fresh * _known(pressure)
    return (work + 1.0) / rate


cdef void _score_ttft(const step_t* step, const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    """least estimate / estimate: 1 for the fastest, 1/2 for one that takes twice as long."""
    cdef step_t own = step[0]
    cdef endpoints_t all = table[0]
    cdef frame_t f = frame[0]
    cdef double least = INFINITY, most = 0.0
    cdef uint32_t i
    for i in range(f.count):
        row[i] = _ttft(&own, &all, &f, f.slots[i])
    _extent(row, f.count, &least, &most)
    for i in range(f.count):
        row[i] = least / row[i]


cdef void _score(const step_t* step, const endpoints_t* table, const frame_t* frame, double* row) noexcept nogil:
    if step.kind == PK_SCORE_QUEUE:
        _score_queue(table, frame, row)
    elif step.kind == PK_SCORE_RUNNING:
        _score_running(table, frame, row)
    elif step.kind == PK_SCORE_KV:
        _score_kv(table, frame, row)
    elif step.kind == PK_SCORE_PREFIX:
        _score_prefix(step, frame, row)
    elif step.kind == PK_SCORE_LORA:
        _score_lora(table, frame, row)
    elif step.kind == PK_SCORE_LOAD_AWARE:
        _score_load_aware(step, table, frame, row)
    elif step.kind == PK_SCORE_TOKEN_LOAD:
        _score_token_load(step, table, frame, row)
    elif step.kind == PK_SCORE_ACTIVE:
        _score_active(step, table, frame, row)
    elif step.kind == PK_SCORE_SESSION:
        _score_session(table, frame, row)
    else:
        _score_ttft(step, table, frame, row)


cdef void _add(const step_t* step, frame_t* frame, const double* row) noexcept nogil:
    cdef double* totals = frame.totals
    cdef double weight = step.weight
    cdef uint32_t i, count = frame.count
    for i in range(count):
        totals[i] += weight * row[i]


# --- C kernel: pickers ---


cdef void _keys(int kind, const frame_t* frame, double* keys, uint64_t* random) noexcept nogil:
    """What the picker maximises, never below 0. Weighted random is the exponential race: the same draw as A-Res."""
    cdef uint32_t i
    if kind == PK_PICK_MAX:
        memcpy(keys, frame.totals, frame.count * sizeof(double))
        return
    for i in range(frame.count):
        keys[i] = random_unit(random)
        if kind == PK_PICK_WEIGHTED:
            keys[i] = frame.totals[i] / -log(keys[i])


cdef uint32_t _greatest(const double* keys, uint32_t count, uint64_t* random) noexcept nogil:
    """Index of the greatest key; ties are drawn with equal chance."""
    cdef double best = keys[0]
    cdef uint32_t i, first = 0, ties = 1
    cdef uint64_t skip
    for i in range(1, count):
        if keys[i] >= best:
            if keys[i] > best:
                best, first, ties = keys[i], i, 1
            else:
                ties += 1
    skip = random_next(random) % ties if ties > 1 else 0
    while skip > 0:
        first += 1
        if keys[first] == best:
            skip -= 1
    return first


cdef void _margin(frame_t* frame, uint32_t first) noexcept nogil:
    """Note by how much the first choice was better than the best other one."""
    cdef double least = 0.0
    frame.best = frame.totals[first]
    frame.runner_up = -1.0
    _extent(frame.totals, first, &least, &frame.runner_up)
    _extent(frame.totals + first + 1, frame.count - first - 1, &least, &frame.runner_up)


cdef void _choose(frame_t* frame, uint32_t index) noexcept nogil:
    if frame.chosen_count == 0:
        _margin(frame, index)
    frame.chosen[frame.chosen_count] = frame.slots[index]
    frame.chosen_count += 1


cdef void _pick(int kind, uint32_t wanted, frame_t* frame, double* keys, uint64_t* random) noexcept nogil:
    cdef uint32_t best
    _keys(kind, frame, keys, random)
    while frame.chosen_count < wanted and frame.chosen_count < frame.count:
        best = _greatest(keys, frame.count, random)
        _choose(frame, best)
        keys[best] = -1.0


# --- C kernel: the run ---


cdef int _step(
    const pipeline_t* pipeline, const endpoints_t* table, frame_t* frame, uint64_t* random
) noexcept nogil:
    cdef const step_t* step = &pipeline.steps[frame.step]
    cdef double* row = frame.scores + <size_t>frame.step * frame.capacity
    if step.kind == PK_FILTER_PLUGIN or step.kind == PK_SCORE_PLUGIN or step.kind == PK_PICK_PLUGIN:
        return PK_NEED_PLUGIN
    if step.kind == PK_FILTER_LABELS:
        _filter_labels(step, table, frame)
    elif step.kind == PK_FILTER_PREFIX:
        _filter_prefix(step, table, frame, row, random)
    elif step.kind == PK_FILTER_LOAD:
        _filter_load(step, table, frame)
    elif step.kind < PK_PICK_MAX:
        _score(step, table, frame, row)
        _add(step, frame, row)
    else:
        _pick(step.kind, pipeline.wanted, frame, row, random)
    return PK_OK


cdef int pipeline_run(
    const pipeline_t* pipeline, const endpoints_t* table, frame_t* frame, uint64_t* random
) noexcept nogil:
    """Run from `frame.step` on. PK_OK with `chosen`, PK_E_MISSING when no candidate is left, or PK_NEED_PLUGIN.

    Start with step 0, chosen_count 0. On PK_NEED_PLUGIN run the plugin of step `frame.step` outside the lock, then
    `frame_answer` or `frame_skip`, and call again. What was chosen may have gone meanwhile: its slot is free, or its
    generation is above the table's at the start.
    """
    cdef uint32_t i
    cdef int code
    if frame.step == 0:
        frame.best, frame.runner_up = 0.0, -1.0
        for i in range(frame.count):
            frame.totals[i] = 0.0
    while frame.step < pipeline.count:
        if frame.count == 0:
            return PK_E_MISSING
        code = _step(pipeline, table, frame, random)
        if code != PK_OK:
            return code
        frame.step += 1
    return PK_OK if frame.chosen_count else PK_E_MISSING


cdef void frame_skip(frame_t* frame, const pipeline_t* pipeline, uint64_t* random) noexcept nogil:
    """Go on without the plugin of the current step: a filter keeps all, a scorer adds nothing, a picker takes the best.
    """
    cdef const step_t* step = &pipeline.steps[frame.step]
    cdef double* row = frame.scores + <size_t>frame.step * frame.capacity
    if step.kind == PK_SCORE_PLUGIN:
        memset(row, 0, frame.count * sizeof(double))
    elif step.kind == PK_PICK_PLUGIN:
        _pick(PK_PICK_MAX, pipeline.wanted, frame, row, random)
    frame.step += 1


# --- Python face ---

MAX_STEPS = PK_MAX_STEPS
MAX_CHOSEN = PK_MAX_CHOSEN
FILTER_LABELS = PK_FILTER_LABELS
FILTER_PREFIX = PK_FILTER_PREFIX
FILTER_PLUGIN = PK_FILTER_PLUGIN
FILTER_LOAD = PK_FILTER_LOAD
SCORE_QUEUE = PK_SCORE_QUEUE
SCORE_RUNNING = PK_SCORE_RUNNING
SCORE_KV = PK_SCORE_KV
SCORE_PREFIX = PK_SCORE_PREFIX
SCORE_LORA = PK_SCORE_LORA
SCORE_LOAD_AWARE = PK_SCORE_LOAD_AWARE
SCORE_TOKEN_LOAD = PK_SCORE_TOKEN_LOAD
SCORE_ACTIVE = PK_SCORE_ACTIVE
SCORE_SESSION = PK_SCORE_SESSION
SCORE_TTFT = PK_SCORE_TTFT
SCORE_PLUGIN = PK_SCORE_PLUGIN
PICK_MAX = PK_PICK_MAX
PICK_WEIGHTED = PK_PICK_WEIGHTED
PICK_RANDOM = PK_PICK_RANDOM
PICK_PLUGIN = PK_PICK_PLUGIN

cdef double GREATEST_WEIGHT = 1e9          # of totals and estimates that stay finite
cdef double GREATEST_PARAM = 1e12
MAX_PARAM = GREATEST_PARAM

cdef dict _KINDS = {
    # kind: number of parameters, which of them must be above zero
    PK_FILTER_LABELS: (0, ()), PK_FILTER_PREFIX: (4, (3,)), PK_FILTER_PLUGIN: (0, ()),
    PK_FILTER_LOAD: (4, ()),
    PK_SCORE_QUEUE: (0, ()), PK_SCORE_RUNNING: (0, ()), PK_SCORE_KV: (0, ()), PK_SCORE_PREFIX: (2, (1,)),
    PK_SCORE_LORA: (0, ()), PK_SCORE_LOAD_AWARE: (1, (0,)), PK_SCORE_TOKEN_LOAD: (1, (0,)),
    PK_SCORE_ACTIVE: (2, ()), PK_SCORE_SESSION: (0, ()), PK_SCORE_TTFT: (3, ()), PK_SCORE_PLUGIN: (0, ()),
    PK_PICK_MAX: (0, ()), PK_PICK_WEIGHTED: (0, ()), PK_PICK_RANDOM: (0, ()), PK_PICK_PLUGIN: (0, ()),
}


cdef int _stage(int kind) noexcept:
    """0 filters, 1 scorers, 2 pickers."""
    return 0 if kind < PK_SCORE_QUEUE else (1 if kind < PK_PICK_MAX else 2)


cdef int _step_fill(step_t* step, object kind, double weight, object params, uint64_t bits) except -1:
    cdef uint32_t k
    if kind not in _KINDS or len(params) != _KINDS[kind][0]:
        raise ValueError(f"no kind {kind} with {len(params)} parameters")
    if not 0 <= weight <= GREATEST_WEIGHT:
        raise ValueError(f"a weight is 0 to {GREATEST_WEIGHT:g}, not {weight:g}")
    step.kind = kind
    step.weight = weight
    step.bits = bits
    for k in range(len(params)):
        step.params[k] = params[k]
        if not 0 <= step.params[k] <= GREATEST_PARAM:
            raise ValueError(f"a parameter is 0 to {GREATEST_PARAM:g}, not {step.params[k]:g}")
        if step.params[k] == 0 and k in _KINDS[kind][1]:
            raise ValueError(f"parameter {k} must be above zero")
    return 0


cdef int pipeline_fill(pipeline_t* pipeline, object steps, uint32_t wanted) except -1:
    """Compile `steps`, a sequence of (kind, weight, parameters, bits): filters, then scorers, then one picker.

    Raises OverflowError for too many steps, ValueError for what no pipeline can be; then `pipeline` is as it was.
    """
    cdef pipeline_t fresh
    cdef uint32_t i
    cdef int stage = 0
    memset(&fresh, 0, sizeof(pipeline_t))
    if len(steps) > PK_MAX_STEPS:
        raise OverflowError(f"a pipeline has at most {PK_MAX_STEPS} steps, not {len(steps)}")
    if not 1 <= wanted <= PK_MAX_CHOSEN:
        raise ValueError(f"1 to {PK_MAX_CHOSEN} endpoints can be chosen, not {wanted}")
    for i in range(len(steps)):
        kind, weight, params, bits = steps[i]
        try:
            _step_fill(&fresh.steps[i], kind, weight, params, bits)
        except ValueError as error:
            raise ValueError(f"step {i}: {error}") from None
        if _stage(kind) < stage or stage == 2:
            raise ValueError(f"step {i}: filters come first, then scorers, then one picker")
        stage = _stage(kind)
    if stage < 2:
        raise ValueError("the last step must be a picker")
    fresh.count = <uint32_t>len(steps)
    fresh.wanted = wanted
    pipeline[0] = fresh
    return 0


cdef list _places(const frame_t* frame, object slots):
    """Indexes of candidates by their slots, each named once at most."""
    cdef uint32_t i
    cdef dict known = {frame.slots[i]: i for i in range(frame.count)}
    cdef list places = [known.get(slot, -1) for slot in slots]
    if -1 in places or len(set(places)) != len(places):
        raise ValueError(f"not all of {slots} are candidates, or not only once: {list(known)}")
    return places


cdef int frame_answer(frame_t* frame, const pipeline_t* pipeline, object answer) except -1:
    """Take a plugin's answer to the current step and move on to the next.

    A filter answers with the slots to keep, a scorer with one score per candidate in their order, a picker with the
    slots chosen, best first. Raises ValueError or TypeError for anything else; the frame then stands where it stood.
    """
    cdef const step_t* step = &pipeline.steps[frame.step]
    cdef double* row = frame.scores + <size_t>frame.step * frame.capacity
    cdef uint32_t i, kept = 0
    cdef list places
    if step.kind == PK_SCORE_PLUGIN:
        if len(answer) != frame.count:
            raise ValueError(f"{len(answer)} scores for {frame.count} candidates")
        for i in range(frame.count):
            row[i] = _unit(answer[i])
        _add(step, frame, row)
    else:
        places = _places(frame, answer)
        if step.kind == PK_FILTER_PLUGIN:
            for i in sorted(places):
                frame_keep(frame, i, kept)
                kept += 1
            frame.count = kept
        else:
            for i in places[:pipeline.wanted]:
                _choose(frame, i)
    frame.step += 1
    return 0


@cython.final
@cython.auto_pickle(False)
cdef class Pipeline:
    """A pipeline over endpoints of its own, for tests and benchmarks; the engine runs the same kernel.

    `steps`: as `pipeline_fill` takes them. `endpoints`: mappings with waiting, running, kv_usage, max_lora,
    running_adapters, waiting_adapters, scraped_ns, requests, prefill_tokens, progress_ns, resident_tokens,
    prefill_rate, rate_ns, labels, session; what is left out is unknown or zero, prefill work not begun. ValueError or
    OverflowError for what no pipeline can be.
    """

    def __cinit__(self, steps, endpoints, *, uint32_t wanted=1, uint64_t seed=0, double prior_rate=15000.0):
        self._random = seed
        endpoints_init(&self._table, 1 << 16, prior_rate)
        pipeline_fill(&self._pipeline, steps, wanted)
        for number, described in enumerate(endpoints):
            self._add(number, dict(described))
        self._match = <uint32_t*>pk_alloc(self._table.width, sizeof(uint32_t))
        if self._match == NULL or frame_reserve(&self._frame, self._table.width) != PK_OK:
            raise MemoryError("no memory for the candidates")

    def __dealloc__(self):
        endpoints_free(&self._table)
        frame_free(&self._frame)
        pk_free(self._match)

    cdef int _add(self, int number, dict described) except -1:
        cdef identity_t identity
        cdef load_t load
        cdef adapters_t active, queued
        cdef endpoint_t* endpoint
        take = described.pop
        identity_fill(&identity, b"10.0.0.1:%d" % number, b"10.0.0.1", take("session", b""), take("labels", 0))
        load = load_t(take("waiting", -1), take("running", -1), take("kv_usage", -1), take("max_lora", -1))
        adapters_fill(&active, take("running_adapters", ()))
        adapters_fill(&queued, take("waiting_adapters", ()))
        cdef int64_t slot = endpoints_add(&self._table, &identity)
        if slot < 0:
            raise MemoryError("no memory for a further endpoint")
        endpoint = &self._table.slots[slot]
        endpoints_scraped(
            &self._table, <uint32_t>slot, endpoint.generation, &load, &active, &queued, take("scraped_ns", 0)
        )
        endpoint.requests = take("requests", 0)
        endpoint.prefill_tokens = take("prefill_tokens", 0)
        endpoint.progress_ns = take("progress_ns", 1 << 62)
        endpoint.resident_tokens = take("resident_tokens", 0)
        endpoint.prefill_rate = take("prefill_rate", self._table.fleet_rate)
        endpoint.rate_ns = take("rate_ns", 0)
        if described:
            raise ValueError(f"endpoints have no {', '.join(described)}")
        return 0

    def run(self, match, *, int64_t prompt_tokens=0, uint32_t block_tokens=64, str model not None="",
            bytes session not None=b"", int64_t now_ns=0, plugin=None) -> list:
        """Chosen slots in order of preference; empty when filters left none.

        `match`: leading blocks held, by slot; None for a request without a prompt. `plugin`: called as
        plugin(step, candidate slots) for the answer of a plugin's step, see `frame_answer`; None skips the step.
        """
        cdef bytes name = model.encode()
        cdef uint32_t i
        if prompt_tokens < 0:
            raise ValueError(f"a prompt cannot have {prompt_tokens} tokens")
        if match is not None:
            if len(match) != self._table.width:
                raise ValueError(f"{self._table.width} endpoints, but {len(match)} matches")
            for i in range(self._table.width):
                self._match[i] = match[i]
        self._frame.match = self._match if match is not None else NULL
        self._frame.prompt_tokens = prompt_tokens
        self._frame.block_tokens = block_tokens
        self._frame.adapter = hash_xxh64(<const unsigned char*>name, len(name), 0)
        self._frame.session = hash_xxh64(<const unsigned char*>session, len(session), 0) if session else 0
        self._frame.now_ns = now_ns
        self._start()
        while pipeline_run(&self._pipeline, &self._table, &self._frame, &self._random) == PK_NEED_PLUGIN:
            self._ask(plugin)
        return [self._frame.chosen[i] for i in range(self._frame.chosen_count)]

    cdef void _start(self) noexcept:
        cdef uint32_t i
        for i in range(self._table.width):
            self._frame.slots[i] = i
        self._frame.count = self._table.width
        self._frame.step = 0
        self._frame.chosen_count = 0

    cdef int _ask(self, plugin) except -1:
        cdef uint32_t i
        cdef list slots = [self._frame.slots[i] for i in range(self._frame.count)]
        answer = None if plugin is None else plugin(self._frame.step, slots)
        if answer is None:
            frame_skip(&self._frame, &self._pipeline, &self._random)
        else:
            frame_answer(&self._frame, &self._pipeline, answer)
        return 0

    def rerun(self) -> int:
        """The last request once more, plugins skipped; the number of endpoints chosen. What benchmarks time."""
        self._start()
        while pipeline_run(&self._pipeline, &self._table, &self._frame, &self._random) == PK_NEED_PLUGIN:
            frame_skip(&self._frame, &self._pipeline, &self._random)
        return self._frame.chosen_count

    def scores(self) -> list:
        """(slot, total, scores by scorer) of the last run's candidates."""
        cdef uint32_t i, k
        cdef list scorers = [k for k in range(self._pipeline.count) if _stage(self._pipeline.steps[k].kind) == 1]
        return [
            (
                self._frame.slots[i],
                self._frame.totals[i],
                [self._frame.scores[<size_t>k * self._frame.capacity + i] for k in scorers],
            )
            for i in range(self._frame.count)
        ]

    def margin(self) -> tuple:
        """Total of the last run's first choice and the greatest total of the others, -1 if there was no other."""
        return self._frame.best, self._frame.runner_up

    def _check(self) -> None:
        """Assert the last run's invariants."""
        cdef uint32_t i
        slots = [self._frame.slots[i] for i in range(self._frame.count)]
        chosen = [self._frame.chosen[i] for i in range(self._frame.chosen_count)]
        assert slots == sorted(set(slots)) and all(slot < self._table.width for slot in slots)
        assert len(set(chosen)) == len(chosen) <= self._pipeline.wanted and set(chosen) <= set(slots)
        for _, total, scores in self.scores():
            assert total >= 0 and all(0 <= score <= 1 for score in scores)
        assert not chosen or self._frame.best == self._frame.totals[slots.index(chosen[0])]
