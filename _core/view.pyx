"""A message as a plugin may see and change it, in its turn: headers, the body, JSON in the body, or another answer.

Invariants: nothing is reached once the turn is over. What a plugin changes in the body is valid JSON where it was.
Cost: O(bytes) for each change of the body, and once to read it.
Memory: the message is the exchange's.   Threads: that of the exchange.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_NOMEM, PK_OK
from picker._core.bbrsteps cimport (
    route_edits,
    route_forget_scan,
    route_hold,
    route_may_reject,
    route_scan,
    route_steps,
)
from picker._core.codec cimport buffer_append, buffer_t, codec_next_header, header_t, slice_bytes, slice_t
from picker._core.edits cimport edit_t, edits_add, edits_rewind, edits_t
from picker._core.fields cimport document_free, document_remove, document_replace, document_set, document_take
from picker._core.routing cimport PK_PART_BODY, PK_PART_EVENT, PK_PART_HEADERS, route_t
from picker._core.scan cimport PK_JSON_ARRAY, PK_JSON_INTS, PK_JSON_OBJECT, scan_member, scan_t

# --- Python face ---

PART_HEADERS = PK_PART_HEADERS
PART_BODY = PK_PART_BODY
PART_EVENT = PK_PART_EVENT


cdef slice_t _slice(bytes text):
    cdef slice_t slice
    slice.data = text
    slice.size = len(text)
    return slice


cdef bytes _copy(const buffer_t* buffer):
    return buffer.data[:buffer.size] if buffer.size else b""


cdef list _pairs(const buffer_t* headers):
    """A HeaderMap that was validated when it came."""
    cdef slice_t rest = slice_bytes(headers)
    cdef header_t header
    cdef list found = []
    while codec_next_header(&rest, &header):
        found.append((
            header.key.data[:header.key.size] if header.key.size else b"",
            header.value.data[:header.value.size] if header.value.size else b"",
        ))
    return found


cdef int64_t _item(const scan_t* scan, uint32_t array, int64_t place) noexcept:
    """Tape index of an item; -1 if there is none."""
    cdef uint32_t item = array + 1
    if scan.tape[array].kind != PK_JSON_ARRAY or scan.tape[array].flags & PK_JSON_INTS or place < 0:
        return -1
    while item < scan.tape[array].next and place:
        item = scan.tape[item].next
        place -= 1
    return item if item < scan.tape[array].next else -1


cdef int64_t _find(route_t* route, tuple path) except -2:
    """Tape index of what stands at `path`; -1 if nothing does."""
    cdef const scan_t* scan = &route.router.scan
    cdef int64_t index = 0
    cdef bytes name
    cdef int code = PK_E_FORMAT if route.document.is_other else route_scan(route)
    if code == PK_E_NOMEM:
        raise MemoryError("no memory to read a body")
    if code != PK_OK:
        return -1
    for step in path:
        if isinstance(step, bytes):
            name = step
            index = scan_member(scan, <uint32_t>index, name, len(name)) or -1
        else:
            index = _item(scan, <uint32_t>index, step)
        if index < 0:
            break
    return index


cdef int _change(route_t* route, buffer_t* made, int code) except -1:
    """Put changed bytes before the plugin; what was there when its turn began is kept for `undo`."""
    if code != PK_OK:
        raise MemoryError("no memory for a changed body")
    route_forget_scan(route)
    if route.has_before:
        document_take(&route.document, made, NULL)
    else:
        document_take(&route.document, made, &route.before)
        route.has_before = True
    route_hold(route)
    return 0


cdef list _edits(const edits_t* edits):
    cdef const uint8_t* text = edits.text.data
    cdef const edit_t* edit
    cdef uint32_t i
    cdef list found = []
    for i in range(edits.count):
        edit = &edits.items[i]
        name = text[edit.name:edit.name + edit.name_size]
        value = text[edit.value:edit.value + edit.value_size] if edit.value_size else b""
        found.append((name, None if edit.removed else value))
    return found


@cython.final
@cython.auto_pickle(False)
cdef class View:
    """A message as a plugin may see and change it; made by a Router. RuntimeError once the plugin's turn is over."""

    cdef route_t* _there(self) except NULL:
        if self.route == NULL:
            raise RuntimeError("a message is there only while its plugin is asked")
        return self.route

    @property
    def part(self) -> int:
        """What is before the plugin: PART_HEADERS (no body, or none is shown), PART_BODY or PART_EVENT."""
        return self._there().part

    @property
    def may_reject(self) -> bool:
        """Can the client still be answered otherwise? If not, `reject` ends the response in the middle."""
        return bool(route_may_reject(self._there()))

    def pairs(self, bint of_request=False) -> list:
        """The headers as they came, in order; `of_request`: also while the response is looked at."""
        cdef route_t* route = self._there()
        is_response = route.is_response and not of_request
        return _pairs(&route.response_headers if is_response else &route.request_headers)

    def edits(self, bint of_request=False) -> list:
        """What plugins want of the headers, in order: (name, value), or (name, None) to remove it."""
        cdef route_t* route = self._there()
        return _edits(&route.request_edits if of_request else route_edits(route))

    def edit(self, bytes name not None, bytes value) -> None:
        """Set a header, or remove it (None). OverflowError for too many or too long ones; MemoryError."""
        cdef bytes text = b"" if value is None else value
        cdef int code = edits_add(route_edits(self._there()), _slice(name), _slice(text), value is None)
        if code == PK_E_LIMIT:
            raise OverflowError("too many changes of headers, or too long ones")
        if code != PK_OK:
            raise MemoryError("no memory for a header")

    @property
    def body(self) -> bytes:
        """The bytes before the plugin."""
        return _copy(&self._there().document.bytes)

    def member(self, tuple path not None) -> bytes | None:
        """The JSON text of what stands at `path` (names as bytes, and indexes); None if nothing does, or no JSON is
        there. The items of an array of plain integers cannot be reached one by one."""
        cdef route_t* route = self._there()
        cdef int64_t index = _find(route, path)
        cdef const scan_t* scan = &route.router.scan
        if index < 0:
            return None
        return scan.data[scan.tape[index].start:scan.tape[index].end]

    def set_member(self, tuple parent not None, last, bytes quoted not None, bytes json not None) -> None:
        """Let `json` be the member `last` (its name; `quoted`, as JSON) of the object at `parent`, or the item `last`
        (an index that is there) of the array. LookupError if there is no such object or item; MemoryError."""
        cdef route_t* route = self._there()
        cdef buffer_t made
        cdef const scan_t* scan = &route.router.scan
        cdef int64_t index = _find(route, parent)
        cdef int code
        memset(&made, 0, sizeof(made))
        if index >= 0 and isinstance(last, bytes) and scan.tape[index].kind == PK_JSON_OBJECT:
            code = document_set(
                &route.document, scan, <uint32_t>index, _slice(last), _slice(quoted), _slice(json), &made
            )
        else:
            index = -1 if index < 0 or isinstance(last, bytes) else _item(scan, <uint32_t>index, last)
            if index < 0:
                raise LookupError("there is no such object or item")
            code = document_replace(&route.document, scan, <uint32_t>index, _slice(json), &made)
        _change(route, &made, code)

    def remove_member(self, tuple parent not None, bytes name not None) -> None:
        """Let the object at `parent` have no member `name`. LookupError if there is no such object; MemoryError."""
        cdef route_t* route = self._there()
        cdef buffer_t made
        cdef int64_t index = _find(route, parent)
        memset(&made, 0, sizeof(made))
        if index < 0 or route.router.scan.tape[index].kind != PK_JSON_OBJECT:
            raise LookupError("there is no such object")
        _change(
            route, &made,
            document_remove(&route.document, &route.router.scan, <uint32_t>index, _slice(name), &made)
        )

    def reject(self, uint32_t status, bytes body not None) -> None:
        """Answer the client with this JSON; a response of which something has gone to it is ended in the middle.

        ValueError for a status that is not 400 to 599; MemoryError.
        """
        cdef route_t* route = self._there()
        if not 400 <= status <= 599:
            raise ValueError(f"a rejection has a status of 400 to 599, not {status}")
        route.reject_body.size = 0
        if buffer_append(&route.reject_body, <const uint8_t*>body, len(body)) != PK_OK:
            raise MemoryError("no memory for an answer")
        route.reject_status = status

    def undo(self) -> None:
        """Take back all that was done since the plugin's turn began."""
        cdef route_t* route = self._there()
        route.reject_status = 0
        edits_rewind(route_edits(route), route.edits_before)
        if route.has_before:
            route_forget_scan(route)
            document_free(&route.document)
            route.document = route.before
            route.has_before = False
            route_hold(route)

    def _check(self) -> None:
        """Assert the invariants."""
        assert self.route == NULL or self.route.step < route_steps(self.route).count
