# The body-based router: what one HTTP exchange is known by. Shared by its two directions and their plugins.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.codec cimport (
    PK_BODY_BUFFERED,
    PK_BODY_BUFFERED_PARTIAL,
    PK_BODY_FULL_DUPLEX_STREAMED,
    buffer_t,
    slice_t,
)
from picker._core.edits cimport edits_t
from picker._core.fields cimport document_t
from picker._core.names cimport names_t
from picker._core.scan cimport scan_t
from picker._core.stats cimport PK_FAIL_KINDS

cdef enum:
    PK_ROUTE_STEPS = 16        # of a direction
    PK_ROUTE_HEADERS = 32      # that clients may not set
    PK_VALUE_BYTES = 4096      # of a header made of the body

# What a step does
cdef enum:
    PK_STEP_FIELD = 0          # body field to header
    PK_STEP_BASE = 1           # body field, by the map of names, to header
    PK_STEP_PYTHON = 2

# What is before the plugins
cdef enum:
    PK_PART_HEADERS = 0        # there is no body, or none is shown
    PK_PART_BODY = 1           # all of it
    PK_PART_EVENT = 2          # one event of a stream

# Where an exchange stands
cdef enum:
    PK_ROUTE_NEW = 0           # no request headers seen
    PK_ROUTE_BODY = 1          # request headers seen, body on its way
    PK_ROUTE_PLUGINS = 2       # the request's plugins are at work
    PK_ROUTE_PASSED = 3        # request answered
    PK_ROUTE_RESPONSE = 4      # the response has begun
    PK_ROUTE_ENDED = 5         # response complete, or answered by picker itself

ctypedef struct step_t:
    int kind
    bint sees_body             # is of no use without; responses are held for it
    bint is_closed             # its failure is the request's
    slice_t field
    slice_t header
    slice_t refusal            # answered where the field cannot be a header's value
    uint64_t runs
    uint64_t missing
    uint64_t empty
    uint64_t unusable          # neither text nor number
    uint64_t skipped           # could not be asked: no body is shown, or it is too large or encoded

ctypedef struct steps_t:
    step_t items[PK_ROUTE_STEPS]
    uint32_t count
    uint32_t seeing            # of them see the response's body
    bint has_python
    bint is_closed             # one of those is

ctypedef struct routing_limits_t:
    uint64_t body_bytes        # of one body
    uint64_t buffered_bytes    # of all bodies held
    uint64_t event_bytes       # of one event of a stream
    uint64_t chunk_bytes       # of a body that is given back
    int64_t sessions

ctypedef struct routed_t:
    uint64_t requests          # exchanges so far
    uint64_t answered          # requests that went on
    uint64_t routed            # requests that went on with headers of ours
    uint64_t refusals[PK_FAIL_KINDS]
    uint64_t rejected          # by plugins
    uint64_t cut               # responses that were ended in the middle

ctypedef struct router_t:
    routing_limits_t limits
    steps_t request
    steps_t response
    slice_t headers[PK_ROUTE_HEADERS]      # that clients may not set
    uint32_t header_count
    const names_t* names       # base models
    scan_t scan
    const document_t* scanned  # whose tape that is; NULL: nobody's
    uint64_t held              # bytes of bodies
    int64_t sessions           # exchanges under way
    routed_t tally

ctypedef struct route_t:
    router_t* router           # borrowed
    int state
    uint32_t request_mode
    uint32_t response_mode
    uint32_t spoofed           # bits of the router's headers that the client sent
    bint is_started            # a message was seen
    bint is_observed           # nobody listens
    bint is_full               # one exchange too many
    bint is_refused            # answered by picker itself: nothing more is said
    bint is_let_go             # answered, and the response is not looked at: nothing more is said
    bint is_cut                # the response must not go on
    bint is_closed
    bint passes                # the request's body is not read
    bint may_be_other          # the request says itself that it is no JSON
    bint is_grpc               # and that it may answer before it ends
    bint is_unseen             # the request's body, or the rest of it, is not shown
    bint has_body
    bint has_trailers
    bint request_done
    bint is_answered           # the request went on
    bint has_response
    bint response_done
    bint response_trailers
    bint gathers               # the response's body is read
    bint holds_headers         # the response's headers wait for a plugin's word
    bint is_stream             # the response is text/event-stream
    bint is_encoded            # gzip or the like
    bint has_response_body
    bint has_event             # one is before the plugins
    bint is_response           # the steps are the response's
    int part                   # PK_PART_*
    uint32_t step              # the next one
    document_t document        # before the steps
    uint64_t held              # bytes the router knows of
    buffer_t request_headers   # a copy for plugins, where there are any
    buffer_t response_headers
    edits_t request_edits
    edits_t edits              # of the response
    buffer_t gathered          # of a stream: what is not yet whole events
    size_t taken               # so many bytes of it went before the plugins
    size_t searched            # so many hold no end of an event beyond those
    size_t line                # where the line begins that is searched
    buffer_t ready             # of a stream: events that may go on
    bint ready_changed
    document_t before          # as it was when a plugin's turn began, if it has changed it
    bint has_before
    uint32_t edits_before
    uint32_t reject_status     # what a plugin answers the client; 0: it does not
    buffer_t reject_body


cdef inline bint route_is_duplex(uint32_t mode) noexcept nogil:
    return mode == PK_BODY_FULL_DUPLEX_STREAMED


cdef inline bint route_is_buffered(uint32_t mode) noexcept nogil:
    return mode == PK_BODY_BUFFERED or mode == PK_BODY_BUFFERED_PARTIAL


cdef inline bint route_is_over(const route_t* route) noexcept nogil:
    return route.is_refused or route.is_let_go or route.is_cut
