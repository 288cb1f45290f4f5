"""picker as a gateway of overload experiments: the production core, fed with ext_proc bytes in virtual time."""

from functools import cache

from picker._core import session as core
from picker._core.engine import Engine
from picker.config.model import DEFAULT_CONFIG, PickerConfig
from picker.policy.compile import compile_policy
from picker.policy.flow import compile_flow
from picker.sim.engine import EngineMetrics
from picker.sim.overload.traffic import Asked, Scenario
from picker.sim.overload.world import EXPIRED, REFUSED, World
from tests.support import messages

CHARACTERS_PER_TOKEN = 4
FIRST_CHUNK = messages.response_body(b'data: {"choices":[{"text":"a"}]}\n\n')
STREAM = messages.response_headers()
UNAVAILABLE = messages.response_headers(503, "text/plain", end_of_stream=True)
START_NS = 1_000_000_000
OBJECTIVE = "x-llm-d-inference-objective"
FAIRNESS = "x-llm-d-inference-fairness-id"


@cache
def request_headers(band: str, tenant: str) -> bytes:
    return messages.request_headers("/v1/completions", headers={OBJECTIVE: band, FAIRNESS: tenant})


def prompt(asked: Asked) -> bytes:
    """Four bytes for each token: the tenant's system prompt, and what nobody else asks."""
    system = (b"%07x " % asked.system) * (asked.system_tokens * CHARACTERS_PER_TOKEN // 8)
    own = (asked.prompt_tokens - asked.system_tokens) * CHARACTERS_PER_TOKEN
    return system + ((b"q%06x " % asked.index) * (own // 8 + 1))[:own]


class CoreGateway:
    """Sessions on an engine as `picker serve` sets it up with no configuration at all."""

    scrape_s = 0.2
    tick_s = 0.01

    def __init__(self, config: PickerConfig = DEFAULT_CONFIG) -> None:
        policy = compile_policy(config)
        self.engine = Engine(hash_seed=1, random_seed=1, prior_rate=policy.prior_rate)
        self.engine.set_policy(policy.steps, wanted=policy.wanted)
        self.engine.set_flow(compile_flow(config))
        self.sessions: dict[int, core.Session] = {}
        self.queued: dict[core.Session, Asked] = {}

    def start(self, world: World, scenario: Scenario) -> None:
        self.world = world
        self.most = scenario.mix.answers.most
        self.cache_tokens = scenario.engine.num_blocks * scenario.engine.block_size
        self.engine.set_objectives({band.name: band.priority for band in scenario.bands})
        self.slots: dict[str, int] = {}
        self.names: list[tuple[int, int]] = []
        for number in range(scenario.replicas):
            target = f"10.0.0.{number}:8000"
            self.names.append(self.engine.add_endpoint(target, f"10.0.0.{number}"))
            self.slots[target] = number

    @property
    def waiting(self) -> int:
        return self.engine.waiting

    @staticmethod
    def ns(now_s: float) -> int:
        return START_NS + int(now_s * 1e9)

    def arrive(self, asked: Asked, now_s: float) -> None:
        now_ns = self.ns(now_s)
        session = self.sessions[asked.index] = core.Session(self.engine, now_ns)
        body = b'{"model":"m","stream":true,"max_tokens":%d,"prompt":"%s"}' % (self.most, prompt(asked))
        session.feed(request_headers(asked.band, asked.tenant), now_ns)
        replies = session.feed(messages.request_body(body), now_ns)
        if session.is_waiting:
            self.queued[session] = asked
        else:
            self.answered(session, asked, replies, REFUSED, now_ns)
        self.dispatch(now_s)

    def answered(self, session: core.Session, asked: Asked, replies: list[bytes], loss: str, now_ns: int) -> None:
        """It was picked for, or turned away."""
        if session.destination:
            self.world.send(asked, self.slots[session.destination])
            return
        if not replies:
            raise AssertionError(f"request {asked.index} was neither picked for nor answered")
        session.close(now_ns)
        del self.sessions[asked.index]
        self.world.refuse(asked, loss)

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

    def finished(self, asked: Asked, slot: int, now_s: float) -> None:
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'
        last = usage % (asked.prompt_tokens, asked.answer_tokens)
        session = self.sessions.pop(asked.index)
        session.feed(messages.response_body(last, end_of_stream=True), self.ns(now_s))
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
        self.engine.observe(
            *self.names[slot],
            now_ns=self.ns(now_s),
            waiting=metrics.waiting,
            running=metrics.running,
            kv_usage=metrics.kv_usage,
            cache_tokens=self.cache_tokens,
        )
        self.stirred(now_s)

    def removed(self, slot: int, now_s: float) -> None:
        self.engine.remove_endpoint(*self.names[slot])
        self.stirred(now_s)

    def stirred(self, now_s: float) -> None:
        if self.engine.is_due:
            self.dispatch(now_s)
