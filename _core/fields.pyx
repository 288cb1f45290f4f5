"""A body that holds JSON: members are set and removed in its own bytes, everything else stays as it was.

Invariants: what was valid JSON stays valid JSON; of members that share a name each is changed, so that no two readers
    of the body see different things.
Cost: O(bytes) for each change.   Memory: a document owns its bytes.   Threads: one at a time.
Source: RFC 8259; HTML Living Standard, server-sent events (where `data` stands in an event).
"""
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_OK
from picker._core.codec cimport buffer_append, buffer_free
from picker._core.scan cimport scan_equals, scan_json, value_t

# --- C kernel ---


cdef int document_scan(document_t* document, scan_t* scan) noexcept nogil:
    """Lay the JSON on the tape: as `scan_json`."""
    cdef const uint8_t* data = document.bytes.data + document.start if document.size else <const uint8_t*>b""
    cdef int code = scan_json(scan, data, document.size)
    document.is_json = code == PK_OK
    document.is_other = code == PK_E_FORMAT or code == PK_E_LIMIT
    return code


cdef void document_free(document_t* document) noexcept nogil:
    buffer_free(&document.bytes)
    memset(document, 0, sizeof(document_t))


cdef void document_find_data(document_t* document) noexcept nogil:
    """Of an event of a stream: its JSON is the text behind `data:`, where there is one such line and no other."""
    cdef const uint8_t* data = document.bytes.data
    cdef const uint8_t* end = data + document.bytes.size
    cdef const uint8_t* stop
    cdef size_t found = 0
    document.start = document.size = 0
    while data < end:
        stop = <const uint8_t*>memchr(data, c"\n", end - data)
        stop = end if stop == NULL else stop
        if stop - data >= 5 and memcmp(data, b"data:", 5) == 0:
            found += 1
            document.start = data + 5 - document.bytes.data
            document.size = stop - data - 5
        data = stop + 1
    if found != 1:
        document.start = document.size = 0


cdef int _copy(const document_t* document, size_t start, size_t end, buffer_t* into) noexcept nogil:
    return buffer_append(into, document.bytes.data + start, end - start)


cdef int _finish(buffer_t* into, int code) noexcept nogil:
    if code != PK_OK:
        buffer_free(into)
    return code


cdef int document_set(
    const document_t* document, const scan_t* scan, uint32_t object, slice_t name, slice_t quoted, slice_t json,
    buffer_t* into
) noexcept nogil:
    """The document with the value of the member `name` of the object replaced by `json`, or with such a member more.

    `quoted` is the name as JSON. PK_OK, or PK_E_NOMEM with `into` empty.
    """
    cdef const value_t* tape = scan.tape
    cdef uint32_t key = object + 1
    cdef size_t done = 0                # so much of the old bytes was dealt with
    cdef size_t last = tape[object].start + 1
    cdef bint found = False
    cdef int code = PK_OK
    while key < tape[object].next:
        last = tape[key + 1].end
        if scan_equals(scan, key, <const char*>name.data, name.size):
            found = True
            code |= _copy(document, done, document.start + tape[key + 1].start, into)
            code |= buffer_append(into, json.data, json.size)
            done = document.start + last
        key = tape[key + 1].next
    if not found:
        code |= _copy(document, done, document.start + last, into)
        if tape[object].next > object + 1:
            code |= buffer_append(into, b",", 1)
        code |= buffer_append(into, quoted.data, quoted.size)
        code |= buffer_append(into, b":", 1)
        code |= buffer_append(into, json.data, json.size)
        done = document.start + last
    code |= _copy(document, done, document.bytes.size, into)
    return _finish(into, code)


cdef int document_remove(
    const document_t* document, const scan_t* scan, uint32_t object, slice_t name, buffer_t* into
) noexcept nogil:
    """The document without the members `name` of the object. PK_OK, or PK_E_NOMEM with `into` empty."""
    cdef const value_t* tape = scan.tape
    cdef uint32_t key = object + 1
    cdef size_t seam = document.start + tape[object].start + 1      # behind the member before
    cdef uint32_t kept = 0
    cdef int code = _copy(document, 0, seam, into)
    while key < tape[object].next:
        if not scan_equals(scan, key, <const char*>name.data, name.size):
            if kept == 0 and key > object + 1:      # the comma before it went with what it stood behind
                seam = document.start + tape[key].start
            code |= _copy(document, seam, document.start + tape[key + 1].end, into)
            kept += 1
        seam = document.start + tape[key + 1].end
        key = tape[key + 1].next
    code |= _copy(document, seam, document.bytes.size, into)
    return _finish(into, code)


cdef int document_replace(
    const document_t* document, const scan_t* scan, uint32_t index, slice_t json, buffer_t* into
) noexcept nogil:
    """The document with `json` in place of the value at `index`. PK_OK, or PK_E_NOMEM with `into` empty."""
    cdef int code = _copy(document, 0, document.start + scan.tape[index].start, into)
    code |= buffer_append(into, json.data, json.size)
    code |= _copy(document, document.start + scan.tape[index].end, document.bytes.size, into)
    return _finish(into, code)


cdef void document_take(document_t* document, buffer_t* bytes, document_t* former) noexcept nogil:
    """Put changed bytes in place of the former ones, which go into `former` or, if that is NULL, are given up."""
    cdef size_t behind = document.bytes.size - document.start - document.size
    if former != NULL:
        former[0] = document[0]
    else:
        buffer_free(&document.bytes)
    document.bytes = bytes[0]
    memset(bytes, 0, sizeof(buffer_t))
    document.size = document.bytes.size - document.start - behind
    document.is_changed = True
