/* A non-blocking TCP connection, plain or TLS (ALPN h2, certificate unchecked: the peer is ours). */
#ifndef LOAD_LINK_H
#define LOAD_LINK_H

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <sys/types.h>

enum { LINK_WAIT = -1, LINK_LOST = -2 };

struct link {
    int fd;
    SSL *tls;           /* NULL: plain */
    bool reads_to_write; /* TLS wants to read before it can write on */
};

void address_of(const char *target, struct sockaddr_in *address); /* "127.0.0.1:9002"; die if it is none */
SSL_CTX *tls_client(void);

/* Starts connecting. `receive_bytes`: SO_RCVBUF, 0 leaves it. False when no socket is to be had. */
bool link_open(struct link *link, const struct sockaddr_in *address, SSL_CTX *tls, int receive_bytes);
/* Bytes moved, 0 (read only) at the peer's end, LINK_WAIT, or LINK_LOST. */
ssize_t link_read(struct link *link, void *buffer, size_t size);
ssize_t link_write(struct link *link, const void *bytes, size_t size);
void link_close(struct link *link);

void link_no_delay(int fd); /* TCP_NODELAY */
int listen_on(const char *host, int port, int *bound); /* a listening non-blocking socket; die if it cannot be */

#endif
