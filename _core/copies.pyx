"""Figures of an engine as bytes, and back: another process shows them, so that this one need not.

Invariants: copies are images of C structs; only the same build reads them, and no pointer in them is ever followed.
Cost: O(1) a piece, some 3 KB a model and 0.3 KB an endpoint; `busy_targets` looks at every endpoint.
Memory: owns nothing.   Threads: any; each item is copied under the engine's lock, Python objects are made outside it.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from picker._core.credits cimport credit_t, credits_t, credits_view
from picker._core.decisions cimport PK_FLOW_BYTES
from picker._core.dispatch cimport engine_t, pthread_mutex_lock, pthread_mutex_unlock
from picker._core.endpoints cimport (
    PK_TARGET_BYTES,
    details_t,
    endpoint_t,
    endpoint_view,
    endpoints_t,
)
from picker._core.engine cimport Engine
from picker._core.stats cimport (
    PK_SERIES_BYTES,
    series_bind,
    series_counted,
    series_t,
    series_view,
    stats_bind,
    stats_t,
    stats_totals,
)

# --- C kernel ---

cdef enum:
    PK_MOST_COPIES = 4096      # in one piece


cdef int _copy_series(engine_t* engine, uint32_t index, series_t* out) noexcept nogil:
    """1 and a copy, 0 if there is nothing to show, -1 behind the last."""
    cdef int found = -1
    pthread_mutex_lock(&engine.lock)
    if index < engine.stats.count:
        found = series_counted(engine.stats.series[index])
        if found:
            out[0] = engine.stats.series[index][0]
    pthread_mutex_unlock(&engine.lock)
    return found


cdef void _copy_totals(engine_t* engine, stats_t* out) noexcept nogil:
    pthread_mutex_lock(&engine.lock)
    out[0] = engine.stats
    pthread_mutex_unlock(&engine.lock)


cdef int _copy_endpoint(engine_t* engine, uint32_t slot, seen_t* out) noexcept nogil:
    """1 and a copy, 0 if the slot is free, -1 behind the last."""
    cdef int found = -1
    cdef const details_t* details
    pthread_mutex_lock(&engine.lock)
    if slot < engine.endpoints.width:
        found = engine.endpoints.slots[slot].used
        if found:
            details = &engine.endpoints.details[slot]
            out.slot = slot
            out.target_size = details.identity.target_size
            memcpy(out.target, details.identity.target, PK_TARGET_BYTES)
            out.fleet_rate = engine.endpoints.fleet_rate
            out.endpoint = engine.endpoints.slots[slot]
            out.rules = engine.flow.credits.rules
            if slot < engine.flow.credits.capacity:
                out.credit = engine.flow.credits.slots[slot]
            else:
                memset(&out.credit, 0, sizeof(credit_t))
    pthread_mutex_unlock(&engine.lock)
    return found


cdef size_t _copy_busy(engine_t* engine, uint8_t* out, size_t room) noexcept nogil:
    """The targets of endpoints with requests under way, a line each; the bytes written, or needed if `out` is NULL."""
    cdef size_t size, used = 0
    cdef uint32_t slot
    cdef const endpoint_t* endpoint
    pthread_mutex_lock(&engine.lock)
    for slot in range(engine.endpoints.width):
        endpoint = &engine.endpoints.slots[slot]
        if not endpoint.used or endpoint.requests == 0:
            continue
        size = engine.endpoints.details[slot].identity.target_size
        if out != NULL:
            if used + size + 1 > room:     # became busy since the room was measured: is told the next time
                break
            memcpy(out + used, engine.endpoints.details[slot].identity.target, size)
            out[used + size] = c"\n"
        used += size + 1
    pthread_mutex_unlock(&engine.lock)
    return used


# --- Python face ---


cdef bytes _piece(uint32_t most, size_t size):
    """Room for `most` items, to be filled and cut to what was used."""
    if not 0 < most <= PK_MOST_COPIES:
        raise ValueError(f"a piece has 1 to {PK_MOST_COPIES} items, not {most}")
    return PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(most * size))


def copy_series(Engine engine not None, uint32_t first, uint32_t most):
    """Models `first` to `first + most - 1` as far as they have something to show; None behind the last."""
    cdef bytes piece = _piece(most, sizeof(series_t))
    cdef series_t* out = <series_t*>PyBytes_AS_STRING(piece)
    cdef uint32_t i = 0, used = 0
    cdef int found = -1
    for i in range(most):
        found = _copy_series(&engine._engine, first + i, &out[used])
        if found < 0:
            break
        used += found
    return None if found < 0 and i == 0 else piece[:used * sizeof(series_t)]


def copy_totals(Engine engine not None) -> bytes:
    """What is not counted by model."""
    cdef bytes piece = _piece(1, sizeof(stats_t))
    _copy_totals(&engine._engine, <stats_t*>PyBytes_AS_STRING(piece))
    return piece


def copy_endpoints(Engine engine not None, uint32_t first, uint32_t most):
    """The endpoints in slots `first` to `first + most - 1`; None behind the last."""
    cdef bytes piece = _piece(most, sizeof(seen_t))
    cdef seen_t* out = <seen_t*>PyBytes_AS_STRING(piece)
    cdef uint32_t i = 0, used = 0
    cdef int found = -1
    for i in range(most):
        found = _copy_endpoint(&engine._engine, first + i, &out[used])
        if found < 0:
            break
        used += found
    return None if found < 0 and i == 0 else piece[:used * sizeof(seen_t)]


def busy_targets(Engine engine not None) -> bytes:
    """The targets of endpoints with requests of ours under way, a line each."""
    cdef size_t room = _copy_busy(&engine._engine, NULL, 0)
    cdef bytes piece = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>room)
    return piece[:_copy_busy(&engine._engine, <uint8_t*>PyBytes_AS_STRING(piece), room)]


cdef size_t _count(const unsigned char[::1] copies, size_t size) except? 0:
    if <size_t>copies.shape[0] % size:
        raise ValueError(f"{copies.shape[0]} bytes are no copies of {size} bytes each: of another build?")
    return <size_t>copies.shape[0] // size


def read_series(const unsigned char[::1] copies not None) -> list:
    """What `copy_series` copied, as `Engine.stats` shows it. ValueError for anything else, as far as that shows."""
    cdef series_t series
    cdef size_t i
    cdef list rows = []
    for i in range(_count(copies, sizeof(series_t))):
        memcpy(&series, &copies[i * sizeof(series_t)], sizeof(series_t))
        if series.name_size > PK_SERIES_BYTES or series.flow_size > PK_FLOW_BYTES:
            raise ValueError("no copy of a model's figures")
        series_bind(&series)
        rows.append(series_view(&series))
    return rows


def read_totals(const unsigned char[::1] copies not None) -> dict:
    """What `copy_totals` copied, as `Engine.stats` shows it. ValueError for anything else, as far as that shows."""
    cdef stats_t totals
    if _count(copies, sizeof(stats_t)) != 1:
        raise ValueError("no copy of the totals")
    memcpy(&totals, &copies[0], sizeof(stats_t))
    stats_bind(&totals)
    return stats_totals(&totals)


def read_endpoints(const unsigned char[::1] copies not None, int64_t now_ns) -> list:
    """What `copy_endpoints` copied, as `Engine.endpoints` shows it at `now_ns`, with its credit. ValueError as above.

    `credit` is empty where flow control knows nothing of the endpoint.
    """
    cdef seen_t seen
    cdef details_t details
    cdef endpoints_t one
    cdef credits_t credits
    cdef size_t i
    cdef list rows = []
    memset(&details, 0, sizeof(details_t))
    memset(&one, 0, sizeof(endpoints_t))
    one.slots, one.details, one.width, one.count = &seen.endpoint, &details, 1, 1
    credits.slots, credits.capacity = &seen.credit, 1
    for i in range(_count(copies, sizeof(seen_t))):
        memcpy(&seen, &copies[i * sizeof(seen_t)], sizeof(seen_t))
        if seen.target_size > PK_TARGET_BYTES:
            raise ValueError("no copy of an endpoint's figures")
        details.identity.target_size = seen.target_size
        memcpy(details.identity.target, seen.target, PK_TARGET_BYTES)
        one.fleet_rate = seen.fleet_rate
        credits.rules = seen.rules
        credit = credits_view(&credits, &one, 0, now_ns)
        rows.append({**endpoint_view(&one, 0, now_ns), "slot": seen.slot, "credit": credit})
    return rows
