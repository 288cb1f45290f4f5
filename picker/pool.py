"""The pool: endpoints as discovery knows them, bound to the core's slots; takes in what scraping finds."""

import base64
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from picker._core.engine import Engine
from picker.policy.compile import Policy
from picker.types import Endpoint, EndpointKey, ScrapedLoad

__all__ = ["Pool"]

_LOG = logging.getLogger("picker.pool")
_MOST_TOKENS = 1 << 40  # whatever a metrics page says


@dataclass(frozen=True, slots=True)
class _Member:
    endpoint: Endpoint
    key: EndpointKey
    slot: int
    generation: int


class Pool:
    """Keeps an engine's endpoints equal to a list, and its view of their load fresh.

    `clock_ns`: the clock of the engine's sessions.
    """

    def __init__(self, engine: Engine, policy: Policy, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._engine = engine
        self._policy = policy
        self._clock_ns = clock_ns
        self._members: dict[str, _Member] = {}  # by target
        self._left_out: dict[str, Endpoint] = {}  # for want of room; tried again when others go

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints there are now."""
        return tuple(member.endpoint for member in self._members.values())

    @property
    def told(self) -> tuple[Endpoint, ...]:
        """The endpoints there are now and those that wait for room: whoever tells of changes must know of both."""
        return (*self.endpoints, *self._left_out.values())

    def set_endpoints(self, wanted: Iterable[Endpoint]) -> None:
        """These and no others. See `change`, which costs no more than what changes."""
        coming = {endpoint.target: endpoint for endpoint in wanted}
        self.change(gone=[target for target in (*self._members, *self._left_out) if target not in coming])
        self.change(come=coming.values())

    def change(self, *, gone: Iterable[str] = (), come: Iterable[Endpoint] = ()) -> None:
        """Remove the targets `gone`; add, relabel or replace `come`.

        An address under another name is another endpoint and starts empty. One that the engine does not take (too
        many, a name too long) is left out and logged; it comes in when there is room.
        """
        room = 0
        for target in gone:
            self._left_out.pop(target, None)
            room += self._remove(target)
        for endpoint in come:
            member = self._members.get(endpoint.target)
            if member is not None and member.key == endpoint.key:
                self._relabel(member, endpoint)
            else:
                self._remove(endpoint.target)
                self._add(endpoint)
        for endpoint in list(itertools.islice(self._left_out.values(), room)):
            self._add(endpoint)

    def _remove(self, target: str) -> bool:
        member = self._members.pop(target, None)
        if member is not None:
            self._engine.remove_endpoint(member.slot, member.generation)
        return member is not None

    def _add(self, endpoint: Endpoint) -> None:
        token = base64.b64encode(f"{endpoint.namespace}/{endpoint.name}".encode())
        labels = self._policy.label_bits(endpoint.labels)
        try:
            slot, generation = self._engine.add_endpoint(endpoint.target, endpoint.address, token=token, labels=labels)
        except (OverflowError, ValueError) as refusal:
            if endpoint.target not in self._left_out:
                _LOG.error("endpoint %s left out: %s", endpoint.target, refusal)
            if isinstance(refusal, OverflowError):
                self._left_out[endpoint.target] = endpoint
            return
        self._left_out.pop(endpoint.target, None)
        self._members[endpoint.target] = _Member(endpoint, endpoint.key, slot, generation)

    def _relabel(self, member: _Member, endpoint: Endpoint) -> None:
        if endpoint.labels != member.endpoint.labels:
            self._engine.set_labels(member.slot, member.generation, self._policy.label_bits(endpoint.labels))
            self._members[endpoint.target] = _Member(endpoint, member.key, member.slot, member.generation)

    def set_policy(self, policy: Policy) -> None:
        """Another policy is in force in the engine: what its selectors make of the endpoints is told anew."""
        self._policy = policy
        for member in self._members.values():
            labels = policy.label_bits(member.endpoint.labels)
            self._engine.set_labels(member.slot, member.generation, labels)

    def observe(self, key: EndpointKey, load: ScrapedLoad) -> None:
        """What that endpoint's metrics page said just now; nothing if it has gone or was replaced meanwhile."""
        member = self._members.get(key[-1])
        if member is None or member.key != key:
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


def _number(value: float | None) -> float:
    """As the core takes it: negative for what the page does not say."""
    return -1.0 if value is None else float(value)
