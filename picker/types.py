"""The vocabulary the floors above share: plain frozen values, no behaviour beyond checking themselves."""

import ipaddress
from typing import TypeAlias

import msgspec

__all__ = ["Endpoint", "EndpointKey", "ScrapedLoad"]

EndpointKey: TypeAlias = tuple[str, str, str, str]
"""Namespace, name, incarnation and target: what makes an endpoint this one and no other. Labels may change."""


def _canonical(address: str) -> str:
    """One spelling per address, so that equal endpoints compare equal; scope ids are refused (Envoy takes none)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(
            f"address {address[:60]!r} is not an IPv4 or IPv6 literal (host names are not resolved)"
        ) from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise ValueError(f"address {address[:60]!r} has a scope id; write the address without '%'")
    return str(parsed)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model server replica as discovery knows it: one address and port that serves requests.

    Raises `ValueError` for an empty name, an address that is no IP literal, or a port outside 1-65535.
    The address is kept in its canonical spelling (`::1`, not `0:0:0:0:0:0:0:1`).
    """

    name: str
    address: str
    port: int
    labels: dict[str, str] = {}
    namespace: str = "default"
    incarnation: str = ""
    """Another one at the same place and of the same name is another endpoint: a pod replaced, an engine restarted."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name is empty")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        msgspec.structs.force_setattr(self, "address", _canonical(self.address))

    @property
    def target(self) -> str:
        """`ip:port` as gateways write it, an IPv6 address in brackets (PROTOCOL 1.3)."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def key(self) -> EndpointKey:
        """Which endpoint it is: one at the same address under another name, or born again, is another."""
        return self.namespace, self.name, self.incarnation, self.target


class ScrapedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What one metrics page of an engine says about its load. None: the page does not say.

    Whoever keeps these values must not take None for zero, nor an older value for one of this age. At least one of
    `waiting` and `running` is there. Data-parallel ranks behind one endpoint are already put together.
    """

    waiting: float | None = None
    """Requests queued in the engine."""
    running: float | None = None
    """Requests being served."""
    kv_usage: float | None = None
    """Used share of the KV cache, 0-1, of the fullest rank."""
    block_size_tokens: int | None = None
    """Tokens per KV block."""
    num_blocks: int | None = None
    """KV blocks of all ranks together."""
    max_lora: int | None = None
    """Adapters that fit at once."""
    running_adapters: tuple[str, ...] = ()
    """LoRA adapters with requests being served."""
    waiting_adapters: tuple[str, ...] = ()
    """LoRA adapters with queued requests."""
