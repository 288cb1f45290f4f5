"""Figures of an engine's flow control as bytes, and back: see `copies`.

Invariants: a copy is one header, the counters of its bands, and who waits in them.
Cost: O(bands + endpoints) under the engine's lock, some 0.6 KB a priority; no flow and no request is looked at.
Memory: owns nothing.   Threads: any; Python objects are made outside the lock.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.credits cimport (
    PK_CREDIT_ADAPTIVE,
    PK_CREDIT_CONCURRENCY,
    PK_CREDIT_OFF,
    PK_CREDIT_UTILIZATION,
    credits_saturation,
)
from picker._core.dispatch cimport engine_t, pthread_mutex_lock, pthread_mutex_unlock
from picker._core.engine cimport Engine
from picker._core.flow cimport flow_retry_after
from picker._core.flowstats cimport PK_BANDS, PK_OTHER_BAND, band_counted, band_view, bandstats_t
from picker._core.queue cimport band_count_t, queue_bands
from picker._core.schedule cimport PK_FAIR_ROUND_ROBIN, PK_FAIR_STRICT, PK_ORDER_EDF, PK_ORDER_FCFS, band_rules_t
from picker._core.stats cimport hist_short, hist_t, hist_view

cdef enum:
    PK_MOST_SHOWN = 320        # bands that somebody waits in, or that have rules of their own

ctypedef struct flowseen_t:
    uint32_t counted           # bandstats_t that follow
    uint32_t queued            # band_count_t behind those
    bint is_on
    bint queues
    int detector               # PK_CREDIT_*
    uint32_t retry_after_s
    uint64_t waiting
    uint64_t waiting_bytes
    uint64_t max_requests
    uint64_t max_bytes
    double drain_per_s
    double saturation
    hist_t dispatch_s
    band_rules_t default
    band_rules_t negative

# --- C kernel ---


cdef void _look(engine_t* engine, int64_t now_ns, flowseen_t* out) noexcept nogil:
    """All but the bands; the lock is held."""
    out.counted = engine.flowstats.count
    out.is_on = engine.flow.rules.is_on
    out.queues = engine.flow.rules.queues
    out.detector = engine.flow.credits.rules.mode
    out.retry_after_s = flow_retry_after(&engine.flow)
    out.waiting = engine.flow.queue.requests
    out.waiting_bytes = engine.flow.queue.bytes
    out.max_requests = engine.flow.queue.limits.max_requests
    out.max_bytes = engine.flow.queue.limits.max_bytes
    out.drain_per_s = engine.flow.drain_per_s
    out.saturation = credits_saturation(&engine.flow.credits, &engine.endpoints, now_ns)
    out.dispatch_s = engine.flowstats.dispatch_s
    out.default = engine.flow.queue.default
    out.negative = engine.flow.queue.negative


cdef void _copy(
    engine_t* engine, int64_t now_ns, flowseen_t* out, bandstats_t* counted, band_count_t* queued
) noexcept nogil:
    """`counted` has room for PK_BANDS, `queued` for PK_MOST_SHOWN."""
    cdef size_t count
    pthread_mutex_lock(&engine.lock)
    _look(engine, now_ns, out)
    memcpy(counted, engine.flowstats.bands, out.counted * sizeof(bandstats_t))
    count = queue_bands(&engine.flow.queue, queued, PK_MOST_SHOWN)
    out.queued = <uint32_t>count if count < PK_MOST_SHOWN else PK_MOST_SHOWN
    pthread_mutex_unlock(&engine.lock)


# --- Python face ---

_DETECTORS = {
    PK_CREDIT_OFF: "off",
    PK_CREDIT_ADAPTIVE: "adaptive-detector",
    PK_CREDIT_UTILIZATION: "utilization-detector",
    PK_CREDIT_CONCURRENCY: "concurrency-detector",
}
_ORDERS = {PK_ORDER_FCFS: "fcfs", PK_ORDER_EDF: "edf"}
_FAIRNESS = {PK_FAIR_STRICT: "strict", PK_FAIR_ROUND_ROBIN: "round-robin"}


def copy_flow(Engine engine not None, int64_t now_ns) -> bytes:
    """What flow control of the engine has counted, and who waits; by priority, but not by flow."""
    cdef flowseen_t seen
    cdef bytes counted = PyBytes_FromStringAndSize(NULL, PK_BANDS * sizeof(bandstats_t))
    cdef bytes queued = PyBytes_FromStringAndSize(NULL, PK_MOST_SHOWN * sizeof(band_count_t))
    _copy(
        &engine._engine, now_ns, &seen, <bandstats_t*>PyBytes_AS_STRING(counted),
        <band_count_t*>PyBytes_AS_STRING(queued)
    )
    return b"".join((
        (<const char*>&seen)[:sizeof(seen)],
        counted[:seen.counted * sizeof(bandstats_t)],
        queued[:seen.queued * sizeof(band_count_t)],
    ))


cdef dict _rules_view(const band_rules_t* rules):
    return {
        "order": _ORDERS.get(rules.order, "slo-deadline"),
        "fairness": _FAIRNESS.get(rules.fairness, "tokens"),
        "max_requests": rules.max_requests,
        "max_bytes": rules.max_bytes,
        "ttl_s": <double>rules.ttl_ns / 1e9,
    }


cdef dict _queued_view(const band_count_t* band, int64_t now_ns):
    """Who waits in a band."""
    cdef double oldest_s = 0.0
    if band.oldest_ns != INT64_MAX and band.oldest_ns < now_ns:
        oldest_s = <double>(now_ns - band.oldest_ns) * 1e-9
    return {
        "requests": band.requests,
        "bytes": band.bytes,
        "flows": band.flows,
        "oldest_wait_s": oldest_s,
        **_rules_view(&band.rules),
    }


cdef dict _idle_view(const flowseen_t* seen, int32_t priority):
    """Of a band without rules of its own in which nobody waits."""
    cdef const band_rules_t* rules = &seen.default if priority >= 0 else &seen.negative
    return {"requests": 0, "bytes": 0, "flows": 0, "oldest_wait_s": 0.0, **_rules_view(rules)}


cdef dict _nothing(int32_t priority):
    """Of a band nothing was counted of."""
    cdef bandstats_t band
    memset(&band, 0, sizeof(band))
    band.priority = priority
    return band_view(&band)


cdef list _bands(const flowseen_t* seen, const char* counted, const char* queued, int64_t now_ns):
    """Those that anything was counted of or that have rules, the highest first; what is counted together comes last."""
    cdef bandstats_t band
    cdef band_count_t waiting
    cdef uint32_t i
    cdef list rows
    cdef dict found = {}
    for i in range(seen.queued):
        memcpy(&waiting, queued + i * sizeof(band_count_t), sizeof(band_count_t))
        found[waiting.priority] = {**_nothing(waiting.priority), **_queued_view(&waiting, now_ns)}
    for i in range(PK_OTHER_BAND + 1, seen.counted):
        memcpy(&band, counted + i * sizeof(bandstats_t), sizeof(bandstats_t))
        view = band_view(&band)
        found[band.priority] = {**view, **found.get(band.priority, _idle_view(seen, band.priority)), **view}
    rows = [view for _, view in sorted(found.items(), reverse=True)]
    memcpy(&band, counted + PK_OTHER_BAND * sizeof(bandstats_t), sizeof(bandstats_t))
    if band_counted(&band):
        rows.append({**band_view(&band), **_idle_view(seen, 0), "max_requests": 0, "max_bytes": 0})
    return rows


def read_flow(const unsigned char[::1] copies not None, int64_t now_ns) -> dict:
    """What `copy_flow` copied, as it is shown at `now_ns`. ValueError for anything else, as far as that shows.

    Histograms are as `Engine.stats` has them; times in seconds. A cap of 0 is none.
    """
    cdef flowseen_t seen
    cdef size_t size = <size_t>copies.shape[0]
    cdef const char* data
    if size < sizeof(seen):
        raise ValueError("no copy of flow control's figures")
    memcpy(&seen, &copies[0], sizeof(seen))
    if (
        not 0 < seen.counted <= PK_BANDS or seen.queued > PK_MOST_SHOWN
        or size != sizeof(seen) + seen.counted * sizeof(bandstats_t) + seen.queued * sizeof(band_count_t)
    ):
        raise ValueError("no copy of flow control's figures")
    hist_short(&seen.dispatch_s)
    data = <const char*>&copies[0] + sizeof(seen)
    return {
        "is_on": bool(seen.is_on),
        "queues": bool(seen.queues),
        "detector": _DETECTORS.get(seen.detector, "off"),
        "waiting": seen.waiting,
        "waiting_bytes": seen.waiting_bytes,
        "max_requests": seen.max_requests,
        "max_bytes": seen.max_bytes,
        "drain_per_s": seen.drain_per_s,
        "retry_after_s": seen.retry_after_s,
        "saturation": seen.saturation,
        "dispatch_s": hist_view(&seen.dispatch_s),
        "bands": _bands(&seen, data, data + seen.counted * sizeof(bandstats_t), now_ns),
    }
