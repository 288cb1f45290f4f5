#define _GNU_SOURCE
#include "framing.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void framing_reset(struct framing *framing) {
    memset(framing, 0, offsetof(struct framing, line));
}

static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0 && line[2 + length] == ':')
            return line + 3 + length + strspn(line + 3 + length, " ");
    return NULL;
}

static void read_first_line(struct framing *framing, const char *head) {
    if (strncmp(head, "HTTP/1.", 7) == 0) {
        framing->status = atoi(head + 8);
        return;
    }
    framing->is_get = strncmp(head, "GET ", 4) == 0;
    const char *path = strchr(head, ' ');
    size_t length = path ? strcspn(path + 1, " ") : 0;
    if (length >= sizeof(framing->path))
        length = sizeof(framing->path) - 1;
    memcpy(framing->path, path ? path + 1 : "", length);
    framing->path[length] = 0;
}

static void head_done(struct framing *framing) {
    const char *head = framing->line;
    read_first_line(framing, head);
    const char *length = header(head, "content-length"), *coding = header(head, "transfer-encoding");
    const char *connection = header(head, "connection");
    framing->closes = connection && strncasecmp(connection, "close", 5) == 0;
    framing->line_have = 0;
    if (coding && strncasecmp(coding, "chunked", 7) == 0) {
        framing->state = IN_CHUNK_SIZE;
    } else {
        framing->left = length ? strtoull(length, NULL, 10) : 0;
        framing->state = framing->left ? IN_BODY : IS_DONE;
        if (framing->status && !length && framing->status != 204)
            framing->state = IS_BROKEN; /* a response that only the connection's end would end */
    }
}

/* Collects into `line` until it ends with `end`; how many bytes were taken. */
static size_t take_until(struct framing *framing, const char *bytes, size_t size, const char *end, bool *whole) {
    size_t wanted = strlen(end), taken = 0;
    *whole = false;
    while (taken < size && !*whole) {
        if (framing->line_have + 1 >= HEAD_MOST) {
            framing->state = IS_BROKEN;
            return taken;
        }
        framing->line[framing->line_have++] = bytes[taken++];
        *whole = framing->line_have >= wanted && framing->line[framing->line_have - 1] == '\n' &&
                 memcmp(framing->line + framing->line_have - wanted, end, wanted) == 0;
    }
    framing->line[framing->line_have] = 0;
    return taken;
}

static void size_done(struct framing *framing) {
    char *end;
    framing->left = strtoull(framing->line, &end, 16);
    framing->line_have = 0;
    if (end == framing->line)
        framing->state = IS_BROKEN;
    else
        framing->state = framing->left ? IN_CHUNK : IN_TRAILERS;
    framing->chunks += framing->state == IN_CHUNK;
}

static void line_done(struct framing *framing) {
    bool is_empty = framing->line_have == 2;
    switch (framing->state) {
    case IN_HEAD: head_done(framing); return;
    case IN_CHUNK_SIZE: size_done(framing); return;
    case IN_CHUNK_END: framing->state = is_empty ? IN_CHUNK_SIZE : IS_BROKEN; break;
    default: framing->state = is_empty ? IS_DONE : IN_TRAILERS;
    }
    framing->line_have = 0;
}

static size_t take_body(struct framing *framing, size_t size) {
    size_t taken = size < framing->left ? size : (size_t)framing->left;
    framing->left -= taken;
    framing->body_bytes += taken;
    if (framing->left == 0)
        framing->state = framing->state == IN_BODY ? IS_DONE : IN_CHUNK_END;
    return taken;
}

size_t framing_take(struct framing *framing, const char *bytes, size_t size) {
    size_t at = 0;
    while (at < size && framing->state != IS_DONE && framing->state != IS_BROKEN) {
        if (framing->state == IN_BODY || framing->state == IN_CHUNK) {
            at += take_body(framing, size - at);
            continue;
        }
        bool whole;
        at += take_until(framing, bytes + at, size - at, framing->state == IN_HEAD ? "\r\n\r\n" : "\r\n", &whole);
        if (whole)
            line_done(framing);
    }
    return at;
}
