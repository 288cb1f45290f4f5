# The engine: endpoints, prefix index, pipeline and stats behind one lock.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from picker._core.endpoints cimport PK_TARGET_BYTES, booking_t, endpoints_t
from picker._core.radix cimport radix_t
from picker._core.scan cimport scan_t
from picker._core.score cimport PK_MAX_CHOSEN, PK_MAX_STEPS, frame_t, pipeline_t
from picker._core.stats cimport stats_t

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, void*) noexcept
    int pthread_mutex_lock(pthread_mutex_t*) noexcept
    int pthread_mutex_unlock(pthread_mutex_t*) noexcept
    int pthread_mutex_destroy(pthread_mutex_t*) noexcept

cdef enum:
    PK_DECISIONS = 1024        # kept for whoever asks why
    PK_HEADER_BYTES = 64
    PK_DESTINATION_BYTES = PK_MAX_CHOSEN * (PK_TARGET_BYTES + 1)

ctypedef struct limits_t:
    uint32_t endpoints
    uint32_t sessions
    uint32_t models            # model names with series of their own
    uint32_t prompt_blocks     # index blocks hashed of one prompt
    uint32_t endpoint_blocks   # index blocks an endpoint is thought to hold until it says
    uint64_t index_blocks      # (block, endpoint) pairs in all
    uint64_t body_bytes
    uint32_t chunk_bytes       # of a body given back in FULL_DUPLEX_STREAMED
    uint32_t json_values
    uint32_t json_depth

ctypedef struct request_t:
    # What a pick needs to know. Borrowed for the call.
    const uint64_t* hashes     # of the prompt's blocks
    uint32_t hash_count
    int64_t prompt_tokens
    int64_t max_tokens         # -1 = not said
    uint64_t adapter           # hash of the model name
    uint64_t session           # hash of the session token; 0 = none
    const uint64_t* subset     # hashes of "ip:port" or "ip"
    int64_t subset_count       # -1 = the whole pool
    uint32_t series            # of the model, in stats
    int64_t now_ns

ctypedef struct pick_t:
    uint8_t destination[PK_DESTINATION_BYTES]   # "ip:port[,ip:port...]"
    uint32_t destination_size
    int64_t cached_tokens      # predicted
    uint64_t decision          # number of its record

ctypedef struct decision_t:
    uint64_t number            # 1, 2, ...; 0 = empty
    int64_t now_ns
    uint32_t series
    uint32_t slot
    uint32_t generation
    uint32_t target_size
    uint8_t target[PK_TARGET_BYTES]
    uint32_t candidates        # left after the filters
    int64_t prompt_tokens
    int64_t cached_tokens
    double total
    double runner_up           # -1 = there was no other
    double ttft_s              # 0 = not known (yet)
    double scores[PK_MAX_STEPS]

ctypedef struct outcome_t:
    # How a request went, told once at its end. Negative: not known.
    uint32_t series
    int failure                # PK_FAIL_*
    bint is_picked
    double duration_s
    double ttft_s
    uint64_t request_bytes
    uint64_t response_bytes
    int64_t input_tokens
    int64_t output_tokens
    int64_t cached_tokens      # reported
    int64_t predicted_tokens   # cached, as the index saw it

ctypedef struct engine_t:
    pthread_mutex_t lock
    limits_t limits
    endpoints_t endpoints
    radix_t radix
    pipeline_t pipeline
    frame_t frame
    uint32_t* match            # by slot
    size_t match_room
    stats_t stats
    decision_t* decisions
    uint64_t decided
    uint64_t random
    uint64_t hash_seed
    double output_tokens       # learned: what an answer is expected to be long
    uint32_t sessions          # open
    bint hands_out_tokens      # a session scorer runs: responses carry the session token
    uint32_t session_header_size
    uint8_t session_header[PK_HEADER_BYTES]   # lower-case
    bint ignores_subset
    bint keeps_headers         # a Python plugin may want to see them

ctypedef struct scratch_t:
    # What parsing one body needs; one per thread.
    scan_t scan
    uint64_t* hashes           # limits.prompt_blocks of them

cdef int scratch_init(scratch_t* scratch, const limits_t* limits) noexcept nogil
cdef void scratch_free(scratch_t* scratch) noexcept nogil

cdef int engine_open(engine_t* engine) noexcept nogil
cdef uint32_t engine_model(engine_t* engine, const uint8_t* name, size_t size) noexcept nogil
cdef int engine_pick(engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick) noexcept nogil
cdef int engine_resume(engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick) noexcept nogil
cdef void engine_answered(
    engine_t* engine, booking_t* booking, uint32_t status, int64_t now_ns
) noexcept nogil
cdef void engine_first_byte(
    engine_t* engine, booking_t* booking, uint64_t decision, bint learn, int64_t now_ns
) noexcept nogil
cdef void engine_unanswered(engine_t* engine, booking_t* booking, int64_t now_ns) noexcept nogil
cdef void engine_settle(engine_t* engine, booking_t* booking, const outcome_t* outcome) noexcept nogil
cdef uint32_t engine_token(engine_t* engine, const booking_t* booking, uint8_t* token) noexcept nogil


cdef class Engine:
    cdef engine_t _engine
    cdef scratch_t _scratch
    cdef object _plugins
    cdef bint _ready

    cdef int _drop_gone(self, dict generations) except -1
    cdef int run_plugin(self, const request_t* request, bytes headers, bytes model) except -1
