"""A session's way through flow control: whose request it is and how soon it should be answered, its wait, its turn.

Invariants: what a waiting session needs later is its own: the hashes of its prompt, its body, its subset. A session
    that ends while it waits leaves the queue there and then.
Cost: that of `admission`; the hashes are copied when it has to wait.   Memory: the session's.
Threads: one at a time per session; `admission` takes the engine's lock.
"""
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from picker._core.admission cimport engine_admit, engine_enqueue, engine_leave
from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_resize
from picker._core.codec cimport header_t, slice_number, slice_t
from picker._core.decisions cimport PK_FLOW_BYTES, objective_t
from picker._core.exchange cimport session_t
from picker._core.flow cimport PK_QUEUED, flow_header
from picker._core.hashing cimport hash_xxh64
from picker._core.subset cimport subset_t

cdef enum:
    SLO_DIGITS = 9             # of milliseconds
    MS = 1000000

# --- C kernel: headers ---


cdef void turn_init(session_t* session, int64_t now_ns) noexcept nogil:
    """Of a zeroed session."""
    session.asked.request = &session.request
    session.asked.booking = &session.booking
    session.asked.pick = &session.pick
    session.asked.turn.queued.received_ns = now_ns
    session.flow_rank = UINT32_MAX


cdef void turn_read_header(session_t* session, const header_t* header) noexcept nogil:
    """Whose request it is, if this header says so: of those that may, the one that the rules name first counts."""
    cdef objective_t* objective = &session.request.objective
    cdef int rank = flow_header(&session.engine.flow, header.key)
    cdef slice_t value = header.value
    cdef size_t i
    if rank < 0 or <uint32_t>rank >= session.flow_rank or value.size == 0:
        return
    session.flow_rank = <uint32_t>rank
    session.asked.turn.queued.flow = hash_xxh64(value.data, value.size, session.engine.hash_seed)
    objective.flow_size = <uint32_t>value.size if value.size < PK_FLOW_BYTES else PK_FLOW_BYTES
    for i in range(objective.flow_size):
        objective.flow[i] = value.data[i] if 0x20 <= value.data[i] <= 0x7E else c"?"


cdef void turn_read_slo(session_t* session, slice_t value) noexcept nogil:
    """How soon its client wishes for the first token, in milliseconds; a fraction of one is left out."""
    cdef int64_t wished
    cdef size_t i
    for i in range(value.size):
        if value.data[i] == c".":
            value.size = i
            break
    wished = slice_number(value, SLO_DIGITS)
    session.asked.slo_ns = wished * MS if wished > 0 else 0


# --- C kernel: the wait ---


cdef int turn_keep_hashes(session_t* session) noexcept nogil:
    """The session waits: others will use the scratch. PK_OK or PK_E_NOMEM."""
    cdef size_t count = session.request.hash_count
    if count == 0 or session.hashes != NULL:
        return PK_OK
    session.hashes = <uint64_t*>pk_resize(NULL, count, sizeof(uint64_t))
    if session.hashes == NULL:
        return PK_E_NOMEM
    memcpy(session.hashes, session.request.hashes, count * sizeof(uint64_t))
    session.request.hashes = session.hashes
    return PK_OK


cdef uint64_t _group(const subset_t* subset) noexcept nogil:
    """0 for the whole pool; requests that may go to the same endpoints have the same, as a rule."""
    if subset.count < 0:
        return 0
    return hash_xxh64(<const unsigned char*>subset.table, subset.slots * sizeof(uint64_t), 0) | 1


cdef int turn_ask(session_t* session) noexcept nogil:
    """May it be picked for? As `engine_admit`; after PK_QUEUED it waits."""
    cdef const objective_t* objective = &session.request.objective
    cdef slice_t name
    cdef int code
    session.asked.turn.queued.group = _group(&session.subset)
    code = engine_admit(session.engine, &session.asked)
    if code != PK_QUEUED:
        return code
    if turn_keep_hashes(session) != PK_OK:
        return PK_E_NOMEM
    session.asked.turn.queued.bytes = session.body.size
    name.data, name.size = objective.flow, objective.flow_size
    return engine_enqueue(session.engine, &session.asked, name)


cdef void turn_leave(session_t* session, int64_t now_ns) noexcept nogil:
    """It waits no longer, without having had its turn, or before it was told. Harmless if it does not wait."""
    if not (turn_is_awaited(session) or session.asked.turn.is_evictable):
        return
    if engine_leave(session.engine, &session.asked, now_ns):
        session.is_booked = True
