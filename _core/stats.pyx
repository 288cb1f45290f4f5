"""Counters and histograms of the data plane, one series per model name, priority and flow, bounded.

Requests that are sent on with another model have series by both names, with a zero byte between.
Invariants: a series lives as long as its stats and its name is text; beyond `limit` names, and PK_MOST_KEPT that
    whoever runs picker has named, everything goes to `other`. A model has a series for requests of no objective and no
    flow, and others besides: `limit` for priorities and `limit` for flows, those of all models together. Without room
    a flow is `other`, and then the priority, too.
Cost: O(1) per event, O(log bounds) per observation; allocates for a new model name only.
Memory: owns its series.   Threads: one at a time; the engine holds its lock.
Buckets are those of the reference picker, so that existing dashboards read them.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from picker._core.alloc cimport PK_E_NOMEM, PK_E_RANGE, PK_OK, pk_alloc, pk_free, pk_grow
from picker._core.codec cimport slice_t
from picker._core.decisions cimport PK_FLOW_BYTES, objective_t
from picker._core.hashing cimport hash_xxh64

cdef extern from *:
    """
    static const double PK_LONG[] = {
        .005, .025, .05, .1, .2, .4, .6, .8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120,
        180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600};
    static const double PK_TTFT[] = {
        .005, .025, .05, .1, .2, .4, .6, .8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120};
    static const double PK_TPOT[] = {
        .0005, .00205, .005, .01, .02, .04, .06, .08, .1, .125, .15, .2, .3, .4, .5, .6, .8, 1, 2};
    static const double PK_NTPOT[] = {.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10};
    static const double PK_ITL[] = {.001, .005, .01, .02, .04, .06, .08, .1, .15, .2, .3, .5, .75, 1, 2};
    /* the same in ns, for gaps_t, which has a bucket more */
    static const int64_t PK_ITL_NS[] = {1000000, 5000000, 10000000, 20000000, 40000000, 60000000, 80000000, 100000000,
        150000000, 200000000, 300000000, 500000000, 750000000, 1000000000, 2000000000};
    /* The reference picker's first bucket is 100 us; picks here are faster than that. */
    static const double PK_SHORT[] = {
        .000005, .00001, .00002, .00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1};
    static const double PK_SIZES[] = {64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144,
        524288, 1048576, 2097152, 4194304, 8388608, 16777216, 33554432, 67108864, 134217728, 268435456, 536870912,
        1073741824};
    /* The reference picker's, which end at 64 KiB, and on from there: streams are longer. */
    static const double PK_RESPONSE_SIZES[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778,
        65536, 131072, 262144, 524288, 1048576, 2097152, 4194304, 8388608, 16777216, 33554432, 67108864, 134217728,
        268435456, 536870912, 1073741824};
    /* 32778 is what the reference picker has where 32768 was meant; dashboards compare by name. */
    static const double PK_TOKENS[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778, 65536,
        131072, 262144, 524288, 1048576};
    static const double PK_RATIO[] = {0, .1, .2, .3, .4, .5, .6, .7, .8, .9, 1};
    static const double PK_HIT_BYTES[] = {0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};
    /* PK_WAITS of them */
    static const double PK_QUEUED[] = {
        .0001, .0005, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60};
    #define PK_COUNT(bounds) ((uint32_t)(sizeof(bounds) / sizeof(double)))
    """
    const double PK_LONG[]
    const double PK_TTFT[]
    const double PK_TPOT[]
    const double PK_SHORT[]
    const double PK_NTPOT[]
    const double PK_ITL[]
    const int64_t PK_ITL_NS[]
    const double PK_SIZES[]
    const double PK_RESPONSE_SIZES[]
    const double PK_TOKENS[]
    const double PK_RATIO[]
    const double PK_HIT_BYTES[]
    const double PK_QUEUED[]
    uint32_t PK_COUNT(const double* bounds) noexcept nogil

cdef struct key_t:
    # What a series is of, and no other.
    const uint8_t* name        # see `stats_name`
    size_t size
    int32_t priority
    const uint8_t* flow
    uint32_t flow_size

# --- C kernel: histograms ---


cdef uint32_t _bucket(const double* bounds, uint32_t count, double value) noexcept nogil:
    """The first bucket whose bound is not below the value."""
    cdef uint32_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) // 2
        if bounds[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


cdef void _hist(hist_t* hist, const double* bounds, uint32_t count) noexcept nogil:
    hist.bounds = bounds
    hist.count = count


cdef void hist_add(hist_t* hist, double value) noexcept nogil:
    """Count `value` in the first bucket whose bound is not below it. Below zero and NaN count as zero."""
    value = value if value > 0 else 0.0
    hist.buckets[_bucket(hist.bounds, hist.count, value)] += 1
    hist.sum += value


cdef void hist_short(hist_t* hist) noexcept nogil:
    """Point a histogram to the bounds of times that the core takes."""
    _hist(hist, PK_SHORT, PK_COUNT(PK_SHORT))


cdef void wait_add(wait_t* wait, double seconds) noexcept nogil:
    """As `hist_add`."""
    seconds = seconds if seconds > 0 else 0.0
    wait.buckets[_bucket(PK_QUEUED, PK_WAITS, seconds) if seconds > 0 else 0] += 1
    wait.sum_s += seconds


cdef uint64_t wait_count(const wait_t* wait) noexcept nogil:
    """How many were counted."""
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(PK_WAITS + 1):
        total += wait.buckets[i]
    return total


cdef void gaps_add(gaps_t* gaps, int64_t gap_ns) noexcept nogil:
    """Count a gap in the first bucket whose bound is not below it. A clock that ran backwards counts as none."""
    cdef uint32_t low = 0, high = PK_GAPS - 1, middle
    gap_ns = gap_ns if gap_ns > 0 else 0
    while low < high:
        middle = (low + high) // 2
        if PK_ITL_NS[middle] < gap_ns:
            low = middle + 1
        else:
            high = middle
    gaps.buckets[low] += 1
    gaps.sum_ns += gap_ns


cdef void hist_add_gaps(hist_t* itl_s, const gaps_t* gaps) noexcept nogil:
    cdef uint32_t i
    for i in range(PK_GAPS):
        itl_s.buckets[i] += gaps.buckets[i]
    itl_s.sum += <double>gaps.sum_ns * 1e-9


cdef void series_bind(series_t* series) noexcept nogil:
    """Point the histograms to their bounds, which are this process's own."""
    _hist(&series.duration_s, PK_LONG, PK_COUNT(PK_LONG))
    _hist(&series.ttft_s, PK_TTFT, PK_COUNT(PK_TTFT))
    _hist(&series.streaming_ttft_s, PK_TTFT, PK_COUNT(PK_TTFT))
    _hist(&series.tpot_s, PK_TPOT, PK_COUNT(PK_TPOT))
    _hist(&series.ntpot_s, PK_NTPOT, PK_COUNT(PK_NTPOT))
    _hist(&series.itl_s, PK_ITL, PK_COUNT(PK_ITL))
    _hist(&series.request_bytes, PK_SIZES, PK_COUNT(PK_SIZES))
    _hist(&series.response_bytes, PK_RESPONSE_SIZES, PK_COUNT(PK_RESPONSE_SIZES))
    _hist(&series.input_tokens, PK_TOKENS, PK_COUNT(PK_TOKENS))
    _hist(&series.output_tokens, PK_TOKENS, PK_COUNT(PK_TOKENS))
    _hist(&series.cached_tokens, PK_TOKENS, PK_COUNT(PK_TOKENS))


cdef void stats_bind(stats_t* stats) noexcept nogil:
    """The same for what is not kept by model."""
    hist_short(&stats.scheduling_s)
    _hist(&stats.hit_ratio, PK_RATIO, PK_COUNT(PK_RATIO))
    _hist(&stats.hit_bytes, PK_HIT_BYTES, PK_COUNT(PK_HIT_BYTES))


# --- C kernel: series ---


cdef key_t _key(const uint8_t* name, size_t size) noexcept nogil:
    """Of the requests for a model that have no objective and are of no flow."""
    cdef key_t key
    key.name, key.size, key.priority = name, size, 0
    key.flow, key.flow_size = <const uint8_t*>b"default-flow", 12
    return key


cdef bint _is(const series_t* series, const key_t* key) noexcept nogil:
    return (
        series.name_size == key.size and series.priority == key.priority and series.flow_size == key.flow_size
        and memcmp(series.name, key.name, key.size) == 0 and memcmp(series.flow, key.flow, key.flow_size) == 0
    )


cdef series_t* _series(const key_t* key) noexcept nogil:
    cdef series_t* series = <series_t*>pk_alloc(1, sizeof(series_t))
    if series == NULL:
        return NULL
    series.name_size = <uint32_t>key.size
    memcpy(series.name, key.name, key.size)
    series.priority = key.priority
    series.flow_size = key.flow_size
    memcpy(series.flow, key.flow, key.flow_size)
    series_bind(series)
    return series


cdef int _append(stats_t* stats, const key_t* key) noexcept nogil:
    cdef series_t* series = _series(key)
    if series == NULL:
        return PK_E_NOMEM
    if pk_grow(<void**>&stats.series, &stats.capacity, stats.count + 1, sizeof(series_t*)) != PK_OK:
        pk_free(series)
        return PK_E_NOMEM
    stats.series[stats.count] = series
    stats.count += 1
    return PK_OK


cdef uint32_t _place(const stats_t* stats, const key_t* key) noexcept nogil:
    """Where in the table the series is, or would be."""
    cdef uint64_t flow = hash_xxh64(key.flow, key.flow_size, <uint64_t>key.priority)
    cdef uint32_t at = <uint32_t>hash_xxh64(key.name, key.size, flow) & stats.mask
    while stats.table[at] and not _is(stats.series[stats.table[at] - 1], key):
        at = (at + 1) & stats.mask
    return at


cdef int _first(stats_t* stats) noexcept nogil:
    """The series there always are."""
    cdef key_t none = _key(<const uint8_t*>b"", 0), other = _key(<const uint8_t*>b"other", 5)
    if _append(stats, &none) != PK_OK or _append(stats, &other) != PK_OK:
        return PK_E_NOMEM
    stats.table[_place(stats, &none)] = PK_NO_MODEL + 1
    stats.table[_place(stats, &other)] = PK_OTHER_MODELS + 1       # a model may be called so
    other.flow, other.flow_size = <const uint8_t*>b"other", 5
    if _append(stats, &other) != PK_OK:
        return PK_E_NOMEM
    stats.series[PK_OTHER_SERIES].is_other = True                  # of any priority: it is never looked for
    return PK_OK


cdef int stats_init(stats_t* stats, uint32_t limit) noexcept nogil:
    """Room for `limit` model names and those kept. PK_OK, PK_E_NOMEM, or PK_E_RANGE for more than PK_MOST_MODELS."""
    cdef uint32_t size = 4
    memset(stats, 0, sizeof(stats_t))
    if limit > PK_MOST_MODELS:
        return PK_E_RANGE
    while size < (3 * limit + PK_MOST_KEPT) * 2 + 4:
        size *= 2
    stats.limit = limit
    stats.mask = size - 1
    stats.table = <uint32_t*>pk_alloc(size, sizeof(uint32_t))
    stats_bind(stats)
    if stats.table == NULL:
        return PK_E_NOMEM
    if _first(stats) != PK_OK:
        stats_free(stats)
        return PK_E_NOMEM
    return PK_OK


cdef void stats_free(stats_t* stats) noexcept nogil:
    cdef uint32_t i
    for i in range(stats.count):
        pk_free(stats.series[i])
    pk_free(stats.series)
    pk_free(stats.table)
    stats.series = NULL
    stats.table = NULL
    stats.count = 0


cdef bint _is_text(const uint8_t* name, size_t size) noexcept nogil:
    """No surrogates: names that differ in them alone would look the same on the metrics page."""
    cdef size_t i
    for i in range(1, size):
        if name[i - 1] == 0xED and name[i] >= 0xA0:
            return False
    return True


cdef const uint8_t* _mark(const uint8_t* name, size_t size) noexcept nogil:
    """Where the two models of a name are told apart; NULL: it is of one."""
    return <const uint8_t*>memchr(name, 0, size) if size else NULL


cdef bint _fits(const uint8_t* name, size_t size) noexcept nogil:
    cdef const uint8_t* mark = _mark(name, size)
    if mark == NULL:
        return size <= PK_MODEL_BYTES
    return <size_t>(mark - name) <= PK_MODEL_BYTES and size - (mark - name) - 1 <= PK_MODEL_BYTES


cdef size_t stats_name(uint8_t* name, slice_t model, slice_t target) noexcept nogil:
    """The name of a series; larger than PK_SERIES_BYTES if there can be none."""
    if model.size > PK_MODEL_BYTES or target.size > PK_MODEL_BYTES:
        return PK_SERIES_BYTES + 1
    if _mark(model.data, model.size) != NULL or _mark(target.data, target.size) != NULL:
        return PK_SERIES_BYTES + 1          # a client could make two models look like one rewritten to the other
    if model.size:
        memcpy(name, model.data, model.size)
    if target.size == 0:
        return model.size
    name[model.size] = 0
    memcpy(name + model.size + 1, target.data, target.size)
    return model.size + 1 + target.size


cdef uint32_t stats_find(const stats_t* stats, const uint8_t* name, size_t size) noexcept nogil:
    """The series of a model name alone; `other` when it has none (yet)."""
    cdef key_t key = _key(name, size)
    cdef uint32_t series
    if size == 0:
        return PK_NO_MODEL
    if size > PK_SERIES_BYTES:
        return PK_OTHER_MODELS
    series = stats.table[_place(stats, &key)]
    return series - 1 if series else PK_OTHER_MODELS


cdef uint32_t stats_base(const stats_t* stats, uint32_t series) noexcept nogil:
    """That of the model alone."""
    return stats_find(stats, stats.series[series].name, stats.series[series].name_size)


cdef bint _is_kept(const stats_t* stats, const uint8_t* name, size_t size) noexcept nogil:
    """Is it of models that are kept, all of them?"""
    cdef const uint8_t* mark = _mark(name, size)
    if mark != NULL:
        return _is_kept(stats, name, mark - name) and _is_kept(stats, mark + 1, name + size - mark - 1)
    return stats.series[stats_find(stats, name, size)].is_kept


cdef uint32_t _new(stats_t* stats, const uint8_t* name, size_t size, bint is_kept) noexcept nogil:
    """A new series of a model, beside the limit if it is kept; `other` when it cannot be made."""
    cdef key_t key = _key(name, size)
    cdef uint32_t at = _place(stats, &key)
    if is_kept and stats.kept >= PK_MOST_KEPT:
        is_kept = False
    if stats.table[at] or (not is_kept and stats.models - stats.kept >= stats.limit):
        return PK_OTHER_MODELS
    if _append(stats, &key) != PK_OK:
        return PK_OTHER_MODELS
    stats.table[at] = stats.count
    stats.models += 1
    stats.kept += is_kept
    stats.series[stats.count - 1].is_kept = is_kept
    return stats.count - 1


cdef uint32_t stats_model(stats_t* stats, const uint8_t* name, size_t size) noexcept nogil:
    """The series of a model name (UTF-8, perhaps with surrogates), made when new; `other` when it cannot be made."""
    cdef uint32_t series = stats_find(stats, name, size)
    if series != PK_OTHER_MODELS or not _fits(name, size) or not _is_text(name, size):
        return series
    return _new(stats, name, size, _mark(name, size) != NULL and _is_kept(stats, name, size))


cdef uint32_t _marked(stats_t* stats, const key_t* key, uint32_t* count, bint is_made) noexcept nogil:
    """The series for that priority and flow, made if there is room among its kind; PK_OTHER_SERIES if there is none."""
    cdef uint32_t at = _place(stats, key)
    if stats.table[at]:
        return stats.table[at] - 1
    if not is_made or count[0] >= stats.limit or _append(stats, key) != PK_OK:
        return PK_OTHER_SERIES
    stats.table[at] = stats.count
    count[0] += 1
    return stats.count - 1


cdef uint32_t stats_series(
    stats_t* stats, uint32_t model, const objective_t* objective, bint is_served
) noexcept nogil:
    """The series of requests of `objective`, by that of their model; PK_OTHER_SERIES when there is no room for it.

    Priorities are named by whoever runs picker, flows by clients: only one that is served gets a series for its flow.
    """
    cdef const series_t* base = stats.series[model]
    cdef key_t key = _key(base.name, base.name_size)
    cdef bint has_flow = objective.flow_size and (
        objective.flow_size != key.flow_size or memcmp(objective.flow, key.flow, key.flow_size) != 0
    )
    cdef uint32_t series
    if model == PK_OTHER_SERIES or (objective.priority == 0 and not has_flow):
        return model
    key.priority = objective.priority
    if not has_flow:
        return _marked(stats, &key, &stats.banded, True)
    key.flow, key.flow_size = objective.flow, objective.flow_size
    series = _marked(stats, &key, &stats.flows, is_served)
    if series == PK_OTHER_SERIES:
        key.flow, key.flow_size = <const uint8_t*>b"other", 5
        series = _marked(stats, &key, &stats.banded, True)
    return series


cdef void stats_keep(stats_t* stats, const uint8_t* name, size_t size) noexcept nogil:
    """A series for this model, beside the limit. Without memory or beyond PK_MOST_KEPT it is one like any other."""
    cdef uint32_t series = stats_find(stats, name, size)
    if series == PK_OTHER_MODELS and size <= PK_MODEL_BYTES and _is_text(name, size) and stats.kept < PK_MOST_KEPT:
        _new(stats, name, size, True)


# --- Python face ---

FAILURES = (
    "None", "BadRequest", "PayloadTooLarge", "ServiceUnavailable", "ModelServerError", "NoAnswer", "Canceled",
    "RequestTimeout", "Internal", "ResourceExhausted", "HeadersTooLarge", "BadRewriteHeader", "Saturated", "QueueFull",
    "QueueTimeout", "ShuttingDown", "AdmissionDenied", "Evicted", "QuotaExceeded", "ContextCancelled",
)
"""What `error_code` says on the metrics page, by PK_FAIL_*."""

OTHER = "other"
"""What is shown of what is not shown apart."""

OUTCOMES = (
    "Dispatched", "RejectedCapacity", "RejectedNoEndpoints", "RejectedOther", "EvictedTTL", "EvictedNoEndpoints",
    "EvictedContextCancelled", "EvictedOther",
)
"""What `outcome` says on the metrics page of how a request left flow control, by PK_LEFT_*."""


cdef tuple hist_view(const hist_t* hist):
    """((bound, cumulative count), ...), sum; the last bound is infinity."""
    cdef uint64_t total = 0
    cdef uint32_t i
    cdef list rows = []
    for i in range(hist.count + 1):
        total += hist.buckets[i]
        rows.append((hist.bounds[i] if i < hist.count else float("inf"), total))
    return tuple(rows), hist.sum


cdef tuple wait_view(const wait_t* wait):
    """As `hist_view`."""
    cdef uint64_t total = 0
    cdef uint32_t i
    cdef list rows = []
    for i in range(PK_WAITS + 1):
        total += wait.buckets[i]
        rows.append((PK_QUEUED[i] if i < PK_WAITS else float("inf"), total))
    return tuple(rows), wait.sum_s


cdef dict _waits(const series_t* series):
    """Times in the queue by outcome, of those there were."""
    return {
        outcome: wait_view(&series.waits[i]) for i, outcome in enumerate(OUTCOMES) if wait_count(&series.waits[i])
    }


cdef tuple series_names(const series_t* series):
    """The model that clients ask for, and the one their requests go to."""
    model, mark, target = series.name[:series.name_size].decode().partition("\0")
    return model, target if mark else model


cdef dict series_view(const series_t* series):
    """One series, as plain Python objects."""
    failures = zip(FAILURES, series.failures, strict=True)
    model, target = series_names(series)
    return {
        "model": model,
        "target": target,
        "priority": OTHER if series.is_other else str(series.priority),
        "fairness_id": series.flow[:series.flow_size].decode("latin-1"),
        "waiting": series.waiting,
        "waiting_bytes": series.waiting_bytes,
        "waits": _waits(series),
        "requests": series.requests,
        "running": series.running,
        "failures": {kind: count for kind, count in failures if kind != "None" and count},
        "statuses": {f"{kind}xx": count for kind, count in enumerate(series.statuses) if count},
        "duration_s": hist_view(&series.duration_s),
        "ttft_s": hist_view(&series.ttft_s),
        "streaming_ttft_s": hist_view(&series.streaming_ttft_s),
        "tpot_s": hist_view(&series.tpot_s),
        "ntpot_s": hist_view(&series.ntpot_s),
        "itl_s": hist_view(&series.itl_s),
        "request_bytes": hist_view(&series.request_bytes),
        "response_bytes": hist_view(&series.response_bytes),
        "input_tokens": hist_view(&series.input_tokens),
        "output_tokens": hist_view(&series.output_tokens),
        "cached_tokens": hist_view(&series.cached_tokens),
    }


cdef dict stats_totals(const stats_t* stats):
    """What is not kept by model."""
    return {
        "scheduling_s": hist_view(&stats.scheduling_s),
        "hit_ratio": hist_view(&stats.hit_ratio),
        "hit_bytes": hist_view(&stats.hit_bytes),
        "picked": stats.picked,
        "not_picked": stats.not_picked,
        "ejected": stats.ejected,
        "predicted_tokens": stats.predicted_tokens,
        "reported_tokens": stats.reported_tokens,
    }


cdef bint series_counted(const series_t* series) noexcept nogil:
    """Is there anything to show?"""
    return series.requests != 0 or series.running != 0 or series.waiting != 0 or wait_count(&series.waits[0]) != 0


@cython.final
@cython.auto_pickle(False)
cdef class Stats:
    """Stats alone, for tests and benchmarks; the engine holds its own.

    `limit`: model names with a series of their own. OverflowError beyond 2**20.
    """

    def __cinit__(self, uint32_t limit=1000):
        cdef int code = stats_init(&self._stats, limit)
        if code == PK_E_RANGE:
            raise OverflowError(f"at most {PK_MOST_MODELS} models can have series of their own, not {limit}")
        if code != PK_OK:
            raise MemoryError("no memory for stats")

    def __dealloc__(self):
        stats_free(&self._stats)

    def count(self, bytes model not None, double duration_s, *, int32_t priority=0, bytes flow not None=b"",
              bint is_served=True) -> None:
        """One request of `model` (a name in UTF-8, surrogates allowed) that took `duration_s` seconds.

        `model` may be two names with a zero byte between: what was asked for, and what it was rewritten to. `flow` is
        printable, of at most 64 bytes: ValueError. Neither model nor flow get a series of their own unless `is_served`.
        """
        cdef series_t* series
        cdef objective_t objective
        cdef uint32_t index
        model.decode("utf-8", "surrogatepass")
        if len(flow) > PK_FLOW_BYTES:
            raise ValueError(f"a fairness id of more than {PK_FLOW_BYTES} bytes: {flow!r}")
        memset(&objective, 0, sizeof(objective))
        objective.priority, objective.flow_size = priority, <uint32_t>len(flow)
        memcpy(objective.flow, <const char*>flow, len(flow))
        if is_served:
            index = stats_model(&self._stats, model, len(model))       # may move the list of series
        else:
            index = stats_find(&self._stats, model, len(model))
        index = stats_series(&self._stats, index, &objective, is_served)
        series = self._stats.series[index]
        series.requests += 1
        hist_add(&series.duration_s, duration_s)

    def keep(self, bytes model not None) -> None:
        """A series for `model` (a name as above) beside the limit, for 4,096 of them."""
        model.decode("utf-8", "surrogatepass")
        stats_keep(&self._stats, model, len(model))

    def count_gaps(self, bytes model not None, gaps) -> None:
        """Times between the tokens of a response of `model`, in ns."""
        cdef gaps_t counted
        cdef int64_t gap
        model.decode("utf-8", "surrogatepass")
        memset(&counted, 0, sizeof(counted))
        for gap in gaps:
            gaps_add(&counted, gap)
        hist_add_gaps(&self._stats.series[stats_model(&self._stats, model, len(model))].itl_s, &counted)

    def view(self) -> dict:
        """Everything, as plain Python objects: see `Engine.stats`."""
        cdef uint32_t i
        cdef list rows = []
        for i in range(self._stats.count):
            if series_counted(self._stats.series[i]):
                rows.append(series_view(self._stats.series[i]))
        return {"series": rows, **stats_totals(&self._stats)}

    def _check(self) -> None:
        """Assert the invariants."""
        cdef uint32_t i, used = 0
        cdef const series_t* series
        cdef const stats_t* stats = &self._stats
        cdef key_t key
        for i in range(stats.mask + 1):
            assert stats.table[i] <= stats.count
            used += stats.table[i] != 0
        assert used == stats.count - 1 == stats.models + stats.banded + stats.flows + 2
        assert stats.models - stats.kept <= stats.limit and max(stats.banded, stats.flows) <= stats.limit
        assert stats.kept <= PK_MOST_KEPT
        for i in range(stats.count):
            series = stats.series[i]
            key = _key(series.name, series.name_size)
            key.priority, key.flow, key.flow_size = series.priority, series.flow, series.flow_size
            assert series.is_other == (i == PK_OTHER_SERIES)
            assert series.is_other or stats.table[_place(stats, &key)] == i + 1
            assert series.running >= 0 and series.waiting >= 0 and series.waiting_bytes >= 0
