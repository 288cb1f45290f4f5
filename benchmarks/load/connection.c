/* One HTTP/2 connection of the load client: nghttp2's callbacks, and bytes between it and the socket. */
#include "extproc.h"

#include <stdlib.h>
#include <string.h>

#define MIB (1 << 20)
#define STREAM_WINDOW (16 * MIB)     /* as Envoy's */
#define CONNECTION_WINDOW (24 * MIB)
#define OUT_SIZE (256 << 10)
#define IN_SIZE (256 << 10)
#define FRAME_MOST (17 << 10) /* what mem_send gives at once: a DATA frame of 16 KiB and its head */
#define DEAF_RECEIVE_BYTES 4096

static uint8_t in[IN_SIZE];

/* --- what nghttp2 tells --- */

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *user) {
    (void)flags, (void)user, (void)value_length; /* nghttp2 ends both texts with a zero */
    struct stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!stream)
        return 0;
    if (name_length == 11 && memcmp(name, "grpc-status", 11) == 0)
        stream->status = atoi((const char *)value);
    if (name_length == 7 && memcmp(name, ":status", 7) == 0 && strcmp((const char *)value, "200") != 0)
        stream->fault = ERROR_HTTP;
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size, void *user) {
    (void)flags, (void)user;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream)
        stream_receive(stream, data, size);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct connection *connection = user;
    bool carries = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
    if (carries && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
        struct stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (stream)
            stream_ended(stream);
    }
    if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK))
        connection->ready = true;
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        connection->load->goaways += !connection->draining; /* a graceful end sends two */
        connection->draining = true;
        connection->last_id = frame->goaway.last_stream_id;
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error_code, void *user) {
    (void)user;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream)
        stream_closed(stream, error_code);
    return 0;
}

/* A request that nghttp2 could not send, since GOAWAY had come: it never was a stream, so it has no user data. */
static int on_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
    struct connection *connection = user;
    (void)session, (void)error;
    if (frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    for (struct stream *stream = connection->load->open; stream; stream = stream->next) {
        if (stream->connection != connection || stream->id != frame->hd.stream_id)
            continue;
        stream_fail(stream, ERROR_GOAWAY);
        break;
    }
    return 0;
}

void connections_prepare(struct load *load) {
    if (nghttp2_session_callbacks_new(&load->callbacks))
        die("no memory");
    nghttp2_session_callbacks_set_on_header_callback(load->callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(load->callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(load->callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(load->callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(load->callbacks, on_not_sent);
}

/* --- its life --- */

static void watch(struct connection *connection, uint32_t events) {
    loop_watch(&connection->load->loop, connection->link.fd, events, &connection->watched, connection);
}

static void submit_preface(struct connection *connection) {
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1024},
    };
    nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, COUNT_OF(settings));
    nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW);
}

void connection_open(struct load *load) {
    struct connection *connection = must_alloc(sizeof(*connection));
    load->connections = must_grow(load->connections, (load->connection_count + 1) * sizeof(connection));
    load->connections[load->connection_count++] = connection;
    connection->load = load;
    connection->out = must_alloc(OUT_SIZE);
    if (nghttp2_session_client_new(&connection->session, load->callbacks, connection))
        die("no memory");
    submit_preface(connection);
    int receive_bytes = load->options.never_read ? DEAF_RECEIVE_BYTES : 0;
    if (!link_open(&connection->link, &load->address, load->tls, receive_bytes)) {
        load->errors[ERROR_CONNECT]++;
        connection->dead = true;
        return;
    }
    watch(connection, EPOLLIN | EPOLLOUT);
}

bool connection_usable(const struct connection *connection) {
    return connection->ready && !connection->draining && !connection->dead;
}

/* Every open stream of it is lost, unless the server had said that it would not serve it. */
static void connection_die(struct connection *connection) {
    struct load *load = connection->load;
    connection->dead = true;
    load->lost_connections += !connection->draining;
    if (!connection->ready)
        load->errors[ERROR_CONNECT]++;
    for (struct stream *stream = load->open, *next; stream; stream = next) {
        next = stream->next;
        if (stream->connection != connection)
            continue;
        bool refused = connection->draining && stream->id > connection->last_id;
        stream_fail(stream, refused ? ERROR_GOAWAY : ERROR_LOST);
    }
    link_close(&connection->link);
}

/* --- bytes --- */

static void fill_out(struct connection *connection) {
    const uint8_t *bytes;
    while (OUT_SIZE - connection->out_to >= FRAME_MOST) {
        ssize_t size = nghttp2_session_mem_send(connection->session, &bytes);
        if (size <= 0)
            return;
        memcpy(connection->out + connection->out_to, bytes, (size_t)size);
        connection->out_to += (size_t)size;
    }
}

void connection_flush(struct connection *connection) {
    struct load *load = connection->load;
    while (!connection->dead) {
        if (connection->out_from == connection->out_to) {
            connection->out_from = connection->out_to = 0;
            fill_out(connection);
        }
        if (connection->out_to == 0)
            break;
        ssize_t put = link_write(&connection->link, connection->out + connection->out_from,
                                 connection->out_to - connection->out_from);
        if (put == LINK_LOST)
            connection_die(connection);
        if (put < 0)
            break;
        connection->out_from += (size_t)put;
        load->bytes_out += (uint64_t)put;
    }
    if (connection->dead)
        return;
    bool deaf = load->options.never_read && connection->ready;
    bool waits = connection->out_to > 0 && !connection->link.reads_to_write;
    watch(connection, (deaf ? EPOLLRDHUP : EPOLLIN) | (waits ? EPOLLOUT : 0));
}

static void connection_read(struct connection *connection) {
    struct load *load = connection->load;
    for (ssize_t got = IN_SIZE; got == IN_SIZE && !connection->dead;) {
        got = link_read(&connection->link, in, sizeof(in));
        if (got == LINK_WAIT)
            return;
        if (got <= 0) {
            connection_die(connection);
            return;
        }
        load->bytes_in += (uint64_t)got;
        connection->read_ns = now_ns();
        if (nghttp2_session_mem_recv(connection->session, in, (size_t)got) < 0)
            connection_die(connection);
    }
}

/* A server that has said GOAWAY and served what was open is left. */
static void leave_if_drained(struct connection *connection) {
    if (!connection->dead && connection->draining && connection->active == 0) {
        connection->dead = true;
        link_close(&connection->link);
    }
}

void connection_event(struct connection *connection, uint32_t events) {
    if (connection->dead)
        return;
    bool deaf = connection->load->options.never_read && connection->ready;
    if (events & EPOLLERR || (deaf && events & (EPOLLHUP | EPOLLRDHUP))) {
        connection_die(connection);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP) && !deaf)
        connection_read(connection);
    connection_flush(connection);
    leave_if_drained(connection);
}
