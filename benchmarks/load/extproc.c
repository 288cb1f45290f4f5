/* extproc: loads an ext_proc server as a gateway does, verifies what comes back, and prints one JSON object.
 *
 * Closed loop (--streams in flight on each connection) or open loop (--rate; latency counts from the intended start).
 * See usage() for the options. The JSON: started, done, errors (by kind: extproc.h says which), goaways,
 * lost_connections, replies, seconds, rate (done per second), bytes_out, bytes_in, cpu_seconds (its own), and
 * latencies in microseconds {count, mean, p50, p95, p99, max}: pick_us (last message of the request sent, to the first
 * reply), request_us (start, to the last reply to the request), whole_us (start, to the end of the stream), lag_us (how
 * late streams were started). With --hold a line {held, seconds} comes before it. */
#define _GNU_SOURCE
#include "extproc.h"

#include <getopt.h>

#define CONNECT_NS (10 * SECOND)
#define RECONNECT_NS (SECOND / 100)

/* --- options --- */

enum { TLS = 1000, NEVER_READ, RECONNECT };

static const struct option NAMES[] = {
    {"target", required_argument, NULL, 't'},    {"script", required_argument, NULL, 's'},
    {"connections", required_argument, NULL, 'c'}, {"streams", required_argument, NULL, 'n'},
    {"most", required_argument, NULL, 'm'},
    {"rate", required_argument, NULL, 'r'},      {"count", required_argument, NULL, 'k'},
    {"duration", required_argument, NULL, 'd'},  {"hold", required_argument, NULL, 'h'},
    {"grace", required_argument, NULL, 'g'},     {"reset-code", required_argument, NULL, 'e'},
    {"pings-per-second", required_argument, NULL, 'p'},
    {"tls", no_argument, NULL, TLS},             {"never-read", no_argument, NULL, NEVER_READ},
    {"reconnect", no_argument, NULL, RECONNECT}, {NULL, 0, NULL, 0},
};

static void usage(void) {
    die("extproc --target IP:PORT --script FILE\n"
        "  --connections N        (1)\n"
        "  --streams N            in flight on each connection, closed loop (1)\n"
        "  --rate R               streams per second over all connections, open loop\n"
        "  --most N               streams open at once, open loop; those that must wait for it count as late\n"
        "  --duration S           seconds in which streams are started (5, without --count)\n"
        "  --count N              streams in all\n"
        "  --grace S              how long the last streams may take (10)\n"
        "  --hold S               streams stay at HOLD until all are there and S seconds have passed\n"
        "  --reset-code N         of the RST_STREAM that ends a stream (2, as Envoy's)\n"
        "  --pings-per-second R   on each connection\n"
        "  --never-read           read nothing after the connections stand\n"
        "  --reconnect            open another connection for one that was ended, by GOAWAY or otherwise\n"
        "  --tls                  ALPN h2, certificate unchecked");
}

static void read_option(struct options *options, int option, const char *name, const char *text) {
    switch (option) {
    case 't': options->target = text; break;
    case 's': options->script = text; break;
    case 'c': options->connections = (uint32_t)number_of(name, text); break;
    case 'n': options->streams = (uint32_t)number_of(name, text); break;
    case 'm': options->most = (uint64_t)number_of(name, text); break;
    case 'r': options->rate = number_of(name, text); break;
    case 'k': options->count = (uint64_t)number_of(name, text); break;
    case 'd': options->duration_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'h': options->hold_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'g': options->grace_ns = (int64_t)(number_of(name, text) * SECOND); break;
    case 'e': options->reset_code = (uint32_t)number_of(name, text); break;
    case 'p': options->pings = number_of(name, text); break;
    case TLS: options->tls = true; break;
    case NEVER_READ: options->never_read = true; break;
    case RECONNECT: options->reconnect = true; break;
    default: usage();
    }
}

static struct options read_options(int argc, char **argv) {
    struct options options = {.connections = 1, .streams = 1, .grace_ns = 10 * SECOND, .reset_code = 2};
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

static int64_t least(int64_t one, int64_t other) {
    return one < other ? one : other;
}

static void wait_events(struct load *load, int64_t until_ns) {
    int count = loop_wait(&load->loop, until_ns);
    for (int at = 0; at < count; at++)
        connection_event(load->loop.events[at].data.ptr, load->loop.events[at].events);
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

static struct connection *usable_connection(const struct load *load) {
    for (uint32_t at = 0; at < load->connection_count; at++) {
        struct connection *connection = load->connections[(load->started + at) % load->connection_count];
        if (connection_usable(connection))
            return connection;
    }
    return NULL;
}

static bool is_full(const struct load *load) {
    return load->options.most && load->active >= load->options.most;
}

static void start_due(struct load *load) {
    while (may_start(load) && due_ns(load) <= now_ns() && !is_full(load)) {
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
    for (uint32_t at = 0; at < load->connection_count; at++) {
        struct connection *connection = load->connections[at];
        while (connection_usable(connection) && connection->active < load->options.streams && may_start(load))
            stream_start(connection, now_ns());
    }
}

static void flush_all(struct load *load) {
    for (uint32_t at = 0; at < load->connection_count; at++)
        if (!load->connections[at]->dead)
            connection_flush(load->connections[at]);
}

static bool any_alive(const struct load *load) {
    for (uint32_t at = 0; at < load->connection_count; at++)
        if (!load->connections[at]->dead)
            return true;
    return false;
}

static bool all_stand(const struct load *load) {
    for (uint32_t at = 0; at < load->connection_count; at++)
        if (!load->connections[at]->ready && !load->connections[at]->dead)
            return false;
    return true;
}

static void connect_all(struct load *load) {
    address_of(load->options.target, &load->address);
    for (uint32_t at = 0; at < load->options.connections; at++)
        connection_open(load);
    int64_t limit_ns = now_ns() + CONNECT_NS;
    while (!all_stand(load) && now_ns() < limit_ns)
        wait_events(load, limit_ns);
    for (uint32_t at = 0; at < load->connection_count; at++)
        if (!load->connections[at]->ready && !load->connections[at]->dead) {
            load->errors[ERROR_CONNECT]++;
            load->connections[at]->dead = true;
        }
}

/* A gateway opens the next connection as soon as one was said goodbye to. When to look again, NEVER if not at all. */
static int64_t reconnect(struct load *load) {
    bool wanted = false;
    for (uint32_t at = 0; at < load->connection_count; at++) {
        struct connection *connection = load->connections[at];
        if (connection->replaced || !(connection->dead || connection->draining))
            continue;
        wanted = true;
        if (now_ns() < load->reconnect_ns)
            break;
        load->reconnect_ns = now_ns() + RECONNECT_NS;
        connection->replaced = true;
        connection_open(load);
        break;
    }
    return wanted ? load->reconnect_ns : NEVER;
}

static int64_t ping(struct load *load) {
    if (now_ns() >= load->ping_ns) {
        for (uint32_t at = 0; at < load->connection_count; at++)
            if (!load->connections[at]->dead)
                nghttp2_submit_ping(load->connections[at]->session, NGHTTP2_FLAG_NONE, NULL);
        load->ping_ns += (int64_t)((double)SECOND / load->options.pings);
    }
    return load->ping_ns;
}

static void release(struct load *load) {
    load->released = true;
    for (struct stream *stream = load->open, *next; stream; stream = next) {
        next = stream->next;
        if (stream->held)
            stream_advance(stream);
    }
}

/* Streams stay at their HOLD until every one is there (those that take too long are not waited for) and --hold has
 * passed since. When to look again. */
static int64_t hold(struct load *load) {
    if (may_start(load))
        return NEVER;
    if (load->full_ns == 0)
        load->full_ns = now_ns();
    int64_t patience_ns = load->full_ns + load->options.grace_ns;
    if (load->hold_until_ns == NEVER && (load->held == load->active || now_ns() >= patience_ns)) {
        load->hold_until_ns = now_ns() + load->options.hold_ns;
        double seconds = (double)(now_ns() - load->begun_ns) / (double)SECOND;
        printf("{\"held\": %llu, \"seconds\": %.3f}\n", (unsigned long long)load->held, seconds);
        fflush(stdout);
    }
    if (now_ns() >= load->hold_until_ns || stopped)
        release(load);
    return least(load->hold_until_ns, patience_ns > now_ns() ? patience_ns : NEVER);
}

/* All was started and has ended, or had its time. Else when to look again. */
static bool is_over(struct load *load, int64_t *next_ns) {
    bool holding = load->options.hold_ns && !load->released;
    if (may_start(load)) {
        int64_t due = load->options.rate > 0 && !is_full(load) ? due_ns(load) : NEVER;
        *next_ns = least(*next_ns, least(end_ns(load), due));
        return false;
    }
    if (holding)
        return false;
    if (load->limit_ns == NEVER)
        load->limit_ns = now_ns() + (load->options.never_read ? 0 : load->options.grace_ns);
    *next_ns = least(*next_ns, load->limit_ns);
    return load->active == 0 || now_ns() >= load->limit_ns;
}

static void run(struct load *load) {
    load->begun_ns = load->ended_ns = load->ping_ns = now_ns();
    load->hold_until_ns = load->limit_ns = NEVER;
    while (any_alive(load) || (may_start(load) && (load->options.rate > 0 || load->options.reconnect))) {
        int64_t next_ns = NEVER;
        if (load->options.rate > 0)
            start_due(load);
        else
            fill_up(load);
        if (load->options.reconnect && may_start(load))
            next_ns = least(next_ns, reconnect(load));
        if (load->options.pings > 0)
            next_ns = least(next_ns, ping(load));
        if (load->options.hold_ns && !load->released)
            next_ns = least(next_ns, hold(load));
        flush_all(load);
        if (is_over(load, &next_ns))
            break;
        wait_events(load, next_ns);
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
                                                    "early",   "surplus", "framing", "unsent",  "stuck", "answered"};
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
    loop_init(&load->loop);
    connections_prepare(load);
    connect_all(load);
    run(load);
    print_report(load);
    return 0;
}
