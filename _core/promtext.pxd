# Prometheus text exposition: picks a few series out of a page.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    PK_PROM_WANTS = 32       # series one spec may ask for
    PK_PROM_FILTERS = 4      # label=value conditions of one want
    PK_PROM_CAPTURES = 8     # labels one want may hand out

cdef enum:
    PK_PROM_SUM = 0          # values add up; labels come from the first matching series
    PK_PROM_MAX = 1          # greatest value and its labels; the first of equals
    PK_PROM_NEWEST = 2       # as MAX, but the last of equals: for series whose value is a timestamp

cdef enum:
    PK_PROM_ABSENT = 0xFFFFFFFF

ctypedef struct promtext_slice_t:
    uint32_t start           # offset: into the page in results, into `text` in a spec
    uint32_t size            # PK_PROM_ABSENT: the series has no such label
    bint escaped             # holds a backslash: see promtext_unescape

ctypedef struct promtext_want_t:
    promtext_slice_t name
    promtext_slice_t filter_names[PK_PROM_FILTERS]
    promtext_slice_t filter_values[PK_PROM_FILTERS]
    promtext_slice_t captures[PK_PROM_CAPTURES]
    uint8_t filter_count
    uint8_t capture_count
    uint8_t combine
    uint8_t next             # the next want of the same name; PK_PROM_WANTS = none

ctypedef struct promspec_t:
    promtext_want_t wants[PK_PROM_WANTS]
    uint32_t count
    uint8_t heads[PK_PROM_WANTS]   # first want of each distinct name
    uint32_t head_count
    uint8_t* text            # owned: the bytes of all names and values
    size_t text_size
    size_t text_room

ctypedef struct promtext_sample_t:
    double value             # never NaN unless infinities of both signs were summed
    uint32_t series          # matching series that had a value; 0 = not found, the rest is undefined
    promtext_slice_t labels[PK_PROM_CAPTURES]

cdef void promtext_init(promspec_t* spec) noexcept nogil
cdef void promtext_free(promspec_t* spec) noexcept nogil
# Each adds to the spec: PK_OK, PK_E_NOMEM, PK_E_LIMIT (too many) or PK_E_FORMAT (no valid name). `filter` and
# `capture` speak of the want added last. After PK_E_NOMEM the spec is as before.
cdef int promtext_want(promspec_t* spec, const uint8_t* name, size_t size, uint8_t combine) noexcept nogil
cdef int promtext_filter(
    promspec_t* spec, const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size
) noexcept nogil
cdef int promtext_capture(promspec_t* spec, const uint8_t* name, size_t size) noexcept nogil
# Fills out[0..spec.count-1]; `malformed` = lines of a wanted name that were skipped. PK_OK, or PK_E_LIMIT for a page
# of 4 GiB or more.
cdef int promtext_scan(
    const promspec_t* spec, const uint8_t* page, size_t size, promtext_sample_t* out, uint32_t* malformed
) noexcept nogil
# Resolves \\ \" \n of a label value into `out` (room for `size` bytes); bytes written.
cdef size_t promtext_unescape(const uint8_t* text, size_t size, uint8_t* out) noexcept nogil
