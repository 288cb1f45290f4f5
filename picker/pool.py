"""The pool: endpoints as discovery knows them, bound to the core's slots; takes in what scraping finds."""

import base64
import logging
import time
from collections.abc import Callable, Iterable

from picker._core.engine import Engine
from picker.policy.compile import Policy
from picker.types import Endpoint, ScrapedLoad

__all__ = ["Pool"]

_LOG = logging.getLogger("picker.pool")


class Pool:
    """Keeps an engine's endpoints equal to a list, and its view of their load fresh."""

    def __init__(self, engine: Engine, policy: Policy, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._engine = engine
        self._policy = policy
        self._clock_ns = clock_ns
        self._members: dict[str, tuple[Endpoint, int, int]] = {}  # by target: endpoint, slot, generation

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints there are now."""
        return tuple(endpoint for endpoint, _, _ in self._members.values())

    def set_endpoints(self, wanted: Iterable[Endpoint]) -> None:
        """Add, remove, relabel. An address under another name is another endpoint and starts empty."""
        coming = {endpoint.target: endpoint for endpoint in wanted}
        for target, (endpoint, slot, generation) in list(self._members.items()):
            if target not in coming or not _is_same(coming[target], endpoint):
                self._engine.remove_endpoint(slot, generation)
                del self._members[target]
        for target, endpoint in coming.items():
            if target in self._members:
                self._relabel(target, endpoint)
            else:
                self._add(endpoint)

    def _add(self, endpoint: Endpoint) -> None:
        token = base64.b64encode(f"{endpoint.namespace}/{endpoint.name}".encode())
        try:
            slot, generation = self._engine.add_endpoint(
                endpoint.target, endpoint.address, token=token, labels=self._policy.label_bits(endpoint.labels)
            )
        except OverflowError as full:
            _LOG.error("endpoint %s left out: %s", endpoint.target, full)
            return
        self._members[endpoint.target] = (endpoint, slot, generation)

    def _relabel(self, target: str, endpoint: Endpoint) -> None:
        _, slot, generation = self._members[target]
        self._engine.set_labels(slot, generation, self._policy.label_bits(endpoint.labels))
        self._members[target] = (endpoint, slot, generation)

    # What the scraper asks and tells.

    def busy(self, endpoint: Endpoint) -> bool:
        """Has it requests of ours under way?"""
        member = self._members.get(endpoint.target)
        return member is not None and self._engine.is_busy(member[1], member[2])

    def observe(self, endpoint: Endpoint, load: ScrapedLoad) -> None:
        """What the endpoint's metrics page said just now. One that has gone meanwhile is let be."""
        member = self._members.get(endpoint.target)
        if member is None or not _is_same(member[0], endpoint):
            return
        blocks, size = load.num_blocks, load.block_size_tokens
        self._engine.observe(
            member[1],
            member[2],
            now_ns=self._clock_ns(),
            waiting=_number(load.waiting),
            running=_number(load.running),
            kv_usage=_number(load.kv_usage),
            max_lora=_number(load.max_lora),
            running_adapters=load.running_adapters,
            waiting_adapters=load.waiting_adapters,
            cache_tokens=blocks * size if blocks and size else -1,
        )

    def scrape_failed(self, endpoint: Endpoint, reason: str) -> None:
        """The load known so far ages; picks go on by what is booked."""
        _LOG.debug("no metrics from %s: %s", endpoint.target, reason)


def _is_same(one: Endpoint, other: Endpoint) -> bool:
    return (one.name, one.namespace, one.target) == (other.name, other.namespace, other.target)


def _number(value: float | None) -> float:
    return -1.0 if value is None else float(value)
