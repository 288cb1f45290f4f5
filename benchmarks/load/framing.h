/* Where one HTTP/1.1 message ends: its head, then a body of known length, of chunks, or none. */
#ifndef LOAD_FRAMING_H
#define LOAD_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAD_MOST 16384

enum framing_state { IN_HEAD, IN_BODY, IN_CHUNK_SIZE, IN_CHUNK, IN_CHUNK_END, IN_TRAILERS, IS_DONE, IS_BROKEN };

struct framing {
    enum framing_state state;
    bool is_get;         /* of a request */
    bool closes;         /* "connection: close" */
    int status;          /* of a response */
    char path[64];       /* of a request, cut off there */
    uint64_t body_bytes; /* so far */
    uint32_t chunks;     /* begun so far, the last empty one not counted */
    uint64_t left;       /* of the body or the chunk */
    size_t line_have;
    char line[HEAD_MOST]; /* the head, later a chunk's size or a trailer */
};

void framing_reset(struct framing *framing); /* ready for the next message */
/* Takes bytes up to the end of the message; how many. Ask `state` whether it IS_DONE or IS_BROKEN. */
size_t framing_take(struct framing *framing, const char *bytes, size_t size);

#endif
