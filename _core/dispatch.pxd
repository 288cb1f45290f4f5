# Where a request goes: the engine's kernel, behind one lock.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport buffer_t, slice_t
from picker._core.decisions cimport decisions_t, objective_t
from picker._core.endpoints cimport PK_TARGET_BYTES, booking_t, details_t, endpoint_t, endpoints_t
from picker._core.flow cimport flow_t, turn_t
from picker._core.flowstats cimport flowstats_t
from picker._core.form cimport form_t
from picker._core.names cimport names_t
from picker._core.prompt cimport prompt_t
from picker._core.quota cimport quota_t
from picker._core.radix cimport radix_t
from picker._core.rewrite cimport rewrites_t
from picker._core.scan cimport scan_t
from picker._core.score cimport PK_MAX_CHOSEN, frame_t, pipeline_t
from picker._core.stats cimport gaps_t, stats_t
from picker._core.subset cimport subset_t
from picker._core.vllmgrpc cimport vllm_t

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, void*) noexcept
    int pthread_mutex_lock(pthread_mutex_t*) noexcept
    int pthread_mutex_unlock(pthread_mutex_t*) noexcept
    int pthread_mutex_destroy(pthread_mutex_t*) noexcept

cdef enum:
    PK_HEADER_BYTES = 64
    PK_DESTINATION_BYTES = PK_MAX_CHOSEN * (PK_TARGET_BYTES + 1)

# What is looked at of responses
cdef enum:
    PK_TRACK_FULL = 0
    PK_TRACK_HEADERS = 1       # bodies pass, or are not asked for
    PK_TRACK_OFF = 2           # sessions end when the request is answered

ctypedef struct limits_t:
    uint32_t endpoints
    uint32_t sessions
    uint32_t surplus           # further ones, which are told that there are too many
    uint32_t models            # model names with series of their own
    uint32_t prompt_blocks     # index blocks hashed of one prompt
    uint32_t endpoint_blocks   # index blocks an endpoint is thought to hold until it says
    uint64_t index_blocks      # (block, endpoint) pairs in all
    uint32_t headers           # of one request
    uint64_t header_bytes      # of all of them
    uint64_t body_bytes        # of one request body
    uint64_t buffered_bytes    # of all request bodies that wait to be complete
    uint32_t chunk_bytes       # of a body given back in FULL_DUPLEX_STREAMED
    uint32_t json_values
    uint32_t json_depth

ctypedef struct request_t:
    # What a pick needs to know. Borrowed for the call, and until the pick is made.
    const uint64_t* hashes     # of the prompt's blocks
    uint32_t hash_count
    int64_t prompt_tokens
    int64_t max_tokens         # -1 = not said
    uint64_t adapter           # hash of the model name
    uint64_t session           # hash of the session token; 0 = none
    const subset_t* subset     # NULL = the whole pool
    uint32_t series            # of the model, the priority and the flow, in stats
    bint is_known              # the model has a series of its own
    objective_t objective
    int64_t waited_ns          # in flow control's queue
    int64_t now_ns

ctypedef struct pick_t:
    uint8_t destination[PK_DESTINATION_BYTES]   # "ip:port[,ip:port...]"
    uint32_t destination_size
    int64_t cached_tokens      # predicted
    uint64_t decision          # number of its record
    uint64_t number            # of the pick
    uint64_t frame             # number of the frame it is made in
    uint32_t step              # the plugin's step it waits at
    uint32_t restarts

ctypedef struct asked_pick_t:
    # A request that asks for its turn, with what is to be filled. Part of its session, which must not move.
    turn_t turn                # first: a turn_t is its asked_pick_t
    request_t* request
    booking_t* booking
    pick_t* pick
    int64_t slo_ns             # after its coming its client wishes for the first token; 0 = not said
    bint is_free               # it costs no model server anything, and waits for nobody

ctypedef struct candidate_t:
    # A copy of what is known of one endpoint, to be looked at without the lock.
    uint32_t slot
    endpoint_t endpoint
    details_t details
    double fleet_rate
    int64_t cached_tokens      # of the request being picked for
    double total               # score so far

ctypedef struct outcome_t:
    # How a request went, told once at its end. Negative: not known.
    uint32_t series
    int failure                # PK_FAIL_*
    bint is_picked
    bint is_counted            # False: nothing was asked, the session leaves no trace
    bint is_surplus
    slice_t model              # its name while it has no series of its own, else empty
    slice_t target             # likewise the one it was rewritten to, if it was
    const objective_t* objective
    uint64_t decision
    uint32_t status            # 0 = none
    bint is_stream
    double duration_s
    double ttft_s
    gaps_t gaps
    uint64_t request_bytes
    int64_t response_bytes
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
    uint64_t labels            # that every step which asks for labels asks for
    frame_t frame
    uint64_t frames            # number of the frame that may be gone on with
    uint32_t* match            # by slot; as wide as the index
    size_t match_room
    stats_t stats
    flowstats_t flowstats
    decisions_t decisions
    flow_t flow
    rewrites_t rewrites
    quota_t* quota             # rate limits, with a lock of their own; NULL: there are none
    const names_t* objectives  # priorities (int32_t) by name; NULL: there are none
    uint64_t random
    uint64_t hash_seed
    double output_tokens       # learned: what an answer is expected to be long
    uint32_t sessions          # open
    uint32_t surplus           # of them beyond the number there may be
    uint64_t buffered          # bytes of request bodies held
    bint shows_responses       # the gateway sends response headers
    bint hands_out_tokens      # a session scorer runs: responses carry the session token
    uint32_t session_header_size
    uint8_t session_header[PK_HEADER_BYTES]   # lower-case
    uint32_t families          # of APIs whose bodies are read: bits of `apis`
    bint ignores_subset
    bint reads_test_header     # for conformance tests: a client may say which endpoints to pick from
    bint tells_served          # likewise: it is told which one the gateway says has served
    bint keeps_headers         # a Python plugin may want to see them
    bint restores_models       # responses name the model as the client did, not the one it was rewritten to
    int tracks                 # PK_TRACK_*

ctypedef struct scratch_t:
    # What parsing one body needs; one per thread.
    scan_t scan
    uint64_t* hashes           # limits.prompt_blocks of them
    prompt_t prompt            # what was found in it, as its format has it
    form_t form
    vllm_t vllm

cdef int scratch_init(scratch_t* scratch, const limits_t* limits) noexcept nogil
cdef void scratch_free(scratch_t* scratch) noexcept nogil

cdef int engine_init(engine_t* engine, const limits_t* limits, double prior_rate) noexcept nogil
cdef void engine_free(engine_t* engine) noexcept nogil

cdef int engine_open(engine_t* engine, bint* is_surplus) noexcept nogil
cdef int engine_hold(engine_t* engine, uint64_t* held, uint64_t wanted) noexcept nogil
cdef int engine_rewrite(engine_t* engine, slice_t model, buffer_t* target) noexcept nogil
cdef void engine_objective(engine_t* engine, slice_t name, objective_t* objective) noexcept nogil
cdef void engine_model(engine_t* engine, slice_t model, slice_t target, request_t* request) noexcept nogil
cdef int engine_resume(engine_t* engine, asked_pick_t* asked) noexcept nogil
cdef void engine_served(engine_t* engine, booking_t* booking, slice_t target, int64_t now_ns) noexcept nogil
cdef void engine_answered(
    engine_t* engine, booking_t* booking, uint32_t status, int64_t now_ns
) noexcept nogil
cdef void engine_first_byte(
    engine_t* engine, booking_t* booking, uint64_t decision, bint learn, int64_t now_ns
) noexcept nogil
cdef bint engine_unanswered(engine_t* engine, booking_t* booking, int64_t now_ns) noexcept nogil
cdef void engine_settle(
    engine_t* engine, booking_t* booking, const outcome_t* outcome, int64_t now_ns
) noexcept nogil
cdef uint32_t engine_token(engine_t* engine, const booking_t* booking, uint8_t* token) noexcept nogil

# With the lock held
cdef int pick_among(
    engine_t* engine, const request_t* request, booking_t* booking, pick_t* pick, double share
) noexcept nogil
cdef void pick_may_be_taken_back(engine_t* engine, asked_pick_t* asked) noexcept nogil
cdef bint pick_is_possible(const engine_t* engine, const request_t* request) noexcept nogil
