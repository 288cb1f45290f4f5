#include "common.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double whole = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
    return whole + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

void *must_alloc(size_t size) {
    void *block = calloc(1, size ? size : 1);
    if (!block)
        die("no memory for %zu bytes", size);
    return block;
}

void *must_grow(void *block, size_t size) {
    void *grown = realloc(block, size);
    if (!grown)
        die("no memory for %zu bytes", size);
    return grown;
}

double number_of(const char *option, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0))
        die("--%s: '%s' is no number of 0 or more", option, text);
    return value;
}

uint8_t *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file)
        die("%s: %s", path, strerror(errno));
    uint8_t *bytes = NULL;
    size_t have = 0, got;
    do {
        bytes = must_grow(bytes, have + 65536);
        got = fread(bytes + have, 1, 65536, file);
        have += got;
    } while (got);
    fclose(file);
    *length = have;
    return bytes;
}

void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static size_t bucket_of(uint64_t value) {
    if (value < HISTOGRAM_STEPS)
        return value;
    int octave = 63 - __builtin_clzll(value) - 8; /* 2^8 = HISTOGRAM_STEPS */
    size_t bucket = (size_t)(octave + 1) * HISTOGRAM_STEPS + ((value >> octave) - HISTOGRAM_STEPS);
    size_t last = HISTOGRAM_OCTAVES * HISTOGRAM_STEPS - 1;
    return bucket < last ? bucket : last;
}

static double middle_of(size_t bucket) {
    if (bucket < HISTOGRAM_STEPS)
        return (double)bucket;
    size_t octave = bucket / HISTOGRAM_STEPS - 1, step = bucket % HISTOGRAM_STEPS;
    return ((double)(HISTOGRAM_STEPS + step) + 0.5) * (double)(UINT64_C(1) << octave);
}

void histogram_add(struct histogram *histogram, int64_t value_ns) {
    if (value_ns < 0)
        value_ns = 0;
    if (histogram->count == 0 || value_ns < histogram->least)
        histogram->least = value_ns;
    if (value_ns > histogram->most)
        histogram->most = value_ns;
    histogram->count++;
    histogram->sum += (double)value_ns;
    histogram->buckets[bucket_of((uint64_t)value_ns)]++;
}

double histogram_percentile_us(const struct histogram *histogram, double percent) {
    double wanted = (double)histogram->count * percent / 100.0;
    uint64_t seen = 0;
    for (size_t bucket = 0; bucket < COUNT_OF(histogram->buckets); bucket++) {
        seen += histogram->buckets[bucket];
        if (seen && (double)seen >= wanted) {
            double middle = middle_of(bucket), most = (double)histogram->most;
            return (middle < most ? middle : most) / 1e3;
        }
    }
    return 0;
}

void histogram_print(FILE *out, const char *name, const struct histogram *histogram) {
    double mean = histogram->count ? histogram->sum / (double)histogram->count / 1e3 : 0;
    fprintf(out, "\"%s\": {\"count\": %llu, \"mean\": %.3f", name, (unsigned long long)histogram->count, mean);
    static const double percents[] = {50, 95, 99};
    for (size_t at = 0; at < COUNT_OF(percents); at++)
        fprintf(out, ", \"p%.0f\": %.3f", percents[at], histogram_percentile_us(histogram, percents[at]));
    fprintf(out, ", \"max\": %.3f}", (double)histogram->most / 1e3);
}
