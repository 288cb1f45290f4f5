#!/bin/sh
# Is there a valgrind that can count instructions (`make bench-gate`), with its headers? Silent if there is.
#
#   sh tools/valgrind.sh [--install]
#
# If there is none: with --install it is installed where that needs no question (Debian and Ubuntu, as root or by a sudo
# that asks for no password); otherwise, or if that does not help, what to do, and exit status 1.
set -eu

say() { echo "picker: $*" >&2; }
there() {
    command -v valgrind >/dev/null &&
        echo '#include <valgrind/callgrind.h>' | "${CC:-cc}" -E -x c - >/dev/null 2>&1
}

installed_by_apt() {
    [ -e /etc/debian_version ] && command -v apt-get >/dev/null || return 1
    root=
    [ "$(id -u)" = 0 ] || { sudo -n true 2>/dev/null && root='sudo -n'; } || return 1
    say "installing valgrind by apt-get: it counts the core's instructions"
    get="$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300"
    $get update >/dev/null && $get install -y --no-install-recommends valgrind >/dev/null
}

there && exit 0
[ "${1:-}" = --install ] && installed_by_apt && there && exit 0
say "counting instructions needs valgrind and its headers: apt-get install valgrind (or valgrind-devel elsewhere)"
exit 1
