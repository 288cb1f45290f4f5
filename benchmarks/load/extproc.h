/* The ext_proc load client: streams over connections over one epoll loop, one thread. */
#ifndef LOAD_EXTPROC_H
#define LOAD_EXTPROC_H

#include "common.h"
#include "link.h"
#include "loop.h"
#include "script.h"

#include <nghttp2/nghttp2.h>

enum error_kind {
    ERROR_CONNECT,   /* a connection could not be made */
    ERROR_LOST,      /* the connection went while the stream was open */
    ERROR_GOAWAY,    /* the stream was above the last one that GOAWAY promised to serve */
    ERROR_REFUSED,   /* RST_STREAM with REFUSED_STREAM */
    ERROR_RESET,     /* RST_STREAM with another error */
    ERROR_HTTP,      /* :status is not 200 */
    ERROR_EARLY,     /* an end with grpc-status 0, or none, before all replies were there */
    ERROR_SURPLUS,   /* more replies than the script expects */
    ERROR_FRAMING,   /* compressed or cut gRPC messages */
    ERROR_UNSENT,    /* open loop: no connection was left to start the stream on */
    ERROR_STUCK,     /* still open when the time for stragglers was over */
    ERROR_ANSWERED,  /* an ImmediateResponse: the server answered the request itself */
    ERROR_STATUS,    /* + grpc-status 1 to 16 */
    ERROR_KINDS = ERROR_STATUS + 17
};

struct options {
    const char *target, *script;
    uint32_t connections, streams; /* streams: in flight per connection, closed loop */
    double rate;                   /* streams per second, open loop; 0: closed loop */
    uint64_t most;                 /* open at once, open loop; 0: no limit */
    uint64_t count;                /* streams in all; 0: as many as `duration` allows */
    int64_t duration_ns, hold_ns, grace_ns;
    double pings; /* per second, on each connection */
    bool tls, never_read, reconnect;
    uint32_t reset_code;
};

struct load;

struct connection {
    struct load *load;
    struct link link;
    nghttp2_session *session;
    uint32_t active;  /* streams open */
    bool ready;       /* the server's SETTINGS are here */
    bool draining;    /* GOAWAY came */
    bool dead;
    bool replaced;    /* another was opened instead */
    uint32_t watched; /* epoll events asked for */
    int32_t last_id;  /* of GOAWAY */
    int64_t read_ns;  /* when the bytes being handled were read */
    uint8_t *out;
    size_t out_from, out_to;
};

struct stream {
    struct connection *connection;
    struct stream *next, **previous; /* open streams */
    const struct step *step;
    size_t offset; /* in the message being sent */
    int32_t id;
    uint32_t replies; /* received and not yet expected */
    bool deferred, first_part, held, was_answered;
    bool fresh; /* the next byte is a message's first */
    int status;                       /* grpc-status; -1: none yet */
    enum error_kind fault;            /* found before the end; ERROR_KINDS: none */
    int64_t started_ns, sent_ns;      /* sent: the last message before the first EXPECT */
    uint8_t prefix[5];
    uint32_t prefix_have, message_left;
};

struct load {
    struct options options;
    struct scripts scripts;
    struct connection **connections;
    uint32_t connection_count;
    struct sockaddr_in address;
    struct stream *open;      /* list of all open streams */
    struct stream *spare;     /* freed ones */
    nghttp2_session_callbacks *callbacks;
    SSL_CTX *tls;
    struct loop loop;
    bool released; /* the hold is over */
    int64_t begun_ns, ended_ns;
    int64_t full_ns, hold_until_ns, ping_ns, reconnect_ns, limit_ns; /* full: when the last stream was started */
    uint64_t started, done, replies, goaways, active, held;
    uint64_t bytes_out, bytes_in, lost_connections;
    uint64_t errors[ERROR_KINDS];
    struct histogram pick, request, whole, lag;
};

/* connection.c */
void connections_prepare(struct load *load);
void connection_open(struct load *load);
void connection_event(struct connection *connection, uint32_t events);
void connection_flush(struct connection *connection);
bool connection_usable(const struct connection *connection);

/* stream.c */
void stream_start(struct connection *connection, int64_t intended_ns);
void stream_advance(struct stream *stream);
ssize_t stream_read(struct stream *stream, uint8_t *into, size_t size, uint32_t *flags); /* nghttp2's data source */
void stream_receive(struct stream *stream, const uint8_t *data, size_t size);
void stream_ended(struct stream *stream); /* by the server's last frame; our side may still be open */
void stream_closed(struct stream *stream, uint32_t error_code); /* by the server, or with the connection */
void stream_fail(struct stream *stream, enum error_kind kind);

#endif
