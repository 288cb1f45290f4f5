"""TLS versions and suites by name."""

import ssl

import pytest

from picker.config.tls import cipher_list, lowest_version

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(("name", "version"), [("", V12), ("VersionTLS12", V12), ("VersionTLS13", V13)])
def test_versions(name: str, version: ssl.TLSVersion) -> None:
    assert lowest_version(name) == version


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("VersionTLS10", "HTTP/2 forbids VersionTLS10 (RFC 9113, 9.2); use VersionTLS12 or VersionTLS13"),
        ("VersionTLS11", "HTTP/2 forbids VersionTLS11 (RFC 9113, 9.2); use VersionTLS12 or VersionTLS13"),
        ("VersionTLS14", '"VersionTLS14" is no TLS version; did you mean "VersionTLS13"?'),
        ("1.2", '"1.2" is no TLS version; use one of: VersionTLS12, VersionTLS13'),
    ],
)
def test_versions_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        lowest_version(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("names", "suites"),
    [
        ("", ""),
        (" , ", ""),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
        (
            "TLS_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-AES256-GCM-SHA384",
        ),
    ],
)
def test_suites(names: str, suites: str) -> None:
    assert cipher_list(names) == suites
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(suites or "DEFAULT")  # as OpenSSL knows them


def test_suites_of_13_alone() -> None:
    assert cipher_list("TLS_AES_256_GCM_SHA384", V13) == ""
    with pytest.raises(ValueError, match=r"no suite of TLS 1\.2 is named; .* --tls-min-version=VersionTLS13"):
        cipher_list("TLS_AES_256_GCM_SHA384")


@pytest.mark.parametrize("name", ["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "x"])
def test_suites_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf'"{name}" is unknown or forbidden by HTTP/2 .*; use .*GCM_SHA256'):
        cipher_list(name)
