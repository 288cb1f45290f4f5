# Another model than the body's: who asks for it, and what stands in its place.
from libc.stdint cimport int64_t

from picker._core.codec cimport slice_t
from picker._core.exchange cimport session_t
from picker._core.replies cimport splice_t

# A header that asks for `model`: PK_OK, PK_E_FORMAT (that is no model's name) or PK_E_NOMEM
cdef int renaming_ask(session_t* session, slice_t model) noexcept nogil
# Name the request whose model was found, as a rule or a header has it. PK_OK or PK_E_NOMEM
cdef int renaming_name(session_t* session) noexcept nogil
# What is to stand in the body's place of the model; False: nothing changes
cdef bint renaming_splice(const session_t* session, splice_t* splice) noexcept nogil
# The same in a body that is held: PK_OK, or PK_E_NOMEM and it is as it was
cdef int renaming_apply(session_t* session, const splice_t* splice) noexcept nogil
cdef void renaming_drop(session_t* session) noexcept nogil
