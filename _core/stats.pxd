# Counters and histograms of the data plane, read by the metrics page.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.decisions cimport PK_FLOW_BYTES, objective_t

cdef enum:
    PK_MODEL_BYTES = 256       # longer model names share the series `other`
    PK_SERIES_BYTES = 2 * PK_MODEL_BYTES + 1   # a model, or a model, a zero byte, and the model it was rewritten to
    PK_MOST_MODELS = 1 << 20
    PK_MOST_KEPT = 4096        # models with a series beside the limit
    PK_NO_MODEL = 0            # series of requests whose model is not known
    PK_OTHER_MODELS = 1        # series of all models without one of their own
    PK_OTHER_SERIES = 2        # of whatever has none because there are too many of all
    PK_MAX_BOUNDS = 36
    PK_GAPS = 16               # buckets of gaps_t
    PK_CLASSES = 6             # of status, by the first digit
    PK_WAITS = 16              # bounds of wait_t

# How a request left flow control: what the reference picker calls its outcome
cdef enum:
    PK_LEFT_DISPATCHED = 0
    PK_LEFT_REJECTED_CAPACITY = 1      # at the door
    PK_LEFT_REJECTED_NO_ENDPOINTS = 2
    PK_LEFT_REJECTED_OTHER = 3
    PK_LEFT_EVICTED_TTL = 4            # after a wait
    PK_LEFT_EVICTED_NO_ENDPOINTS = 5
    PK_LEFT_EVICTED_CANCELED = 6
    PK_LEFT_EVICTED_OTHER = 7
    PK_LEFT_KINDS = 8

# How a request ended badly
cdef enum:
    PK_FAIL_NONE = 0
    PK_FAIL_BAD_REQUEST = 1        # 400
    PK_FAIL_TOO_LARGE = 2          # 413
    PK_FAIL_NO_ENDPOINT = 3        # 503
    PK_FAIL_MODEL_SERVER = 4       # the model server answered 4xx or 5xx
    PK_FAIL_NO_ANSWER = 5          # the stream ended before the model server answered
    PK_FAIL_CANCELED = 6           # the stream ended in the middle of the request or of the response
    PK_FAIL_TIMEOUT = 7            # 408
    PK_FAIL_INTERNAL = 8           # 500
    PK_FAIL_EXHAUSTED = 9          # 429
    PK_FAIL_LARGE_HEADERS = 10     # 431
    PK_FAIL_BAD_REWRITE = 11       # 400
    PK_FAIL_SATURATED = 12         # 429: sheddable, and there is no place for it now
    PK_FAIL_QUEUE_FULL = 13        # 429: as many wait as may
    PK_FAIL_QUEUE_TTL = 14         # 429: it waited as long as it may
    PK_FAIL_STOPPING = 15          # 503: it waited while picker stopped, or its pool was closed
    PK_FAIL_DENIED = 16            # 429: an admitter's word
    PK_FAIL_EVICTED = 17           # 429: it ran, and made room
    PK_FAIL_QUOTA = 18             # 429: its key has used up what it may
    PK_FAIL_ABANDONED = 19         # the client went away while it waited
    PK_FAIL_KINDS = 20

ctypedef struct hist_t:
    const double* bounds       # static
    uint32_t count             # of bounds
    uint64_t buckets[PK_MAX_BOUNDS + 1]
    double sum

ctypedef struct gaps_t:
    # Times between tokens of one response, counted where it is cheap, to be added to a histogram once.
    uint32_t buckets[PK_GAPS]
    int64_t sum_ns

ctypedef struct wait_t:
    # Times in the queue: a histogram as hist_t, of few buckets.
    uint64_t buckets[PK_WAITS + 1]
    double sum_s

ctypedef struct series_t:
    uint32_t name_size
    uint32_t flow_size
    uint8_t name[PK_SERIES_BYTES]
    bint is_kept
    bint is_other              # PK_OTHER_SERIES
    int32_t priority
    uint8_t flow[PK_FLOW_BYTES]        # fairness id
    int64_t waiting            # in flow control's queue
    int64_t waiting_bytes
    wait_t waits[PK_LEFT_KINDS]
    uint64_t requests
    uint64_t failures[PK_FAIL_KINDS]
    uint64_t statuses[PK_CLASSES]
    int64_t running
    hist_t duration_s
    hist_t ttft_s
    hist_t streaming_ttft_s    # those of `ttft_s` that are of streams
    hist_t tpot_s
    hist_t ntpot_s
    hist_t itl_s
    hist_t request_bytes
    hist_t response_bytes
    hist_t input_tokens
    hist_t output_tokens
    hist_t cached_tokens

ctypedef struct stats_t:
    series_t** series          # see PK_NO_MODEL, PK_OTHER_MODELS
    size_t capacity
    uint32_t count
    uint32_t limit             # of models with a series, but for those kept; of priorities, and of flows, of models
    uint32_t kept
    uint32_t models            # with a series, kept ones too
    uint32_t banded            # series for a priority
    uint32_t flows             # series for a flow
    uint32_t* table            # open addressing: 0 = empty, else series index + 1
    uint32_t mask
    hist_t scheduling_s
    hist_t hit_ratio
    hist_t hit_bytes
    uint64_t picked
    uint64_t not_picked
    uint64_t ejected
    uint64_t predicted_tokens  # prompt tokens the index said were cached
    uint64_t reported_tokens   # prompt tokens model servers said were cached, of the same requests

cdef int stats_init(stats_t* stats, uint32_t limit) noexcept nogil
cdef void stats_free(stats_t* stats) noexcept nogil
# Name of the series of requests for `model` that go to `target` (empty: to `model` itself), into PK_SERIES_BYTES; its
# size, or a larger one if there can be none
cdef size_t stats_name(uint8_t* name, slice_t model, slice_t target) noexcept nogil
cdef uint32_t stats_find(const stats_t* stats, const uint8_t* name, size_t size) noexcept nogil
cdef void stats_keep(stats_t* stats, const uint8_t* name, size_t size) noexcept nogil
cdef uint32_t stats_model(stats_t* stats, const uint8_t* name, size_t size) noexcept nogil
# The series for requests of `objective`, by that of their model; only `is_served` ones get one for their flow
cdef uint32_t stats_series(
    stats_t* stats, uint32_t model, const objective_t* objective, bint is_served
) noexcept nogil
# That of the model alone
cdef uint32_t stats_base(const stats_t* stats, uint32_t series) noexcept nogil
cdef void wait_add(wait_t* wait, double seconds) noexcept nogil
cdef uint64_t wait_count(const wait_t* wait) noexcept nogil
cdef void hist_add(hist_t* hist, double value) noexcept nogil
cdef void gaps_add(gaps_t* gaps, int64_t gap_ns) noexcept nogil
cdef void hist_add_gaps(hist_t* itl_s, const gaps_t* gaps) noexcept nogil
cdef bint series_counted(const series_t* series) noexcept nogil
cdef void series_bind(series_t* series) noexcept nogil
cdef void stats_bind(stats_t* stats) noexcept nogil
cdef void hist_short(hist_t* hist) noexcept nogil      # of times below a tenth of a second


cdef tuple hist_view(const hist_t* hist)
cdef tuple wait_view(const wait_t* wait)
cdef tuple series_names(const series_t* series)
cdef dict series_view(const series_t* series)
cdef dict stats_totals(const stats_t* stats)


cdef class Stats:
    cdef stats_t _stats
