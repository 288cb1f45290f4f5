/* extproc: loads an ext_proc server as a gateway does, verifies what comes back, and prints one JSON object.
 *
 * Closed loop (--streams in flight on each connection) or open loop (--rate; latency counts from the intended start).
 * See usage() for the options, README of this directory for the JSON. */
#define _GNU_SOURCE
#include "extproc.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define CONNECT_NS (10 * SECOND)
#define EVENTS 256

static volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

/* --- options --- */

enum { RESETS = 1000, TLS, NEVER_READ };

static const struct option NAMES[] = {
    {"target", required_argument, NULL, 't'},    {"script", required_argument, NULL, 's'},
    {"connections", required_argument, NULL, 'c'}, {"streams", required_argument, NULL, 'n'},
    {"rate", required_argument, NULL, 'r'},      {"count", required_argument, NULL, 'k'},
    {"duration", required_argument, NULL, 'd'},  {"hold", required_argument, NULL, 'h'},
    {"grace", required_argument, NULL, 'g'},     {"reset-code", required_argument, NULL, 'e'},
    {"pings-per-second", required_argument, NULL, 'p'},
    {"tls", no_argument, NULL, TLS},             {"never-read", no_argument, NULL, NEVER_READ},
    {NULL, 0, NULL, 0},
};

static void usage(void) {
    die("extproc --target IP:PORT --script FILE\n"
        "  --connections N        (1)\n"
        "  --streams N            in flight on each connection, closed loop (1)\n"
        "  --rate R               streams per second over all connections, open loop\n"
        "  --duration S           seconds in which streams are started (5, without --count)\n"
        "  --count N              streams in all\n"
        "  --grace S              how long the last streams may take (10)\n"
        "  --hold S               streams stay at HOLD until all are there and S seconds have passed\n"
        "  --reset-code N         of the RST_STREAM that ends a stream (0, as Envoy's)\n"
        "  --pings-per-second R   on each connection\n"
        "  --never-read           read nothing after the connections stand\n"
        "  --tls                  ALPN h2, certificate unchecked");
}

static void read_option(struct options *options, int option, const char *name, const char *text) {
    switch (option) {
    case 't': options->target = text; break;
    case 's': options->script = text; break;
    case 'c': options->connections = (uint32_t)number_of(name, text); break;
    case 'n': options->streams = (uint32_t)number_of(name, text); break;
    case 'r': options->rate = number_of(name, text); break;
    case 'k': options->count = (uint64_t)number_of(name, text); break;
    case 'd': options->duration_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'h': options->hold_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'g': options->grace_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'e': options->reset_code = (uint32_t)number_of(name, text); break;
    case 'p': options->pings = number_of(name, text); break;
    case TLS: options->tls = true; break;
    case NEVER_READ: options->never_read = true; break;
    default: usage();
    }
}

static struct options read_options(int argc, char **argv) {
    struct options options = {.connections = 1, .streams = 1, .grace_ns = 10 * SECOND};
    int option, index = 0;
    while ((option = getopt_long(argc, argv, "", NAMES, &index)) != -1)
        read_option(&options, option, option == '?' ? "" : NAMES[index].name, optarg);
    if (!options.target || !options.script || !options.connections || optind < argc)
        usage();
    if (!options.duration_ns)
        options.duration_ns = options.count ? NEVER : 5 * SECOND;
    return options;
}

/* --- the loop --- */

static void wake_at(struct load *load, int64_t due_ns) {
    if (due_ns == load->armed_ns)
        return;
    load->armed_ns = due_ns;
    struct itimerspec when = {.it_value = {.tv_sec = due_ns / SECOND, .tv_nsec = due_ns % SECOND}};
    timerfd_settime(load->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void wait_events(struct load *load, int64_t until_ns) {
    struct epoll_event events[EVENTS];
    wake_at(load, until_ns);
    int count = epoll_wait(load->epoll, events, EVENTS, -1);
    for (int at = 0; at < count; at++) {
        if (events[at].data.ptr)
            connection_event(events[at].data.ptr, events[at].events);
        else
            load->armed_ns = 0; /* the timer: setting it anew clears it */
    }
}

static int64_t end_ns(const struct load *load) {
    return load->options.duration_ns == NEVER ? NEVER : load->begun_ns + load->options.duration_ns;
}

static bool may_start(const struct load *load) {
    if (stopped || (load->options.count && load->started >= load->options.count))
        return false;
    return now_ns() < end_ns(load);
}

static int64_t due_ns(const struct load *load) {
    return load->begun_ns + (int64_t)((double)load->started / load->options.rate * (double)SECOND);
}

static struct connection *usable_connection(struct load *load) {
    for (uint32_t at = 0; at < load->options.connections; at++) {
        struct connection *connection = &load->connections[(load->started + at) % load->options.connections];
        if (connection_usable(connection))
            return connection;
    }
    return NULL;
}

static void start_due(struct load *load) {
    while (may_start(load) && due_ns(load) <= now_ns()) {
        struct connection *connection = usable_connection(load);
        if (connection) {
            stream_start(connection, due_ns(load));
        } else {
            load->errors[ERROR_UNSENT]++;
            load->started++;
        }
    }
}

static void fill_up(struct load *load) {
    for (uint32_t at = 0; at < load->options.connections; at++) {
        struct connection *connection = &load->connections[at];
        while (connection_usable(connection) && connection->active < load->options.streams && may_start(load))
            stream_start(connection, now_ns());
    }
}

static void flush_all(struct load *load) {
    for (uint32_t at = 0; at < load->options.connections; at++)
        if (!load->connections[at].dead)
            connection_flush(&load->connections[at]);
}

static bool any_alive(const struct load *load) {
    for (uint32_t at = 0; at < load->options.connections; at++)
        if (!load->connections[at].dead)
            return true;
    return false;
}

static void ping(struct load *load, int64_t *next_ns) {
    if (load->options.pings <= 0 || now_ns() < *next_ns)
        return;
    for (uint32_t at = 0; at < load->options.connections; at++)
        if (!load->connections[at].dead)
            nghttp2_submit_ping(load->connections[at].session, NGHTTP2_FLAG_NONE, NULL);
    *next_ns += (int64_t)((double)SECOND / load->options.pings);
}

/* Streams stay at their HOLD until every one is there (or gone) and --hold has passed. */
static int64_t hold(struct load *load, int64_t *until_ns) {
    if (!load->options.hold_ns || load->released)
        return NEVER;
    if (*until_ns == NEVER && load->held && load->held == load->active && load->started == load->options.count) {
        *until_ns = now_ns() + load->options.hold_ns;
        double seconds = (double)(now_ns() - load->begun_ns) / (double)SECOND;
        printf("{\"held\": %llu, \"seconds\": %.3f}\n", (unsigned long long)load->held, seconds);
        fflush(stdout);
    }
    if (now_ns() < *until_ns && !stopped)
        return *until_ns;
    load->released = true;
    for (struct stream *stream = load->open, *next; stream; stream = next) {
        next = stream->next;
        if (stream->held)
            stream_advance(stream);
    }
    return NEVER;
}

static bool all_stand(const struct load *load) {
    for (uint32_t at = 0; at < load->options.connections; at++)
        if (!load->connections[at].ready && !load->connections[at].dead)
            return false;
    return true;
}

static void connect_all(struct load *load) {
    struct sockaddr_in address;
    address_of(load->options.target, &address);
    for (uint32_t at = 0; at < load->options.connections; at++) {
        load->connections[at].load = load;
        connection_open(&load->connections[at], &address);
    }
    int64_t limit_ns = now_ns() + CONNECT_NS;
    while (!all_stand(load) && now_ns() < limit_ns)
        wait_events(load, limit_ns);
    for (uint32_t at = 0; at < load->options.connections; at++)
        if (!load->connections[at].ready && !load->connections[at].dead) {
            load->errors[ERROR_CONNECT]++;
            load->connections[at].dead = true;
        }
}

static int64_t least(int64_t one, int64_t other) {
    return one < other ? one : other;
}

/* When the loop must look again although nothing came. */
static int64_t next_ns(const struct load *load, int64_t ping_ns, int64_t held_ns, int64_t limit_ns) {
    int64_t next = least(held_ns, load->options.pings > 0 ? ping_ns : NEVER);
    if (!may_start(load))
        return least(next, limit_ns);
    return least(next, least(end_ns(load), load->options.rate > 0 ? due_ns(load) : NEVER));
}

static void run(struct load *load) {
    int64_t ping_ns = now_ns(), until_ns = NEVER, limit_ns = NEVER;
    load->begun_ns = load->ended_ns = now_ns();
    while (any_alive(load) || (load->options.rate > 0 && may_start(load))) {
        if (load->options.rate > 0)
            start_due(load);
        else
            fill_up(load);
        ping(load, &ping_ns);
        int64_t held_ns = hold(load, &until_ns);
        flush_all(load);
        bool over = !may_start(load) && held_ns == NEVER && (!load->options.hold_ns || load->released || !load->held);
        if (over && limit_ns == NEVER)
            limit_ns = now_ns() + (load->options.never_read ? 0 : load->options.grace_ns);
        if (over && (load->active == 0 || now_ns() >= limit_ns))
            break;
        wait_events(load, next_ns(load, ping_ns, held_ns, limit_ns));
    }
    if (load->options.never_read)
        load->ended_ns = now_ns(); /* its streams cannot end */
    else
        while (load->open)
            stream_fail(load->open, ERROR_STUCK);
}

/* --- the report --- */

static void print_errors(const struct load *load) {
    static const char *const names[ERROR_STATUS] = {"connect", "lost",  "goaway",  "refused", "reset", "http",
                                                    "early",   "surplus", "framing", "unsent",  "stuck"};
    const char *comma = "";
    printf("\"errors\": {");
    for (int kind = 0; kind < ERROR_KINDS; kind++) {
        if (!load->errors[kind])
            continue;
        if (kind < ERROR_STATUS)
            printf("%s\"%s\": %llu", comma, names[kind], (unsigned long long)load->errors[kind]);
        else
            printf("%s\"status_%d\": %llu", comma, kind - ERROR_STATUS, (unsigned long long)load->errors[kind]);
        comma = ", ";
    }
    printf("}, ");
}

static void print_report(const struct load *load) {
    double seconds = (double)(load->ended_ns - load->begun_ns) / (double)SECOND;
    printf("{\"started\": %llu, \"done\": %llu, ", (unsigned long long)load->started, (unsigned long long)load->done);
    print_errors(load);
    printf("\"goaways\": %llu, \"lost_connections\": %llu, \"replies\": %llu, ", (unsigned long long)load->goaways,
           (unsigned long long)load->lost_connections, (unsigned long long)load->replies);
    printf("\"seconds\": %.6f, \"rate\": %.3f, ", seconds, seconds > 0 ? (double)load->done / seconds : 0);
    printf("\"bytes_out\": %llu, \"bytes_in\": %llu, \"cpu_seconds\": %.6f, ", (unsigned long long)load->bytes_out,
           (unsigned long long)load->bytes_in, cpu_seconds());
    histogram_print(stdout, "pick_us", &load->pick);
    printf(", ");
    histogram_print(stdout, "request_us", &load->request);
    printf(", ");
    histogram_print(stdout, "whole_us", &load->whole);
    printf(", ");
    histogram_print(stdout, "lag_us", &load->lag);
    printf("}\n");
}

int main(int argc, char **argv) {
    struct load *load = must_alloc(sizeof(*load));
    load->options = read_options(argc, argv);
    load->scripts = scripts_read(load->options.script);
    load->tls = load->options.tls ? tls_client() : NULL;
    load->connections = must_alloc(load->options.connections * sizeof(*load->connections));
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(load->epoll, EPOLL_CTL_ADD, load->timer, &event);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    raise_file_limit();
    connections_prepare(load);
    connect_all(load);
    run(load);
    print_report(load);
    return 0;
}
