#!/bin/sh
# Is there a Redis (or Valkey) server that the tests can start? Silent if there is.
#
#   sh tools/redis.sh [--install]
#
# If there is none: with --install it is installed where that needs no question (Debian and Ubuntu, as root or by a sudo
# that asks for no password); otherwise, or if that does not help, what to do, and exit status 1.
set -eu

say() { echo "picker: $*" >&2; }
there() { command -v redis-server >/dev/null || command -v valkey-server >/dev/null; }

installed_by_apt() {
    [ -e /etc/debian_version ] && command -v apt-get >/dev/null || return 1
    root=
    [ "$(id -u)" = 0 ] || { sudo -n true 2>/dev/null && root='sudo -n'; } || return 1
    say "installing redis-server by apt-get: tests of shared rate limits start one of their own"
    # It is not to run by itself: what policy-rc.d forbids, no package starts.
    get="$root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=300"
    $get update >/dev/null && $get install -y --no-install-recommends redis-server >/dev/null
}

there && exit 0
[ "${1:-}" = --install ] && installed_by_apt && there && exit 0
say "the tests of rate limits in a store need redis-server or valkey-server: apt-get install redis-server"
exit 1
