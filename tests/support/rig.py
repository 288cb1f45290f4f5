"""An engine under a configuration, with endpoints in given states, and requests placed on it in virtual time."""

from collections.abc import Mapping, Sequence
from typing import Any

from picker._core.engine import Engine
from picker._core.session import Session
from picker.config import load_config
from picker.config.load import ExtraTypes
from picker.policy.compile import compile_policy
from picker.pool import Pool
from picker.pools import Pools, Recipe
from picker.types import Endpoint, ScrapedLoad
from tests.support import messages

SECOND = 1_000_000_000
POOL = "default/pool-a"
"""Of a rig that is served."""


def endpoint(number: int, labels: Mapping[str, str] | None = None, *, name: str = "") -> Endpoint:
    """Pod `number` (from 1) at 192.168.1.number:8000, as in the reference picker's own tests."""
    return Endpoint(name=name or f"pod-{number}", address=f"192.168.1.{number}", port=8000, labels=dict(labels or {}))


def target(number: int) -> str:
    return endpoint(number).target


def chat(prompt: str = "hi", model: str = "m") -> bytes:
    return b'{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}' % (model.encode(), prompt.encode())


class Rig:
    """`now_ns` is the time of everything that happens; tests move it as they like."""

    def __init__(
        self,
        text: str,
        endpoints: Sequence[Endpoint],
        *,
        extra_types: ExtraTypes | None = None,
        installed: Mapping[str, object] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.now_ns = SECOND
        self._sessions: list[Session] = []  # one that is dropped releases what it booked
        config = load_config(text, source="epp.yaml", extra_types=extra_types)
        self.policy = compile_policy(config, installed=installed or {})
        self.engine = Engine(hash_seed=1, random_seed=7, prior_rate=self.policy.prior_rate, limits=dict(limits or {}))
        self.engine.set_policy(
            self.policy.steps,
            wanted=self.policy.wanted,
            plugins=self.policy.host,
            session_header=self.policy.session_header,
            apis=self.policy.apis,
            reads_test_header=self.policy.reads_test_header,
            tells_served=self.policy.tells_served,
        )
        self.pool = Pool(self.engine, self.policy, clock_ns=lambda: self.now_ns)
        self.pool.set_endpoints(endpoints)

    def served(self) -> Pools:
        """Itself as the one pool there is."""
        pools = Pools(
            Recipe(policy=lambda _: self.policy, engine=lambda *_: self.engine, install=lambda *_: None),
        )
        pools.open(POOL).pool = self.pool
        return pools

    def load(self, number: int, **load: Any) -> None:
        """What the metrics page of endpoint `number` said just now: members of `ScrapedLoad`."""
        of = next(endpoint for endpoint in self.pool.endpoints if endpoint.target == target(number))
        self.pool.observe(of.key, ScrapedLoad(**load))

    def send(
        self,
        body: bytes = chat(),
        *,
        path: str = "/v1/chat/completions",
        headers: Mapping[str, str] | None = None,
        subset: Sequence[str] | str | None = None,
    ) -> tuple[Session, list[Any]]:
        """A request as far as its pick: the session, still under way, and what was answered."""
        session = Session(self.engine, self.now_ns)
        self._sessions.append(session)
        replies = session.feed(messages.request_headers(path, headers=headers, subset=subset), self.now_ns)
        replies += session.feed(messages.request_body(body), self.now_ns)
        return session, list(map(messages.parse, replies))

    def finish(self, session: Session, status: int = 200) -> list[Any]:
        """The answer passes and the stream ends; what picker said to it."""
        replies = session.feed(messages.response_headers(status), self.now_ns)
        replies += session.feed(messages.response_body(b"data: {}\n\n", end_of_stream=True), self.now_ns)
        session.close(self.now_ns)
        return list(map(messages.parse, replies))

    def pick(self, body: bytes = chat(), **how: Any) -> str:
        """A whole request; where it went ("" when it was refused)."""
        session, _ = self.send(body, **how)
        where = session.destination
        if where:
            self.finish(session)
        session.close(self.now_ns)
        return where

    def scores(self) -> dict[str, float]:
        """Why the last request went where it did."""
        (decision,) = self.engine.decisions(1)
        return self.policy.explain(decision["scores"])
