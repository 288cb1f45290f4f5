"""The vocabulary the floors above share: plain frozen values, no behaviour beyond checking themselves."""

import msgspec

__all__ = ["Endpoint", "ScrapedLoad"]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A model server replica as discovery knows it: one address and port that serves requests."""

    name: str
    address: str
    port: int
    labels: dict[str, str] = {}
    namespace: str = "default"

    @property
    def target(self) -> str:
        """`ip:port` as gateways write it, an IPv6 address in brackets (PROTOCOL 1.3)."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


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
