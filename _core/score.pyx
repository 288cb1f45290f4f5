"""Compiled scheduling pipeline: filters narrow the candidates, scorers add weighted scores in [0, 1], a picker chooses.

Invariants: candidates stay in slot order; every score is clamped to [0, 1]; equal totals are broken by a seeded RNG.
Cost: O(steps x candidates), two passes for scorers that normalise; nothing is allocated in a run.
Memory: a frame owns its rows, borrows the match array.   Threads: a frame belongs to one run at a time.
Formulas of the scorers named as the reference picker's are the reference picker's; `PK_SCORE_TTFT` is picker's own.
"""
cimport cython
from libc.math cimport pow
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_resize
from picker._core.endpoints cimport (
    adapters_fill,
    adapters_t,
    endpoint_t,
    endpoints_add,
    endpoints_free,
    endpoints_freshness,
    endpoints_init,
    endpoints_rate,
    endpoints_t,
    identity_fill,
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
    scores = pk_resize(NULL, <size_t>candidates * PK_MAX_STEPS, sizeof(double))
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


cdef int64_t frame_uncached(const frame_t* frame, uint32_t slot) noexcept nogil:
    """Prompt tokens the endpoint would have to compute."""
    cdef int64_t cached
    if frame.match == NULL:
        return frame.prompt_tokens
    cached = <int64_t>frame.match[slot] * frame.block_tokens
    return frame.prompt_tokens - cached if cached < frame.prompt_tokens else 0


cdef double _match_ratio(const frame_t* frame, uint32_t slot) noexcept nogil:
    if frame.prompt_tokens <= 0:
        return 0.0
    return 1.0 - <double>frame_uncached(frame, slot) / frame.prompt_tokens


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
    const step_t* step, const endpoints_t* table, frame_t* frame, uint64_t* random
) noexcept nogil:
    """Keep the endpoints that hold most of the prompt, unless the best of them is too far behind the best other."""
    cdef double warm = -1.0, cold = -1.0, wait
    cdef uint32_t i, kept = 0
    if step.params[1] > 0 and random_unit(random) < step.params[1]:
        return
    for i in range(frame.count):
        wait = table.slots[frame.slots[i]].prefill_tokens / step.params[3]
        if _match_ratio(frame, frame.slots[i]) >= step.params[0]:
            warm = wait if warm < 0 or wait < warm else warm
        else:
            cold = wait if cold < 0 or wait < cold else cold
    if warm < 0 or (cold >= 0 and warm - cold > step.params[2]):
        return
    for i in range(frame.count):
        if _match_ratio(frame, frame.slots[i]) >= step.params[0]:
            frame_keep(frame, i, kept)
            kept += 1
    frame.count = kept


# --- C kernel: scorers; each fills one row ---


cdef inline double _unit(double score) noexcept nogil:
    # Written so that NaN becomes 0.
    return score if 0.0 <= score <= 1.0 else (1.0 if score > 1.0 else 0.0)


cdef inline double _known(double value) noexcept nogil:
    """What was never scraped counts as none."""
    return value if value > 0 else 0.0


cdef void _score_low(frame_t* frame, double* row) noexcept nogil:
    """Min-max normalise so that the least is 1 and the greatest 0; all equal are 1."""
    cdef double least = row[0], most = row[0]
    cdef uint32_t i
    for i in range(frame.count):
        least = row[i] if row[i] < least else least
        most = row[i] if row[i] > most else most
    for i in range(frame.count):
        row[i] = (most - row[i]) / (most - least) if most > least else 1.0


cdef void _score_active(const step_t* step, const endpoints_t* table, frame_t* frame, double* row) noexcept nogil:
    cdef double most = 0, busy
    cdef uint32_t i
    for i in range(frame.count):
        busy = table.slots[frame.slots[i]].requests
        most = busy if busy > most else most
    for i in range(frame.count):
        busy = table.slots[frame.slots[i]].requests
        row[i] = 1.0 if busy <= step.params[0] else (most - busy) / most * step.params[1]


cdef bint _listed(const adapters_t* adapters, uint64_t adapter) noexcept nogil:
    cdef uint32_t i
    for i in range(adapters.count):
        if adapters.hashes[i] == adapter:
            return True
    return False


cdef double _lora(const endpoint_t* endpoint, uint64_t adapter) noexcept nogil:
    if _listed(&endpoint.load.running_adapters, adapter):
        return 1.0
    if endpoint.load.running_adapters.count + endpoint.load.waiting_adapters.count < endpoint.load.max_lora:
        return 0.8
    return 0.6 if _listed(&endpoint.load.waiting_adapters, adapter) else 0.0


cdef double _prefix(const step_t* step, const frame_t* frame, uint32_t slot) noexcept nogil:
    cdef double ratio = _match_ratio(frame, slot)
    cdef double length = ratio * frame.prompt_tokens / step.params[1] if step.params[1] > 0 else 0.0
    length = length if length < 1.0 else 1.0
    return (1.0 - step.params[0]) * ratio + step.params[0] * length * length


cdef double _load_aware(const step_t* step, const endpoint_t* endpoint) noexcept nogil:
    cdef double queue = _known(endpoint.load.waiting)
    queue = queue if queue < step.params[0] else step.params[0]
    return 0.5 * (1.0 - queue / step.params[0])


cdef double _ttft(
    const step_t* step, const endpoints_t* table, const frame_t* frame, uint32_t slot
) noexcept nogil:
    """Estimated seconds to first token: work ahead, own uncached tokens, pressure of running and unknown requests."""
    cdef const endpoint_t* endpoint = &table.slots[slot]
    cdef double fresh = endpoints_freshness(endpoint, frame.now_ns)
    cdef double work = endpoint.prefill_tokens + frame_uncached(frame, slot) + step.params[0] * endpoint.resident_tokens
    cdef double unknown = _known(endpoint.load.waiting) + _known(endpoint.load.running) - endpoint.requests
    cdef double pressure = (_known(endpoint.load.kv_usage) - 0.9) * 10.0
    if unknown > 0:
        work += fresh * unknown * step.params[1]
    if pressure > 0:
        work *= 1.0 + fresh * pressure
    return (work + 1.0) / endpoints_rate(table, endpoint, frame.now_ns)


cdef void _score_ttft(const step_t* step, const endpoints_t* table, frame_t* frame, double* row) noexcept nogil:
    """least estimate / estimate: 1 for the fastest, 1/2 for one that takes twice as long."""
    cdef double least
    cdef uint32_t i
    for i in range(frame.count):
        row[i] = _ttft(step, table, frame, frame.slots[i])
    least = row[0]
    for i in range(frame.count):
        least = row[i] if row[i] < least else least
    for i in range(frame.count):
        row[i] = least / row[i]


cdef double _score_one(
    const step_t* step, const endpoints_t* table, const frame_t* frame, uint32_t slot
) noexcept nogil:
    """Scorers that look at one endpoint at a time; for the others, the value to be normalised."""
    cdef const endpoint_t* endpoint = &table.slots[slot]
    cdef double load
    if step.kind == PK_SCORE_QUEUE:
        return _known(endpoint.load.waiting)
    if step.kind == PK_SCORE_RUNNING:
        return _known(endpoint.load.running)
    if step.kind == PK_SCORE_KV:
        return 1.0 - _known(endpoint.load.kv_usage)
    if step.kind == PK_SCORE_PREFIX:
        return _prefix(step, frame, slot)
    if step.kind == PK_SCORE_LORA:
        return _lora(endpoint, frame.adapter)
    if step.kind == PK_SCORE_LOAD_AWARE:
        return _load_aware(step, endpoint)
    if step.kind == PK_SCORE_TOKEN_LOAD:
        load = endpoint.prefill_tokens + frame_uncached(frame, slot)
        return 1.0 - load / step.params[0]
    return 1.0 if frame.session != 0 and endpoint.token_hash == frame.session else 0.0


cdef void _score(const step_t* step, const endpoints_t* table, frame_t* frame, double* row) noexcept nogil:
    cdef uint32_t i
    if step.kind == PK_SCORE_TTFT:
        _score_ttft(step, table, frame, row)
        return
    if step.kind == PK_SCORE_ACTIVE:
        _score_active(step, table, frame, row)
        return
    for i in range(frame.count):
        row[i] = _score_one(step, table, frame, frame.slots[i])
    if step.kind == PK_SCORE_QUEUE or step.kind == PK_SCORE_RUNNING:
        _score_low(frame, row)


cdef void _add(const step_t* step, frame_t* frame, double* row) noexcept nogil:
    cdef uint32_t i
    for i in range(frame.count):
        row[i] = _unit(row[i])
        frame.totals[i] += step.weight * row[i]


# --- C kernel: pickers ---


cdef double _key(int kind, double total, uint64_t* random) noexcept nogil:
    """What a picker maximises. Weighted random is A-Res: u ** (1 / weight)."""
    if kind == PK_PICK_MAX:
        return total
    if kind == PK_PICK_WEIGHTED:
        return pow(random_unit(random), 1.0 / total) if total > 0 else 0.0
    return random_unit(random)


cdef bint _taken(const frame_t* frame, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    for i in range(frame.chosen_count):
        if frame.chosen[i] == slot:
            return True
    return False


cdef uint32_t _greatest(const frame_t* frame, const double* keys, uint64_t* random) noexcept nogil:
    """Index of the greatest key among candidates not yet chosen; ties are drawn with equal chance."""
    cdef uint32_t i, best = 0, ties = 0
    for i in range(frame.count):
        if _taken(frame, frame.slots[i]):
            continue
        if ties == 0 or keys[i] > keys[best]:
            best, ties = i, 1
        elif keys[i] == keys[best]:
            ties += 1
            if random_next(random) % ties == 0:
                best = i
    return best


cdef void _runner_up(frame_t* frame, uint32_t first) noexcept nogil:
    cdef uint32_t i
    frame.best = frame.totals[first]
    frame.runner_up = -1.0
    for i in range(frame.count):
        if i != first and frame.totals[i] > frame.runner_up:
            frame.runner_up = frame.totals[i]


cdef void _pick(int kind, uint32_t wanted, frame_t* frame, double* keys, uint64_t* random) noexcept nogil:
    cdef uint32_t i
    for i in range(frame.count):
        keys[i] = _key(kind, frame.totals[i], random)
    _choose(wanted, frame, keys, random)


cdef void _choose(uint32_t wanted, frame_t* frame, const double* keys, uint64_t* random) noexcept nogil:
    """The `wanted` candidates with the greatest keys, in order."""
    cdef uint32_t best
    while frame.chosen_count < wanted and frame.chosen_count < frame.count:
        best = _greatest(frame, keys, random)
        if frame.chosen_count == 0:
            _runner_up(frame, best)
        frame.chosen[frame.chosen_count] = frame.slots[best]
        frame.chosen_count += 1


# --- C kernel: the run ---


cdef int _step(
    const pipeline_t* pipeline, const endpoints_t* table, frame_t* frame, uint64_t* random
) noexcept nogil:
    cdef const step_t* step = &pipeline.steps[frame.step]
    cdef double* row = frame.scores + <size_t>frame.step * frame.capacity
    if step.kind == PK_FILTER_LABELS:
        _filter_labels(step, table, frame)
    elif step.kind == PK_FILTER_PREFIX:
        _filter_prefix(step, table, frame, random)
    elif step.kind == PK_FILTER_PLUGIN or step.kind == PK_SCORE_PLUGIN or step.kind == PK_PICK_PLUGIN:
        return PK_NEED_PLUGIN
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

    Start with step 0, chosen_count 0. After a plugin's step, add its row through `weight`, move `step` on and call again.
    """
    cdef uint32_t i
    cdef int code
    if frame.step == 0:
        for i in range(frame.count):
            frame.totals[i] = 0.0
    while frame.step < pipeline.count:
        if frame.count == 0:
            return PK_E_MISSING
        code = _step(pipeline, table, frame, random)
        if code != PK_OK:
            return code
        frame.step += 1
    if frame.chosen_count == 0 and pipeline.steps[pipeline.count - 1].kind == PK_PICK_PLUGIN:
        _choose(pipeline.wanted, frame, frame.scores + <size_t>(pipeline.count - 1) * frame.capacity, random)
    return PK_OK if frame.chosen_count else PK_E_MISSING


# --- Python face ---

MAX_STEPS = PK_MAX_STEPS
MAX_CHOSEN = PK_MAX_CHOSEN
FILTER_LABELS = PK_FILTER_LABELS
FILTER_PREFIX = PK_FILTER_PREFIX
FILTER_PLUGIN = PK_FILTER_PLUGIN
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

cdef tuple _PARAMS = (
    # kind, number of parameters, which of them must be above zero
    (PK_FILTER_LABELS, 0, ()), (PK_FILTER_PREFIX, 4, (3,)), (PK_FILTER_PLUGIN, 0, ()),
    (PK_SCORE_QUEUE, 0, ()), (PK_SCORE_RUNNING, 0, ()), (PK_SCORE_KV, 0, ()), (PK_SCORE_PREFIX, 2, ()),
    (PK_SCORE_LORA, 0, ()), (PK_SCORE_LOAD_AWARE, 1, (0,)), (PK_SCORE_TOKEN_LOAD, 1, (0,)),
    (PK_SCORE_ACTIVE, 2, ()), (PK_SCORE_SESSION, 0, ()), (PK_SCORE_TTFT, 2, ()), (PK_SCORE_PLUGIN, 0, ()),
    (PK_PICK_MAX, 0, ()), (PK_PICK_WEIGHTED, 0, ()), (PK_PICK_RANDOM, 0, ()), (PK_PICK_PLUGIN, 0, ()),
)


cdef int pipeline_fill(pipeline_t* pipeline, object steps, uint32_t wanted) except -1:
    """Compile `steps`, a sequence of (kind, weight, parameters, bits): filters, then scorers, then one picker.

    Raises OverflowError for too many steps, ValueError for what no pipeline can be.
    """
    cdef dict known = {kind: (count, positive) for kind, count, positive in _PARAMS}
    cdef uint32_t i, k
    cdef int last = 0
    memset(pipeline, 0, sizeof(pipeline_t))
    if not 0 < len(steps) <= PK_MAX_STEPS:
        raise OverflowError(f"a pipeline has 1 to {PK_MAX_STEPS} steps, not {len(steps)}")
    if not 1 <= wanted <= PK_MAX_CHOSEN:
        raise ValueError(f"1 to {PK_MAX_CHOSEN} endpoints can be chosen, not {wanted}")
    for i in range(len(steps)):
        kind, weight, params, bits = steps[i]
        if kind not in known or len(params) != known[kind][0]:
            raise ValueError(f"step {i}: no kind {kind} with {len(params)} parameters")
        if kind // 10 < last // 10 or last >= PK_PICK_MAX:
            raise ValueError(f"step {i}: filters come first, then scorers, then one picker")
        for k in known[kind][1]:
            if not params[k] > 0:
                raise ValueError(f"step {i}: parameter {k} must be above zero, not {params[k]}")
        last = kind
        pipeline.steps[i].kind = kind
        pipeline.steps[i].weight = weight
        pipeline.steps[i].bits = bits
        for k in range(len(params)):
            pipeline.steps[i].params[k] = params[k]
    if last < PK_PICK_MAX:
        raise ValueError("the last step must be a picker")
    pipeline.count = len(steps)
    pipeline.wanted = wanted
    return 0


@cython.final
@cython.auto_pickle(False)
cdef class Pipeline:
    """A pipeline over endpoints of its own, for tests and benchmarks; the engine runs the same kernel.

    `endpoints`: mappings with waiting, running, kv_usage, max_lora, running_adapters, waiting_adapters, scraped_ns,
    requests, prefill_tokens, resident_tokens, labels, session; what is left out is unknown or zero.
    """

    def __cinit__(self, steps, endpoints, *, uint32_t wanted=1, uint64_t seed=0, double prior_rate=15000.0):
        self._random = seed
        endpoints_init(&self._table, 1 << 16, prior_rate)
        pipeline_fill(&self._pipeline, steps, wanted)
        for number, described in enumerate(endpoints):
            self._add(number, described)
        self._match = <uint32_t*>pk_alloc(self._table.width + 1, sizeof(uint32_t))
        if self._match == NULL or frame_reserve(&self._frame, self._table.width + 1) != PK_OK:
            raise MemoryError("no memory for the candidates")

    def __dealloc__(self):
        endpoints_free(&self._table)
        frame_free(&self._frame)
        pk_free(self._match)

    cdef int _add(self, int number, dict described) except -1:
        cdef endpoint_t identity
        cdef endpoint_t* endpoint
        session = described.get("session", b"")
        identity_fill(&identity, b"10.0.0.1:%d" % number, b"10.0.0.1", session, described.get("labels", 0))
        cdef int64_t slot = endpoints_add(&self._table, &identity)
        if slot < 0:
            raise MemoryError("no memory for a further endpoint")
        endpoint = &self._table.slots[slot]
        endpoint.load.waiting = described.get("waiting", -1.0)
        endpoint.load.running = described.get("running", -1.0)
        endpoint.load.kv_usage = described.get("kv_usage", -1.0)
        endpoint.load.max_lora = described.get("max_lora", -1.0)
        adapters_fill(&endpoint.load.running_adapters, described.get("running_adapters", ()))
        adapters_fill(&endpoint.load.waiting_adapters, described.get("waiting_adapters", ()))
        endpoint.scraped_ns = described.get("scraped_ns", 0)
        endpoint.requests = described.get("requests", 0)
        endpoint.prefill_tokens = described.get("prefill_tokens", 0)
        endpoint.resident_tokens = described.get("resident_tokens", 0)
        return 0

    def run(self, match, *, int64_t prompt_tokens=0, uint32_t block_tokens=64, str model="", bytes session=b"",
            int64_t now_ns=0) -> list:
        """Chosen slots in order of preference; empty when filters left none. `match`: leading blocks by slot."""
        cdef uint32_t i
        cdef bytes name = model.encode()
        if len(match) != self._table.width:
            raise ValueError(f"{self._table.width} endpoints, but {len(match)} matches")
        for i in range(self._table.width):
            self._match[i] = match[i]
        self._frame.match = self._match
        self._frame.prompt_tokens = prompt_tokens
        self._frame.block_tokens = block_tokens
        self._frame.adapter = hash_xxh64(<const unsigned char*>name, len(name), 0)
        self._frame.session = hash_xxh64(<const unsigned char*>session, len(session), 0) if session else 0
        self._frame.now_ns = now_ns
        self.rerun()
        return [self._frame.chosen[i] for i in range(self._frame.chosen_count)]

    def rerun(self) -> int:
        """The last request once more; the number of endpoints chosen. What benchmarks time."""
        cdef uint32_t i
        for i in range(self._table.width):
            self._frame.slots[i] = i
        self._frame.count = self._table.width
        self._frame.step = 0
        self._frame.chosen_count = 0
        if pipeline_run(&self._pipeline, &self._table, &self._frame, &self._random) == PK_NEED_PLUGIN:
            raise ValueError("Python plugins run in the engine only")
        return self._frame.chosen_count

    def scores(self) -> list:
        """Rows of (slot, total, scores by step) of the last run's candidates."""
        cdef uint32_t i, k
        return [
            (
                self._frame.slots[i],
                self._frame.totals[i],
                [self._frame.scores[k * self._frame.capacity + i] for k in range(self._pipeline.count)],
            )
            for i in range(self._frame.count)
        ]

    def _check(self) -> None:
        """Assert the last run's invariants."""
        cdef uint32_t i
        for i in range(self._frame.count):
            assert self._frame.slots[i] < self._table.width
            assert i == 0 or self._frame.slots[i - 1] < self._frame.slots[i]
        for i in range(self._frame.chosen_count):
            assert self._frame.chosen[i] in {self._frame.slots[k] for k in range(self._frame.count)}
