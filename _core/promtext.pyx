"""Prometheus text exposition (format 0.0.4): extracts the wanted series of a page and nothing else.

Invariants: every want is on exactly one chain, which starts at the head of its name. One bad line loses itself only:
it is skipped and counted. A NaN sample means "no value" and is passed over. A page is never written to.
Cost: O(bytes) for lines nobody wants (one memchr each), O(bytes * wants of that name) for the others. `scan` allocates
nothing; building a spec allocates its text.
Memory: `promspec_t` owns `text`; results are slices of the page, valid as long as the page is.
Threads: a finished spec is read-only, so any number may scan with it.
Source: the Prometheus exposition formats document, section "Text format details". Names in quotes (format 1.0.0) are
not read: no engine needs them, and they are never sent to a client that asks for 0.0.4.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport isnan
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.floats cimport floats_parse

ctypedef struct line_t:
    const uint8_t* page
    const uint8_t* at
    const uint8_t* end       # the newline and blanks before it are outside

ctypedef struct match_t:
    # What a line says about one want.
    uint32_t filters         # bit per filter that holds
    promtext_slice_t labels[PK_PROM_CAPTURES]


# --- C kernel ---

cdef inline bint _is_blank(uint8_t byte) noexcept nogil:
    return byte == b" " or byte == b"\t"


cdef inline bint _is_digit(uint8_t byte) noexcept nogil:
    return b"0" <= byte <= b"9"


cdef inline bint _is_name(uint8_t byte) noexcept nogil:
    return b"a" <= byte | 0x20 <= b"z" or byte == b"_" or _is_digit(byte)


cdef inline void _skip_blanks(line_t* line) noexcept nogil:
    while line.at < line.end and _is_blank(line.at[0]):
        line.at += 1


cdef inline uint8_t _plain(const uint8_t** at, const uint8_t* end) noexcept nogil:
    """Steps over one byte of a label value, unescaped. An unknown escape stays as it stands, backslash and all."""
    cdef const uint8_t* p = at[0]
    if p[0] == b"\\" and end - p > 1 and p[1] in (b"\\", b'"', b"n"):
        at[0] += 2
        return b"\n" if p[1] == b"n" else p[1]
    at[0] += 1
    return p[0]


cdef size_t promtext_unescape(const uint8_t* text, size_t size, uint8_t* out) noexcept nogil:
    cdef const uint8_t* end = text + size
    cdef size_t written = 0
    while text < end:
        out[written] = _plain(&text, end)
        written += 1
    return written


cdef bint _equals(const uint8_t* raw, promtext_slice_t value, const uint8_t* text, uint32_t size) noexcept nogil:
    """Whether the label value, unescaped, is `text`."""
    cdef const uint8_t* end = raw + value.size
    cdef const uint8_t* text_end = text + size
    if not value.escaped:
        return value.size == size and memcmp(raw, text, size) == 0
    while raw < end and text < text_end:
        if _plain(&raw, end) != text[0]:
            return False
        text += 1
    return raw == end and text == text_end


cdef bint _quoted(line_t* line, promtext_slice_t* value) noexcept nogil:
    """Steps over a quoted label value; False if it has no end."""
    cdef const uint8_t* p = line.at + 1
    value.escaped = False
    value.start = <uint32_t>(p - line.page)
    while p < line.end and p[0] != b'"':
        if p[0] == b"\\":
            value.escaped = True
            p += 1
        p += 1
    if p >= line.end:
        return False
    value.size = <uint32_t>(p - line.page) - value.start
    line.at = p + 1
    return True


cdef bint _label(line_t* line, promtext_slice_t* name, promtext_slice_t* value) noexcept nogil:
    """Steps over name="value" and blanks around its parts."""
    name.start = <uint32_t>(line.at - line.page)
    if line.at < line.end and _is_digit(line.at[0]):
        return False
    while line.at < line.end and _is_name(line.at[0]):
        line.at += 1
    name.size = <uint32_t>(line.at - line.page) - name.start
    _skip_blanks(line)
    if name.size == 0 or line.at >= line.end or line.at[0] != b"=":
        return False
    line.at += 1
    _skip_blanks(line)
    if line.at >= line.end or line.at[0] != b'"' or not _quoted(line, value):
        return False
    _skip_blanks(line)
    return True


cdef void _note(
    const promspec_t* spec, const promtext_want_t* want, const uint8_t* page, promtext_slice_t name,
    promtext_slice_t value, match_t* match
) noexcept nogil:
    """Enters one label of the line into what is known of one want."""
    cdef const uint8_t* text = spec.text
    cdef uint32_t i
    for i in range(want.filter_count):
        if (
            want.filter_names[i].size == name.size
            and memcmp(text + want.filter_names[i].start, page + name.start, name.size) == 0
            and _equals(page + value.start, value, text + want.filter_values[i].start, want.filter_values[i].size)
        ):
            match.filters |= <uint32_t>1 << i
    for i in range(want.capture_count):
        if (
            match.labels[i].size == PK_PROM_ABSENT
            and want.captures[i].size == name.size
            and memcmp(text + want.captures[i].start, page + name.start, name.size) == 0
        ):
            match.labels[i] = value


cdef bint _labels(const promspec_t* spec, uint8_t head, line_t* line, match_t* matches) noexcept nogil:
    """Steps over `{...}`, noting each label for every want on the chain of `head`."""
    cdef promtext_slice_t name, value
    cdef uint8_t i
    line.at += 1
    _skip_blanks(line)
    while line.at < line.end and line.at[0] != b"}":
        if not _label(line, &name, &value):
            return False
        i = head
        while i != PK_PROM_WANTS:
            _note(spec, &spec.wants[i], line.page, name, value, &matches[i])
            i = spec.wants[i].next
        if line.at < line.end and line.at[0] == b",":
            line.at += 1
            _skip_blanks(line)
        elif line.at >= line.end or line.at[0] != b"}":
            return False
    if line.at >= line.end:
        return False
    line.at += 1
    return True


cdef bint _value(line_t* line, double* value) noexcept nogil:
    """The rest of a line: value and perhaps a timestamp, which is checked and dropped."""
    cdef double timestamp
    _skip_blanks(line)
    if not floats_parse(&line.at, line.end, value):
        return False
    if line.at < line.end and not _is_blank(line.at[0]):
        return False
    _skip_blanks(line)
    return line.at == line.end or (floats_parse(&line.at, line.end, &timestamp) and line.at == line.end)


cdef void _combine(
    const promtext_want_t* want, const match_t* match, double value, promtext_sample_t* out
) noexcept nogil:
    cdef bint leads
    if out.series == 0:
        leads = True
    elif want.combine == PK_PROM_SUM:
        leads = False
        value += out.value
    else:
        leads = value > out.value or (want.combine == PK_PROM_NEWEST and value == out.value)
    if leads:
        memcpy(out.labels, match.labels, sizeof(out.labels))
    if leads or want.combine == PK_PROM_SUM:
        out.value = value
    out.series += 1


cdef bint _sample(const promspec_t* spec, uint8_t head, line_t* line, promtext_sample_t* out) noexcept nogil:
    """Reads the line behind its name and books it for every want of that name; False if it is malformed."""
    cdef match_t matches[PK_PROM_WANTS]
    cdef const promtext_want_t* want
    cdef double value = 0
    cdef uint8_t i = head
    while i != PK_PROM_WANTS:
        memset(&matches[i], 0xFF, sizeof(match_t))
        matches[i].filters = 0
        i = spec.wants[i].next
    _skip_blanks(line)
    if line.at < line.end and line.at[0] == b"{" and not _labels(spec, head, line, matches):
        return False
    if not _value(line, &value):
        return False
    i = head
    while i != PK_PROM_WANTS and not isnan(value):
        want = &spec.wants[i]
        if matches[i].filters == (<uint32_t>1 << want.filter_count) - 1:
            _combine(want, &matches[i], value, &out[i])
        i = want.next
    return True


cdef inline uint8_t _head(const promspec_t* spec, line_t* line) noexcept nogil:
    """The head of the chain that wants this line, its name stepped over; PK_PROM_WANTS if nobody does."""
    cdef size_t room = line.end - line.at
    cdef const promtext_want_t* want
    cdef uint32_t i, size
    for i in range(spec.head_count):
        want = &spec.wants[spec.heads[i]]
        size = want.name.size
        # The last byte tells more names apart than the first: engines prefix all of theirs alike.
        if size > room or line.at[size - 1] != spec.text[want.name.start + size - 1]:
            continue
        if size < room and line.at[size] != b"{" and not _is_blank(line.at[size]):
            continue
        if memcmp(line.at, spec.text + want.name.start, size) == 0:
            line.at += size
            return spec.heads[i]
    return PK_PROM_WANTS


cdef int promtext_scan(
    const promspec_t* spec, const uint8_t* page, size_t size, promtext_sample_t* out, uint32_t* malformed
) noexcept nogil:
    cdef line_t line
    cdef const uint8_t* end = page + size
    cdef const uint8_t* next
    cdef uint8_t head
    cdef uint32_t i
    malformed[0] = 0
    for i in range(spec.count):
        out[i].series = 0
    if size >= PK_PROM_ABSENT:
        return PK_E_LIMIT
    line.page = page
    next = page
    while next < end:
        line.at = next
        line.end = <const uint8_t*>memchr(next, b"\n", end - next)
        line.end = end if line.end == NULL else line.end
        next = line.end + 1
        _skip_blanks(&line)
        if line.at == line.end or line.at[0] == b"#":
            continue
        while line.end > line.at and (_is_blank((line.end - 1)[0]) or (line.end - 1)[0] == b"\r"):
            line.end -= 1
        head = _head(spec, &line)
        if head != PK_PROM_WANTS and not _sample(spec, head, &line, out):
            malformed[0] += 1
    return PK_OK


cdef void promtext_init(promspec_t* spec) noexcept nogil:
    memset(spec, 0, sizeof(promspec_t))


cdef void promtext_free(promspec_t* spec) noexcept nogil:
    pk_free(spec.text)
    promtext_init(spec)


cdef bint _is_valid_name(const uint8_t* name, size_t size, bint colons) noexcept nogil:
    cdef size_t i
    for i in range(size):
        if not (_is_name(name[i]) or (colons and name[i] == b":")):
            return False
    return size > 0 and not _is_digit(name[0])


cdef int _keep(promspec_t* spec, const uint8_t* text, size_t size, promtext_slice_t* kept) noexcept nogil:
    """Copies bytes into the spec's text."""
    if size > PK_PROM_ABSENT - 1 - spec.text_size:
        return PK_E_LIMIT
    if pk_grow(<void**>&spec.text, &spec.text_room, spec.text_size + size, 1) != PK_OK:
        return PK_E_NOMEM
    memcpy(spec.text + spec.text_size, text, size)
    kept.start = <uint32_t>spec.text_size
    kept.size = <uint32_t>size
    spec.text_size += size
    return PK_OK


cdef void _chain(promspec_t* spec, uint8_t fresh) noexcept nogil:
    """Hangs the new want on the chain of its name, or makes it the head of one."""
    cdef promtext_want_t* want = &spec.wants[fresh]
    cdef promtext_want_t* head
    cdef uint32_t i
    want.next = PK_PROM_WANTS
    for i in range(spec.head_count):
        head = &spec.wants[spec.heads[i]]
        if (
            head.name.size == want.name.size
            and memcmp(spec.text + head.name.start, spec.text + want.name.start, want.name.size) == 0
        ):
            want.next = head.next
            head.next = fresh
            return
    spec.heads[spec.head_count] = fresh
    spec.head_count += 1


cdef int promtext_want(promspec_t* spec, const uint8_t* name, size_t size, uint8_t combine) noexcept nogil:
    cdef promtext_want_t* want = &spec.wants[spec.count]
    cdef int code
    if spec.count == PK_PROM_WANTS:
        return PK_E_LIMIT
    if not _is_valid_name(name, size, True) or combine > PK_PROM_NEWEST:
        return PK_E_FORMAT
    memset(want, 0, sizeof(promtext_want_t))
    want.combine = combine
    code = _keep(spec, name, size, &want.name)
    if code == PK_OK:
        _chain(spec, <uint8_t>spec.count)
        spec.count += 1
    return code


cdef int promtext_filter(
    promspec_t* spec, const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size
) noexcept nogil:
    cdef promtext_want_t* want = &spec.wants[spec.count - 1]
    cdef uint32_t i = want.filter_count
    cdef size_t before = spec.text_size
    cdef int code
    if i == PK_PROM_FILTERS:
        return PK_E_LIMIT
    if not _is_valid_name(name, name_size, False):
        return PK_E_FORMAT
    code = _keep(spec, name, name_size, &want.filter_names[i])
    if code == PK_OK:
        code = _keep(spec, value, value_size, &want.filter_values[i])
    if code == PK_OK:
        want.filter_count += 1
    else:
        spec.text_size = before
    return code


cdef int promtext_capture(promspec_t* spec, const uint8_t* name, size_t size) noexcept nogil:
    cdef promtext_want_t* want = &spec.wants[spec.count - 1]
    cdef int code
    if want.capture_count == PK_PROM_CAPTURES:
        return PK_E_LIMIT
    if not _is_valid_name(name, size, False):
        return PK_E_FORMAT
    code = _keep(spec, name, size, &want.captures[want.capture_count])
    if code == PK_OK:
        want.capture_count += 1
    return code


# --- Python face ---

_COMBINE = {"sum": PK_PROM_SUM, "max": PK_PROM_MAX, "newest": PK_PROM_NEWEST}


cdef inline const uint8_t* _start(bytes text) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(text)


cdef int _raise(int code, object what) except -1:
    if code == PK_E_NOMEM:
        raise MemoryError(f"no memory for {what!r}")
    if code == PK_E_LIMIT:
        raise OverflowError(
            f"too many at {what!r}: {PK_PROM_WANTS} series of {PK_PROM_FILTERS} filters and {PK_PROM_CAPTURES} labels"
        )
    raise ValueError(f"not a valid name: {what!r}")


@cython.final
@cython.auto_pickle(False)
cdef class PromSpec:
    """The series wanted from metrics pages, compiled once: a list of (name, filters, combine, captured label names).

    `filters` maps label names to the values they must have; `combine` says how several matching series become one
    value: "sum", "max", or "newest" (the series of greatest value, for values that are timestamps). Limits: 32 series,
    4 filters and 8 captured labels each. Raises ValueError for a bad name or combine, OverflowError over a limit.
    """
    cdef promspec_t spec
    cdef promtext_sample_t out[PK_PROM_WANTS]
    cdef readonly uint32_t malformed

    def __cinit__(self, list wants not None):
        promtext_init(&self.spec)
        for name, filters, combine, labels in wants:
            self._add(name, filters, combine, labels)

    def __dealloc__(self):
        promtext_free(&self.spec)

    def __len__(self) -> int:
        return self.spec.count

    cdef int _add(self, str name, dict filters, str combine, tuple labels) except -1:
        cdef bytes key = name.encode(), value
        cdef int code
        if combine not in _COMBINE:
            raise ValueError(f"combine must be sum, max or newest, not {combine!r}")
        code = promtext_want(&self.spec, _start(key), len(key), _COMBINE[combine])
        if code != PK_OK:
            _raise(code, name)
        for label, wanted in filters.items():
            key, value = label.encode(), wanted.encode()
            code = promtext_filter(&self.spec, _start(key), len(key), _start(value), len(value))
            if code != PK_OK:
                _raise(code, label)
        for label in labels:
            key = label.encode()
            code = promtext_capture(&self.spec, _start(key), len(key))
            if code != PK_OK:
                _raise(code, label)
        return 0

    def scan(self, const unsigned char[::1] page not None) -> list:
        """Per wanted series (value, captured label values), or None where the page has no sample of it.

        A label the series lacks is None. Bad lines are skipped and counted in `malformed`, which each scan sets anew;
        NaN samples are passed over. Raises OverflowError for a page of 4 GiB or more.
        """
        cdef const uint8_t* start = <const uint8_t*>b"" if page.shape[0] == 0 else &page[0]
        cdef uint32_t i
        if promtext_scan(&self.spec, start, page.shape[0], self.out, &self.malformed) != PK_OK:
            raise OverflowError(f"a page of {page.shape[0]} bytes")
        return [self._result(i, start) for i in range(self.spec.count)]

    cdef object _result(self, uint32_t index, const uint8_t* page):
        cdef promtext_sample_t* sample = &self.out[index]
        cdef uint32_t i
        if sample.series == 0:
            return None
        labels = tuple([_text(page, sample.labels[i]) for i in range(self.spec.wants[index].capture_count)])
        return sample.value, labels

    def _check(self) -> None:
        """Raises AssertionError unless every want is on exactly one chain, with wants of its own name."""
        cdef promtext_want_t* want
        cdef uint32_t i, at
        seen = []
        for i in range(self.spec.head_count):
            at = self.spec.heads[i]
            first = self._bytes(self.spec.wants[at].name)
            while at != PK_PROM_WANTS:
                want = &self.spec.wants[at]
                assert self._bytes(want.name) == first, at
                assert want.filter_count <= PK_PROM_FILTERS and want.capture_count <= PK_PROM_CAPTURES, at
                seen.append(at)
                at = want.next
        assert sorted(seen) == list(range(self.spec.count)), seen

    cdef bytes _bytes(self, promtext_slice_t kept):
        assert kept.start + kept.size <= self.spec.text_size
        return PyBytes_FromStringAndSize(<const char*>self.spec.text + kept.start, kept.size)


cdef object _text(const uint8_t* page, promtext_slice_t raw):
    cdef bytes text
    cdef size_t size
    if raw.size == PK_PROM_ABSENT:
        return None
    text = PyBytes_FromStringAndSize(<const char*>page + raw.start, raw.size)
    if not raw.escaped:
        return text
    size = promtext_unescape(page + raw.start, raw.size, <uint8_t*>PyBytes_AS_STRING(text))
    return text[:size]
