/* upstream: model servers on one or many ports, so cheap that they do not matter.
 *
 * A POST is answered with a streamed chat of --chunks events (or, without, a fixed JSON answer), GET /metrics with a
 * file. It prints "listening on IP:PORT" for each port. */
#define _GNU_SOURCE
#include "common.h"
#include "framing.h"
#include "link.h"
#include "loop.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct text {
    const char *bytes;
    size_t length;
};

struct peer {
    bool is_listener;
    int fd;
    uint32_t watched;
    struct framing framing;
    struct text pending;     /* what the socket has not taken yet */
    uint32_t left, owed;     /* chunks to come, and those of them that are due */
    int64_t due_ns;          /* of the next chunk, while it is in the queue */
    struct peer *next, *previous;
    bool queued;
};

static struct {
    struct loop loop;
    const char *host;
    int port, ports;
    uint32_t chunks, chunk_bytes;
    int64_t delay_ns;
    struct text head, chunk, last, answer, metrics, nothing;
    struct peer *first, *latest; /* waiting for their next chunk, in the order of time */
} server = {.host = "127.0.0.1", .ports = 1, .chunk_bytes = 256};

/* --- what it says --- */

static struct text text_of(char *bytes, int length) {
    if (length < 0)
        die("no memory");
    return (struct text){bytes, (size_t)length};
}

static struct text with_body(const char *type, const char *body, size_t length) {
    char *head;
    int size = asprintf(&head, "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", type, length);
    struct text whole = text_of(head, size);
    head = must_grow(head, whole.length + length);
    memcpy(head + whole.length, body, length);
    return (struct text){head, whole.length + length};
}

static struct text as_chunk(const char *body, const char *after) {
    char *chunk;
    int size = asprintf(&chunk, "%zx\r\n%s\r\n%s", strlen(body), body, after);
    return text_of(chunk, size);
}

static struct text event_of(size_t bytes) {
    static const char before[] = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"";
    static const char after[] = "\"},\"finish_reason\":null}]}\n\n";
    size_t filled = sizeof(before) - 1 + sizeof(after) - 1, word = bytes > filled ? bytes - filled : 1;
    char *event, *filling = must_alloc(word + 1);
    memset(filling, 'x', word);
    if (asprintf(&event, "%s%s%s", before, filling, after) < 0)
        die("no memory");
    return as_chunk(event, "");
}

static void prepare_answers(const char *metrics_file) {
    static const char usage[] = "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}";
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    char *json, *last;
    if (asprintf(&json, "{\"object\":\"chat.completion\",%s}", usage) < 0 ||
        asprintf(&last, "data: {\"choices\":[],%s}\n\ndata: [DONE]\n\n", usage) < 0)
        die("no memory");
    server.head = (struct text){head, sizeof(head) - 1};
    server.chunk = event_of(server.chunk_bytes);
    server.last = as_chunk(last, "0\r\n\r\n");
    server.answer = with_body("application/json", json, strlen(json));
    server.nothing = with_body("text/plain", "ok", 2);
    size_t length = 0;
    const char *page = metrics_file ? (const char *)read_file(metrics_file, &length) : "";
    server.metrics = with_body("text/plain; version=0.0.4", page, length);
}

/* --- its peers --- */

static void unqueue(struct peer *peer) {
    if (!peer->queued)
        return;
    *(peer->previous ? &peer->previous->next : &server.first) = peer->next;
    *(peer->next ? &peer->next->previous : &server.latest) = peer->previous;
    peer->queued = false;
}

/* From the end: as the delay is the same for all, it hardly ever has to pass another. */
static void queue(struct peer *peer, int64_t due_ns) {
    struct peer *before = server.latest;
    while (before && before->due_ns > due_ns)
        before = before->previous;
    peer->due_ns = due_ns;
    peer->previous = before;
    peer->next = before ? before->next : server.first;
    *(before ? &before->next : &server.first) = peer;
    *(peer->next ? &peer->next->previous : &server.latest) = peer;
    peer->queued = true;
}

static void drop(struct peer *peer) {
    unqueue(peer);
    close(peer->fd);
    peer->fd = -1;
}

/* Writes what is pending and due. A peer that went is dropped. */
static void pump(struct peer *peer) {
    while (peer->fd >= 0 && (peer->pending.length || peer->owed)) {
        if (!peer->pending.length) {
            peer->owed--;
            peer->pending = peer->left == 1 ? server.last : server.chunk;
            peer->left--;
        }
        ssize_t put = send(peer->fd, peer->pending.bytes, peer->pending.length, MSG_NOSIGNAL);
        if (put < 0 && errno == EAGAIN)
            break;
        if (put < 0) {
            drop(peer);
            return;
        }
        peer->pending.bytes += put;
        peer->pending.length -= (size_t)put;
    }
    loop_watch(&server.loop, peer->fd, EPOLLIN | (peer->pending.length ? EPOLLOUT : 0), &peer->watched, peer);
}

/* The head and the first event in one write, as servers do; the rest when its time comes. */
static void start_stream(struct peer *peer) {
    static char *opening;
    if (!opening) {
        opening = must_alloc(server.head.length + server.chunk.length);
        memcpy(opening, server.head.bytes, server.head.length);
        memcpy(opening + server.head.length, server.chunk.bytes, server.chunk.length);
    }
    peer->pending = (struct text){opening, server.head.length + server.chunk.length};
    peer->left = server.chunks - 1;
    if (server.delay_ns)
        queue(peer, now_ns() + server.delay_ns);
    else
        peer->owed = peer->left;
}

static void answer(struct peer *peer) {
    if (peer->framing.is_get)
        peer->pending = strncmp(peer->framing.path, "/metrics", 8) == 0 ? server.metrics : server.nothing;
    else if (server.chunks)
        start_stream(peer);
    else
        peer->pending = server.answer;
    framing_reset(&peer->framing);
    pump(peer);
}

static void receive(struct peer *peer) {
    static char bytes[256 << 10];
    ssize_t got = recv(peer->fd, bytes, sizeof(bytes), 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0)
        framing_take(&peer->framing, bytes, (size_t)got);
    if (got <= 0 || peer->framing.state == IS_BROKEN)
        drop(peer);
    else if (peer->framing.state == IS_DONE)
        answer(peer); /* what would follow, pipelined, is nobody's habit */
}

static struct peer *peer_of(int fd, bool is_listener) {
    struct peer *peer = must_alloc(sizeof(*peer));
    peer->fd = fd;
    peer->is_listener = is_listener;
    loop_watch(&server.loop, fd, EPOLLIN, &peer->watched, peer);
    return peer;
}

static void accept_all(const struct peer *listener) {
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        link_no_delay(fd);
        peer_of(fd, false);
    }
}

static void handle(struct peer *peer, uint32_t events) {
    if (peer->is_listener) {
        accept_all(peer);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(peer);
    if (peer->fd >= 0 && events & EPOLLOUT)
        pump(peer);
    if (peer->fd < 0)
        free(peer);
}

static void serve_due(void) {
    int64_t now = now_ns();
    while (server.first && server.first->due_ns <= now) {
        struct peer *peer = server.first;
        unqueue(peer);
        peer->owed++;
        if (peer->left > peer->owed)
            queue(peer, peer->due_ns + server.delay_ns);
        pump(peer);
        if (peer->fd < 0)
            free(peer);
    }
}

/* --- the program --- */

static const struct option NAMES[] = {
    {"host", required_argument, NULL, 'h'},        {"port", required_argument, NULL, 'p'},
    {"ports", required_argument, NULL, 'n'},       {"chunks", required_argument, NULL, 'c'},
    {"chunk-bytes", required_argument, NULL, 'b'}, {"delay-ms", required_argument, NULL, 'd'},
    {"metrics", required_argument, NULL, 'm'},     {NULL, 0, NULL, 0},
};

static const char *read_options(int argc, char **argv) {
    const char *metrics = NULL;
    int option, index = 0;
    while ((option = getopt_long(argc, argv, "", NAMES, &index)) != -1) {
        const char *name = option == '?' ? "" : NAMES[index].name;
        switch (option) {
        case 'h': server.host = optarg; break;
        case 'p': server.port = (int)number_of(name, optarg); break;
        case 'n': server.ports = (int)number_of(name, optarg); break;
        case 'c': server.chunks = (uint32_t)number_of(name, optarg); break;
        case 'b': server.chunk_bytes = (uint32_t)number_of(name, optarg); break;
        case 'd': server.delay_ns = (int64_t)(number_of(name, optarg) * 1e6); break;
        case 'm': metrics = optarg; break;
        default:
            die("upstream [--host IP] [--port P, the first; 0: free ones] [--ports N] [--chunks N, 2 or more, streamed]\n"
                "  [--chunk-bytes B] [--delay-ms D, between chunks] [--metrics FILE]");
        }
    }
    if (server.chunks == 1)
        die("--chunks: 0, or 2 and more");
    return metrics;
}

int main(int argc, char **argv) {
    prepare_answers(read_options(argc, argv));
    loop_init(&server.loop);
    for (int index = 0; index < server.ports; index++) {
        int bound;
        peer_of(listen_on(server.host, server.port ? server.port + index : 0, &bound), true);
        printf("listening on %s:%d\n", server.host, bound);
    }
    fflush(stdout);
    while (!stopped) {
        int count = loop_wait(&server.loop, server.first ? server.first->due_ns : NEVER);
        for (int at = 0; at < count; at++)
            handle(server.loop.events[at].data.ptr, server.loop.events[at].events);
        serve_due();
    }
    return 0;
}
