# Every API picker reads, in one table: the path it is called by, and what its body holds where.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from picker._core.codec cimport header_t, slice_t

cdef extern from *:
    """
    #ifndef PK_APIS
    #define PK_APIS
    /* How a body is written. What may be a form is read as JSON where its content-type does not say multipart. */
    enum {PK_FORMAT_JSON = 0, PK_FORMAT_FORM = 1, PK_FORMAT_GRPC = 2};
    /* What a field of the body is. Content is hashed in the order of the table, which is that of chat templates. */
    enum {PK_ROLE_MODEL, PK_ROLE_STREAM, PK_ROLE_LIMIT, PK_ROLE_SALT, PK_ROLE_TOOLS, PK_ROLE_SYSTEM, PK_ROLE_MESSAGES,
          PK_ROLE_PROMPT, PK_ROLE_MEDIA, PK_ROLE_PLACES};
    /* What a model does with it: nothing, then nothing is hashed or booked; reads the prompt; answers in tokens too. */
    enum {PK_WORK_NONE, PK_WORK_PROMPT, PK_WORK_ANSWER};
    /* What a needed field must be: anything but null; or with something in it a string, an array, either of them. */
    enum {PK_NEED_NOTHING, PK_NEED_VALUE, PK_NEED_STRING, PK_NEED_ARRAY, PK_NEED_TEXT};
    typedef struct {
        const char *name;
        const char *inner;          /* NULL, or the member of it that counts */
        unsigned name_size, inner_size;
        unsigned char role, need;
        unsigned char group;        /* of fields that stand in for each other: one is needed, the last names them */
    } pk_field_t;
    typedef struct {
        const char *suffix;         /* of the path */
        const pk_field_t *fields;
        unsigned suffix_size, field_count, family;
        unsigned char format;
        unsigned char work;
        unsigned char usage, stream;
    } pk_api_t;
    #endif
    """
    enum:
        PK_FORMAT_JSON
        PK_FORMAT_FORM
        PK_FORMAT_GRPC
    enum:
        PK_ROLE_MODEL
        PK_ROLE_STREAM
        PK_ROLE_LIMIT          # bounds the answer; the first that is a number counts
        PK_ROLE_SALT           # sets prompts apart that are otherwise equal
        PK_ROLE_TOOLS          # as it stands
        PK_ROLE_SYSTEM         # a text or parts, by the field's name
        PK_ROLE_MESSAGES
        PK_ROLE_PROMPT         # a text, token ids, or a list of either
        PK_ROLE_MEDIA
        PK_ROLE_PLACES         # where media stand among token ids
    enum:
        PK_WORK_NONE           # nothing is hashed or booked
        PK_WORK_PROMPT
        PK_WORK_ANSWER
    enum:
        PK_NEED_NOTHING
        PK_NEED_VALUE
        PK_NEED_STRING
        PK_NEED_ARRAY
        PK_NEED_TEXT
    ctypedef struct pk_field_t:
        const char* name
        const char* inner
        unsigned int name_size
        unsigned int inner_size
        unsigned char role
        unsigned char need
        unsigned char group
    ctypedef struct pk_api_t:
        const char* suffix
        const pk_field_t* fields
        unsigned int suffix_size
        unsigned int field_count
        unsigned int family
        unsigned char format
        unsigned char work
        unsigned char usage
        unsigned char stream

cdef enum:
    PK_API_OTHER = 0           # the body is not read; else an index of the table
    PK_API_FIELDS = 20         # at most, of one API
    PK_ALL_FAMILIES = 31
    PK_BOUNDARY_BYTES = 70     # at most: RFC 2046

# Why a body is refused
cdef enum:
    PK_BODY_OK = 0
    PK_BODY_NOT_JSON = 1
    PK_BODY_TOO_COMPLEX = 2
    PK_BODY_NOT_OBJECT = 3
    PK_BODY_LACKS = 4          # + api * PK_API_FIELDS + field: that field is missing or empty

ctypedef struct route_t:
    # What request headers say of the body.
    int api                    # by `:path`
    int original               # by x-original-path
    int forwarded              # by x-forwarded-path
    bint is_encoded            # by other than identity
    bint is_grpc
    bint is_json               # says so; JSON APIs are read as JSON whatever is said
    bint is_form
    uint32_t boundary_size
    uint8_t boundary[PK_BOUNDARY_BYTES]

cdef int api_of(slice_t path) noexcept nogil
cdef const pk_api_t* api_get(int api) noexcept nogil
# Name of the field that a body lacks; NULL for any other problem
cdef const char* api_lacking(int problem) noexcept nogil
cdef void route_note(route_t* route, const header_t* header) noexcept nogil
# The API whose body is to be read, of these families; PK_API_OTHER: none
cdef int route_api(const route_t* route, uint32_t families) noexcept nogil


cdef inline void route_header(route_t* route, const header_t* header) noexcept nogil:
    """Take note of what a request header says of path and body: most say nothing."""
    cdef size_t size = header.key.size
    if size == 5 or size == 12 or size == 15 or size == 16:
        route_note(route, header)


# Bits of family names; for faces
cdef uint32_t families_of(object names) except? 0
