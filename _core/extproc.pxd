# ext_proc's Process as a method of gRPC connections.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from picker._core.calls cimport method_t
from picker._core.dispatch cimport engine_t, scratch_t
from picker._core.engine cimport Engine
from picker._core.exchange cimport session_t
from picker._core.names cimport names_t
from picker._core.pools cimport PoolNames
from picker._core.replies cimport PK_SHOWN_BYTES

ctypedef struct served_t:
    # A pool that streams are opened on.
    engine_t* engine
    scratch_t* scratch
    int64_t open               # streams under way
    uint64_t picked            # requests answered so far
    uint64_t timed             # of them those whose time is counted
    uint64_t dispatched        # requests whose wait has ended so far
    uint64_t told              # of them those whose dispatch is timed
    void* python               # the Engine

ctypedef struct stranger_t:
    # A stream for a pool that is not known.
    uint32_t size
    bint is_name
    bint is_many
    uint8_t text[PK_SHOWN_BYTES + 1]

ctypedef union exchange_t:
    session_t session
    stranger_t stranger

ctypedef struct stream_t:
    # The state of a call; of its service's own method it is a session, of `strangers` a stranger.
    served_t* served           # NULL: no pool is known for it
    bint is_picked             # and counted
    exchange_t of

ctypedef struct extproc_t:
    served_t* only             # the one pool there is; NULL: there is another number of them
    served_t** served          # by their places in `names`
    const names_t* names
    int64_t timeout_ns         # for a request body to arrive
    uint64_t opened            # streams so far
    uint64_t picked            # requests answered so far
    uint64_t unknown           # streams so far for a pool that was not known
    int64_t strange            # of them under way
    method_t strangers         # takes over calls for such


cdef class _Served:
    cdef served_t _served
    cdef Engine _engine


cdef class ExtProc:
    cdef extproc_t _service
    cdef bint _by_name
    cdef PoolNames _names
    cdef uint64_t _timed       # picks so far whose time is counted
    cdef tuple _pools          # _Served, by their places in `_names`; of a list, garbage collection would let them go
    cdef tuple _retired        # those no longer served that streams are open on

    cdef int _dispatch(self, served_t* served, int64_t now_ns, list stirred) except -1
