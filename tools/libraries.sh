#!/bin/sh
# Are the C libraries here that picker is compiled against? Silent if they are.
#
#   sh tools/libraries.sh [--install] nghttp2|openssl ...
#
# For one that is missing: with --install it is installed where that needs no question (Debian and Ubuntu, as root or by
# a sudo that asks for no password); otherwise, or if that does not help, the line that installs it, and exit status 1.
# Headers and libraries that lie elsewhere are found by CPATH and LIBRARY_PATH; the compiler is $CC, else cc or gcc.
set -eu

cc=${CC:-$(command -v cc || command -v gcc || echo cc)}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { echo "picker: $*" >&2; }

# Sets what is known of a library: how it is called, and a program that needs it.
describe() {
    case $1 in
    nghttp2)
        name="libnghttp2 1.52 or newer, with nghttp2_option_set_stream_reset_rate_limit"
        deb=libnghttp2-dev rpm=libnghttp2-devel apk=nghttp2-dev brew=libnghttp2 flags=-lnghttp2
        program='#include <nghttp2/nghttp2.h>
#if NGHTTP2_VERSION_NUM < 0x013400
#error it is older
#endif
int main(void) { nghttp2_option_set_stream_reset_rate_limit(0, 1, 1); return 0; }'
        ;;
    openssl)
        name=OpenSSL
        deb=libssl-dev rpm=openssl-devel apk=openssl-dev brew=openssl flags='-lssl -lcrypto'
        program='#include <openssl/ssl.h>
int main(void) { return TLS_method() == 0; }'
        ;;
    *)
        say "tools/libraries.sh knows no $1"
        exit 2
        ;;
    esac
}

# Linked too, so that a header without its library is found out.
compiles() {
    echo "$program" >"$scratch/probe.c"
    # shellcheck disable=SC2086  # words on purpose
    $cc -Werror=implicit-function-declaration -o "$scratch/probe" "$scratch/probe.c" $flags 2>"$scratch/errors"
}

installed_by_apt() {
    [ -e /etc/debian_version ] && command -v apt-get >/dev/null || return 1
    root=
    [ "$(id -u)" = 0 ] || { sudo -n true 2>/dev/null && root='sudo -n'; } || return 1
    say "installing $deb by apt-get: the core is compiled against it"
    get="$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300"
    if ! { $get update && $get install -y --no-install-recommends "$deb"; } >"$scratch/apt" 2>&1; then
        cat "$scratch/apt" >&2
        return 1
    fi
}

# The line for this machine; all of them where no package manager is known.
line() {
    apt="apt-get install $deb" dnf="dnf install $rpm"
    brew="brew install $brew; export CPATH=\$(brew --prefix)/include LIBRARY_PATH=\$(brew --prefix)/lib"
    if command -v apt-get >/dev/null; then echo "$apt"
    elif command -v dnf >/dev/null; then echo "$dnf"
    elif command -v apk >/dev/null; then echo "apk add $apk"
    elif command -v brew >/dev/null; then echo "$brew"
    else echo "$apt | $dnf | apk add $apk | $brew"; fi
}

install=
[ "${1:-}" != --install ] || { install=1; shift; }

command -v "${cc%% *}" >/dev/null || { say "a C compiler is needed, such as gcc; $cc is not there"; exit 1; }
for library in "$@"; do
    describe "$library"
    compiles && continue
    [ -n "$install" ] && installed_by_apt && compiles && continue
    why=$(sed -n 's/.*error: //p' "$scratch/errors" | head -n 1)
    say "compiling needs $name (${why:-it cannot be linked}); install it: $(line)"
    exit 1
done
