"""JSON numbers and arrays of plain integers (token ids), checked and read where they lie.

Invariants: every read is bounded, even of bytes that were never checked.
Cost: O(bytes), integers of up to 7 digits in one step; nothing is allocated by the kernel.
Memory: pointers are borrowed for the call.   Threads: any.   Source: RFC 8259, 6.
"""
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

# --- C kernel ---

cdef extern from *:
    """
    #define PK_ONES 0x0101010101010101ULL
    #define PK_HIGH 0x8080808080808080ULL
    #define PK_PAIRS 0x00FF00FF00FF00FFULL
    #define PK_FOURS 0x0000FFFF0000FFFFULL
    """
    const uint64_t PK_ONES, PK_HIGH, PK_PAIRS, PK_FOURS
    int __builtin_ctzll(unsigned long long word) noexcept nogil


cdef inline uint64_t _read64(const uint8_t* at) noexcept nogil:
    # Little-endian hosts only, like every machine the wheels are built for.
    cdef uint64_t word
    memcpy(&word, at, 8)
    return word


cdef inline bint _is_digit(uint8_t byte) noexcept nogil:
    return <uint8_t>(byte - c'0') <= 9


cdef inline bint _skip_digits(const uint8_t** at, const uint8_t* end) noexcept nogil:
    """Past digits; False if there is none."""
    cdef const uint8_t* start = at[0]
    while at[0] < end and _is_digit(at[0][0]):
        at[0] += 1
    return at[0] != start


cdef bint json_number(const uint8_t** at, const uint8_t* end) noexcept nogil:
    """Past the number at `at`."""
    cdef const uint8_t* p = at[0]
    cdef bint fine = True
    if p < end and p[0] == c'-':
        p += 1
    if p < end and p[0] == c'0':
        p += 1
    else:
        fine = _skip_digits(&p, end)
    if fine and p < end and p[0] == c'.':
        p += 1
        fine = _skip_digits(&p, end)
    if fine and p < end and (p[0] | 0x20) == c'e':
        p += 1
        if p < end and (p[0] == c'+' or p[0] == c'-'):
            p += 1
        fine = _skip_digits(&p, end)
    at[0] = p
    return fine


cdef inline int _digits8(uint64_t word) noexcept nogil:
    """How many of the 8 bytes of `word ^ "00000000"` are digits before the first that is none."""
    cdef uint64_t marks = ((word + PK_ONES * 0x76) | word) & PK_HIGH
    return __builtin_ctzll(marks) >> 3 if marks else 8


cdef inline uint32_t _value8(uint64_t word) noexcept nogil:
    """The number that 8 digit values spell, the first in the lowest byte: pairs, then fours, then all."""
    word = (word * 10 + (word >> 8)) & PK_PAIRS
    word = (word * 100 + (word >> 16)) & PK_FOURS
    return <uint32_t>(word * 10000 + (word >> 32))


cdef bint _long_int(const uint8_t** at, const uint8_t* end, uint32_t* out) noexcept nogil:
    """`_plain_int` byte by byte: for more than 7 digits, and near the end."""
    cdef const uint8_t* start = at[0]
    cdef uint64_t value = 0
    while at[0] < end and _is_digit(at[0][0]) and value <= UINT32_MAX:
        value = value * 10 + (at[0][0] - c'0')
        at[0] += 1
    out[0] = <uint32_t>value
    return at[0] > start and value <= UINT32_MAX and (start[0] != c'0' or at[0] - start == 1)


cdef inline bint _plain_int(const uint8_t** at, const uint8_t* end, uint32_t* out) noexcept nogil:
    """Past the plain integer at `at`; False if there is none in 0..2**32-1."""
    cdef uint64_t word
    cdef int digits
    if end - at[0] < 8:
        return _long_int(at, end, out)
    word = _read64(at[0]) ^ PK_ONES * 0x30
    digits = _digits8(word)
    if digits == 8:
        return _long_int(at, end, out)
    if digits == 0 or (digits > 1 and word & 0xFF == 0):
        return False
    out[0] = _value8(word << (64 - 8 * digits))
    at[0] += digits
    return True


cdef inline const uint8_t* _blank(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Past white space."""
    while p < end and (p[0] == c' ' or p[0] == c'\n' or p[0] == c'\r' or p[0] == c'\t'):
        p += 1
    return p


cdef bint json_ints(const uint8_t** at, const uint8_t* end) noexcept nogil:
    """Past the `]` of an array whose first item is at `at`; False, `at` unchanged, unless all are plain integers."""
    cdef const uint8_t* p = at[0]
    cdef uint32_t value
    while _plain_int(&p, end, &value):
        p = _blank(p, end)
        if p == end:
            return False
        if p[0] == c']':
            at[0] = p + 1
            return True
        if p[0] != c',':
            return False
        p = _blank(p + 1, end)
    return False


cdef uint32_t json_read_ints(const uint8_t** at, const uint8_t* end, uint32_t* out, uint32_t room) noexcept nogil:
    """Integers of an array that `json_ints` passed, from `at` on, at most `room`: how many, 0 at its end."""
    cdef const uint8_t* p = at[0]
    cdef uint32_t count = 0
    while count < room:
        while p < end and not _is_digit(p[0]) and p[0] != c']':
            p += 1
        if not _plain_int(&p, end, out + count):
            break
        count += 1
    at[0] = p
    return count


cdef bint _scaled(uint64_t* value, int64_t power, uint64_t plus) noexcept nogil:
    """value * 10**power + plus in place; False if that is beyond 64 bits."""
    while power > 0 and value[0]:
        if value[0] > UINT64_MAX // 10:
            return False
        value[0] *= 10
        power -= 1
    if plus > UINT64_MAX - value[0]:
        return False
    value[0] += plus
    return True


cdef const uint8_t* _mantissa(const uint8_t* p, const uint8_t* end, uint64_t* value, int64_t* power) noexcept nogil:
    """Past the digits and the point, which spell value * 10**power; NULL if `value` is beyond 64 bits.

    Trailing zeros go into `power`: where it is below 0 at last, the number is not whole.
    """
    cdef int64_t zeros = 0, fraction = 0
    cdef bint behind_point = False
    value[0] = 0
    while p < end and (_is_digit(p[0]) or p[0] == c'.'):
        if p[0] == c'.':
            behind_point = True
        else:
            fraction += behind_point
            zeros += 1
            if p[0] != c'0':
                if not _scaled(value, zeros, p[0] - c'0'):
                    return NULL
                zeros = 0
        p += 1
    power[0] = zeros - fraction
    return p


cdef int64_t _exponent(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """What the `e±digits` at `p` spells, held below 2**40 (beyond any count of digits); 0 if there is none."""
    cdef int64_t value = 0
    cdef bint negative = False
    while p < end:
        if p[0] == c'-':
            negative = True
        elif _is_digit(p[0]) and value < <int64_t>1 << 36:
            value = value * 10 + (p[0] - c'0')
        p += 1
    return -value if negative else value


cdef bint json_uint(const uint8_t* p, const uint8_t* end, uint64_t* value) noexcept nogil:
    """The number p..end as a whole number in 0..2**64-1, however it is written; False, `value` unset, if it is none."""
    cdef bint negative = p < end and p[0] == c'-'
    cdef uint64_t whole
    cdef int64_t power
    p += negative
    if p == end or not _is_digit(p[0]):  # NaN, Infinity
        return False
    p = _mantissa(p, end, &whole, &power)
    if p == NULL or (negative and whole):
        return False
    power += _exponent(p, end)
    if whole and (power < 0 or not _scaled(&whole, power, 0)):
        return False
    value[0] = whole
    return True


# --- Python face ---

def whole(const unsigned char[::1] token not None) -> int | None:
    """The JSON number `token` if it is whole and in 0..2**64-1, however it is written (5, 5.0, 0.5e1), else None.

    Raises ValueError if `token` is anything else than one JSON number.
    """
    cdef size_t size = token.shape[0]
    cdef const uint8_t* start = &token[0] if size else NULL
    cdef const uint8_t* at = start
    cdef uint64_t value
    if size == 0 or not json_number(&at, start + size) or at != start + size:
        raise ValueError(f"not a JSON number: {bytes(token)!r}")
    return value if json_uint(start, at, &value) else None


def integers(const unsigned char[::1] token not None) -> list | None:
    """The items of a JSON array of plain integers 0..2**32-1 (no sign, point or exponent); None for anything else."""
    cdef size_t size = token.shape[0]
    cdef const uint8_t* start = &token[0] if size else NULL
    cdef const uint8_t* at = start
    cdef uint32_t item
    cdef list items = []
    if size == 0 or start[0] != c'[':
        return None
    at = _blank(start + 1, start + size)
    if not json_ints(&at, start + size) or at != start + size:
        return None
    at = start
    while json_read_ints(&at, start + size, &item, 1):
        items.append(item)
    return items
