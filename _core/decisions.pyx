"""A ring of the latest decisions: what was chosen, among how many, with which scores.

Invariants: decisions are numbered from 1 without gaps; a number names one decision for ever, and only the latest
    PK_DECISIONS can still be had.
Cost: O(1); allocates once, at the start.   Memory: owns its ring; a pointer into it is good until the ring comes round.
Threads: one at a time; the engine holds its lock.
"""
cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_alloc, pk_free

# --- C kernel ---


cdef int decisions_init(decisions_t* decisions) noexcept nogil:
    """PK_OK or PK_E_NOMEM; then there is nothing to free."""
    decisions.count = 0
    decisions.ring = <decision_t*>pk_alloc(PK_DECISIONS, sizeof(decision_t))
    return PK_OK if decisions.ring != NULL else PK_E_NOMEM


cdef void decisions_free(decisions_t* decisions) noexcept nogil:
    pk_free(decisions.ring)
    decisions.ring = NULL


cdef decision_t* decisions_new(decisions_t* decisions) noexcept nogil:
    """The next decision, empty but for its number."""
    cdef decision_t* decision
    decisions.count += 1
    decision = &decisions.ring[decisions.count % PK_DECISIONS]
    memset(decision, 0, sizeof(decision_t))
    decision.number = decisions.count
    decision.runner_up = -1.0
    decision.ttft_s = -1.0
    return decision


cdef decision_t* decisions_get(const decisions_t* decisions, uint64_t number) noexcept nogil:
    """The decision of that number, or NULL if there is none (any more)."""
    cdef decision_t* decision = &decisions.ring[number % PK_DECISIONS]
    return decision if number != 0 and decision.number == number else NULL


cdef void decisions_clear(decisions_t* decisions) noexcept nogil:
    """Forget all of them; numbers go on. A ring that holds none is left alone: it need not be in memory yet."""
    if decisions.count:
        memset(decisions.ring, 0, PK_DECISIONS * sizeof(decision_t))


# --- Python face ---

KEPT = PK_DECISIONS
"""How many decisions can still be had."""


cdef dict decision_view(const decision_t* decision):
    """One decision as plain Python objects, all but its model, which `decision_t` knows by number only."""
    return {
        "number": decision.number,
        "at_ns": decision.now_ns,
        "endpoint": decision.target[:decision.target_size].decode(),
        "candidates": decision.candidates,
        "prompt_tokens": decision.prompt_tokens,
        "cached_tokens": decision.cached_tokens,
        "total": decision.total,
        "runner_up": decision.runner_up if decision.runner_up >= 0 else None,
        "scores": [decision.scores[i] for i in range(decision.steps)],
        "ttft_s": decision.ttft_s if decision.ttft_s >= 0 else None,
        "objective": decision.objective.name[:decision.objective.name_size].decode(),
        "priority": decision.objective.priority,
        "fairness_id": decision.objective.flow[:decision.objective.flow_size].decode("latin-1"),
        "waited_s": <double>decision.waited_ns * 1e-9,
    }


@cython.final
@cython.auto_pickle(False)
cdef class Decisions:
    """The ring alone, for tests; the engine holds its own."""

    def __cinit__(self):
        if decisions_init(&self._decisions) != PK_OK:
            raise MemoryError("no memory for decisions")

    def __dealloc__(self):
        decisions_free(&self._decisions)

    def add(self, bytes target not None, int64_t now_ns) -> int:
        """The number of a new decision for `target`. ValueError for a target of more than 56 bytes."""
        cdef decision_t* decision
        if len(target) > PK_TARGET_BYTES:
            raise ValueError(f"target {target!r} is longer than {PK_TARGET_BYTES} bytes")
        decision = decisions_new(&self._decisions)
        decision.now_ns = now_ns
        decision.target_size = <uint32_t>len(target)
        memcpy(decision.target, <const char*>target, len(target))
        return decision.number

    def get(self, uint64_t number):
        """The decision of that number as a dict, or None."""
        cdef const decision_t* decision = decisions_get(&self._decisions, number)
        return None if decision == NULL else decision_view(decision)

    def clear(self) -> None:
        """Forget all."""
        decisions_clear(&self._decisions)

    def _check(self) -> None:
        """Assert the invariants."""
        cdef uint32_t i
        cdef uint64_t number
        for i in range(PK_DECISIONS):
            number = self._decisions.ring[i].number
            assert number == 0 or (number % PK_DECISIONS == i and number <= self._decisions.count)
            assert number == 0 or number + PK_DECISIONS > self._decisions.count
