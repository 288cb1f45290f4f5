"""One-pass JSON scanner: validates a body and lays its values on a flat tape; no tree, no recursion, no copies.

Invariants: accepts the UTF-8 bytes that `json.loads` accepts (a BOM, NaN, Infinity and surrogates included), and
    integers of any length. Values lie on the tape in the order in which they begin, each `next` behind all it holds;
    while a container is open its `next` holds the container around it, so that nesting costs no stack.
Cost: O(bytes) to scan, O(members) to find one. Only the tape's growth allocates.
Memory: `scan_t` owns its tape, which later scans reuse, and borrows the body. A body that changes under the tape makes
    answers meaningless, never unsafe.   Threads: any; one scan_t belongs to one caller.
Source: RFC 8259; the documentation of Python's `json`.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.jsonnumber cimport json_ints, json_number, json_read_ints, json_uint
from picker._core.jsonstring cimport json_equals, json_string, json_unescape

from picker._core import jsonstring

# --- C kernel ---

cdef enum:
    MORE = 1               # besides PK_OK: another value follows at `p`

ctypedef struct walk_t:
    scan_t* scan
    const uint8_t* p       # next byte; after a failure the byte that is wrong, or `end`
    const uint8_t* end
    uint32_t open          # innermost open container; its `next` holds the one around it
    uint32_t depth


cdef inline const uint8_t* _blank(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Past white space."""
    while p < end and (p[0] == c' ' or p[0] == c'\n' or p[0] == c'\r' or p[0] == c'\t'):
        p += 1
    return p


cdef int _put(walk_t* walk, const uint8_t* start, const uint8_t* end, uint8_t kind, uint8_t flags) noexcept nogil:
    """One value onto the tape."""
    cdef scan_t* scan = walk.scan
    cdef value_t* value
    if scan.count >= scan.max_values:
        walk.p = start
        return PK_E_LIMIT
    if scan.count >= scan.capacity:
        if pk_grow(<void**>&scan.tape, &scan.capacity, <size_t>scan.count + 1, sizeof(value_t)) != PK_OK:
            return PK_E_NOMEM
    value = scan.tape + scan.count
    scan.count += 1
    value.start = <uint32_t>(start - scan.data)
    value.end = <uint32_t>(end - scan.data)
    value.next = scan.count
    value.kind = kind
    value.flags = flags
    return PK_OK


cdef int _string(walk_t* walk) noexcept nogil:
    """The string at `p`."""
    cdef const uint8_t* start = walk.p
    cdef bint escaped
    if not json_string(&walk.p, walk.end, &escaped):
        return PK_E_FORMAT
    return _put(walk, start, walk.p, PK_JSON_STRING, PK_JSON_ESCAPED if escaped else 0)


cdef int _number(walk_t* walk) noexcept nogil:
    cdef const uint8_t* start = walk.p
    if not json_number(&walk.p, walk.end):
        return PK_E_FORMAT
    return _put(walk, start, walk.p, PK_JSON_NUMBER, 0)


cdef int _literal(walk_t* walk, const char* name, int size, uint8_t kind) noexcept nogil:
    cdef const uint8_t* start = walk.p
    cdef int i
    for i in range(size):
        if walk.p == walk.end or walk.p[0] != <uint8_t>name[i]:
            return PK_E_FORMAT
        walk.p += 1
    return _put(walk, start, walk.p, kind, 0)


cdef int _open(walk_t* walk, uint8_t kind) noexcept nogil:
    """Into the container at `p`, to its first item."""
    cdef scan_t* scan = walk.scan
    cdef int status
    if walk.depth >= scan.max_depth:
        return PK_E_LIMIT
    status = _put(walk, walk.p, walk.p, kind, 0)
    if status == PK_OK:
        scan.tape[scan.count - 1].next = walk.open
        walk.open = scan.count - 1
        walk.depth += 1
        walk.p = _blank(walk.p + 1, walk.end)
    return status


cdef void _close(walk_t* walk, const uint8_t* behind) noexcept nogil:
    """Out of the innermost container, whose last byte lies before `behind`."""
    cdef value_t* value = walk.scan.tape + walk.open
    walk.open = value.next
    walk.depth -= 1
    walk.p = behind
    value.next = walk.scan.count
    value.end = <uint32_t>(behind - walk.scan.data)


cdef int _key(walk_t* walk) noexcept nogil:
    """A member's name and colon; its value follows."""
    cdef int status
    if walk.p == walk.end or walk.p[0] != c'"':
        return PK_E_FORMAT
    status = _string(walk)
    if status != PK_OK:
        return status
    walk.p = _blank(walk.p, walk.end)
    if walk.p == walk.end or walk.p[0] != c':':
        return PK_E_FORMAT
    walk.p = _blank(walk.p + 1, walk.end)
    return MORE


cdef int _object(walk_t* walk) noexcept nogil:
    cdef int status = _open(walk, PK_JSON_OBJECT)
    if status != PK_OK:
        return status
    if walk.p < walk.end and walk.p[0] == c'}':
        _close(walk, walk.p + 1)
        return PK_OK
    return _key(walk)


cdef int _array(walk_t* walk) noexcept nogil:
    """Into an array; past it if it is empty or holds plain integers only."""
    cdef int status = _open(walk, PK_JSON_ARRAY)
    if status != PK_OK:
        return status
    if walk.p < walk.end and walk.p[0] == c']':
        _close(walk, walk.p + 1)
        return PK_OK
    if not json_ints(&walk.p, walk.end):
        return MORE
    walk.scan.tape[walk.open].flags = PK_JSON_INTS
    _close(walk, walk.p)
    return PK_OK


cdef int _value(walk_t* walk) noexcept nogil:
    """The value at `p`: PK_OK behind it, or MORE at the first value inside it."""
    if walk.p == walk.end:
        return PK_E_FORMAT
    cdef uint8_t first = walk.p[0]
    if first == c'"':
        return _string(walk)
    if first == c'{':
        return _object(walk)
    if first == c'[':
        return _array(walk)
    if first == c't':
        return _literal(walk, "true", 4, PK_JSON_TRUE)
    if first == c'f':
        return _literal(walk, "false", 5, PK_JSON_FALSE)
    if first == c'n':
        return _literal(walk, "null", 4, PK_JSON_NULL)
    if first == c'N':
        return _literal(walk, "NaN", 3, PK_JSON_NUMBER)
    if first == c'I':
        return _literal(walk, "Infinity", 8, PK_JSON_NUMBER)
    if first == c'-' and walk.end - walk.p >= 2 and walk.p[1] == c'I':
        return _literal(walk, "-Infinity", 9, PK_JSON_NUMBER)
    return _number(walk)


cdef int _after(walk_t* walk) noexcept nogil:
    """Behind a value: closes what closes; MORE at the next value, PK_OK at the end of the document."""
    cdef bint in_object
    while walk.depth:
        walk.p = _blank(walk.p, walk.end)
        if walk.p == walk.end:
            return PK_E_FORMAT
        in_object = walk.scan.tape[walk.open].kind == PK_JSON_OBJECT
        if walk.p[0] == c',':
            walk.p = _blank(walk.p + 1, walk.end)
            return _key(walk) if in_object else MORE
        if walk.p[0] != (c'}' if in_object else c']'):
            return PK_E_FORMAT
        _close(walk, walk.p + 1)
    walk.p = _blank(walk.p, walk.end)
    return PK_OK if walk.p == walk.end else PK_E_FORMAT


cdef int _document(walk_t* walk) noexcept nogil:
    cdef int status = MORE
    if walk.end - walk.p >= 3 and memcmp(walk.p, b"\xEF\xBB\xBF", 3) == 0:
        walk.p += 3
    walk.p = _blank(walk.p, walk.end)
    while status == MORE:
        status = _value(walk)
        if status == PK_OK:
            status = _after(walk)
    return status


cdef void scan_init(scan_t* scan, uint32_t max_values, uint32_t max_depth) noexcept nogil:
    """An empty tape; nothing is allocated yet."""
    memset(scan, 0, sizeof(scan_t))
    scan.max_values = max_values
    scan.max_depth = max_depth


cdef void scan_free(scan_t* scan) noexcept nogil:
    pk_free(scan.tape)
    scan_init(scan, scan.max_values, scan.max_depth)


cdef int scan_json(scan_t* scan, const uint8_t* data, size_t size) noexcept nogil:
    """The body's values onto the tape: PK_OK, PK_E_FORMAT, PK_E_LIMIT or PK_E_NOMEM; on failure the tape is empty."""
    cdef walk_t walk
    cdef int status
    scan.count = scan.size = scan.error_at = 0
    if size > UINT32_MAX:
        return PK_E_LIMIT
    scan.data = data
    scan.size = <uint32_t>size
    walk.scan = scan
    walk.p = data
    walk.end = data + size
    walk.open = walk.depth = 0
    status = _document(&walk)
    if status != PK_OK:
        scan.count = 0
        scan.error_at = <uint32_t>(walk.p - data)
    return status


cdef bint scan_equals(const scan_t* scan, uint32_t index, const char* text, size_t size) noexcept nogil:
    """Does the string at `index`, unescaped, equal these bytes? False for what is no string."""
    cdef const value_t* value = scan.tape + index
    cdef const uint8_t* start = scan.data + value.start + 1
    cdef const uint8_t* end = scan.data + value.end - 1
    if value.kind != PK_JSON_STRING:
        return False
    if value.flags & PK_JSON_ESCAPED:
        return json_equals(start, end, <const uint8_t*>text, size)
    return <size_t>(end - start) == size and memcmp(start, text, size) == 0


cdef uint32_t scan_member(const scan_t* scan, uint32_t index, const char* name, size_t name_size) noexcept nogil:
    """Tape index of the value of the last member called `name` of the object at `index`; 0 = none."""
    cdef uint32_t key = index + 1, found = 0
    if scan.tape[index].kind != PK_JSON_OBJECT:
        return 0
    while key < scan.tape[index].next:
        if scan_equals(scan, key, name, name_size):
            found = key + 1
        key = scan.tape[key + 1].next
    return found


cdef int64_t scan_unescape(const scan_t* scan, uint32_t index, uint8_t* out, size_t room) noexcept nogil:
    """The string at `index`, unescaped, into `out`: bytes written, PK_E_RANGE or PK_E_MISSING (no string)."""
    cdef const value_t* value = scan.tape + index
    if value.kind != PK_JSON_STRING:
        return PK_E_MISSING
    return json_unescape(scan.data + value.start + 1, scan.data + value.end - 1, out, room)


cdef uint32_t scan_ints(const scan_t* scan, uint32_t* at, uint32_t* out, uint32_t room) noexcept nogil:
    """The next integers of the PK_JSON_INTS array that `at` is in, at most `room`: how many, 0 at its end."""
    cdef const uint8_t* p = scan.data + at[0]
    cdef uint32_t count = json_read_ints(&p, scan.data + scan.size, out, room)
    at[0] = <uint32_t>(p - scan.data)
    return count


cdef bint scan_next_int(const scan_t* scan, uint32_t* at, uint32_t* value) noexcept nogil:
    """The next integer of the PK_JSON_INTS array that `at` is in; False at its end."""
    return scan_ints(scan, at, value, 1) == 1


cdef bint scan_uint(const scan_t* scan, uint32_t index, uint64_t* value) noexcept nogil:
    """The number at `index` as a whole number in 0..2**64-1 into `value`; False if it is none."""
    cdef const value_t* item = scan.tape + index
    return item.kind == PK_JSON_NUMBER and json_uint(scan.data + item.start, scan.data + item.end, value)


# --- Python face ---

cdef int _raise(const scan_t* scan, int status) except -1:
    if status == PK_E_NOMEM:
        raise MemoryError("no memory for the JSON tape")
    if status == PK_E_LIMIT:
        raise OverflowError(
            f"JSON beyond a limit at byte {scan.error_at}: max_values={scan.max_values}, max_depth={scan.max_depth}"
        )
    if scan.error_at == scan.size:
        raise ValueError(f"not JSON: it stops too early, at byte {scan.error_at}")
    raise ValueError(f"not JSON: byte {scan.error_at} is wrong")


@cython.final
@cython.auto_pickle(False)
cdef class Scanner:
    """The tape of one body: values numbered in the order in which they begin; value 0 is the document.

    In an object, keys and values alternate. The items of an array of plain integers 0..2**32-1 are not on the tape:
    see `ints`. The body is held until the next `scan`; it must not change meanwhile. Methods raise
    IndexError for an index that is not on the tape, ValueError for a value of another kind than they are for.
    """

    def __cinit__(self, uint32_t max_values=1 << 20, uint32_t max_depth=256):
        scan_init(&self.state, max_values, max_depth)

    def __dealloc__(self):
        scan_free(&self.state)

    cdef const value_t* value_of(self, uint32_t index, int kind) except NULL:
        """The value at `index`, which must be of `kind`."""
        if index >= self.state.count:
            raise IndexError(f"value {index} of {self.state.count}")
        if self.state.tape[index].kind != kind:
            raise ValueError(f"value {index} is of kind {self.state.tape[index].kind}, not {kind}")
        return self.state.tape + index

    def scan(self, const unsigned char[::1] body not None) -> None:
        """Lay the values of `body` on the tape in place of the former ones.

        Raises ValueError naming the first byte that is wrong, OverflowError beyond max_values values, max_depth nested
        containers or 4 GiB; the tape is then empty.
        """
        cdef const uint8_t* data = <const uint8_t*>b"" if body.shape[0] == 0 else &body[0]
        cdef int status = scan_json(&self.state, data, body.shape[0])
        self.body = body
        if status != PK_OK:
            self.body = None
            _raise(&self.state, status)

    def values(self) -> list:
        """(start, end, next, kind, flags) of each value; offsets in bytes, `next` the value after all it holds."""
        cdef value_t* tape = self.state.tape
        cdef uint32_t i
        return [
            (tape[i].start, tape[i].end, tape[i].next, tape[i].kind, tape[i].flags) for i in range(self.state.count)
        ]

    def __len__(self) -> int:
        return self.state.count

    def member(self, uint32_t index, const unsigned char[::1] name not None) -> int | None:
        """Index of the value of the last member `name` (UTF-8, unescaped) of the object at `index`, or None."""
        cdef const char* start = ""
        self.value_of(index, PK_JSON_OBJECT)
        if name.shape[0]:
            start = <const char*>&name[0]
        return scan_member(&self.state, index, start, name.shape[0]) or None

    def equals(self, uint32_t index, const unsigned char[::1] text not None) -> bool:
        """Is `text` (UTF-8) what the string at `index` stands for?"""
        cdef const char* start = ""
        self.value_of(index, PK_JSON_STRING)
        if text.shape[0]:
            start = <const char*>&text[0]
        return scan_equals(&self.state, index, start, text.shape[0])

    def text(self, uint32_t index) -> bytes:
        """What the string at `index` stands for, in UTF-8; lone surrogates as with `surrogatepass`."""
        cdef const value_t* value = self.value_of(index, PK_JSON_STRING)
        cdef size_t room = value.end - value.start - 2
        cdef bytes out = PyBytes_FromStringAndSize(NULL, room)
        cdef int64_t size = scan_unescape(&self.state, index, <uint8_t*>PyBytes_AS_STRING(out), room)
        if size < 0:
            raise RuntimeError("the body has changed since it was scanned")
        return out[:size]

    def ints(self, uint32_t index) -> list:
        """The items of the array at `index`, which must be flagged as one of plain integers (flag 2)."""
        cdef const value_t* value = self.value_of(index, PK_JSON_ARRAY)
        cdef uint32_t at = value.start, item
        cdef list items = []
        if not value.flags & PK_JSON_INTS:
            raise ValueError(f"value {index} is not an array of plain integers")
        while scan_next_int(&self.state, &at, &item):
            items.append(item)
        return items

    def uint(self, uint32_t index) -> int | None:
        """The number at `index` if it is whole and in 0..2**64-1, however it is written (5, 5.0, 0.5e1), else None."""
        cdef uint64_t value
        self.value_of(index, PK_JSON_NUMBER)
        return value if scan_uint(&self.state, index, &value) else None

    def _check(self) -> None:
        """Raises AssertionError unless all invariants of the tape hold. For tests."""
        cdef const value_t* tape = self.state.tape
        cdef uint32_t i, count = self.state.count, depth = 0, floor = 0  # where value i may begin
        cdef int64_t holder = -1  # innermost container around value i
        cdef list around = [-1] * count, seen = [0] * count  # holder of each value; values directly inside it
        assert count <= self.state.max_values and count <= self.state.capacity
        assert (count == 0) == (self.body is None)
        for i in range(count + 1):
            while holder >= 0 and (tape[holder].next <= i or i == count):
                assert tape[holder].next == i and floor < tape[holder].end, "a container ends behind all it holds"
                assert tape[holder].kind == PK_JSON_ARRAY or seen[holder] % 2 == 0, "keys and values alternate"
                floor = tape[holder].end
                holder = around[holder]
                depth -= 1
            if i == count:
                break
            self.check_value(i, floor)
            around[i] = holder
            if holder >= 0:
                seen[holder] += 1
                if seen[holder] % 2 and tape[holder].kind == PK_JSON_OBJECT:
                    assert tape[i].kind == PK_JSON_STRING, "a key is a string"
            assert (holder < 0) == (i == 0), "value 0 holds all others"
            assert depth + (tape[i].kind >= PK_JSON_ARRAY) <= self.state.max_depth
            floor = tape[i].end
            if tape[i].kind >= PK_JSON_ARRAY and not tape[i].flags:
                holder = i
                depth += 1
                floor = tape[i].start + 1

    cdef int check_value(self, uint32_t i, uint32_t floor) except -1:
        cdef const value_t* value = self.state.tape + i
        cdef bint leaf = value.kind < PK_JSON_ARRAY or value.flags
        assert floor <= value.start < value.end <= self.state.size
        assert i < value.next <= self.state.count and (value.next == i + 1 or not leaf)
        assert value.kind <= PK_JSON_OBJECT
        assert (
            value.flags == 0
            or (value.flags == PK_JSON_ESCAPED and value.kind == PK_JSON_STRING)
            or (value.flags == PK_JSON_INTS and value.kind == PK_JSON_ARRAY)
        )
        return 0


def splice(const unsigned char[::1] body not None, const unsigned char[::1] name not None, str value not None) -> bytes:
    """`body` with the value of its last top-level member `name` (UTF-8) replaced by the JSON string `value`.

    Every other byte stays. Raises KeyError if the body is no object or has no such member, ValueError if it is not JSON
    or `value` has lone surrogates, OverflowError as `Scanner` does.
    """
    cdef Scanner scanner = Scanner()
    cdef bytes quoted = jsonstring.quote(value)
    cdef const char* start = ""
    cdef const value_t* old
    cdef uint32_t index
    scanner.scan(body)
    if name.shape[0]:
        start = <const char*>&name[0]
    index = scan_member(&scanner.state, 0, start, name.shape[0])
    if index == 0:
        raise KeyError(bytes(name))
    old = scanner.state.tape + index
    return b"".join((body[: old.start], quoted, body[old.end :]))
