"""Incremental JSON reader that keeps only the usage figures of an inference response.

Takes a document in pieces cut anywhere, checks the whole grammar, and notes the integers of `usage` and whether there
is an `error` object: at the top, or in a `response` (Responses API events) or `message` (Anthropic) object there; those
of `meta_info` (SGLang) at the top; and what the `type` there says of an event. Equal words inside strings or elsewhere
mean nothing. Of several values of one field the last one counts. Where the model is named, a `restore_t` is told so.
Invariants: `target` is none unless the value to come has a meaning. Nothing is kept of a document but this struct.
Cost: O(bytes); strings are skipped eight bytes at a time. Nothing is allocated.
Memory: one struct of fixed size.   Threads: any; one reader belongs to one caller.   Face: `sse.UsageScanner`.
Source: RFC 8259. UTF-8 is not validated, NaN and Infinity are refused, nesting is limited to 64.
"""
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from picker._core.restore cimport restore_begin, restore_end, restore_t

cdef extern from *:
    """
    #define PK_ONES 0x0101010101010101ULL
    #define PK_HIGHS 0x8080808080808080ULL
    """
    const uint64_t PK_ONES, PK_HIGHS
    int __builtin_ctzll(unsigned long long word) noexcept nogil

cdef enum:                   # states of the grammar
    START                    # the document's value
    VALUE                    # a member's or an item's value
    FIRST_ITEM               # a value or ]
    FIRST_KEY                # a name or }
    KEY
    COLON
    AFTER                    # comma or the end of the container
    DONE                     # whitespace only
    BAD
    STRING
    ESCAPE
    HEX
    LITERAL
    MINUS                    # numbers, by what was read last
    ZERO
    DIGITS
    POINT
    FRACTION
    EXPONENT
    SIGN
    POWER

cdef enum:                   # places (an object is) and targets (a value is)
    NOTHING
    ROOT
    WRAPPER
    USAGE
    DETAILS
    META
    ERROR
    TYPE
    MODEL
    FIELD                    # FIELD + i: usage_t.fields[i]

cdef enum:
    LITTLE = 48              # "0"
    NO_KEY = 255


# --- C kernel ---

cdef inline bint _is_digit(uint8_t byte) noexcept nogil:
    return LITTLE <= byte < LITTLE + 10


cdef inline bint _is_space(uint8_t byte) noexcept nogil:
    return byte == b" " or byte == b"\n" or byte == b"\r" or byte == b"\t"


cdef inline bint _is(const usage_t* usage, const char* name, size_t size) noexcept nogil:
    return usage.key_size == size and memcmp(usage.key, name, size) == 0


cdef uint8_t _meta_meaning(const usage_t* usage) noexcept nogil:
    if _is(usage, b"prompt_tokens", 13):
        return FIELD + PK_USAGE_PROMPT
    if _is(usage, b"completion_tokens", 17):
        return FIELD + PK_USAGE_COMPLETION
    return FIELD + PK_USAGE_CACHED if _is(usage, b"cached_tokens", 13) else <uint8_t>NOTHING


cdef inline uint8_t _five_letters(const usage_t* usage) noexcept nogil:
    """In the root or a wrapper; most names there that mean anything."""
    if memcmp(usage.key, b"usage", 5) == 0:
        return USAGE
    if memcmp(usage.key, b"error", 5) == 0:
        return ERROR
    return MODEL if usage.restore != NULL and memcmp(usage.key, b"model", 5) == 0 else <uint8_t>NOTHING


cdef uint8_t _root_meaning(const usage_t* usage) noexcept nogil:
    if _is(usage, b"type", 4):
        return TYPE
    if _is(usage, b"response", 8) or _is(usage, b"message", 7):
        return WRAPPER
    return META if _is(usage, b"meta_info", 9) else <uint8_t>NOTHING


cdef uint8_t _meaning(const usage_t* usage) noexcept nogil:
    """What the value of the member whose name was just read means."""
    if usage.place == USAGE:
        if _is(usage, b"prompt_tokens", 13):
            return FIELD + PK_USAGE_PROMPT
        if _is(usage, b"input_tokens", 12):
            return FIELD + PK_USAGE_INPUT
        if _is(usage, b"completion_tokens", 17) or _is(usage, b"output_tokens", 13):
            return FIELD + PK_USAGE_COMPLETION
        if _is(usage, b"total_tokens", 12):
            return FIELD + PK_USAGE_TOTAL
        if _is(usage, b"prompt_tokens_details", 21) or _is(usage, b"input_tokens_details", 20):
            return DETAILS
        if _is(usage, b"cache_read_input_tokens", 23):
            return FIELD + PK_USAGE_CACHE_READ
        if _is(usage, b"cache_creation_input_tokens", 27):
            return FIELD + PK_USAGE_CACHE_CREATION
    elif usage.place == DETAILS:
        if _is(usage, b"cached_tokens", 13):
            return FIELD + PK_USAGE_CACHED
    elif usage.place == META:
        return _meta_meaning(usage)
    elif usage.key_size == 5:
        return _five_letters(usage)
    elif usage.place == ROOT:
        return _root_meaning(usage)
    return NOTHING


cdef inline void _open(usage_t* usage, bint is_object) noexcept nogil:
    cdef uint8_t place = NOTHING
    if usage.depth == PK_USAGE_DEPTH:
        usage.state = BAD
        return
    if is_object:
        place = ROOT if usage.depth == 0 else usage.target
        usage.error = usage.error or place == ERROR
    usage.target = NOTHING
    usage.place = place if place in (ROOT, WRAPPER, USAGE, DETAILS, META) else NOTHING
    usage.depth += 1
    if usage.depth < 8:
        usage.places[usage.depth] = usage.place
    usage.kinds = usage.kinds << 1 | is_object
    usage.state = FIRST_KEY if is_object else FIRST_ITEM


cdef inline void _close(usage_t* usage, bint is_object) noexcept nogil:
    if usage.depth == 0 or <bint>(usage.kinds & 1) != is_object:
        usage.state = BAD
        return
    usage.kinds >>= 1
    usage.depth -= 1
    usage.place = usage.places[usage.depth] if usage.depth < 8 else <uint8_t>NOTHING
    usage.state = AFTER if usage.depth else DONE


cdef inline void _string(usage_t* usage, bint in_key) noexcept nogil:
    usage.in_key = in_key
    usage.value = NOTHING if in_key else usage.target
    usage.key_size = 0 if usage.value == TYPE or (in_key and usage.place != NOTHING) else NO_KEY
    usage.target = NOTHING
    usage.state = STRING


cdef inline const uint8_t* _value(usage_t* usage, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Begins a value. The literal most seen, `null`, is taken whole where it lies whole."""
    cdef uint8_t byte = p[0]
    if byte == b'"':
        _string(usage, False)
        if usage.value == MODEL:
            restore_begin(usage.restore, p + 1)
    elif byte == b"{" or byte == b"[":
        _open(usage, byte == b"{")
    elif byte == b"n" and end - p >= 4 and memcmp(p, b"null", 4) == 0:
        usage.target = NOTHING
        usage.state = AFTER if usage.depth else DONE
        return p + 4
    elif byte == b"n" or byte == b"t" or byte == b"f":
        usage.word = byte
        usage.word_at = 1
        usage.target = NOTHING
        usage.state = LITERAL
    elif byte == b"-" or _is_digit(byte):
        usage.minus = byte == b"-"
        usage.number = 0 if usage.minus else byte - LITTLE
        usage.state = MINUS if usage.minus else ZERO if byte == LITTLE else DIGITS
    else:
        usage.state = BAD
    return p + 1


cdef inline void _literal(usage_t* usage, uint8_t byte) noexcept nogil:
    cdef const char* word = b"null" if usage.word == b"n" else b"true" if usage.word == b"t" else b"false"
    if byte != <uint8_t>word[usage.word_at]:
        usage.state = BAD
        return
    usage.word_at += 1
    if word[usage.word_at] == 0:
        usage.state = AFTER if usage.depth else DONE


cdef inline void _digit(usage_t* usage, uint8_t byte) noexcept nogil:
    cdef uint64_t digit = byte - LITTLE
    if usage.number > (<uint64_t>INT64_MAX - digit) // 10:
        usage.number = UINT64_MAX
    else:
        usage.number = usage.number * 10 + digit


cdef void _end_number(usage_t* usage) noexcept nogil:
    """Books a non-negative integer if it is one of interest."""
    cdef bint whole = usage.state == ZERO or usage.state == DIGITS
    if usage.target >= FIELD and whole and usage.number != UINT64_MAX and not (usage.minus and usage.number):
        usage.fields[usage.target - FIELD] = <int64_t>usage.number
    usage.target = NOTHING
    usage.state = AFTER if usage.depth else DONE


cdef bint _number(usage_t* usage, uint8_t byte) noexcept nogil:
    """One more byte of a number; False if it does not belong to it."""
    cdef bint digit = _is_digit(byte)
    if usage.state == DIGITS and digit:
        _digit(usage, byte)
    elif usage.state == MINUS:
        usage.state = BAD if not digit else ZERO if byte == LITTLE else DIGITS
        usage.number = byte - LITTLE
    elif (usage.state == ZERO or usage.state == DIGITS) and byte == b".":
        usage.state = POINT
    elif usage.state == POINT or (usage.state == FRACTION and digit):
        usage.state = FRACTION if digit else BAD
    elif (usage.state == ZERO or usage.state == DIGITS or usage.state == FRACTION) and byte | 0x20 == b"e":
        usage.state = EXPONENT
    elif usage.state == EXPONENT and (byte == b"+" or byte == b"-"):
        usage.state = SIGN
    elif usage.state == EXPONENT or usage.state == SIGN or (usage.state == POWER and digit):
        usage.state = POWER if digit else BAD
    else:
        _end_number(usage)
        return False
    return True


cdef inline void _keep(usage_t* usage, const uint8_t* data, size_t size) noexcept nogil:
    """More bytes of a member's name."""
    if usage.key_size + size > PK_USAGE_KEY:
        usage.key_size = NO_KEY
    else:
        memcpy(usage.key + usage.key_size, data, size)
        usage.key_size += <uint32_t>size


cdef uint8_t _said(const usage_t* usage) noexcept nogil:
    """What the type of an event says: names of the Anthropic and the Responses API."""
    if _is(usage, b"message_stop", 12) or _is(usage, b"response.completed", 18):
        return PK_SAID_END
    if _is(usage, b"response.incomplete", 19):
        return PK_SAID_END
    if _is(usage, b"response.failed", 15):
        return PK_SAID_END | PK_SAID_ERROR
    if _is(usage, b"error", 5):
        return PK_SAID_ERROR
    if _is(usage, b"message_start", 13) or _is(usage, b"message_delta", 13) or _is(usage, b"ping", 4):
        return PK_SAID_NOTHING
    if _is(usage, b"content_block_start", 19) or _is(usage, b"content_block_stop", 18):
        return PK_SAID_NOTHING
    if _is(usage, b"response.created", 16) or _is(usage, b"response.queued", 15):
        return PK_SAID_NOTHING
    if _is(usage, b"response.in_progress", 20) or _is(usage, b"response.output_item.added", 26):
        return PK_SAID_NOTHING
    return PK_SAID_NOTHING if _is(usage, b"response.content_part.added", 27) else 0


cdef void _end_value(usage_t* usage, const uint8_t* p) noexcept nogil:
    """At the closing quote of a string that may mean something."""
    if usage.value == MODEL:
        restore_end(usage.restore, p)
    elif usage.value == TYPE:
        usage.said = _said(usage)
    usage.value = NOTHING


cdef inline const uint8_t* _end_string(usage_t* usage, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """At the closing quote; takes the colon along if it follows at once."""
    if not usage.in_key:
        if usage.value:
            _end_value(usage, p)
        usage.state = AFTER if usage.depth else DONE
        return p + 1
    if usage.key_size <= PK_USAGE_KEY:
        usage.target = _meaning(usage)
    if end - p > 1 and p[1] == b":":
        usage.state = VALUE
        return p + 2
    usage.state = COLON
    return p + 1


cdef inline const uint8_t* _plain(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Steps over the bytes of a string up to a quote, a backslash or a control character."""
    cdef uint64_t word, quote, slash, found
    while end - p >= 8:
        memcpy(&word, p, 8)
        quote = word ^ PK_ONES * 0x22
        slash = word ^ PK_ONES * 0x5C
        # The lowest marked byte is exact: borrows run upwards only, out of a byte that is itself marked.
        found = (((quote - PK_ONES) & ~quote) | ((slash - PK_ONES) & ~slash) | ((word - PK_ONES * 0x20) & ~word))
        found &= PK_HIGHS
        if found:
            return p + (__builtin_ctzll(found) >> 3)
        p += 8
    while p < end and p[0] != b'"' and p[0] != b"\\" and p[0] >= 0x20:
        p += 1
    return p


cdef inline const uint8_t* _in_string(usage_t* usage, const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef const uint8_t* stop = _plain(p, end)
    if usage.key_size <= PK_USAGE_KEY:
        _keep(usage, p, stop - p)
    if stop == end:
        return end
    if stop[0] == b'"':
        return _end_string(usage, stop, end)
    usage.state = ESCAPE if stop[0] == b"\\" else BAD
    return stop + 1


cdef void _escape(usage_t* usage, uint8_t byte) noexcept nogil:
    if byte == b"u":
        usage.word_at = 0
        usage.code = 0
        usage.state = HEX
    elif byte in (b'"', b"\\", b"/", b"b", b"f", b"n", b"r", b"t"):
        usage.key_size = NO_KEY     # no name of interest holds such a character
        usage.state = STRING
    else:
        usage.state = BAD


cdef void _hex(usage_t* usage, uint8_t byte) noexcept nogil:
    cdef uint8_t letter = byte | 0x20
    if _is_digit(byte):
        usage.code = usage.code << 4 | (byte - LITTLE)
    elif b"a" <= letter <= b"f":
        usage.code = usage.code << 4 | (letter - 87)
    else:
        usage.state = BAD
        return
    usage.word_at += 1
    if usage.word_at < 4:
        return
    usage.state = STRING
    letter = <uint8_t>usage.code
    if usage.code >= 0x80:
        usage.key_size = NO_KEY
    elif usage.key_size <= PK_USAGE_KEY:
        _keep(usage, &letter, 1)


cdef inline const uint8_t* _comma(usage_t* usage, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """At a comma; takes the quote of a name along if it follows at once."""
    if not usage.kinds & 1:
        usage.state = VALUE
    elif end - p > 1 and p[1] == b'"':
        _string(usage, True)
        return p + 2
    else:
        usage.state = KEY
    return p + 1


cdef inline const uint8_t* _structure(usage_t* usage, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """At a byte between tokens that is no whitespace."""
    cdef uint8_t state = usage.state, byte = p[0]
    if state == AFTER and byte == b",":
        return _comma(usage, p, end)
    if state == VALUE or state == START or (state == FIRST_ITEM and byte != b"]"):
        return _value(usage, p, end)
    if (state == AFTER or state == FIRST_KEY) and byte == b"}":
        _close(usage, True)
    elif (state == AFTER or state == FIRST_ITEM) and byte == b"]":
        _close(usage, False)
    elif (state == KEY or state == FIRST_KEY) and byte == b'"':
        _string(usage, True)
    elif state == COLON and byte == b":":
        usage.state = VALUE
    else:
        usage.state = BAD
    return p + 1


cdef void usage_feed(usage_t* usage, const uint8_t* data, size_t size) noexcept nogil:
    """The next bytes of the document. What follows an error in it is not looked at."""
    cdef const uint8_t* p = data
    cdef const uint8_t* end = data + size
    while p < end:
        if usage.state == STRING:
            p = _in_string(usage, p, end)
        elif usage.state < BAD:
            p = p + 1 if _is_space(p[0]) else _structure(usage, p, end)
        elif usage.state == LITERAL:
            _literal(usage, p[0])
            p += 1
        elif usage.state >= MINUS:
            p += _number(usage, p[0])
        elif usage.state == BAD:
            return
        elif usage.state == ESCAPE:
            _escape(usage, p[0])
            p += 1
        else:
            _hex(usage, p[0])
            p += 1


cdef void usage_init(usage_t* usage) noexcept nogil:
    cdef restore_t* restore = usage.restore
    memset(usage, 0, sizeof(usage_t))
    usage.restore = restore
    memset(usage.fields, 0xFF, sizeof(usage.fields))
    usage.state = START


cdef bint usage_is_blank(const usage_t* usage) noexcept nogil:
    return usage.state == START


cdef bint usage_in_model(const usage_t* usage) noexcept nogil:
    return usage.value == MODEL and usage.state in (STRING, ESCAPE, HEX)


cdef bint usage_finish(usage_t* usage) noexcept nogil:
    if usage.depth == 0 and usage.state in (ZERO, DIGITS, FRACTION, POWER):
        _end_number(usage)
    return usage.state == DONE
