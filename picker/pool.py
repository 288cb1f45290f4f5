"""The pool: endpoints as discovery knows them, bound to the core's slots; takes in what scraping finds."""

import base64
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from picker._core.engine import Engine
from picker.policy.compile import Policy
from picker.types import Endpoint, ScrapedLoad

__all__ = ["Pool"]

_LOG = logging.getLogger("picker.pool")
_MOST_TOKENS = 1 << 40  # whatever a metrics page says


@dataclass(frozen=True, slots=True)
class _Member:
    endpoint: Endpoint
    slot: int
    generation: int

    def is_same(self, other: Endpoint) -> bool:
        """Labels may change; whoever has another name is another endpoint, wherever it listens."""
        return (self.endpoint.namespace, self.endpoint.name) == (other.namespace, other.name)


class Pool:
    """Keeps an engine's endpoints equal to a list, and its view of their load fresh.

    `clock_ns`: the clock of the engine's sessions.
    """

    def __init__(self, engine: Engine, policy: Policy, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._engine = engine
        self._policy = policy
        self._clock_ns = clock_ns
        self._members: dict[str, _Member] = {}  # by target

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints there are now."""
        return tuple(member.endpoint for member in self._members.values())

    def set_endpoints(self, wanted: Iterable[Endpoint]) -> None:
        """Add, remove, relabel. An address under another name is another endpoint and starts empty.

        One that the engine does not take (too many, a name too long) is left out and logged.
        """
        coming = {endpoint.target: endpoint for endpoint in wanted}
        for target, member in list(self._members.items()):
            if target not in coming or not member.is_same(coming[target]):
                self._engine.remove_endpoint(member.slot, member.generation)
                del self._members[target]
        for target, endpoint in coming.items():
            if target in self._members:
                self._relabel(self._members[target], endpoint)
            else:
                self._add(endpoint)

    def _add(self, endpoint: Endpoint) -> None:
        token = base64.b64encode(f"{endpoint.namespace}/{endpoint.name}".encode())
        labels = self._policy.label_bits(endpoint.labels)
        try:
            slot, generation = self._engine.add_endpoint(endpoint.target, endpoint.address, token=token, labels=labels)
        except (OverflowError, ValueError) as refusal:
            _LOG.error("endpoint %s left out: %s", endpoint.target, refusal)
            return
        self._members[endpoint.target] = _Member(endpoint, slot, generation)

    def _relabel(self, member: _Member, endpoint: Endpoint) -> None:
        self._engine.set_labels(member.slot, member.generation, self._policy.label_bits(endpoint.labels))
        self._members[endpoint.target] = _Member(endpoint, member.slot, member.generation)

    # What the scraper asks and tells; its endpoint may have gone or been replaced meanwhile.

    def _member(self, endpoint: Endpoint) -> _Member | None:
        member = self._members.get(endpoint.target)
        return member if member is not None and member.is_same(endpoint) else None

    def busy(self, endpoint: Endpoint) -> bool:
        """Has it requests of ours under way?"""
        member = self._member(endpoint)
        return member is not None and self._engine.is_busy(member.slot, member.generation)

    def observe(self, endpoint: Endpoint, load: ScrapedLoad) -> None:
        """What the endpoint's metrics page said just now."""
        member = self._member(endpoint)
        if member is None:
            return
        blocks, size = load.num_blocks, load.block_size_tokens
        self._engine.observe(
            member.slot,
            member.generation,
            now_ns=self._clock_ns(),
            waiting=_number(load.waiting),
            running=_number(load.running),
            kv_usage=_number(load.kv_usage),
            max_lora=_number(load.max_lora),
            running_adapters=load.running_adapters,
            waiting_adapters=load.waiting_adapters,
            cache_tokens=min(blocks * size, _MOST_TOKENS) if blocks and size else -1,
        )

    def scrape_failed(self, endpoint: Endpoint, reason: str) -> None:
        """The load known so far ages; picks go on by what is booked."""
        _LOG.debug("no metrics from %s: %s", endpoint.target, reason)


def _number(value: float | None) -> float:
    """As the core takes it: negative for what the page does not say."""
    return -1.0 if value is None else float(value)
