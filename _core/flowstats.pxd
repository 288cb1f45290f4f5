# What flow control did with requests, by priority: counted where it happens, read by the metrics page.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from picker._core.stats cimport PK_FAIL_KINDS, hist_t, series_t, wait_t

cdef enum:
    PK_BANDS = 64              # with counters of their own, the one of all others among them
    PK_OTHER_BAND = 0

ctypedef struct bandstats_t:
    int32_t priority           # of PK_OTHER_BAND none
    bint is_other
    uint64_t passed            # had their turn at once
    uint64_t queued
    uint64_t refused[PK_FAIL_KINDS]    # at the door, by cause
    uint64_t left[PK_FAIL_KINDS]       # the queue, by cause; PK_FAIL_NONE: had their turn
    uint64_t evicted           # while they ran
    wait_t waited              # of those that had their turn

ctypedef struct flowstats_t:
    uint32_t count             # of bands
    uint32_t latest            # looked for: bursts are of one band
    hist_t dispatch_s          # times of one round of dispatching
    bandstats_t bands[PK_BANDS]

cdef void flowstats_init(flowstats_t* flow) noexcept nogil
cdef void flowstats_bind(flowstats_t* flow) noexcept nogil
cdef bint band_counted(const bandstats_t* band) noexcept nogil
# Each request is told of once at the door (passed, queued, refused), and once more when it waits no longer (left).
# `series`: where the request is counted, the same each time.
cdef void flowstats_passed(flowstats_t* flow, series_t* series, int32_t priority) noexcept nogil
cdef void flowstats_queued(flowstats_t* flow, series_t* series, int32_t priority, uint64_t bytes) noexcept nogil
cdef void flowstats_refused(flowstats_t* flow, series_t* series, int32_t priority, int failure) noexcept nogil
cdef void flowstats_left(
    flowstats_t* flow, series_t* series, int32_t priority, uint64_t bytes, int failure, int64_t waited_ns
) noexcept nogil
cdef void flowstats_evicted(flowstats_t* flow, int32_t priority) noexcept nogil


cdef dict band_view(const bandstats_t* band)
cdef list bands_view(const flowstats_t* flow)


cdef class FlowStats:
    cdef flowstats_t _flow
    cdef series_t _series
