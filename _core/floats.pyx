"""Decimal numbers out of bytes: what Python's `float` makes of them, to the last bit, without the GIL.

Reads [+-] digits [. digits] [e [+-] digits], and nan, inf, infinity in any case. No hexadecimal, no underscores, no
blanks. The locale has no say.
Invariants: `at` moves only when a number was read.
Cost: O(digits). Up to 19 digits with a small exponent cost a multiplication or division; the rest goes to strtod.
Memory: none.   Threads: any.
"""
from libc.math cimport INFINITY, NAN
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtod
from libc.string cimport memset

cdef enum:
    NUMBER_BYTES = 100       # a longer one is no number: the longest that round-trips a double has 24
    EXPONENT_MOST = 99999    # larger exponents mean the same
    ZERO = 48                # "0"

cdef extern from *:
    """
    static const double PK_TENS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};  /* all exact */
    """
    const double PK_TENS[23]

ctypedef struct decimal_t:
    # digits * 10**exponent, and how it was spelled.
    uint64_t digits
    int significant          # digits from the first non-zero one on; `digits` is exact up to 19
    int point                # digits after the point
    int exponent             # as written behind the e
    bint any                 # there was a digit


# --- C kernel ---

cdef inline bint _is_digit(uint8_t byte) noexcept nogil:
    return ZERO <= byte < ZERO + 10


cdef bint _word(const uint8_t** at, const uint8_t* end, const char* word, size_t size) noexcept nogil:
    """Steps over `word` (lower case) in any case."""
    cdef size_t i
    if <size_t>(end - at[0]) < size:
        return False
    for i in range(size):
        if at[0][i] | 0x20 != <uint8_t>word[i]:
            return False
    at[0] += size
    return True


cdef bint _special(const uint8_t** at, const uint8_t* end, double* value) noexcept nogil:
    if _word(at, end, b"nan", 3):
        value[0] = NAN
        return True
    value[0] = INFINITY
    return _word(at, end, b"infinity", 8) or _word(at, end, b"inf", 3)


cdef const uint8_t* _digits(const uint8_t* p, const uint8_t* end, decimal_t* number) noexcept nogil:
    while p < end and _is_digit(p[0]):
        if number.significant or p[0] != b"0":
            number.significant += 1
            if number.significant <= 19:
                number.digits = number.digits * 10 + (p[0] - ZERO)
        number.any = True
        p += 1
    return p


cdef bint _exponent(const uint8_t** at, const uint8_t* end, decimal_t* number) noexcept nogil:
    cdef const uint8_t* p = at[0] + 1
    cdef bint minus = False
    if p < end and (p[0] == b"-" or p[0] == b"+"):
        minus = p[0] == b"-"
        p += 1
    if p >= end or not _is_digit(p[0]):
        return False
    while p < end and _is_digit(p[0]):
        if number.exponent < EXPONENT_MOST:
            number.exponent = number.exponent * 10 + (p[0] - ZERO)
        p += 1
    if minus:
        number.exponent = -number.exponent
    at[0] = p
    return True


cdef double _exactly(const uint8_t* p, const uint8_t* end, int exponent) noexcept nogil:
    """strtod of the digits between p and end. Without a point in it, the locale has no say."""
    cdef char text[NUMBER_BYTES + 16]
    cdef size_t size = 0
    while p < end and p[0] | 0x20 != b"e":
        if p[0] != b".":
            text[size] = <char>p[0]
            size += 1
        p += 1
    snprintf(text + size, 16, b"e%d", exponent)
    return strtod(text, NULL)


cdef bint _decimal(const uint8_t** at, const uint8_t* end, double* value) noexcept nogil:
    cdef decimal_t number
    cdef const uint8_t* start = at[0]
    cdef const uint8_t* p
    cdef int exponent
    memset(&number, 0, sizeof(number))
    p = _digits(start, end, &number)
    if p < end and p[0] == b".":
        at[0] = p + 1
        p = _digits(at[0], end, &number)
        number.point = <int>(p - at[0])
    if not number.any or p - start > NUMBER_BYTES:
        return False
    at[0] = p
    if p < end and p[0] | 0x20 == b"e" and not _exponent(at, end, &number):
        return False
    exponent = number.exponent - number.point
    # Two exactly represented numbers, one rounding: the result is the nearest double (Clinger's fast path).
    if number.significant <= 19 and number.digits <= <uint64_t>1 << 53 and -22 <= exponent <= 22:
        value[0] = <double>number.digits
        value[0] = value[0] / PK_TENS[-exponent] if exponent < 0 else value[0] * PK_TENS[exponent]
    else:
        value[0] = _exactly(start, at[0], exponent)
    return True


cdef bint floats_parse(const uint8_t** at, const uint8_t* end, double* value) noexcept nogil:
    cdef const uint8_t* p = at[0]
    cdef bint minus = False
    if p < end and (p[0] == b"-" or p[0] == b"+"):
        minus = p[0] == b"-"
        p += 1
    if not (_special(&p, end, value) if p < end and p[0] >= b"A" else _decimal(&p, end, value)):
        return False
    if minus:
        value[0] = -value[0]
    at[0] = p
    return True


# --- Python face ---

def parse(const unsigned char[::1] text not None) -> float:
    """The number `text` spells, to the last bit as `float` reads it. ValueError if it is none or over 100 bytes."""
    cdef double value = 0
    cdef const uint8_t* at = <const uint8_t*>b"" if text.shape[0] == 0 else &text[0]
    cdef const uint8_t* end = at + text.shape[0]
    if not floats_parse(&at, end, &value) or at != end:
        raise ValueError(f"not a number: {bytes(text)!r}")
    return value
