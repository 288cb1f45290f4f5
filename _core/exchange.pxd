# One ext_proc stream: what is known of the HTTP exchange it carries. Shared by its two directions.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from picker._core.apis cimport route_t
from picker._core.codec cimport PK_BODY_FULL_DUPLEX_STREAMED, buffer_t, slice_t
from picker._core.dispatch cimport asked_pick_t, engine_t, pick_t, request_t, scratch_t
from picker._core.endpoints cimport booking_t
from picker._core.framed cimport framed_t
from picker._core.quota cimport hold_t
from picker._core.restore cimport restore_t
from picker._core.sse cimport sse_t
from picker._core.stats cimport gaps_t
from picker._core.subset cimport subset_t

# Where a session stands
cdef enum:
    PK_STATE_NEW = 0           # no request headers seen
    PK_STATE_BODY = 1          # request headers seen, body on its way
    PK_STATE_WAITING = 2       # for its turn, or for a plugin
    PK_STATE_PICKED = 3        # request answered
    PK_STATE_RESPONSE = 4      # the response has begun
    PK_STATE_ENDED = 5         # response complete, or answered by picker itself

cdef enum:
    PK_FORMAT_UNREAD = 255     # besides PK_FORMAT_*: nothing could be read, which is not refused

# How the body of the response is read
cdef enum:
    PK_ANSWER_UNREAD = 0
    PK_ANSWER_JSON = 1
    PK_ANSWER_EVENTS = 2       # text/event-stream
    PK_ANSWER_FRAMES = 3       # gRPC of a vLLM engine

ctypedef struct answer_t:
    # What is known of the response.
    uint8_t format             # PK_ANSWER_*
    bint is_stream             # its tokens come one by one; of gRPC known once one has
    bint is_grpc
    bint is_encoded            # by other than identity
    bint restores              # `restore` is in use
    uint32_t status            # 0 = none yet
    int64_t grpc_status        # -1 = none yet
    int64_t length             # by content-length; -1 = not said
    uint64_t tokens            # that have come, as far as they are told apart
    int64_t token_ns           # when the last did
    gaps_t gaps                # between them
    sse_t usage
    framed_t framed
    restore_t restore

ctypedef struct found_t:
    # What `reading_find` found in the body, besides what lies on the scratch: good while the call lasts that filled
    # it, the model's place for longer.
    int format                 # PK_FORMAT_*
    bint has_model
    bint model_is_json         # escapes may stand in it
    uint32_t model_start       # of the model's value in `session.body`, without quotes: good until it is answered
    uint32_t model_end
    uint64_t root              # where the hashes of the prompt begin
    int64_t max_tokens         # -1 = not said

ctypedef struct session_t:
    engine_t* engine           # borrowed
    scratch_t* scratch         # borrowed: the calling thread's
    int state
    int reply                  # PK_REPLY_*: the kind that carries the pick
    int api                    # as which the body is read
    route_t route              # until it is
    uint32_t request_mode
    uint32_t response_mode
    uint32_t controls          # bits of the control headers the client sent
    uint32_t owed              # body messages that came while it waited, each of which wants a reply
    uint32_t flow_rank         # of the header its fairness id is from
    int64_t content_length     # of the request, as its headers say; -1 = they do not
    bint is_surplus            # beyond the number of sessions there may be
    bint is_started            # a message was seen
    bint is_picked
    bint is_booked             # picked for, whether or not the gateway was told
    bint is_refused            # answered by picker itself: nothing more is said
    bint is_let_go             # nobody asks for the response, or for anything: nothing more is said
    bint is_counted            # closed: stats and bookings are settled
    bint has_body              # a body message was gathered
    bint has_trailers
    bint request_done          # its end was seen, or will not be shown
    bint has_response
    bint response_done
    bint has_first_byte
    int failure                # PK_FAIL_*
    int64_t opened_ns
    int64_t first_byte_ns
    int64_t ended_ns
    uint64_t request_bytes
    uint64_t response_bytes
    found_t found
    buffer_t body              # request body, until it is answered
    uint64_t held              # bytes of it the engine knows of
    buffer_t headers           # a copy for plugins, when there are any
    buffer_t model             # a copy for plugins, and while the model has no series of its own
    buffer_t wanted            # the model asked for instead of the body's
    buffer_t client_model      # the body's and the one in its place, as they stand between the quotes of JSON;
    buffer_t target_model      # empty: nothing is rewritten
    uint64_t* hashes           # owned: the prompt's, while the session waits
    subset_t subset
    request_t request
    booking_t booking
    pick_t pick
    asked_pick_t asked         # points to the three before it
    answer_t answer
    hold_t* meter              # what its rate limits hold; NULL: there are none


cdef inline slice_t session_header(const session_t* session) noexcept nogil:
    """Name of the header that holds session tokens."""
    cdef slice_t name
    name.data = session.engine.session_header
    name.size = session.engine.session_header_size
    return name


cdef inline bint is_duplex(uint32_t mode) noexcept nogil:
    return mode == PK_BODY_FULL_DUPLEX_STREAMED
