"""ext_proc's Process as a method of gRPC connections: each message goes to the call's session, replies go back.

Invariants: a session that was opened is closed once, on the engine it was opened on, which is there until then. A
    stream that cannot go on ends with an error, never as if all were well; before the request is answered, the client
    is told in picker's own name. Which pool a stream is for is settled when it opens.
Cost: that of the session; of choosing among several pools, one look-up; among one, nothing.
Memory: the session is the call's state.   Threads: that of the connection, which `set_pools` and `sweep` belong to.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int64_t, uint32_t
from libc.string cimport memcpy, memset

from picker._core.admission cimport engine_call, engine_dispatch, engine_turn_out
from picker._core.alloc cimport PK_E_FORMAT, PK_OK, pk_free, pk_resize
from picker._core.calls cimport (
    PK_GRPC_INTERNAL,
    PK_GRPC_INVALID_ARGUMENT,
    PK_GRPC_OK,
    PK_GRPC_RESOURCE_EXHAUSTED,
    Methods,
    call_end,
    call_flush,
    call_t,
    call_wait_until,
    connection_t,
    method_t,
)
from picker._core.codec cimport codec_decode, message_t, slice_t
from picker._core.dispatch cimport engine_t
from picker._core.engine cimport Engine
from picker._core.exchange cimport PK_STATE_BODY, PK_STATE_PICKED, session_t
from picker._core.flow cimport PK_WOKEN_AT_ONCE, turn_t
from picker._core.h2 cimport Connection
from picker._core.outbox cimport out_mark, out_rewind
from picker._core.pools cimport PK_POOL_MANY, PoolNames, asked_t, pools_find, said_t
from picker._core.replies cimport PK_SHOWN_BYTES, out_no_pool
from picker._core.score cimport PK_NEED_PLUGIN
from picker._core.session cimport (
    session_close,
    session_feed,
    session_open,
    session_refuse,
    session_resume,
    session_turn,
)
from picker._core.stats cimport PK_FAIL_EXHAUSTED, PK_FAIL_INTERNAL, PK_FAIL_TIMEOUT

# --- C kernel: streams for a pool that is not known ---


cdef inline extproc_t* _service(const call_t* call) noexcept nogil:
    return <extproc_t*>call.method.service


cdef inline stranger_t* _stranger(const call_t* call) noexcept nogil:
    return &(<stream_t*>call.state).of.stranger


cdef void _become_stranger(call_t* call, const asked_t* asked, bint is_many) noexcept nogil:
    """Keep what is to be said of it when the request comes."""
    cdef extproc_t* service = _service(call)
    cdef stranger_t* stranger = _stranger(call)
    cdef const said_t* said = &asked.pool if asked.pool.size else &asked.authority
    service.unknown += 1
    service.strange += 1
    stranger.is_many = is_many
    stranger.is_name = said == &asked.pool
    stranger.size = said.size if said.size <= PK_SHOWN_BYTES else PK_SHOWN_BYTES + 1       # more is not shown
    memcpy(stranger.text, said.text, stranger.size)
    call.method = &service.strangers


cdef void _turn_away(call_t* call) noexcept nogil:
    """As a pool that has no endpoints."""
    cdef const stranger_t* stranger = _stranger(call)
    cdef slice_t said
    said.data, said.size = stranger.text, stranger.size
    if out_no_pool(&call.out, said, stranger.is_name, stranger.is_many) == PK_OK:
        call_end(call, PK_GRPC_OK, b"")
    else:
        call_end(call, PK_GRPC_INTERNAL, b"the endpoint picker failed")


cdef int _stranger_message(call_t* call, slice_t data, int64_t now_ns) noexcept nogil:
    cdef message_t message
    if codec_decode(&message, data.data, data.size) != PK_OK:
        call_end(call, PK_GRPC_INVALID_ARGUMENT, b"not a ProcessingRequest")
    elif message.is_observed:
        call_end(call, PK_GRPC_OK, b"")      # nobody asks
    else:
        _turn_away(call)
    return PK_OK


cdef void _stranger_expire(call_t* call, int64_t now_ns) noexcept nogil:
    _turn_away(call)


cdef void _stranger_close(call_t* call, int64_t now_ns) noexcept nogil:
    _service(call).strange -= 1


cdef int _stranger_run(call_t* call, int64_t now_ns) except -1:
    return PK_OK                             # never due


# --- C kernel: streams for a pool ---


cdef inline session_t* _session(const call_t* call) noexcept nogil:
    return &(<stream_t*>call.state).of.session


cdef void _open(call_t* call, int64_t now_ns) noexcept nogil:
    cdef extproc_t* service = _service(call)
    cdef stream_t* stream = <stream_t*>call.state
    cdef served_t* served = service.only
    cdef int64_t found = 0
    service.opened += 1
    if served == NULL:
        found = pools_find(service.names, &call.connection.asked)
        served = service.served[found] if found >= 0 else NULL
    stream.served = served
    stream.is_picked = False
    if served == NULL:
        _become_stranger(call, &call.connection.asked, found == PK_POOL_MANY)
    else:
        served.open += 1
        if session_open(&stream.of.session, served.engine, served.scratch, now_ns) != PK_OK:
            call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"twice as many streams are open as may be: see --max-streams")
            return
        stream.of.session.asked.turn.call = call
    call_wait_until(call, now_ns + service.timeout_ns)


cdef void _refuse(call_t* call, int failure) noexcept nogil:
    """Tell the client, if it has had no answer yet; the gateway hears of an error else."""
    cdef session_t* session = _session(call)
    out_rewind(&call.out, call.mark)
    if session.state < PK_STATE_PICKED and session_refuse(session, failure, &call.out) == PK_OK:
        call_end(call, PK_GRPC_OK, b"")
    else:
        call_end(call, PK_GRPC_INTERNAL, b"the endpoint picker failed")


cdef void _settled(call_t* call) noexcept nogil:
    """The request has come: no deadline holds for it any more. Its pick is counted once."""
    cdef stream_t* stream = <stream_t*>call.state
    if call.waits_ns != INT64_MAX:
        call_wait_until(call, INT64_MAX)
    if stream.of.session.is_picked and not stream.is_picked:
        stream.is_picked = True
        _service(call).picked += 1
        stream.served.picked += 1


cdef int _after(call_t* call, int code) noexcept nogil:
    """What the session's answer means for the call."""
    cdef session_t* session = _session(call)
    if code == PK_NEED_PLUGIN:
        return code
    if code == PK_E_FORMAT:
        out_rewind(&call.out, call.mark)
        call_end(call, PK_GRPC_INVALID_ARGUMENT, b"not a ProcessingRequest, or out of order")
    elif code != PK_OK:
        _refuse(call, PK_FAIL_EXHAUSTED)
    elif session.state > PK_STATE_BODY:
        _settled(call)
    if code == PK_OK and (session.is_refused or session.is_let_go):
        call_end(call, PK_GRPC_OK, b"")
    return PK_OK


cdef int _message(call_t* call, slice_t message, int64_t now_ns) noexcept nogil:
    return _after(call, session_feed(_session(call), message.data, message.size, now_ns, &call.out))


cdef void _half_close(call_t* call, int64_t now_ns) noexcept nogil:
    call_end(call, PK_GRPC_OK, b"")


cdef void _expire(call_t* call, int64_t now_ns) noexcept nogil:
    """The request body does not arrive."""
    call.mark = out_mark(&call.out)
    _refuse(call, PK_FAIL_TIMEOUT)


cdef void _changed(call_t* call) noexcept nogil:
    pass


cdef void _fail(call_t* call) noexcept nogil:
    """A plugin host raised."""
    _refuse(call, PK_FAIL_INTERNAL)


cdef void _close(call_t* call, int64_t now_ns) noexcept nogil:
    session_close(_session(call), now_ns)
    (<stream_t*>call.state).served.open -= 1


cdef int _run(call_t* call, int64_t now_ns) except -1:
    """Ask the plugin, and go on."""
    cdef session_t* session = _session(call)
    cdef Engine engine = <Engine>(<stream_t*>call.state).served.python
    engine.run_plugin(
        &session.pick,
        &session.request,
        session.headers.data[:session.headers.size] if session.headers.size else b"",
        session.model.data[:session.model.size] if session.model.size else b"",
    )
    return _after(call, session_resume(session, now_ns, &call.out))


# --- streams that waited ---


cdef int _deliver(call_t* call, int64_t now_ns, list stirred) except -1:
    """Its wait is over: answer. The connection is noted as one that has something to write, once."""
    cdef connection_t* connection = call.connection
    connection.now_ns = now_ns
    call.mark = out_mark(&call.out)
    if _after(call, session_turn(_session(call), now_ns, &call.out)) == PK_NEED_PLUGIN:
        (<Connection>connection.python).answer(call)
    call_flush(call)
    if not connection.is_stirred:
        connection.is_stirred = True
        stirred.append(<Connection>connection.python)
    return 0


cdef void _fill(method_t* method, void* service) noexcept nogil:
    method.path = b"/envoy.service.ext_proc.v3.ExternalProcessor/Process"
    method.state_size = sizeof(stream_t)
    method.service = service
    method.open = _open
    method.message = _message
    method.half_close = _half_close
    method.expire = _expire
    method.changed = _changed
    method.fail = _fail
    method.close = _close
    method.run = _run


cdef void _fill_strangers(method_t* method, void* service) noexcept nogil:
    """The same method, for calls it has let in: they change over to this one."""
    _fill(method, service)
    method.message = _stranger_message
    method.expire = _stranger_expire
    method.fail = _changed
    method.close = _stranger_close
    method.run = _stranger_run


# --- Python face ---


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # streams still need the engine
cdef class _Served:
    """What is known of a pool, and its engine kept alive."""

    def __cinit__(self, Engine engine not None):
        memset(&self._served, 0, sizeof(served_t))
        self._engine = engine
        self._served.engine = &engine._engine
        self._served.scratch = &engine._scratch
        self._served.python = <void*>engine

    def _check(self) -> None:
        """Assert the invariants."""
        assert self._served.timed <= self._served.picked
        assert 0 <= self._served.open <= self._engine.sessions


cdef inline int _due(const engine_t* engine) noexcept nogil:
    if engine.flow.woken.count:
        return 2
    return 0 if engine.flow.queue.requests == 0 else 1 + engine.flow.is_due


cdef int _share(_Served served, double each_s) except -1:
    """Each pick of the pool that is not timed yet took so long."""
    while served._served.timed < served._served.picked:
        served._served.timed += 1
        served._engine.count_scheduling(each_s)
    return 0


cdef tuple _serve(list pools, list known):
    """A `_Served` for each; those of engines that are known already."""
    cdef _Served served  # typed: C attributes are not seen from a comprehension
    cdef dict found = {}
    for served in known:
        found[id(served._engine)] = served
    cdef list made = []
    cdef set seen = set()
    for engine, _, name in pools:
        if not isinstance(engine, Engine):
            raise TypeError(f"pool {name!r} has no Engine, but {engine!r}")
        if id(engine) in seen:
            raise ValueError(f"the engine of pool {name!r} is that of another pool, too")
        seen.add(id(engine))
        made.append(found.get(id(engine)) or _Served(engine))
    return tuple(made)


cdef served_t** _table(tuple pools) except NULL:
    cdef size_t i, count = len(pools)
    cdef served_t** table = <served_t**>pk_resize(NULL, count + 1, sizeof(served_t*))
    if table == NULL:
        raise MemoryError(f"no memory for {count} pools")
    for i in range(count):
        table[i] = &(<_Served>pools[i])._served
    return table


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # calls that go with it still need the engines
cdef class ExtProc:
    """The ExternalProcessor service over engines, one for each pool; give its `methods()` to a server.

    `engine`: that of the only pool; None: there are none until `set_pools`. `timeout_ns`: how long a request body may
    take; then the client is answered 408. ValueError if not above 0. `by_name`: a stream must be for a pool by name or
    authority, even while there is one alone.
    """

    def __cinit__(self, Engine engine=None, *, int64_t timeout_ns, bint by_name=False):
        if timeout_ns < 1:
            raise ValueError(f"timeout_ns is above 0, not {timeout_ns}")
        memset(&self._service, 0, sizeof(self._service))
        self._pools = self._retired = ()
        self._by_name = by_name
        self._service.timeout_ns = timeout_ns
        _fill_strangers(&self._service.strangers, &self._service)
        self.set_pools([] if engine is None else [(engine, (), "")])

    def __dealloc__(self):
        pk_free(self._service.served)

    def set_pools(self, pools) -> None:
        """Serve these from the next stream on: (engine, authorities, name) each; streams that are open go on.

        One pool alone gets every stream (but see `by_name`). Of several, a stream says which it is for: see
        `pools.PoolNames`. One that is for none of them is answered 503. An engine that is served no longer is let go of
        by the `sweep` behind its last stream. ValueError, OverflowError and TypeError as there and for an engine that
        is there twice, MemoryError; nothing has changed then.
        """
        cdef list given = list(pools)
        cdef list known = [*self._pools, *self._retired]
        cdef PoolNames names = PoolNames([(name, authorities) for _, authorities, name in given])
        cdef tuple made = _serve(given, known)
        cdef set kept = set(made)
        cdef tuple retired = tuple([served for served in known if served not in kept])
        cdef served_t** table = _table(made)
        pk_free(self._service.served)
        self._service.served = table
        self._service.only = table[0] if len(made) == 1 and not self._by_name else NULL
        self._service.names = names.table()
        self._names, self._pools, self._retired = names, made, retired
        self.sweep()

    def sweep(self) -> int:
        """Let go of engines that are served no longer and have no streams; how many have some left."""
        if self._retired:
            self._retired = tuple([served for served in self._retired if (<_Served>served)._served.open])
        return len(self._retired)

    def due(self) -> int:
        """2: `dispatch` is due. 1: time may bring somebody's turn: look again in 10 ms. 0: nobody waits."""
        cdef int found = 0
        cdef size_t i
        cdef _Served served
        for i in range(len(self._pools)):
            found = max(found, _due(self._service.served[i].engine))
        for served in self._retired:
            found = max(found, _due(served._served.engine))
        return found

    def dispatch(self, int64_t now_ns) -> list:
        """Give turns to those who wait and can have them, and tell those whose wait is over.

        The owners of the connections that have something to write now, each once.
        """
        cdef list stirred = []
        cdef _Served served
        cdef Connection connection
        try:
            for served in [*self._pools, *self._retired]:
                self._dispatch(&served._served, now_ns, stirred)
        finally:
            for connection in stirred:
                connection._connection.is_stirred = False
        return [connection.owner for connection in stirred]

    cdef int _dispatch(self, served_t* served, int64_t now_ns, list stirred) except -1:
        """At most PK_WOKEN_AT_ONCE turns; one at a time where each takes Python."""
        cdef uint32_t given = 0
        cdef turn_t* turn
        while given < PK_WOKEN_AT_ONCE:
            engine_dispatch(served.engine, now_ns, PK_WOKEN_AT_ONCE - given)
            turn = engine_call(served.engine, False)
            if turn == NULL:
                break
            while turn != NULL:
                given += 1
                _deliver(<call_t*>turn.call, now_ns, stirred)
                turn = engine_call(served.engine, False)
            if not served.engine.flow.is_due:
                break
        served.dispatched += given
        return 0

    def turn_out(self, int failure, int64_t now_ns) -> None:
        """Refuse all who wait, with one of `session`'s FAIL_*: `dispatch` then tells them."""
        cdef _Served served
        for served in [*self._pools, *self._retired]:
            engine_turn_out(served._served.engine, failure, now_ns)

    def methods(self) -> Methods:
        """Process."""
        cdef Methods made = Methods(self)
        _fill(&made.table[0], &self._service)
        made.count = 1
        return made

    def count_dispatch(self, double took_s) -> None:
        """What `dispatch` did since this was last called took so long, in seconds: one round of each engine."""
        cdef _Served served
        for served in [*self._pools, *self._retired]:
            if served._served.told != served._served.dispatched:
                served._served.told = served._served.dispatched
                served._engine.count_dispatch(took_s)

    def count_scheduling(self, double took_s) -> None:
        """The picks made since this was last called took so long, in seconds: each an equal share of it."""
        cdef _Served served
        cdef double each_s
        if self._service.picked == self._timed:
            return
        each_s = took_s / <double>(self._service.picked - self._timed)
        self._timed = self._service.picked
        for served in self._pools:
            _share(served, each_s)
        for served in self._retired:
            _share(served, each_s)

    @property
    def open(self) -> int:
        """Streams under way, with all there are on the engines."""
        cdef _Served served
        cdef int64_t open = self._service.strange
        for served in self._pools:
            open += served._engine._engine.sessions
        for served in self._retired:
            open += served._engine._engine.sessions
        return open

    @property
    def opened(self) -> int:
        """Streams so far."""
        return self._service.opened

    @property
    def picked(self) -> int:
        """Requests answered with an endpoint so far."""
        return self._service.picked

    @property
    def unknown(self) -> int:
        """Streams so far for a pool that was not known."""
        return self._service.unknown

    def _check(self) -> None:
        """Assert the invariants."""
        cdef _Served served
        cdef size_t i
        assert max(self._service.picked, self._service.unknown) <= self._service.opened
        for served in [*self._pools, *self._retired]:
            served._check()
        assert 0 <= self._service.strange <= <int64_t>self._service.unknown
        assert len(self._names) == len(self._pools)
        assert not set(self._pools) & set(self._retired)
        assert self._timed <= self._service.picked
        assert (self._service.only != NULL) == (len(self._pools) == 1 and not self._by_name)
        for i in range(len(self._pools)):
            assert self._service.served[i] == &(<_Served>self._pools[i])._served
        self._names._check()
