# Reading the body of a request: model and prompt, for the pick.
from libc.stdint cimport uint8_t

from picker._core.codec cimport slice_t
from picker._core.exchange cimport session_t

# In this order, within one call of the session: what is found lies on the scratch that other sessions use too.
# Fills `session.found`; `problem` is PK_BODY_*: why the body is refused. PK_OK or PK_E_NOMEM
cdef int reading_find(session_t* session, int* problem) noexcept nogil
# The model alone of a body that is JSON and cut, if it stands before the cut. PK_OK or PK_E_NOMEM
cdef int reading_find_cut(session_t* session) noexcept nogil
# The model as the client named it, unescaped into `room` (PK_MODEL_BYTES) where it fits, else as it stands; empty: none
cdef slice_t reading_model(const session_t* session, uint8_t* room) noexcept nogil
# Series, adapter and root of the hashes by the model the request goes to, not escaped; NULL: as the client named it
cdef int reading_name(session_t* session, const slice_t* target) noexcept nogil
# Series of a request whose model nobody knows
cdef void reading_unnamed(session_t* session) noexcept nogil
# The prompt into `session.request`; only of a body that is not refused
cdef int reading_hash(session_t* session) noexcept nogil
