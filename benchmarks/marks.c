/* What tells callgrind where a case begins and ends; called through ctypes, nothing at all outside of valgrind. */
#include <valgrind/callgrind.h>

void begin(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void end(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}

int is_counted(void) { return RUNNING_ON_VALGRIND != 0; }
