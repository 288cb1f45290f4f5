"""What flow control did with requests, by priority: how many went on, waited, were refused, and why.

Invariants: PK_BANDS bands at most; the requests of further ones count together, in PK_OTHER_BAND. What is counted by
    model and flow, too (how many wait, and how long they did), is counted in the series the caller names.
Cost: O(1) of the band last looked for, else O(bands); allocates nothing.
Memory: owns nothing.   Threads: one at a time; the engine holds its lock.
"""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.stats cimport (
    PK_FAIL_ABANDONED,
    PK_FAIL_CANCELED,
    PK_FAIL_DENIED,
    PK_FAIL_EVICTED,
    PK_FAIL_KINDS,
    PK_FAIL_NO_ENDPOINT,
    PK_FAIL_NONE,
    PK_FAIL_QUEUE_FULL,
    PK_FAIL_QUEUE_TTL,
    PK_FAIL_QUOTA,
    PK_FAIL_SATURATED,
    PK_LEFT_DISPATCHED,
    PK_LEFT_EVICTED_CANCELED,
    PK_LEFT_EVICTED_NO_ENDPOINTS,
    PK_LEFT_EVICTED_OTHER,
    PK_LEFT_EVICTED_TTL,
    PK_LEFT_REJECTED_CAPACITY,
    PK_LEFT_REJECTED_NO_ENDPOINTS,
    PK_LEFT_REJECTED_OTHER,
    hist_short,
    series_bind,
    series_t,
    series_view,
    wait_add,
    wait_count,
    wait_view,
)
from picker._core.stats import FAILURES as _FAILURES
from picker._core.stats import OTHER as _OTHER
from picker._core.stats import OUTCOMES as _OUTCOMES

# --- C kernel ---


cdef void flowstats_init(flowstats_t* flow) noexcept nogil:
    memset(flow, 0, sizeof(flowstats_t))
    flow.count = 1
    flow.bands[PK_OTHER_BAND].is_other = True
    flowstats_bind(flow)


cdef void flowstats_bind(flowstats_t* flow) noexcept nogil:
    """Point the histogram to its bounds, which are this process's own."""
    hist_short(&flow.dispatch_s)


cdef bandstats_t* _band(flowstats_t* flow, int32_t priority) noexcept nogil:
    """The counters of that priority; of all others when there are too many."""
    cdef bandstats_t* band = &flow.bands[flow.latest]
    if flow.latest != PK_OTHER_BAND and band.priority == priority:
        return band
    flow.latest = PK_OTHER_BAND + 1
    while flow.latest < flow.count and flow.bands[flow.latest].priority != priority:
        flow.latest += 1
    if flow.latest == PK_BANDS:
        flow.latest = PK_OTHER_BAND
    elif flow.latest == flow.count:
        flow.count += 1
        flow.bands[flow.latest].priority = priority
    return &flow.bands[flow.latest]


cdef int _refused_as(int failure) noexcept nogil:
    """The reference picker's outcome of what is refused at the door. -1: it asks elsewhere about that."""
    if failure == PK_FAIL_SATURATED or failure == PK_FAIL_QUEUE_FULL:
        return PK_LEFT_REJECTED_CAPACITY
    if failure == PK_FAIL_NO_ENDPOINT:
        return PK_LEFT_REJECTED_NO_ENDPOINTS
    if failure == PK_FAIL_DENIED or failure == PK_FAIL_QUOTA:
        return -1
    return PK_LEFT_REJECTED_OTHER


cdef int _left_as(int failure) noexcept nogil:
    """The same of what has waited."""
    if failure == PK_FAIL_NONE:
        return PK_LEFT_DISPATCHED
    if failure == PK_FAIL_QUEUE_TTL:
        return PK_LEFT_EVICTED_TTL
    if failure == PK_FAIL_NO_ENDPOINT:
        return PK_LEFT_EVICTED_NO_ENDPOINTS
    if failure == PK_FAIL_ABANDONED or failure == PK_FAIL_CANCELED:
        return PK_LEFT_EVICTED_CANCELED
    return PK_LEFT_EVICTED_OTHER


cdef void flowstats_passed(flowstats_t* flow, series_t* series, int32_t priority) noexcept nogil:
    """A request had its turn at once."""
    cdef bandstats_t* band = _band(flow, priority)
    band.passed += 1
    wait_add(&band.waited, 0.0)
    wait_add(&series.waits[PK_LEFT_DISPATCHED], 0.0)


cdef void flowstats_queued(flowstats_t* flow, series_t* series, int32_t priority, uint64_t bytes) noexcept nogil:
    """A request of so many bytes waits, until `flowstats_left`."""
    _band(flow, priority).queued += 1
    series.waiting += 1
    series.waiting_bytes += <int64_t>bytes


cdef void flowstats_refused(flowstats_t* flow, series_t* series, int32_t priority, int failure) noexcept nogil:
    """A request is not even let wait."""
    cdef int outcome = _refused_as(failure)
    _band(flow, priority).refused[failure] += 1
    if outcome >= 0:
        wait_add(&series.waits[outcome], 0.0)


cdef void flowstats_left(
    flowstats_t* flow, series_t* series, int32_t priority, uint64_t bytes, int failure, int64_t waited_ns
) noexcept nogil:
    """A request that waited does so no more: it has its turn (PK_FAIL_NONE), or lost it. `bytes` as it was queued."""
    cdef bandstats_t* band = _band(flow, priority)
    cdef double seconds = <double>waited_ns * 1e-9
    band.left[failure] += 1
    if failure == PK_FAIL_NONE:
        wait_add(&band.waited, seconds)
    wait_add(&series.waits[_left_as(failure)], seconds)
    series.waiting -= 1
    series.waiting_bytes -= <int64_t>bytes


cdef void flowstats_evicted(flowstats_t* flow, int32_t priority) noexcept nogil:
    """A request that ran was ended for one of higher priority."""
    _band(flow, priority).evicted += 1


# --- Python face ---


cdef dict _outcomes(const bandstats_t* band):
    """How many requests ended in each of the reference picker's outcomes."""
    cdef int failure, outcome
    cdef dict counts = dict.fromkeys(_OUTCOMES, 0)
    for failure in range(PK_FAIL_KINDS):
        counts[_OUTCOMES[_left_as(failure)]] += band.left[failure]
        outcome = _refused_as(failure)
        if outcome >= 0:
            counts[_OUTCOMES[outcome]] += band.refused[failure]
    counts[_OUTCOMES[PK_LEFT_DISPATCHED]] += band.passed
    return {name: count for name, count in counts.items() if count}


cdef dict _drops(const bandstats_t* band):
    """How many requests had no turn, or lost it, by cause."""
    cdef int failure
    cdef dict counts = {}
    for failure in range(PK_FAIL_NONE + 1, PK_FAIL_KINDS):
        count = band.refused[failure] + band.left[failure] + (band.evicted if failure == PK_FAIL_EVICTED else 0)
        if count:
            counts[_FAILURES[failure]] = count
    return counts


cdef dict band_view(const bandstats_t* band):
    """What was counted of one priority, as plain Python objects."""
    return {
        "priority": _OTHER if band.is_other else str(band.priority),
        "passed": band.passed,
        "queued": band.queued,
        "outcomes": _outcomes(band),
        "drops": _drops(band),
        "evicted": band.evicted,
        "waited_s": wait_view(&band.waited),
    }


cdef list bands_view(const flowstats_t* flow):
    """Those of all priorities there were, the highest first; what is counted together comes last."""
    cdef uint32_t i
    cdef list rows = [(flow.bands[i].priority, band_view(&flow.bands[i])) for i in range(PK_OTHER_BAND + 1, flow.count)]
    rows.sort(key=lambda row: -row[0])
    found = [view for _, view in rows]
    if band_counted(&flow.bands[PK_OTHER_BAND]):
        found.append(band_view(&flow.bands[PK_OTHER_BAND]))
    return found


cdef bint band_counted(const bandstats_t* band) noexcept nogil:
    """Is there anything to show?"""
    cdef uint64_t seen = band.passed + band.queued
    cdef int failure
    for failure in range(PK_FAIL_KINDS):
        seen += band.refused[failure]
    return seen != 0


@cython.final
@cython.auto_pickle(False)
cdef class FlowStats:
    """The counters alone, with one series, for tests; the engine holds its own."""

    def __cinit__(self):
        flowstats_init(&self._flow)
        memset(&self._series, 0, sizeof(series_t))
        series_bind(&self._series)

    def passed(self, int32_t priority) -> None:
        """A request had its turn at once."""
        flowstats_passed(&self._flow, &self._series, priority)

    def queued(self, int32_t priority, uint64_t nbytes) -> None:
        """A request of so many bytes waits."""
        flowstats_queued(&self._flow, &self._series, priority, nbytes)

    def refused(self, int32_t priority, str failure not None) -> None:
        """A request is not let wait, for a cause of `stats.FAILURES` (ValueError)."""
        flowstats_refused(&self._flow, &self._series, priority, _FAILURES.index(failure))

    def left(self, int32_t priority, uint64_t nbytes, str failure not None, int64_t waited_ns) -> None:
        """One that waited has its turn ("None"), or lost it, for a cause of `stats.FAILURES` (ValueError)."""
        flowstats_left(&self._flow, &self._series, priority, nbytes, _FAILURES.index(failure), waited_ns)

    def evicted(self, int32_t priority) -> None:
        """One that ran was ended."""
        flowstats_evicted(&self._flow, priority)

    def view(self) -> dict:
        """`bands` as `Engine.flow_stats` shows them, the highest first; `series` as `Engine.stats` shows its own."""
        return {"bands": bands_view(&self._flow), "series": series_view(&self._series)}

    def _check(self) -> None:
        """Assert the invariants."""
        cdef uint32_t i, k
        cdef uint64_t left
        cdef const bandstats_t* band
        assert 1 <= self._flow.count <= PK_BANDS and self._flow.latest < self._flow.count
        for i in range(self._flow.count):
            band = &self._flow.bands[i]
            assert band.is_other == (i == PK_OTHER_BAND)
            left = 0
            for k in range(PK_FAIL_KINDS):
                left += band.left[k]
            assert left <= band.queued
            assert band.left[PK_FAIL_NONE] + band.passed == wait_count(&band.waited)
            for k in range(1, i):
                assert band.priority != self._flow.bands[k].priority
