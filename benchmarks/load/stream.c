/* One ext_proc stream: walks its script, counts replies by their gRPC prefix, and ends well or as one kind of error. */
#include "extproc.h"

#include <stdlib.h>
#include <string.h>

static const char AUTHORITY[] = "picker", PATH[] = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

#define IMMEDIATE_TAG (7 << 3 | 2) /* ProcessingResponse.immediate_response */
#define HEADER(name, value) {(uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1, 0}

static struct stream *stream_take(struct connection *connection) {
    struct load *load = connection->load;
    struct stream *stream = load->spare;
    if (stream)
        load->spare = stream->next;
    else
        stream = must_alloc(sizeof(*stream));
    memset(stream, 0, sizeof(*stream));
    stream->connection = connection;
    stream->next = load->open;
    stream->previous = &load->open;
    if (load->open)
        load->open->previous = &stream->next;
    load->open = stream;
    load->active++;
    connection->active++;
    return stream;
}

static void stream_release(struct stream *stream) {
    struct load *load = stream->connection->load;
    nghttp2_session_set_stream_user_data(stream->connection->session, stream->id, NULL);
    stream->connection->active--;
    load->active--;
    load->held -= stream->held;
    *stream->previous = stream->next;
    if (stream->next)
        stream->next->previous = stream->previous;
    stream->next = load->spare;
    load->spare = stream;
}

void stream_fail(struct stream *stream, enum error_kind kind) {
    struct load *load = stream->connection->load;
    load->errors[kind]++;
    load->ended_ns = now_ns();
    stream_release(stream);
}

static void stream_succeed(struct stream *stream) {
    struct load *load = stream->connection->load;
    load->done++;
    load->ended_ns = now_ns();
    histogram_add(&load->whole, load->ended_ns - stream->started_ns);
    stream_release(stream);
}

static ssize_t read_source(nghttp2_session *session, int32_t id, uint8_t *into, size_t size, uint32_t *flags,
                           nghttp2_data_source *source, void *user) {
    (void)source, (void)user;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    return stream ? stream_read(stream, into, size, flags) : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

void stream_start(struct connection *connection, int64_t intended_ns) {
    static const nghttp2_nv plain[] = {
        HEADER(":method", "POST"),         HEADER(":scheme", "http"), HEADER(":path", PATH),
        HEADER(":authority", AUTHORITY),   HEADER("te", "trailers"),  HEADER("content-type", "application/grpc"),
        HEADER("x-forwarded-proto", "http"),
    };
    struct load *load = connection->load;
    struct stream *stream = stream_take(connection);
    stream->step = load->scripts.list[load->started++ % load->scripts.count].steps;
    stream->started_ns = intended_ns;
    stream->first_part = true;
    stream->status = -1;
    stream->fault = ERROR_KINDS;
    nghttp2_data_provider body = {.read_callback = read_source};
    stream->id = nghttp2_submit_request(connection->session, NULL, plain, COUNT_OF(plain), &body, stream);
    histogram_add(&load->lag, now_ns() - intended_ns);
    if (stream->id < 0)
        stream_fail(stream, ERROR_UNSENT);
}

/* All replies of the first EXPECT are there: the request may go on to its model server. */
static void note_request(struct stream *stream) {
    struct load *load = stream->connection->load;
    if (stream->first_part)
        histogram_add(&load->request, stream->connection->read_ns - stream->started_ns);
    stream->first_part = false;
}

static void end_by_reset(struct stream *stream) {
    struct connection *connection = stream->connection;
    uint32_t code = connection->load->options.reset_code;
    nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, stream->id, code);
    if (stream->replies)
        stream_fail(stream, ERROR_SURPLUS);
    else
        stream_succeed(stream);
}

static bool is_held(struct stream *stream) {
    struct load *load = stream->connection->load;
    if (load->options.hold_ns == 0 || load->released)
        return false;
    load->held += !stream->held;
    stream->held = true;
    return true;
}

static void resume(struct stream *stream) {
    if (stream->deferred)
        nghttp2_session_resume_data(stream->connection->session, stream->id);
    stream->deferred = false;
}

/* Takes every step that can be taken now. The stream may be gone afterwards. */
void stream_advance(struct stream *stream) {
    for (;; stream->step++) {
        switch (stream->step->kind) {
        case STEP_SEND:
        case STEP_CLOSE:
            resume(stream); /* stream_read does it */
            return;
        case STEP_EXPECT:
            if (stream->replies < stream->step->count)
                return;
            stream->replies -= stream->step->count;
            note_request(stream);
            break;
        case STEP_HOLD:
            if (is_held(stream))
                return;
            break;
        case STEP_RESET:
            end_by_reset(stream);
            return;
        }
    }
}

/* Frames end where messages end, as a gateway's do. */
ssize_t stream_read(struct stream *stream, uint8_t *into, size_t size, uint32_t *flags) {
    const struct step *step = stream->step;
    if (step->kind == STEP_CLOSE) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        return 0;
    }
    if (step->kind != STEP_SEND) {
        stream->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    size_t left = step->length - stream->offset, taken = left < size ? left : size;
    memcpy(into, step->data + stream->offset, taken);
    stream->offset += taken;
    if (taken == left) {
        stream->offset = 0;
        stream->step++;
        if (stream->first_part)
            stream->sent_ns = now_ns();
        if (stream->step->kind != STEP_SEND && stream->step->kind != STEP_CLOSE)
            stream_advance(stream);
    }
    return (ssize_t)taken;
}

static void count_reply(struct stream *stream) {
    struct load *load = stream->connection->load;
    stream->replies++;
    load->replies++;
    if (!stream->was_answered)
        histogram_add(&load->pick, stream->connection->read_ns - stream->sent_ns);
    stream->was_answered = true;
}

/* The length of a message once its prefix is whole. */
static void prefix_done(struct stream *stream) {
    const uint8_t *prefix = stream->prefix;
    if (prefix[0] != 0)
        stream->fault = ERROR_FRAMING; /* compressed, which nobody asked for */
    stream->fresh = true;
    stream->message_left = (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 | (uint32_t)prefix[3] << 8 | prefix[4];
}

/* `first`: of the bytes at hand; that of a message is the tag of its first member. */
static void note_content(struct stream *stream, uint8_t first) {
    if (stream->fresh && first == IMMEDIATE_TAG)
        stream->fault = ERROR_ANSWERED;
    stream->fresh = false;
}

void stream_receive(struct stream *stream, const uint8_t *data, size_t size) {
    const uint8_t *end = data + size;
    while (data < end) {
        if (stream->prefix_have < sizeof(stream->prefix)) {
            stream->prefix[stream->prefix_have++] = *data++;
            if (stream->prefix_have < sizeof(stream->prefix))
                continue;
            prefix_done(stream);
        } else {
            note_content(stream, *data);
            size_t have = (size_t)(end - data), taken = have < stream->message_left ? have : stream->message_left;
            stream->message_left -= (uint32_t)taken;
            data += taken;
        }
        if (stream->message_left == 0) {
            stream->prefix_have = 0;
            count_reply(stream);
        }
    }
    stream_advance(stream);
}

static enum error_kind fault_of(const struct stream *stream, uint32_t error_code) {
    const struct connection *connection = stream->connection;
    if (stream->fault != ERROR_KINDS)
        return stream->fault;
    if (stream->status > 0)
        return ERROR_STATUS + (stream->status < 17 ? stream->status : 2);
    if (connection->draining && stream->id > connection->last_id)
        return ERROR_GOAWAY;
    if (error_code == NGHTTP2_REFUSED_STREAM)
        return ERROR_REFUSED;
    if (error_code != NGHTTP2_NO_ERROR)
        return ERROR_RESET;
    if (stream->prefix_have)
        return ERROR_FRAMING;
    if (stream->status < 0 || stream->step->kind != STEP_CLOSE)
        return ERROR_EARLY;
    return stream->replies ? ERROR_SURPLUS : ERROR_KINDS;
}

void stream_ended(struct stream *stream) {
    nghttp2_session *session = stream->connection->session;
    int32_t id = stream->id;
    stream_closed(stream, NGHTTP2_NO_ERROR);
    if (nghttp2_session_get_stream_local_close(session, id) == 0)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
}

void stream_closed(struct stream *stream, uint32_t error_code) {
    enum error_kind fault = fault_of(stream, error_code);
    if (fault == ERROR_KINDS)
        stream_succeed(stream);
    else
        stream_fail(stream, fault);
}
