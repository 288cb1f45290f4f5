#include "loop.h"

#include "common.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>

volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

void loop_init(struct loop *loop) {
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (loop->epoll < 0 || loop->timer < 0)
        die("epoll or timerfd: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->timer, &event);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    raise_file_limit();
}

void loop_watch(struct loop *loop, int fd, uint32_t events, uint32_t *watched, void *owner) {
    if (*watched == events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = owner};
    epoll_ctl(loop->epoll, *watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
    *watched = events;
}

static void arm(struct loop *loop, int64_t due_ns) {
    if (due_ns == loop->armed_ns)
        return;
    loop->armed_ns = due_ns;
    struct itimerspec when = {.it_value = {.tv_sec = due_ns / SECOND, .tv_nsec = due_ns % SECOND}};
    timerfd_settime(loop->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

int loop_wait(struct loop *loop, int64_t until_ns) {
    arm(loop, until_ns);
    int count = epoll_wait(loop->epoll, loop->events, LOOP_EVENTS, -1);
    for (int at = 0; at < count; at++) {
        if (loop->events[at].data.ptr)
            continue;
        loop->armed_ns = 0; /* the timer: setting it anew clears it */
        loop->events[at--] = loop->events[--count];
    }
    return count < 0 ? 0 : count;
}
