"""picker as a gateway of the lab: sessions on the production core, fed with ext_proc bytes in virtual time.

The engine is set up as `picker serve` sets it up: flow control, scraping every 200 ms, first tokens and usage from the
responses. Requests are completions that stream; a token is four bytes of text, and equal keys are equal text.
"""

from functools import lru_cache

from picker._core import session as core
from picker._core.engine import Engine
from picker.config.model import DEFAULT_CONFIG, PickerConfig
from picker.policy.compile import compile_policy
from picker.sim import messages
from picker.sim.asked import Asked
from picker.sim.engine import EngineMetrics
from picker.sim.gateway import EXPIRED, REFUSED, Sender
from picker.sim.policies.base import NEVER_S, Cluster

BYTES_PER_TOKEN = 4
KEY_MASK = (1 << 60) - 1
FIRST_CHUNK = messages.response_body(b'data: {"choices":[{"text":"a"}]}\n\n')
STREAM = messages.response_headers(200, "text/event-stream")
UNAVAILABLE = messages.response_headers(503, "text/plain", end_of_stream=True)
START_NS = 1_000_000_000
OBJECTIVE = "x-llm-d-inference-objective"
FAIRNESS = "x-llm-d-inference-fairness-id"


@lru_cache(4096)
def request_headers(band: str, tenant: str) -> bytes:
    named = {OBJECTIVE: band, FAIRNESS: tenant}
    return messages.request_headers("/v1/completions", {name: value for name, value in named.items() if value})


def prompt(asked: Asked, key_tokens: int) -> bytes:
    """The text of its blocks, and then what nobody else asks."""
    size = asked.prompt_tokens * BYTES_PER_TOKEN
    repeat = key_tokens * BYTES_PER_TOKEN // 16
    shared = b"".join([(b"%015x " % (key & KEY_MASK)) * repeat for key in asked.keys])[:size]
    own = size - len(shared)
    return shared + ((b"q%06x " % asked.index) * (own // 8 + 1))[:own]


def request_body(asked: Asked, key_tokens: int) -> bytes:
    limit = b'"max_tokens":%d,' % asked.max_tokens if asked.max_tokens else b""
    return b'{"model":"%s","stream":true,%s"prompt":"%s"}' % (
        (asked.lora or "m").encode(),
        limit,
        prompt(asked, key_tokens),
    )


class CoreGateway:
    """picker with a configuration; `tells_cached`: whether model servers say in their usage what they had cached."""

    tick_s = 0.01

    def __init__(self, config: PickerConfig = DEFAULT_CONFIG, *, seed: int = 1, tells_cached: bool = False) -> None:
        policy = compile_policy(config)
        self.scrape_s = 0.2 if config.scraping else NEVER_S
        self.tells_cached = tells_cached
        self.engine = Engine(hash_seed=1, random_seed=seed, prior_rate=policy.prior_rate)
        self.engine.set_policy(
            policy.steps,
            wanted=policy.wanted,
            plugins=policy.host,
            session_header=policy.session_header,
            response_tracking=policy.response_tracking,
            apis=policy.apis,
        )
        self.engine.set_flow(policy.flow)
        self.sessions: dict[int, core.Session] = {}
        self.queued: dict[core.Session, Asked] = {}

    def start(self, sender: Sender, cluster: Cluster) -> None:
        self.sender = sender
        self.cluster = cluster
        self.engine.set_objectives(dict(cluster.priorities))
        self.slots: dict[str, int] = {}
        self.names: list[tuple[int, int]] = []
        for replica in cluster.replicas:
            target = self.target(replica.slot)
            self.names.append(self.engine.add_endpoint(target, target.partition(":")[0]))
            self.slots[target] = replica.slot

    @staticmethod
    def target(slot: int) -> str:
        return f"10.0.{slot >> 8}.{slot & 255}:8000"

    @property
    def waiting(self) -> int:
        return self.engine.waiting

    @staticmethod
    def ns(now_s: float) -> int:
        return START_NS + int(now_s * 1e9)

    def arrive(self, asked: Asked, now_s: float) -> None:
        now_ns = self.ns(now_s)
        session = self.sessions[asked.index] = core.Session(self.engine, now_ns)
        session.feed(request_headers(asked.band, asked.tenant), now_ns)
        body = request_body(asked, self.cluster.key_tokens)
        replies = session.feed(messages.request_body(body), now_ns)
        if session.is_waiting:
            self.queued[session] = asked
        else:
            self.answered(session, asked, replies, REFUSED, now_ns)
        self.dispatch(now_s)

    def answered(self, session: core.Session, asked: Asked, replies: list[bytes], loss: str, now_ns: int) -> None:
        """It was picked for, or turned away."""
        if session.destination:
            self.sender.send(asked, self.slots[session.destination])
            return
        if not replies:
            raise AssertionError(f"request {asked.index} was neither picked for nor answered")
        session.close(now_ns)
        del self.sessions[asked.index]
        self.sender.refuse(asked, loss)

    def dispatch(self, now_s: float) -> None:
        """As a shell does after whatever it has read, and every 10 ms while somebody waits."""
        now_ns = self.ns(now_s)
        while self.engine.waiting or self.queued:
            called = self.engine.dispatch(now_ns)
            for session in called:
                self.answered(session, self.queued.pop(session), session.resume(now_ns), EXPIRED, now_ns)
            if not called or not self.engine.is_due:
                return

    def tick(self, now_s: float) -> None:
        self.dispatch(now_s)

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        session = self.sessions[asked.index]
        session.feed(STREAM, self.ns(now_s))
        session.feed(FIRST_CHUNK, self.ns(now_s))
        self.stirred(now_s)

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None:
        details = b',"prompt_tokens_details":{"cached_tokens":%d}' % cached_tokens if self.tells_cached else b""
        counts = (asked.prompt_tokens, asked.output_tokens, details)
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d%s}}\n\n' % counts
        session = self.sessions.pop(asked.index)
        last = messages.response_body(usage + b"data: [DONE]\n\n", end_of_stream=True)
        session.feed(last, self.ns(now_s))
        session.close(self.ns(now_s))
        self.stirred(now_s)

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        session = self.sessions.pop(asked.index)
        session.feed(UNAVAILABLE, self.ns(now_s))
        session.close(self.ns(now_s))
        self.stirred(now_s)

    def broken(self, asked: Asked, slot: int, now_s: float) -> None:
        self.sessions.pop(asked.index).close(self.ns(now_s))
        self.stirred(now_s)

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None:
        replica = self.cluster.replicas[slot]
        self.engine.observe(
            *self.names[slot],
            now_ns=self.ns(now_s),
            waiting=metrics.waiting,
            running=metrics.running,
            kv_usage=metrics.kv_usage,
            max_lora=replica.max_lora or -1,
            running_adapters=metrics.running_loras,
            waiting_adapters=metrics.waiting_loras,
            cache_tokens=replica.cache_tokens,
        )
        self.stirred(now_s)

    def removed(self, slot: int, now_s: float) -> None:
        self.engine.remove_endpoint(*self.names[slot])
        self.stirred(now_s)

    def added(self, slot: int, now_s: float) -> None:
        target = self.target(slot)
        self.names[slot] = self.engine.add_endpoint(target, target.partition(":")[0])
        self.stirred(now_s)

    def stirred(self, now_s: float) -> None:
        if self.engine.is_due:
            self.dispatch(now_s)
