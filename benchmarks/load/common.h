/* What the three load tools share: time, histograms, failing, argument reading. Times are nanoseconds of
 * CLOCK_MONOTONIC throughout. */
#ifndef LOAD_COMMON_H
#define LOAD_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SECOND INT64_C(1000000000)
#define NEVER INT64_MAX
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

int64_t now_ns(void);
double cpu_seconds(void); /* of this process, user and system */

/* Ends the program with status 2 and a message: what a person asked for cannot be done. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *must_alloc(size_t size); /* zeroed; never NULL */
void *must_grow(void *block, size_t size);

double number_of(const char *option, const char *text); /* >= 0, else die */
uint8_t *read_file(const char *path, size_t *length);   /* the whole of it; die if it cannot be read */
void raise_file_limit(void);                            /* as many descriptors as the system lets us have */

/* Log-linear: each power of two in HISTOGRAM_STEPS equal parts, so a figure is off by at most 1/256 of itself. */
#define HISTOGRAM_STEPS 256
#define HISTOGRAM_OCTAVES 40
struct histogram {
    uint64_t count;
    int64_t least, most;
    double sum;
    uint64_t buckets[HISTOGRAM_OCTAVES * HISTOGRAM_STEPS];
};

void histogram_add(struct histogram *histogram, int64_t value_ns);
double histogram_percentile_us(const struct histogram *histogram, double percent);
/* `"name": {"count": n, "mean": us, "p50": us, "p95": us, "p99": us, "max": us}`, in microseconds */
void histogram_print(FILE *out, const char *name, const struct histogram *histogram);

#endif
