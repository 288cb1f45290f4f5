"""The shared vocabulary checks itself."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.types import Endpoint


def test_defaults() -> None:
    endpoint = Endpoint(name="a", address="10.0.0.1", port=8000)
    assert (endpoint.labels, endpoint.namespace) == ({}, "default")
    assert endpoint.labels is not Endpoint(name="a", address="10.0.0.1", port=8000).labels


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("0:0:0:0:0:0:0:1", "[::1]:80"),
        ("2001:DB8::A", "[2001:db8::a]:80"),
    ],
)
def test_targets(address: str, target: str) -> None:
    assert Endpoint(name="a", address=address, port=80).target == target


def test_equal_addresses_are_equal_endpoints() -> None:
    assert Endpoint(name="a", address="::1", port=1) == Endpoint(name="a", address="0::1", port=1)


@pytest.mark.parametrize(
    "address", ["", "localhost", "10.0.0.256", "010.0.0.1", "10.1", "[::1]", "fe80::1%eth0", "1" * 99]
)
def test_addresses_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"IPv4 or IPv6 literal|scope id"):
        Endpoint(name="a", address=address, port=80)


@pytest.mark.parametrize("port", [0, -1, 65536, 10**30])
def test_ports_refused(port: int) -> None:
    with pytest.raises(ValueError, match="is not between 1 and 65535"):
        Endpoint(name="a", address="::1", port=port)


def test_a_name_is_needed() -> None:
    with pytest.raises(ValueError, match="name is empty"):
        Endpoint(name="", address="::1", port=1)


def test_it_is_frozen_and_strict() -> None:
    endpoint = Endpoint(name="a", address="::1", port=1)
    with pytest.raises(AttributeError):
        endpoint.port = 2  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field `x`"):
        msgspec.convert({"name": "a", "address": "::1", "port": 1, "x": 1}, Endpoint)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_target_can_be_taken_apart(address: object, port: int) -> None:
    target = Endpoint(name="a", address=str(address), port=port).target
    host, _, tail = target.rpartition(":")
    assert (host.strip("[]"), int(tail)) == (str(address), port)
