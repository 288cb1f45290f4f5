"""TLS versions and cipher suites by the names Kubernetes components take on their command lines (those of Go)."""

import ssl

from picker.config.suggest import one_of, quoted

__all__ = ["cipher_list", "lowest_version"]

_VERSIONS = {"VersionTLS12": ssl.TLSVersion.TLSv1_2, "VersionTLS13": ssl.TLSVersion.TLSv1_3}
_TOO_OLD = frozenset(["VersionTLS10", "VersionTLS11"])

# RFC 9113, appendix A, leaves HTTP/2 over TLS 1.2 these: ephemeral keys and authenticated encryption.
_SUITES = {
    f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-{theirs}"
    for key in ("ECDSA", "RSA")
    for name, theirs in {
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
        "CHACHA20_POLY1305": "CHACHA20-POLY1305",
    }.items()
}
_SUITES_OF_13 = frozenset(["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])


def lowest_version(name: str) -> ssl.TLSVersion:
    """The version called `name`; empty: 1.2. Raises ValueError for an unknown one, and for one HTTP/2 forbids."""
    if not name:
        return ssl.TLSVersion.TLSv1_2
    if name in _TOO_OLD:
        raise ValueError(f"HTTP/2 forbids {name} (RFC 9113, 9.2); use VersionTLS12 or VersionTLS13")
    if name not in _VERSIONS:
        raise ValueError(f"{quoted(name)} is no TLS version; {one_of(name, _VERSIONS)}")
    return _VERSIONS[name]


def cipher_list(names: str, lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> str:
    """What OpenSSL calls the suites of TLS 1.2 among the comma-separated `names`; empty: its own choice.

    Those of TLS 1.3 are all on, here as in Go. Raises ValueError for a suite that is unknown or that HTTP/2 forbids,
    and where 1.2 is allowed but no suite of it.
    """
    suites = [name for word in names.split(",") if (name := word.strip())]
    for name in suites:
        if name not in _SUITES and name not in _SUITES_OF_13:
            allowed = sorted([*_SUITES, *_SUITES_OF_13])
            raise ValueError(
                f"{quoted(name)} is unknown or forbidden by HTTP/2 (RFC 9113, A); use {', '.join(allowed)}"
            )
    of_12 = [_SUITES[name] for name in suites if name in _SUITES]
    if suites and not of_12 and lowest < ssl.TLSVersion.TLSv1_3:
        raise ValueError("no suite of TLS 1.2 is named; name one, or pass --tls-min-version=VersionTLS13")
    return ":".join(of_12)
