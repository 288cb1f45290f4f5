#define _GNU_SOURCE
#include "link.h"

#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void address_of(const char *target, struct sockaddr_in *address) {
    const char *colon = strrchr(target, ':');
    char host[64] = "";
    if (colon && (size_t)(colon - target) < sizeof(host))
        memcpy(host, target, (size_t)(colon - target));
    memset(address, 0, sizeof(*address));
    address->sin_family = AF_INET;
    address->sin_port = htons(colon ? (uint16_t)atoi(colon + 1) : 0);
    if (!address->sin_port || inet_pton(AF_INET, host, &address->sin_addr) != 1)
        die("'%s' is no address like 127.0.0.1:9002", target);
}

SSL_CTX *tls_client(void) {
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
    if (!tls || SSL_CTX_set_alpn_protos(tls, (const unsigned char *)"\x02h2", 3))
        die("TLS could not be set up");
    // What Envoy's BoringSSL asks for first where AES is done in hardware.
    if (!SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"))
        die("TLS could not be set up");
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return tls;
}

static void set(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof(value));
}

void link_no_delay(int fd) {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

bool link_open(struct link *link, const struct sockaddr_in *address, SSL_CTX *tls, int receive_bytes) {
    memset(link, 0, sizeof(*link));
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (link->fd < 0)
        return false;
    link_no_delay(link->fd);
    if (receive_bytes)
        set(link->fd, SOL_SOCKET, SO_RCVBUF, receive_bytes);
    if (connect(link->fd, (const struct sockaddr *)address, sizeof(*address)) && errno != EINPROGRESS) {
        link_close(link);
        return false;
    }
    if (!tls)
        return true;
    link->tls = SSL_new(tls);
    SSL_set_fd(link->tls, link->fd);
    SSL_set_connect_state(link->tls); /* the handshake happens in the first reads and writes */
    return true;
}

static ssize_t tls_outcome(struct link *link, int result) {
    int error = SSL_get_error(link->tls, result);
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? LINK_WAIT : LINK_LOST;
}

static ssize_t tls_read(struct link *link, void *buffer, size_t size) {
    size_t have = 0;
    while (have < size) { /* a record is 16 KiB: one call would see no more */
        int got = SSL_read(link->tls, (char *)buffer + have, (int)(size - have));
        if (got <= 0)
            return have ? (ssize_t)have : tls_outcome(link, got);
        have += (size_t)got;
    }
    return (ssize_t)have;
}

ssize_t link_read(struct link *link, void *buffer, size_t size) {
    if (link->tls)
        return tls_read(link, buffer, size);
    ssize_t got = recv(link->fd, buffer, size, 0);
    if (got >= 0)
        return got;
    return errno == EAGAIN || errno == EINTR ? LINK_WAIT : LINK_LOST;
}

ssize_t link_write(struct link *link, const void *bytes, size_t size) {
    if (link->tls) {
        int put = SSL_write(link->tls, bytes, (int)size);
        link->reads_to_write = put <= 0 && SSL_get_error(link->tls, put) == SSL_ERROR_WANT_READ;
        return put > 0 ? put : tls_outcome(link, put) == LINK_WAIT ? LINK_WAIT : LINK_LOST;
    }
    ssize_t put = send(link->fd, bytes, size, MSG_NOSIGNAL);
    if (put >= 0)
        return put;
    return errno == EAGAIN || errno == EINTR ? LINK_WAIT : LINK_LOST;
}

void link_close(struct link *link) {
    if (link->tls)
        SSL_free(link->tls);
    if (link->fd >= 0)
        close(link->fd);
    link->tls = NULL;
    link->fd = -1;
}

int listen_on(const char *host, int port, int *bound) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        die("'%s' is no IPv4 address", host);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    socklen_t size = sizeof(address);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096))
        die("cannot listen on %s:%d: %s", host, port, strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &size);
    *bound = ntohs(address.sin_port);
    return fd;
}
