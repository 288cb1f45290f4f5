"""multipart/form-data: model and prompt of a form, and that there are files.

Invariants: reads no byte outside the body; a delimiter counts only as a whole line. Parts with a file name are files,
    whatever they are called. A file is told apart by its size and its beginning: bodies of many megabytes must cost
    little, and stand for as many tokens as any image or sound.
Cost: O(bytes), a few GB/s: content is searched for line ends only. Allocates nothing.
Memory: slices borrow from the body.   Threads: any.
Source: RFC 7578, RFC 2046 5.1.1, RFC 6266 (parameters of content-disposition).
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_OK, pk_free, pk_resize
from picker._core.apis cimport PK_BOUNDARY_BYTES
from picker._core.codec cimport slice_is, slice_t
from picker._core.digests cimport PK_MEDIA_BYTES, digest_t, feed_digest
from picker._core.feeds cimport PK_MESSAGE_MARK, PK_PART_MARK, feed_mark
from picker._core.hashing cimport chain_feed, chain_start, chain_t, hash_xxh64
from picker._core.prompt cimport prompt_tokens

cdef enum:
    MOST_FILES = 64            # of one form that stand for tokens

# --- C kernel: small things ---


cdef inline slice_t _behind(slice_t text, size_t size) noexcept nogil:
    text.data += size
    text.size -= size
    return text


cdef inline slice_t _start(slice_t text, size_t size) noexcept nogil:
    text.size = size
    return text


cdef inline bint _is_blank(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\t"


cdef inline slice_t _trimmed(slice_t text) noexcept nogil:
    while text.size and _is_blank(text.data[0]):
        text = _behind(text, 1)
    return text


cdef bint _begins(slice_t text, const char* start, size_t size) noexcept nogil:
    """Without regard to the case of letters; `start` is in lower case."""
    cdef size_t i
    cdef uint8_t byte
    if text.size < size:
        return False
    for i in range(size):
        byte = text.data[i]
        if (byte | 0x20 if c"A" <= byte <= c"Z" else byte) != <uint8_t>start[i]:
            return False
    return True


cdef size_t _line(slice_t text) noexcept nogil:
    """Bytes before the first CRLF; all, if there is none."""
    cdef const uint8_t* found
    cdef size_t at = 0
    while at < text.size:
        found = <const uint8_t*>memchr(text.data + at, c"\r", text.size - at)
        if found == NULL:
            break
        at = <size_t>(found - text.data)
        if at + 1 < text.size and text.data[at + 1] == c"\n":
            return at
        at += 1
    return text.size


# --- C kernel: delimiters ---


cdef bint _delimiter(slice_t* text, slice_t boundary, bint* is_last) noexcept nogil:
    """Past the delimiter that `text` begins with, and its line."""
    cdef slice_t rest
    if text.size < boundary.size + 4 or memcmp(text.data, b"--", 2) != 0:
        return False
    if memcmp(text.data + 2, boundary.data, boundary.size) != 0:
        return False
    rest = _behind(text[0], boundary.size + 2)
    is_last[0] = memcmp(rest.data, b"--", 2) == 0
    if not is_last[0]:
        rest = _trimmed(rest)
        if rest.size < 2 or memcmp(rest.data, b"\r\n", 2) != 0:
            return False
    text[0] = _behind(rest, 2)
    return True


cdef bint _to_delimiter(slice_t* text, slice_t boundary, slice_t* content, bint* is_last) noexcept nogil:
    """Past the next delimiter at the beginning of a line; what stands before that line is `content`.

    A boundary holds no CR, so that no byte is compared more than twice.
    """
    cdef slice_t rest = text[0]
    content[0] = rest
    while True:
        rest = _behind(rest, _line(rest))
        if rest.size < 2:
            return False
        content.size = <size_t>(rest.data - content.data)
        rest = _behind(rest, 2)
        if _delimiter(&rest, boundary, is_last):
            text[0] = rest
            return True


# --- C kernel: parts ---


cdef slice_t _parameter(slice_t* rest) noexcept nogil:
    """The value behind `=`, without its quotes; moves `rest` behind it."""
    cdef slice_t value = rest[0]
    cdef size_t i = 0
    if value.size == 0 or value.data[0] != c'"':
        while i < value.size and value.data[i] != c";" and not _is_blank(value.data[i]):
            i += 1
        rest[0] = _behind(value, i)
        return _start(value, i)
    value = _behind(value, 1)
    while i < value.size and value.data[i] != c'"':
        i += 2 if value.data[i] == c"\\" and i + 1 < value.size else 1
    rest[0] = _behind(value, i + 1 if i < value.size else i)
    return _start(value, i)


cdef void _disposition(slice_t rest, slice_t* name, bint* is_file) noexcept nogil:
    """The parameters of a content-disposition that matter."""
    cdef slice_t value
    cdef bint is_name
    while rest.size:
        if rest.data[0] != c";":
            rest = _behind(rest, 1)
            continue
        rest = _trimmed(_behind(rest, 1))
        is_name = _begins(rest, b"name=", 5)
        if is_name or _begins(rest, b"filename=", 9) or _begins(rest, b"filename*=", 10):
            while rest.data[0] != c"=":
                rest = _behind(rest, 1)
            rest = _behind(rest, 1)
            value = _parameter(&rest)
            if is_name:
                name[0] = value
            else:
                is_file[0] = True


cdef int _head(slice_t* text, slice_t boundary, slice_t* name, bint* is_file) noexcept nogil:
    """Past the headers of a part. A delimiter among them, or right behind them, ends a part that is none."""
    cdef slice_t line, near
    cdef size_t seen = 0
    cdef bint is_last
    name.data, name.size = text.data, 0
    is_file[0] = False
    while not _delimiter(text, boundary, &is_last):
        if seen and line.size == 0:
            return PK_OK
        near = _start(text[0], text.size if text.size < PK_FORM_HEAD_BYTES else PK_FORM_HEAD_BYTES)
        line = _start(near, _line(near))
        seen += line.size + 2
        if line.size + 2 > text.size or seen > PK_FORM_HEAD_BYTES:
            break
        text[0] = _behind(text[0], line.size + 2)
        if _begins(line, b"content-disposition:", 20):
            _disposition(_behind(line, 20), name, is_file)
    return PK_E_FORMAT


cdef void _file(form_t* form, slice_t content) noexcept nogil:
    cdef size_t size = content.size if content.size < PK_FORM_FILE_BYTES else PK_FORM_FILE_BYTES
    form.files += 1
    form.digest = hash_xxh64(content.data, size, form.digest + content.size)


cdef int form_read(form_t* form, const uint8_t* data, size_t size, slice_t boundary) noexcept nogil:
    """Where model and prompt stand in a form. PK_OK or PK_E_FORMAT."""
    cdef slice_t rest, name, content
    cdef bint is_last, is_file
    memset(form, 0, sizeof(form_t))
    rest.data, rest.size = data, size
    if not _delimiter(&rest, boundary, &is_last) and not _to_delimiter(&rest, boundary, &content, &is_last):
        return PK_E_FORMAT
    while not is_last:
        if _head(&rest, boundary, &name, &is_file) != PK_OK or not _to_delimiter(&rest, boundary, &content, &is_last):
            return PK_E_FORMAT
        if is_file:
            _file(form, content)
        elif slice_is(name, b"model", 5):
            form.model = content
        elif slice_is(name, b"prompt", 6):
            form.prompt = content
    return PK_OK


cdef void form_hash(const form_t* form, chain_t* chain) noexcept nogil:
    """The prompt as it stands, then the files."""
    cdef digest_t files
    chain_feed(chain, form.prompt.data, form.prompt.size)
    if form.files:
        files.hash = form.digest
        files.size = <uint64_t>PK_MEDIA_BYTES * (form.files if form.files < MOST_FILES else MOST_FILES)
        feed_mark(chain, PK_MESSAGE_MARK)
        feed_mark(chain, PK_PART_MARK)
        feed_digest(files, chain)


# --- Python face ---


def read(bytes body not None, bytes boundary not None, uint64_t seed=0, *, uint32_t blocks=1024) -> dict | None:
    """What picker reads of a form, for tests and tools; None for what is no form with this boundary.

    Keys: model and prompt (b"" = none), files (how many), tokens (estimate) and hashes (of at most `blocks` blocks).
    """
    cdef form_t form
    cdef chain_t chain
    cdef slice_t slice
    cdef uint32_t i
    cdef uint64_t* hashes
    slice.data, slice.size = <const uint8_t*>boundary, len(boundary)
    if not 0 < slice.size <= PK_BOUNDARY_BYTES or form_read(&form, <const uint8_t*>body, len(body), slice) != PK_OK:
        return None
    hashes = <uint64_t*>pk_resize(NULL, blocks, sizeof(uint64_t))
    if hashes == NULL:
        raise MemoryError("no memory to read a form")
    try:
        chain_start(&chain, seed, hashes, blocks)
        form_hash(&form, &chain)
        return {
            "model": form.model.data[:form.model.size] if form.model.size else b"",
            "prompt": form.prompt.data[:form.prompt.size] if form.prompt.size else b"",
            "files": form.files,
            "tokens": prompt_tokens(&chain),
            "hashes": [hashes[i] for i in range(chain.count)],
        }
    finally:
        pk_free(hashes)
