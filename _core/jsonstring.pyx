"""JSON strings, checked, read and written where they lie.

Invariants: what passes is what Python's `json` takes from UTF-8 bytes decoded with `surrogatepass`: raw and escaped
    surrogates pass, control characters do not. Every read is bounded, even of bytes that were never checked.
Cost: O(bytes), plain ASCII 8 bytes at a time; nothing is allocated by the kernel.
Memory: pointers are borrowed for the call.   Threads: any.   Source: RFC 8259, 7; RFC 3629.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from picker._core.alloc cimport PK_E_RANGE

# --- C kernel ---

cdef extern from *:
    """
    #define PK_ONES 0x0101010101010101ULL
    #define PK_HIGH 0x8080808080808080ULL

    /* What the byte after a backslash stands for; 0: it may not stand there, or is a `u`. */
    static const unsigned char PK_ESCAPES[256] = {
        ['"'] = '"', [92] = 92, ['/'] = '/', ['b'] = 8, ['t'] = 9, ['n'] = 10, ['f'] = 12, ['r'] = 13,
    };
    /* 16 + the value of a hexadecimal digit; 0: not one. */
    static const unsigned char PK_HEX[256] = {
        ['0'] = 16, ['1'] = 17, ['2'] = 18, ['3'] = 19, ['4'] = 20, ['5'] = 21, ['6'] = 22, ['7'] = 23,
        ['8'] = 24, ['9'] = 25, ['a'] = 26, ['b'] = 27, ['c'] = 28, ['d'] = 29, ['e'] = 30, ['f'] = 31,
        ['A'] = 26, ['B'] = 27, ['C'] = 28, ['D'] = 29, ['E'] = 30, ['F'] = 31,
    };
    """
    const uint64_t PK_ONES, PK_HIGH
    const uint8_t* PK_ESCAPES
    const uint8_t* PK_HEX
    int __builtin_ctzll(unsigned long long word) noexcept nogil


cdef inline uint64_t _read64(const uint8_t* at) noexcept nogil:
    # Little-endian hosts only, like every machine the wheels are built for.
    cdef uint64_t word
    memcpy(&word, at, 8)
    return word


cdef inline uint32_t _read32(const uint8_t* at) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, at, 4)
    return word


cdef inline uint64_t _marks(uint64_t word) noexcept nogil:
    """The high bit of each byte that is a control character, a quote, a backslash or not ASCII.

    A borrow may mark bytes above a marked one, never below: the lowest mark is exact.
    """
    return (
        (word - PK_ONES * 0x20) | ((word ^ PK_ONES * 0x22) - PK_ONES) | ((word ^ PK_ONES * 0x5C) - PK_ONES) | word
    ) & PK_HIGH


cdef inline const uint8_t* _plain(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Past ASCII that stands for itself in a string."""
    cdef uint64_t marks
    while end - p >= 8:
        marks = _marks(_read64(p))
        if marks:
            return p + (__builtin_ctzll(marks) >> 3)
        p += 8
    while p < end and 0x20 <= p[0] < 0x80 and p[0] != c'"' and p[0] != c'\\':
        p += 1
    return p


cdef const uint8_t* _tail(const uint8_t* p, const uint8_t* end, int count, uint8_t low, uint8_t high) noexcept nogil:
    """Past a lead byte and as many of the `count` bytes it wants as are there; the first of them in low..high."""
    p += 1
    while count and p < end and low <= p[0] <= high:
        p += 1
        count -= 1
        low, high = 0x80, 0xBF
    return p


cdef const uint8_t* _character(const uint8_t* p, const uint8_t* end, bint* fine) noexcept nogil:
    """Past one character that is not ASCII, byte by byte (RFC 3629, 4; but surrogates pass)."""
    cdef const uint8_t* start = p
    cdef uint8_t lead = p[0]
    cdef int size = 1 + (lead >= 0xC2) + (lead >= 0xE0) + (lead >= 0xF0)
    cdef uint8_t low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
    if size > 1 and lead <= 0xF4:
        p = _tail(p, end, size - 1, low, 0x8F if lead == 0xF4 else 0xBF)
    fine[0] = p - start == size
    return p


cdef inline const uint8_t* _foreign(const uint8_t* p, const uint8_t* end, bint* fine) noexcept nogil:
    """Past characters that are not ASCII, as many as follow one another."""
    cdef uint32_t word
    while p < end and p[0] >= 0x80:
        word = _read32(p) if end - p >= 4 else 0
        if word & 0xC0C0F0 == 0x8080E0 and word & 0x200F:  # three bytes, at least U+0800
            p += 3
        elif word & 0xC0E0 == 0x80C0 and word & 0x1E:  # two bytes, at least U+0080
            p += 2
        else:
            p = _character(p, end, fine)
            if not fine[0]:
                break
    return p


cdef const uint8_t* _wrong_escape(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Behind a backslash: where it goes wrong."""
    if p < end and p[0] == c'u':
        p += 1
        while p < end and PK_HEX[p[0]]:  # fewer than four
            p += 1
    return p


cdef inline const uint8_t* _escapes(const uint8_t* p, const uint8_t* end, bint* fine) noexcept nogil:
    """Past escapes, as many as follow one another."""
    while p < end and p[0] == c'\\':
        p += 1
        if p < end and PK_ESCAPES[p[0]]:
            p += 1
        elif end - p > 4 and p[0] == c'u' and PK_HEX[p[1]] & PK_HEX[p[2]] & PK_HEX[p[3]] & PK_HEX[p[4]]:
            p += 5
        else:
            fine[0] = False
            return _wrong_escape(p, end)
    return p


cdef bint json_string(const uint8_t** at, const uint8_t* end, bint* escaped) noexcept nogil:
    """Past the string whose opening quote is at `at`; `escaped`: it holds a backslash."""
    cdef const uint8_t* p = at[0] + 1
    cdef bint fine = True
    escaped[0] = False
    while fine:
        p = _plain(p, end)
        if p == end:
            break
        if p[0] == c'\\':
            escaped[0] = True
            p = _escapes(p, end, &fine)
        elif p[0] >= 0x80:
            p = _foreign(p, end, &fine)
        elif p[0] == c'"':
            at[0] = p + 1
            return True
        else:
            break
    at[0] = p
    return False


cdef inline uint32_t _hex4(const uint8_t* at) noexcept nogil:
    return (PK_HEX[at[0]] & 15) << 12 | (PK_HEX[at[1]] & 15) << 8 | (PK_HEX[at[2]] & 15) << 4 | (PK_HEX[at[3]] & 15)


cdef int _encode(uint32_t code, uint8_t* out) noexcept nogil:
    """`code` as 1 to 4 bytes of UTF-8; surrogates as three."""
    if code < 0x80:
        out[0] = <uint8_t>code
        return 1
    if code < 0x800:
        out[0] = <uint8_t>(0xC0 | code >> 6)
        out[1] = <uint8_t>(0x80 | code & 0x3F)
        return 2
    if code < 0x10000:
        out[0] = <uint8_t>(0xE0 | code >> 12)
        out[1] = <uint8_t>(0x80 | code >> 6 & 0x3F)
        out[2] = <uint8_t>(0x80 | code & 0x3F)
        return 3
    out[0] = <uint8_t>(0xF0 | code >> 18)
    out[1] = <uint8_t>(0x80 | code >> 12 & 0x3F)
    out[2] = <uint8_t>(0x80 | code >> 6 & 0x3F)
    out[3] = <uint8_t>(0x80 | code & 0x3F)
    return 4


cdef int _unescape(const uint8_t** at, const uint8_t* end, uint8_t* out) noexcept nogil:
    """Past the escape at `at`; the 1 to 4 bytes it stands for into `out`."""
    cdef const uint8_t* p = at[0]
    cdef uint32_t code, low
    if end - p < 2 or (p[1] == c'u' and end - p < 6):  # not in a string that was checked
        at[0] = end
        out[0] = 0
        return 1
    if p[1] != c'u':
        at[0] = p + 2
        out[0] = PK_ESCAPES[p[1]]
        return 1
    code = _hex4(p + 2)
    p += 6
    if code & 0xFC00 == 0xD800 and end - p >= 6 and p[0] == c'\\' and p[1] == c'u':
        low = _hex4(p + 2)
        if low & 0xFC00 == 0xDC00:
            code = 0x10000 + ((code & 0x3FF) << 10 | (low & 0x3FF))
            p += 6
    at[0] = p
    return _encode(code, out)


cdef inline size_t _piece(const uint8_t** at, const uint8_t* end, const uint8_t** source, uint8_t* room) noexcept nogil:
    """The next run without escapes, or what the next escape stands for (in `room`, 4 bytes): `source` and its size."""
    source[0] = at[0]
    if at[0][0] == c'\\':
        source[0] = room
        return _unescape(at, end, room)
    at[0] = <const uint8_t*>memchr(at[0], c'\\', end - at[0])
    if at[0] == NULL:
        at[0] = end
    return at[0] - source[0]


cdef int64_t json_unescape(const uint8_t* p, const uint8_t* end, uint8_t* out, size_t room) noexcept nogil:
    """What stands between a string's quotes, unescaped, into `out`: bytes written, or PK_E_RANGE beyond `room`."""
    cdef const uint8_t* source
    cdef uint8_t piece[4]
    cdef size_t done = 0, size
    while p < end:
        size = _piece(&p, end, &source, piece)
        if size > room - done:
            return PK_E_RANGE
        memcpy(out + done, source, size)
        done += size
    return <int64_t>done


cdef bint json_equals(const uint8_t* p, const uint8_t* end, const uint8_t* text, size_t size) noexcept nogil:
    """Does what stands between a string's quotes, unescaped, equal `text`?"""
    cdef const uint8_t* source
    cdef uint8_t piece[4]
    cdef size_t done = 0, count
    while p < end:
        count = _piece(&p, end, &source, piece)
        if count > size - done or memcmp(text + done, source, count) != 0:
            return False
        done += count
    return done == size


cdef int64_t json_quote(const uint8_t* text, size_t size, uint8_t* out, size_t room) noexcept nogil:
    """`text` (valid UTF-8) as a JSON string into `out`: bytes written, or PK_E_RANGE if room < 6 * size + 2."""
    cdef const char* hexadecimal = "0123456789abcdef"
    cdef uint8_t* to = out + 1
    cdef size_t i
    if room < 2 or size > (room - 2) // 6:
        return PK_E_RANGE
    out[0] = c'"'
    for i in range(size):
        if text[i] < 0x20:
            memcpy(to, "\\u00", 4)
            to[4] = hexadecimal[text[i] >> 4]
            to[5] = hexadecimal[text[i] & 15]
            to += 6
            continue
        if text[i] == c'"' or text[i] == c'\\':
            to[0] = c'\\'
            to += 1
        to[0] = text[i]
        to += 1
    to[0] = c'"'
    return to + 1 - out


# --- Python face ---

def quote(str text not None) -> bytes:
    """`text` as a JSON string in UTF-8, quotes included. Raises ValueError for lone surrogates."""
    cdef bytes source = text.encode()
    cdef size_t room = 6 * len(source) + 2
    cdef bytes out = PyBytes_FromStringAndSize(NULL, room)
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(out)
    return out[: json_quote(<const uint8_t*>PyBytes_AS_STRING(source), len(source), to, room)]


def unescape(const unsigned char[::1] token not None) -> bytes:
    """What the JSON string `token` (quotes included) stands for, in UTF-8; a lone surrogate as its three-byte form.

    Raises ValueError if `token` is anything else than one JSON string.
    """
    cdef size_t size = token.shape[0]
    cdef const uint8_t* start = &token[0] if size else NULL
    cdef const uint8_t* at = start
    cdef bint escaped
    cdef bytes out
    if size < 2 or start[0] != c'"' or not json_string(&at, start + size, &escaped) or at != start + size:
        raise ValueError(f"not a JSON string: {bytes(token)!r}")
    out = PyBytes_FromStringAndSize(NULL, size - 2)
    return out[: json_unescape(start + 1, at - 1, <uint8_t*>PyBytes_AS_STRING(out), size - 2)]
