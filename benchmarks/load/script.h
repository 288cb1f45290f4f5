/* What one ext_proc stream does, as benchmarks/load/script.py writes it.
 *
 * A file: the magic, then one or more scripts, each a run of steps that ends with an end step. A step: one byte for its
 * kind, a 32-bit little-endian number, and for SEND that many bytes of one message. Streams take the scripts in turn. */
#ifndef LOAD_SCRIPT_H
#define LOAD_SCRIPT_H

#include <stddef.h>
#include <stdint.h>

#define SCRIPT_MAGIC "PKLOAD1\n"

enum step_kind {
    STEP_SEND = 'S',   /* a message */
    STEP_EXPECT = 'E', /* wait until this many more replies are there */
    STEP_HOLD = 'W',   /* stay until --hold is over */
    STEP_RESET = 'R',  /* end by RST_STREAM, as a gateway does */
    STEP_CLOSE = 'H',  /* end by half-close, and expect grpc-status 0 */
};

struct step {
    enum step_kind kind;
    uint32_t count;      /* of EXPECT */
    const uint8_t *data; /* of SEND, with the gRPC length prefix */
    size_t length;
};

struct script {
    const struct step *steps;
};

struct scripts {
    struct script *list;
    size_t count;
};

struct scripts scripts_read(const char *path); /* die if the file holds none */

#endif
