/* One epoll with one precise timer (epoll's own timeout counts in milliseconds). */
#ifndef LOAD_LOOP_H
#define LOAD_LOOP_H

#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>

#define LOOP_EVENTS 256

struct loop {
    int epoll, timer;
    int64_t armed_ns; /* what the timer is set to */
    struct epoll_event events[LOOP_EVENTS];
};

extern volatile sig_atomic_t stopped; /* SIGTERM or SIGINT came */

void loop_init(struct loop *loop); /* signals too: SIGPIPE is ignored */
/* Asks for `events` of `fd`; `*watched` is what was asked for before (0: nothing). */
void loop_watch(struct loop *loop, int fd, uint32_t events, uint32_t *watched, void *owner);
/* Waits for something, but not beyond `until_ns` (NEVER: no limit). How many of `events` are set; none of the timer. */
int loop_wait(struct loop *loop, int64_t until_ns);

#endif
