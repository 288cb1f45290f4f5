# The latest decisions, for whoever asks why.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.endpoints cimport PK_TARGET_BYTES
from picker._core.score cimport PK_MAX_STEPS

cdef enum:
    PK_DECISIONS = 1024        # kept
    PK_OBJECTIVE_BYTES = 64    # of an objective's name: more is not shown
    PK_FLOW_BYTES = 64         # of a fairness id: likewise

ctypedef struct objective_t:
    # What a request is for, as its client says.
    int32_t priority           # 0 = none was named, or it is not known
    uint32_t name_size         # 0 = none was named
    uint8_t name[PK_OBJECTIVE_BYTES]   # printable
    uint32_t flow_size         # 0 = none was named
    uint8_t flow[PK_FLOW_BYTES]        # fairness id, printable: as it is shown

ctypedef struct decision_t:
    uint64_t number            # 1, 2, ...; 0 = empty
    int64_t now_ns
    int64_t waited_ns          # in flow control's queue; 0 = it had its turn at once
    uint32_t series            # of the model, in stats
    uint32_t target_size
    uint8_t target[PK_TARGET_BYTES]
    uint32_t candidates        # left after the filters
    uint32_t steps             # of the pipeline
    int64_t prompt_tokens
    int64_t cached_tokens
    double total
    double runner_up           # -1 = there was no other
    double ttft_s              # -1 = not known (yet)
    objective_t objective
    double scores[PK_MAX_STEPS]

ctypedef struct decisions_t:
    decision_t* ring
    uint64_t count             # decisions made so far, which is the number of the latest

cdef int decisions_init(decisions_t* decisions) noexcept nogil
cdef void decisions_free(decisions_t* decisions) noexcept nogil
cdef decision_t* decisions_new(decisions_t* decisions) noexcept nogil
cdef decision_t* decisions_get(const decisions_t* decisions, uint64_t number) noexcept nogil
cdef void decisions_clear(decisions_t* decisions) noexcept nogil


cdef dict decision_view(const decision_t* decision)


cdef class Decisions:
    cdef decisions_t _decisions
