#include "script.h"

#include "common.h"

#include <string.h>

#define PREFIX 5 /* gRPC: compressed flag, 32-bit big-endian length */

static const uint8_t *prefixed(const uint8_t *message, uint32_t length) {
    uint8_t *framed = must_alloc(PREFIX + (size_t)length);
    for (int byte = 0; byte < 4; byte++)
        framed[1 + byte] = (uint8_t)(length >> (24 - 8 * byte));
    memcpy(framed + PREFIX, message, length);
    return framed;
}

/* One step from `at`; where the next begins, or 0 if the file is broken. */
static size_t read_step(const uint8_t *file, size_t size, size_t at, struct step *step) {
    if (size - at < 5)
        return 0;
    uint32_t number = 0;
    for (int byte = 3; byte >= 0; byte--)
        number = number << 8 | file[at + 1 + (size_t)byte];
    *step = (struct step){.kind = file[at], .count = number};
    at += 5;
    switch (step->kind) {
    case STEP_SEND:
        if (size - at < number)
            return 0;
        step->data = prefixed(file + at, number);
        step->length = PREFIX + (size_t)number;
        return at + number;
    case STEP_EXPECT:
    case STEP_HOLD:
    case STEP_RESET:
    case STEP_CLOSE:
        return at;
    }
    return 0;
}

/* One script from `*at`, which moves behind it; die if the file is broken. */
static struct script read_script(const char *path, const uint8_t *file, size_t size, size_t *at) {
    struct step *steps = NULL;
    size_t count = 0;
    do {
        steps = must_grow(steps, (count + 1) * sizeof(*steps));
        *at = read_step(file, size, *at, &steps[count]);
        if (!*at)
            die("%s: step %zu is broken", path, count);
        count++;
    } while (steps[count - 1].kind != STEP_RESET && steps[count - 1].kind != STEP_CLOSE);
    return (struct script){steps};
}

struct scripts scripts_read(const char *path) {
    size_t size, at = sizeof(SCRIPT_MAGIC) - 1;
    const uint8_t *file = read_file(path, &size);
    if (size <= at || memcmp(file, SCRIPT_MAGIC, at) != 0)
        die("%s: not a script", path);
    struct scripts scripts = {NULL, 0};
    while (at < size) {
        scripts.list = must_grow(scripts.list, (scripts.count + 1) * sizeof(*scripts.list));
        scripts.list[scripts.count++] = read_script(path, file, size, &at);
    }
    return scripts;
}
