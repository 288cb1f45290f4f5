/* http: an HTTP/1.1 load client over keep-alive connections; prints one JSON object.
 *
 * Closed loop (one request at a time on each connection) or open loop (--rate over at most --connections; latency
 * counts from the intended start, so a request that had to wait for a connection is as late as it was).
 * The JSON: started, done, errors by kind (http_N: a status that is not 200), seconds, rate, bytes_in, chunks,
 * cpu_seconds, and in microseconds first_us (start, to the first byte of the body), whole_us, gap_us (between chunks),
 * lag_us (how late requests were started). */
#define _GNU_SOURCE
#include "common.h"
#include "framing.h"
#include "link.h"
#include "loop.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_STATUS 600

enum error_kind { ERROR_CONNECT, ERROR_LOST, ERROR_BROKEN, ERROR_SHORT, ERROR_UNSENT, ERROR_STUCK, ERROR_KINDS };

struct caller {
    struct link link;
    bool is_open, is_busy, has_stood;
    uint32_t watched;
    size_t sent;
    int64_t started_ns, chunk_ns; /* chunk: when the latest chunk came */
    struct framing framing;
    struct caller *next_idle;
};

static struct {
    struct loop loop;
    struct sockaddr_in address;
    const char *target, *path, *body_file;
    uint32_t connections;
    double rate;
    uint64_t count, expected_bytes;
    int64_t duration_ns, grace_ns, begun_ns, ended_ns;
    char *request;
    size_t request_size;
    struct caller *callers, *idle;
    uint64_t started, done, active, bytes_in, chunks;
    uint64_t errors[ERROR_KINDS], statuses[LARGEST_STATUS];
    struct histogram first, whole, gap, lag;
} load = {.path = "/v1/chat/completions", .connections = 1, .grace_ns = 10 * SECOND};

/* --- one request --- */

static void open_caller(struct caller *caller) {
    caller->watched = 0;
    caller->has_stood = false;
    caller->is_open = link_open(&caller->link, &load.address, NULL, 0);
    if (caller->is_open)
        loop_watch(&load.loop, caller->link.fd, EPOLLIN, &caller->watched, caller);
}

static void make_idle(struct caller *caller) {
    caller->is_busy = false;
    caller->next_idle = load.idle;
    load.idle = caller;
}

/* The request is over; `kind`: what went wrong, ERROR_KINDS: nothing. */
static void finish(struct caller *caller, enum error_kind kind) {
    load.active--;
    load.ended_ns = now_ns();
    if (kind != ERROR_KINDS) {
        load.errors[kind]++;
    } else {
        load.done++;
        histogram_add(&load.whole, load.ended_ns - caller->started_ns);
    }
    make_idle(caller);
}

/* The connection is no good; the next request opens another. */
static void hang_up(struct caller *caller, enum error_kind kind) {
    link_close(&caller->link);
    caller->is_open = false;
    if (caller->is_busy)
        finish(caller, caller->has_stood ? kind : ERROR_CONNECT);
}

static void send_request(struct caller *caller) {
    while (caller->sent < load.request_size) {
        ssize_t put = link_write(&caller->link, load.request + caller->sent, load.request_size - caller->sent);
        if (put == LINK_LOST) {
            hang_up(caller, ERROR_LOST);
            return;
        }
        if (put == LINK_WAIT)
            break;
        caller->sent += (size_t)put;
        caller->has_stood = true;
    }
    uint32_t wanted = EPOLLIN | (caller->sent < load.request_size ? EPOLLOUT : 0);
    loop_watch(&load.loop, caller->link.fd, wanted, &caller->watched, caller);
}

static void start(int64_t intended_ns) {
    struct caller *caller = load.idle;
    load.idle = caller->next_idle;
    load.started++;
    load.active++;
    histogram_add(&load.lag, now_ns() - intended_ns);
    caller->is_busy = true;
    caller->started_ns = intended_ns;
    caller->chunk_ns = 0;
    caller->sent = 0;
    framing_reset(&caller->framing);
    if (!caller->is_open)
        open_caller(caller);
    if (caller->is_open)
        send_request(caller);
    else
        finish(caller, ERROR_CONNECT);
}

static void complete(struct caller *caller) {
    int status = caller->framing.status;
    enum error_kind fault = ERROR_KINDS;
    if (load.expected_bytes && caller->framing.body_bytes != load.expected_bytes)
        fault = ERROR_SHORT;
    if (caller->framing.closes) {
        link_close(&caller->link);
        caller->is_open = false;
    }
    if (status == 200) {
        finish(caller, fault);
        return;
    }
    load.statuses[status > 0 && status < LARGEST_STATUS ? status : 0]++;
    load.active--;
    make_idle(caller);
}

static void note_times(struct caller *caller, uint64_t bytes_before, uint32_t chunks_before, int64_t at_ns) {
    if (bytes_before == 0 && caller->framing.body_bytes > 0)
        histogram_add(&load.first, at_ns - caller->started_ns);
    for (uint32_t chunk = chunks_before; chunk < caller->framing.chunks; chunk++) {
        if (caller->chunk_ns)
            histogram_add(&load.gap, at_ns - caller->chunk_ns);
        caller->chunk_ns = at_ns;
        load.chunks++;
    }
}

static void receive(struct caller *caller) {
    static char bytes[256 << 10];
    ssize_t got = link_read(&caller->link, bytes, sizeof(bytes));
    if (got == LINK_WAIT)
        return;
    if (got <= 0 || !caller->is_busy) {
        hang_up(caller, ERROR_LOST); /* also the end of an idle connection, which is no error */
        return;
    }
    uint64_t bytes_before = caller->framing.body_bytes;
    uint32_t chunks_before = caller->framing.chunks;
    load.bytes_in += (uint64_t)got;
    size_t taken = framing_take(&caller->framing, bytes, (size_t)got);
    note_times(caller, bytes_before, chunks_before, now_ns());
    if (caller->framing.state == IS_BROKEN || taken < (size_t)got)
        hang_up(caller, ERROR_BROKEN);
    else if (caller->framing.state == IS_DONE)
        complete(caller);
}

static void handle(struct caller *caller, uint32_t events) {
    if (!caller->is_open)
        return;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(caller);
    if (caller->is_open && caller->is_busy && events & EPOLLOUT)
        send_request(caller);
}

/* --- the loop --- */

static int64_t due_ns(void) {
    if (load.rate <= 0)
        return now_ns();
    return load.begun_ns + (int64_t)((double)load.started / load.rate * (double)SECOND);
}

/* Whatever was due before the end is still sent after it, however late. */
static bool may_start(void) {
    if (stopped || (load.count && load.started >= load.count))
        return false;
    return load.duration_ns == NEVER || due_ns() < load.begun_ns + load.duration_ns;
}

static void start_due(void) {
    while (load.idle && may_start()) {
        int64_t due = due_ns();
        if (due > now_ns())
            return;
        start(due);
    }
}

static int64_t next_ns(int64_t limit_ns) {
    if (may_start() && load.idle && load.rate > 0 && due_ns() < limit_ns)
        return due_ns();
    return limit_ns;
}

static void give_up(void) {
    for (uint32_t at = 0; at < load.connections; at++)
        if (load.callers[at].is_busy)
            finish(&load.callers[at], ERROR_STUCK);
    for (; load.rate > 0 && !stopped && may_start(); load.started++)
        load.errors[ERROR_UNSENT]++;
}

static void run(void) {
    int64_t limit_ns = NEVER;
    load.begun_ns = load.ended_ns = now_ns();
    if (load.duration_ns != NEVER)
        limit_ns = load.begun_ns + load.duration_ns + load.grace_ns;
    while (now_ns() < limit_ns) {
        if (stopped && limit_ns > now_ns() + load.grace_ns)
            limit_ns = now_ns() + load.grace_ns;
        start_due();
        if (!load.active && !may_start())
            break;
        int count = loop_wait(&load.loop, next_ns(limit_ns));
        for (int at = 0; at < count; at++)
            handle(load.loop.events[at].data.ptr, load.loop.events[at].events);
    }
    give_up();
}

/* --- the program --- */

static const struct option NAMES[] = {
    {"target", required_argument, NULL, 't'},       {"path", required_argument, NULL, 'p'},
    {"body", required_argument, NULL, 'b'},         {"connections", required_argument, NULL, 'c'},
    {"rate", required_argument, NULL, 'r'},         {"count", required_argument, NULL, 'k'},
    {"duration", required_argument, NULL, 'd'},     {"grace", required_argument, NULL, 'g'},
    {"expect-bytes", required_argument, NULL, 'e'}, {NULL, 0, NULL, 0},
};

static void read_option(int option, const char *name, const char *text) {
    switch (option) {
    case 't': load.target = text; break;
    case 'p': load.path = text; break;
    case 'b': load.body_file = text; break;
    case 'c': load.connections = (uint32_t)number_of(name, text); break;
    case 'r': load.rate = number_of(name, text); break;
    case 'k': load.count = (uint64_t)number_of(name, text); break;
    case 'd': load.duration_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'g': load.grace_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'e': load.expected_bytes = (uint64_t)number_of(name, text); break;
    default:
        die("http --target IP:PORT [--path P] [--body FILE, to POST; else GET] [--connections N] [--rate R]\n"
            "  [--duration S] [--count N] [--grace S] [--expect-bytes N, of each response's body]");
    }
}

static void prepare_request(void) {
    size_t length = 0;
    const uint8_t *body = load.body_file ? read_file(load.body_file, &length) : NULL;
    int head = asprintf(&load.request,
                        "%s %s HTTP/1.1\r\nhost: %s\r\naccept: */*\r\nuser-agent: openai-python/1.2.3\r\n"
                        "content-type: application/json\r\ncontent-length: %zu\r\n\r\n",
                        body ? "POST" : "GET", load.path, load.target, length);
    if (head < 0)
        die("no memory");
    load.request_size = (size_t)head + length;
    load.request = must_grow(load.request, load.request_size);
    if (body)
        memcpy(load.request + head, body, length);
}

static void print_errors(void) {
    static const char *const names[ERROR_KINDS] = {"connect", "lost", "broken", "short", "unsent", "stuck"};
    const char *comma = "";
    printf("\"errors\": {");
    for (int kind = 0; kind < ERROR_KINDS; kind++)
        if (load.errors[kind]) {
            printf("%s\"%s\": %llu", comma, names[kind], (unsigned long long)load.errors[kind]);
            comma = ", ";
        }
    for (int status = 0; status < LARGEST_STATUS; status++)
        if (load.statuses[status]) {
            printf("%s\"http_%d\": %llu", comma, status, (unsigned long long)load.statuses[status]);
            comma = ", ";
        }
    printf("}, ");
}

static void print_report(void) {
    double seconds = (double)(load.ended_ns - load.begun_ns) / (double)SECOND;
    printf("{\"started\": %llu, \"done\": %llu, ", (unsigned long long)load.started, (unsigned long long)load.done);
    print_errors();
    printf("\"seconds\": %.6f, \"rate\": %.3f, ", seconds, seconds > 0 ? (double)load.done / seconds : 0);
    printf("\"bytes_in\": %llu, \"chunks\": %llu, \"cpu_seconds\": %.6f, ", (unsigned long long)load.bytes_in,
           (unsigned long long)load.chunks, cpu_seconds());
    histogram_print(stdout, "first_us", &load.first);
    printf(", ");
    histogram_print(stdout, "whole_us", &load.whole);
    printf(", ");
    histogram_print(stdout, "gap_us", &load.gap);
    printf(", ");
    histogram_print(stdout, "lag_us", &load.lag);
    printf("}\n");
}

int main(int argc, char **argv) {
    int option, index = 0;
    while ((option = getopt_long(argc, argv, "", NAMES, &index)) != -1)
        read_option(option, option == '?' ? "" : NAMES[index].name, optarg);
    if (!load.target || !load.connections || optind < argc)
        read_option('?', "", NULL);
    if (!load.duration_ns)
        load.duration_ns = load.count ? NEVER : 5 * SECOND;
    address_of(load.target, &load.address);
    prepare_request();
    loop_init(&load.loop);
    load.callers = must_alloc(load.connections * sizeof(*load.callers));
    for (uint32_t at = 0; at < load.connections; at++) {
        open_caller(&load.callers[at]);
        make_idle(&load.callers[at]);
    }
    run();
    print_report();
    return 0;
}
