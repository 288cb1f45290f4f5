"""Prompts into the hash chain, from the tape: conversations, texts, token ids, media.

Invariants: equal conversations feed equal bytes whatever the order of a message's members; a further message only
    appends. Texts are hashed as they stand in the JSON, not unescaped; separators are control characters, which no JSON
    string can hold as they are.
Cost: O(values on the tape + bytes hashed); allocates nothing.
Memory: borrows tape, body and chain.   Threads: any.
Source: the API references of OpenAI (chat, responses) and Anthropic (messages); vLLM's generate (features).

A message is its role, its content, and its other members (name, tool calls, tool call id, ...) together: those stand in
the chain as one digest, which does not depend on the order of members, as long as they are. A member that is null is as
good as none: clients send answers back with all the nulls they came with. Nor does `cache_control` of a part count: it
marks a place, and clients move it on with every turn.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.digests cimport (
    PK_MEDIA_BYTES,
    digest_members,
    digest_t,
    digest_value,
    feed_digest,
    json_content,
    json_is_there,
    places_add,
    places_feed,
    places_t,
)
from picker._core.hashing cimport PK_BLOCK_BYTES, chain_feed, chain_t, hash_xxh64
from picker._core.scan cimport (
    PK_JSON_ARRAY,
    PK_JSON_INTS,
    PK_JSON_OBJECT,
    PK_JSON_STRING,
    scan_member,
    scan_next_int,
    scan_t,
    scan_uint,
)

cdef enum:
    MOST_KINDS = 8             # of media told apart in one body
    IDS = PK_BLOCK_BYTES // 4  # token ids of a block

# --- C kernel: what goes into the chain ---


cdef void feed_value(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    cdef slice_t text = json_content(scan, index)
    chain_feed(chain, text.data, text.size)


cdef void _feed_ids(const scan_t* scan, uint32_t index, places_t* places, chain_t* chain) noexcept nogil:
    """Token ids, four bytes each, and the media that stand among them."""
    cdef uint32_t ids[IDS]
    cdef uint32_t count = 0, at = scan.tape[index].start
    cdef uint64_t offset = 0
    while scan_next_int(scan, &at, &ids[count]):
        if places.next < places.count and places.items[places.next].offset <= offset:
            chain_feed(chain, <const uint8_t*>ids, count * sizeof(uint32_t))
            places_feed(places, offset, chain)
            ids[0], count = ids[count], 0
        count += 1
        offset += 1
        if count == IDS:
            chain_feed(chain, <const uint8_t*>ids, sizeof(ids))
            count = 0
    chain_feed(chain, <const uint8_t*>ids, count * sizeof(uint32_t))


cdef void _feed_part(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """One content part: its text or thought, what a tool was asked or answered, or media."""
    cdef uint32_t text, content
    cdef digest_t others
    feed_mark(chain, PK_PART_MARK)
    if scan.tape[index].kind != PK_JSON_OBJECT:
        feed_value(scan, index, chain)
        return
    text = scan_member(scan, index, b"text", 4)
    if not json_is_there(scan, text):
        text = scan_member(scan, index, b"thinking", 8)
    if json_is_there(scan, text):
        feed_value(scan, text, chain)
        return
    content = scan_member(scan, index, b"content", 7)
    others = digest_members(scan, index, content, scan_member(scan, index, b"cache_control", 13))
    if not json_is_there(scan, content) and not json_is_there(scan, scan_member(scan, index, b"input", 5)):
        others.size = PK_MEDIA_BYTES
    feed_digest(others, chain)
    if json_is_there(scan, content):
        _feed_content(scan, content, chain)


cdef void _feed_content(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    cdef uint32_t part = index + 1
    if scan.tape[index].kind != PK_JSON_ARRAY or scan.tape[index].flags & PK_JSON_INTS:
        feed_value(scan, index, chain)
        return
    while part < scan.tape[index].next:
        _feed_part(scan, part, chain)
        part = scan.tape[part].next


cdef void _feed_message(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """Role, content, then all other members together."""
    cdef uint32_t role, content
    cdef digest_t others
    feed_mark(chain, PK_MESSAGE_MARK)
    if scan.tape[index].kind != PK_JSON_OBJECT:
        feed_value(scan, index, chain)
        return
    role = scan_member(scan, index, b"role", 4)
    content = scan_member(scan, index, b"content", 7)
    others = digest_members(scan, index, role, content)
    if json_is_there(scan, role):
        feed_value(scan, role, chain)
    feed_mark(chain, PK_PART_MARK)
    if json_is_there(scan, content):
        _feed_content(scan, content, chain)
    if others.size:
        feed_mark(chain, PK_PART_MARK)
        feed_digest(others, chain)


cdef void feed_said(const scan_t* scan, uint32_t index, const char* who, size_t size, chain_t* chain) noexcept nogil:
    """A message by its content alone."""
    feed_mark(chain, PK_MESSAGE_MARK)
    chain_feed(chain, <const uint8_t*>who, size)
    feed_mark(chain, PK_PART_MARK)
    _feed_content(scan, index, chain)


cdef void feed_messages(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """A conversation; a text alone is what the user says."""
    cdef uint32_t item = index + 1
    if scan.tape[index].kind == PK_JSON_STRING:
        feed_said(scan, index, b"user", 4, chain)
        return
    if scan.tape[index].kind != PK_JSON_ARRAY or scan.tape[index].flags & PK_JSON_INTS:
        _feed_message(scan, index, chain)
        return
    while item < scan.tape[index].next:
        _feed_message(scan, item, chain)
        item = scan.tape[item].next


cdef void _feed_text(const scan_t* scan, uint32_t index, places_t* places, chain_t* chain) noexcept nogil:
    """One prompt: a text, token ids, or an object as a part of a message."""
    if scan.tape[index].flags & PK_JSON_INTS:
        _feed_ids(scan, index, places, chain)
    elif scan.tape[index].kind == PK_JSON_OBJECT:
        _feed_part(scan, index, chain)
    else:
        feed_value(scan, index, chain)


cdef void feed_prompt(const scan_t* scan, uint32_t index, places_t* places, chain_t* chain) noexcept nogil:
    """A prompt, or a list of them."""
    cdef uint32_t item = index + 1
    if chain.total:
        feed_mark(chain, PK_MESSAGE_MARK)
    if scan.tape[index].kind != PK_JSON_ARRAY or scan.tape[index].flags & PK_JSON_INTS:
        _feed_text(scan, index, places, chain)
        return
    while item < scan.tape[index].next:
        if item != index + 1:
            feed_mark(chain, PK_MESSAGE_MARK)
        _feed_text(scan, item, places, chain)
        item = scan.tape[item].next


cdef void _feed_medium(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    cdef digest_t digest = digest_value(scan, index)
    feed_mark(chain, PK_PART_MARK)
    if scan.tape[index].kind != PK_JSON_ARRAY:
        digest.size = PK_MEDIA_BYTES
    feed_digest(digest, chain)


cdef void feed_media(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil:
    """Media, or embeddings: those are as long as they are."""
    cdef uint32_t item = index + 1
    if scan.tape[index].kind != PK_JSON_ARRAY or scan.tape[index].flags & PK_JSON_INTS:
        _feed_medium(scan, index, chain)
        return
    while item < scan.tape[index].next:
        _feed_medium(scan, item, chain)
        item = scan.tape[item].next


cdef void _place(const scan_t* scan, uint32_t hashes, uint32_t ranges, places_t* places) noexcept nogil:
    """Media of one kind: their hashes, and the ranges of token ids they stand for."""
    cdef uint32_t item = hashes + 1, range_at = ranges + 1, offset_at
    cdef uint64_t offset = 0
    cdef slice_t text
    while item < scan.tape[hashes].next:
        if ranges and range_at < scan.tape[ranges].next:
            offset_at = scan_member(scan, range_at, b"offset", 6)
            if offset_at == 0 or not scan_uint(scan, offset_at, &offset):
                offset = 0
            range_at = scan.tape[range_at].next
        text = json_content(scan, item)
        places_add(places, offset, hash_xxh64(text.data, text.size, 0))
        item = scan.tape[item].next


cdef void find_places(const scan_t* scan, uint32_t index, places_t* places) noexcept nogil:
    """`features` of vLLM's generate: lists of hashes and of ranges, by kind of media."""
    cdef uint32_t hashes = scan_member(scan, index, b"mm_hashes", 9)
    cdef uint32_t ranges = scan_member(scan, index, b"mm_placeholders", 15)
    cdef uint32_t key = hashes + 1, of_kind, kinds = 0
    cdef slice_t name
    if hashes == 0 or scan.tape[hashes].kind != PK_JSON_OBJECT:
        return
    while key < scan.tape[hashes].next and kinds < MOST_KINDS:
        name = json_content(scan, key)
        of_kind = scan_member(scan, ranges, <const char*>name.data, name.size) if ranges else 0
        if of_kind and (scan.tape[of_kind].kind != PK_JSON_ARRAY or scan.tape[of_kind].flags & PK_JSON_INTS):
            of_kind = 0
        _place(scan, key + 1, of_kind, places)
        key = scan.tape[key + 1].next
        kinds += 1
