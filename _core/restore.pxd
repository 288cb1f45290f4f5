# Puts the name that the client asked for back into responses, in place of the one that the model server answers to.
from libc.stdint cimport uint8_t

from picker._core.codec cimport buffer_t, slice_t

ctypedef struct restore_t:
    buffer_t target          # the model server's name, not escaped
    slice_t client           # borrowed: the client's, as it stands between the quotes of a JSON string
    buffer_t out             # the chunk as it goes on, as far as it differs
    buffer_t held            # the beginning of a name, from chunks before
    const uint8_t* copied    # of the chunk: what comes before is in `out`, or goes no further
    const uint8_t* begun     # of the chunk: where the name begins, or goes on
    bint is_open             # a name is being read that may be the target
    bint changed             # `out` counts, not the chunk
    bint failed              # no memory: the response cannot go on

# `target` as it stands between quotes too. PK_OK or PK_E_NOMEM; `restore_free` is due either way
cdef int restore_init(restore_t* restore, slice_t target, slice_t client) noexcept nogil
cdef void restore_free(restore_t* restore) noexcept nogil
# For each chunk: start, begin and end where its reader finds names (`at`: behind the opening quote, at the closing
# one), then finish. `goes_on`: the name that was begun last reaches beyond the chunk, which is not the last one.
# What goes on is in `result`, which is good until the next chunk. PK_OK or PK_E_NOMEM
cdef void restore_start(restore_t* restore, const uint8_t* chunk) noexcept nogil
cdef void restore_begin(restore_t* restore, const uint8_t* at) noexcept nogil
cdef void restore_end(restore_t* restore, const uint8_t* at) noexcept nogil
cdef int restore_finish(restore_t* restore, slice_t chunk, bint goes_on, slice_t* result) noexcept nogil
