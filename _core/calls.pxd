# gRPC calls on an HTTP/2 connection: what methods work with, and what the connection does for them.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport buffer_t, slice_t
from picker._core.deadlines cimport deadline_t, deadlines_t
from picker._core.inbox cimport inbox_t
from picker._core.nghttp2 cimport nghttp2_data_source, nghttp2_frame, nghttp2_nv, nghttp2_session, ssize_t
from picker._core.outbox cimport out_t
from picker._core.pools cimport asked_t

# google.rpc.Code
cdef enum:
    PK_GRPC_OK = 0
    PK_GRPC_CANCELLED = 1
    PK_GRPC_INVALID_ARGUMENT = 3
    PK_GRPC_DEADLINE_EXCEEDED = 4
    PK_GRPC_NOT_FOUND = 5
    PK_GRPC_RESOURCE_EXHAUSTED = 8
    PK_GRPC_UNIMPLEMENTED = 12
    PK_GRPC_INTERNAL = 13
    PK_GRPC_UNAVAILABLE = 14

cdef enum:
    PK_MOST_METHODS = 8

ctypedef struct method_t:
    # What answers the calls of one path. Functions append framed replies to `call.out` and may end the call.
    const char* path
    size_t state_size          # bytes of a call's own that `open` finds at `call.state`
    void* service              # whatever the method needs
    void (*open)(call_t*, int64_t) noexcept nogil                 # `connection.asked` is this call's while it runs
    int (*message)(call_t*, slice_t, int64_t) noexcept nogil      # PK_OK, or PK_NEED_PLUGIN: `run` is due
    void (*half_close)(call_t*, int64_t) noexcept nogil           # the client has no more to say
    void (*expire)(call_t*, int64_t) noexcept nogil               # it waited until the time it had set itself
    void (*changed)(call_t*) noexcept nogil                       # something that calls wait for has changed
    void (*fail)(call_t*) noexcept nogil                          # `run` raised
    void (*close)(call_t*, int64_t) noexcept nogil                # it is over, whatever ended it; told once
    int (*run)(call_t*, int64_t) except -1                        # Python may run: PK_OK or PK_NEED_PLUGIN

ctypedef struct rules_t:
    # Limits of a connection.
    uint32_t streams           # open at once
    uint32_t message_bytes
    uint32_t header_bytes      # of one request
    uint32_t stream_window     # bytes a client may send before they are taken
    uint32_t connection_window
    uint64_t stream_pending    # bytes that wait to be sent before no more of the stream, or connection, is taken
    uint64_t connection_pending
    size_t write_bytes         # handed to the socket at once
    int64_t ping_after_ns      # of silence
    int64_t ping_timeout_ns
    int64_t notice_ns          # between the first and the last GOAWAY

ctypedef struct tally_t:
    # What connections have seen, all together.
    uint64_t connections
    uint64_t calls
    uint64_t messages
    uint64_t refused           # calls ended before their method saw them
    uint64_t faults            # connections ended for breaking HTTP/2
    int64_t open_calls

ctypedef struct connection_t:
    nghttp2_session* session
    const method_t* methods
    uint32_t method_count
    const rules_t* rules
    tally_t* tally
    buffer_t out               # to the socket
    call_t* calls              # the open ones, as a list
    deadlines_t deadlines
    int64_t now_ns
    asked_t asked              # by the request whose headers came last
    uint64_t pending           # bytes of replies that wait to be sent
    uint64_t taken             # bytes received that the client does not know we took
    call_t* paused             # its plugin is to be run
    slice_t rest               # what came behind the message that needs it
    int64_t heard_ns
    int64_t pinged_ns
    int64_t notice_ns          # the first GOAWAY was sent then
    bint is_pinged             # and has not answered
    bint is_draining           # the first GOAWAY was sent
    bint is_last_called        # the last GOAWAY was sent
    bint is_dead               # nothing more is read
    bint is_mute               # nothing more is written
    void* python               # the Connection
    bint is_stirred            # something was answered without anything read

ctypedef struct call_t:
    deadline_t deadline        # first: a deadline is its call
    connection_t* connection
    const method_t* method     # NULL: unknown path
    void* state
    int32_t id                 # of the stream
    call_t* before
    call_t* after
    inbox_t inbox
    out_t out
    size_t mark                # of `out`, when the message under way came
    size_t counted             # bytes of `out` in the connection's account
    uint64_t taken             # as of the connection
    uint32_t header_bytes
    uint32_t heads             # bits of what the headers were so far: see `heads`
    int64_t expires_ns         # as the client wishes: grpc-timeout
    int64_t waits_ns           # as the method wishes
    int status                 # PK_GRPC_*, once it has ended
    const char* text
    bint is_post
    bint is_grpc
    bint is_compressed         # messages may be, in a way picker does not know
    bint is_open               # the method knows of it
    bint is_half_closed        # the client has no more to say
    bint is_begun              # response headers were submitted
    bint is_deferred           # HTTP/2 waits for replies
    bint is_ended

cdef call_t* call_new(connection_t* connection, int32_t id) noexcept nogil
cdef void call_free(call_t* call) noexcept nogil
cdef void call_open(call_t* call) noexcept nogil
cdef void call_wait_until(call_t* call, int64_t at_ns) noexcept nogil
cdef void call_end(call_t* call, int status, const char* text) noexcept nogil
cdef void call_flush(call_t* call) noexcept nogil
cdef void call_take(call_t* call) noexcept nogil
cdef void connection_take(connection_t* connection) noexcept nogil
cdef int call_send(
    nghttp2_session* session, nghttp2_frame* frame, const uint8_t* head, size_t size, nghttp2_data_source* source,
    void* user
) noexcept nogil


cdef class Methods:
    cdef method_t table[PK_MOST_METHODS]
    cdef uint32_t count
    cdef object service
