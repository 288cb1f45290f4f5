"""One vLLM-like engine in virtual time: no clock, no I/O, no threads, the same events for the same calls.

Model: continuous batching with chunked prefill. A step computes one token for every decoding sequence and spends
what is left of `max_num_batched_tokens` on prefills, running ones first, then the waiting in order of arrival. The
step that completes a prompt yields its first token. Blocks for prompt and output are reserved at admission, so
nothing is preempted; a request whose blocks, or LoRA slot, are not there waits. Full blocks are published to the prefix
cache as they are computed, those of the output when the request ends.

Cost: steps that only decode are advanced many at once, so a run of n of them costs O(sequences), not O(n * sequences).
Bounded by `EngineConfig`. Not thread-safe.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from picker.sim.blocks import BlockPool
from picker.sim.timing import TimingModel

__all__ = ["Engine", "EngineConfig", "EngineFull", "EngineMetrics", "Progress", "Request", "TimingModel"]


class EngineFull(Exception):
    """The waiting queue holds `max_waiting` requests."""


@dataclass(frozen=True)
class EngineConfig:
    """What an engine is given at its start. Raises ValueError for limits that could not serve a request."""

    num_blocks: int = 65_536
    block_size: int = 16  # tokens
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_waiting: int = 100_000
    max_lora: int = 4  # adapters that run at the same time
    timing: TimingModel = field(default_factory=TimingModel)

    def __post_init__(self) -> None:
        if min(self.num_blocks, self.block_size, self.max_num_seqs, self.max_waiting) < 1 or self.max_lora < 0:
            raise ValueError("engine limits must be positive")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt by its length and the chained keys of its full blocks; keys may go on through the output's blocks.

    Blocks past the end of `keys` are never shared.
    """

    request_id: Hashable
    prompt_tokens: int
    output_tokens: int
    keys: Sequence[Hashable] = ()
    lora: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """`tokens` more tokens of one request, the last of them at `at_s`."""

    request_id: Hashable
    at_s: float
    tokens: int
    submitted_s: float
    cached_tokens: int  # of the prompt, found in the prefix cache
    first: bool
    finished: bool


class EngineMetrics(NamedTuple):
    """State at one moment, and counters since the start (tokens unless named otherwise)."""

    running: int
    waiting: int
    kv_usage: float  # 0 to 1, referenced blocks
    running_loras: tuple[str, ...]
    waiting_loras: tuple[str, ...]
    prefix_queries: int
    prefix_hits: int
    prompt_tokens: int
    generation_tokens: int
    finished_requests: int
    cancelled_requests: int


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request on its way: `computed` tokens of its prompt are in the cache, `generated` tokens are out."""

    request: Request
    submitted_s: float
    hit_tokens: int = 0
    computed: int = 0
    generated: int = 0
    shared: list[Hashable] = field(default_factory=list)
    private: int = 0
    keys_done: int = 0
    cancelled: bool = False

    @property
    def stored(self) -> int:
        """Tokens in the KV cache: the newest token is stored by the step after it."""
        return self.computed + max(self.generated - 1, 0)

    @property
    def remaining(self) -> int:
        return self.request.output_tokens - self.generated


@dataclass(slots=True)
class _Run:
    """Steps of equal make-up, the first begun at `start_s`; more than one only if all of them just decode."""

    start_s: float
    steps: int
    sequences: int
    kv_tokens: int
    chunks: list[tuple[_Sequence, int]]
    step_s: float
    timing: TimingModel
    done: int = 0

    def end_s(self, steps: int) -> float:
        """When the first `steps` steps are over. The same float however the run is cut, so events repeat exactly."""
        if self.chunks:
            return self.start_s + self.step_s
        return self.start_s + self.timing.decode_steps_s(steps, self.sequences, self.kv_tokens)

    def steps_by(self, now_s: float) -> int:
        """How many of its steps are over at `now_s`."""
        if self.chunks:
            return int(self.end_s(1) <= now_s)
        steps = min(self.timing.decode_steps_in(now_s - self.start_s, self.sequences, self.kv_tokens), self.steps)
        while steps < self.steps and self.end_s(steps + 1) <= now_s:
            steps += 1
        while steps > 0 and self.end_s(steps) > now_s:
            steps -= 1
        return steps


class Engine:
    """See the module. Times are seconds on the caller's clock and must not go backwards.

    `step(now)` must have been called for the present before `submit` and `cancel`, else they raise ValueError.
    """

    def __init__(self, config: EngineConfig, *, terse: bool = False) -> None:
        """`terse`: `step` tells of first and last tokens only, which is several times as fast."""
        self.config = config
        self.terse = terse
        self.timing = config.timing
        self.blocks = BlockPool(config.num_blocks)
        self._waiting: OrderedDict[Hashable, _Sequence] = OrderedDict()
        self._prefilling: dict[Hashable, _Sequence] = {}
        self._decoding: dict[Hashable, _Sequence] = {}
        self._loras: Counter[str] = Counter()
        self._run: _Run | None = None
        self._counts: Counter[str] = Counter()

    # --- verbs ---

    def submit(self, request: Request, now_s: float) -> None:
        """Queues `request`; it can be admitted when the step in progress ends, at once if there is none.

        Raises ValueError if it is malformed, could never fit or bears an id in use; EngineFull if too many wait.
        """
        self._require_present(now_s)
        self._require_possible(request)
        if len(self._waiting) >= self.config.max_waiting:
            raise EngineFull(f"{len(self._waiting)} requests are waiting")
        self._waiting[request.request_id] = _Sequence(request, now_s)
        self._cut_run(now_s)

    def cancel(self, request_id: Hashable, now_s: float) -> bool:
        """Drops a request: at once while it waits, else when the step in progress ends. False if it is not there."""
        self._require_present(now_s)
        sequence = self._waiting.pop(request_id, None)
        if sequence is None:
            sequence = self._prefilling.get(request_id) or self._decoding.get(request_id)
            if sequence is None or sequence.cancelled:
                return False
            sequence.cancelled = True
        self._counts["cancelled"] += 1
        self._cut_run(now_s)
        return True

    def retime(self, timing: TimingModel, now_s: float) -> None:
        """The engine becomes faster or slower; the step in progress ends when it would have."""
        self._require_present(now_s)
        self.timing = timing
        if self._run is not None:
            self._cut_run(now_s)

    def next_step_at(self) -> float | None:
        """When the step in progress ends; None while there is nothing to do."""
        return None if self._run is None else self._run.end_s(self._run.done + 1)

    def next_change_at(self) -> float | None:
        """When a step ends that may do more than add a token to each decoding sequence; None when idle."""
        return None if self._run is None else self._run.end_s(self._run.steps)

    def step(self, now_s: float) -> list[Progress]:
        """Completes all steps that end by `now_s` and says what they brought, in order of time.

        Tokens of decode-only steps come as one Progress per request if several such steps are completed by one call.
        """
        events: list[Progress] = []
        while self._run is not None:
            run = self._run
            steps = run.steps_by(now_s)
            if steps <= run.done:
                break
            at_s = run.end_s(steps)
            self._decode(steps - run.done, at_s, events)
            self._prefill(run.chunks, at_s, events)
            run.done = steps
            if run.done == run.steps:
                self._drop_cancelled()
                self._schedule(at_s)
        return events

    @property
    def running(self) -> int:
        """Requests that have been admitted."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Requests that have not."""
        return len(self._waiting)

    @property
    def decoding(self) -> tuple[int, int]:
        """Requests being answered, and the tokens that they had in the cache when this run of steps began."""
        return (self._run.sequences, self._run.kv_tokens) if self._run is not None else (0, 0)

    @property
    def prefilled_tokens(self) -> int:
        """What has been computed of the prompts that are being computed, with what the step in progress computes."""
        chunks = self._run.chunks if self._run is not None else ()
        done = sum(sequence.computed - sequence.hit_tokens for sequence in self._prefilling.values())
        return done + sum(tokens for _, tokens in chunks)

    def metrics(self) -> EngineMetrics:
        """State as of the last call of `step`."""
        waiting_loras: set[str] = set()
        if self.config.max_lora:
            waiting_loras = {s.request.lora for s in self._waiting.values() if s.request.lora is not None}
        return EngineMetrics(
            running=self.running,
            waiting=self.waiting,
            kv_usage=self.blocks.used / self.blocks.capacity,
            running_loras=tuple(sorted(self._loras)),
            waiting_loras=tuple(sorted(waiting_loras)),
            prefix_queries=self._counts["prefix_queries"],
            prefix_hits=self._counts["prefix_hits"],
            prompt_tokens=self._counts["prompt_tokens"],
            generation_tokens=self._counts["generation_tokens"],
            finished_requests=self._counts["finished"],
            cancelled_requests=self._counts["cancelled"],
        )

    def reset_prefix_cache(self) -> bool:
        """Forgets every cached block. False, and nothing happens, while requests are running."""
        return self.blocks.forget()

    # --- checks ---

    def _require_present(self, now_s: float) -> None:
        due_s = self.next_step_at()
        if due_s is not None and due_s <= now_s:
            raise ValueError(f"step({now_s}) must be called first: a step ended at {due_s}")

    def _require_possible(self, request: Request) -> None:
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("a request needs at least one prompt token and one output token")
        if self._blocks_for(request) > self.config.num_blocks:
            raise ValueError(f"{request.prompt_tokens} + {request.output_tokens} tokens do not fit into the cache")
        if request.lora is not None and self.config.max_lora == 0:
            raise ValueError("this engine has no LoRA slots")
        if any(request.request_id in group for group in (self._waiting, self._prefilling, self._decoding)):
            raise ValueError(f"request {request.request_id!r} is here already")

    def _blocks_for(self, request: Request) -> int:
        return -(-(request.prompt_tokens + request.output_tokens - 1) // self.config.block_size)

    # --- scheduling ---

    def _cut_run(self, now_s: float) -> None:
        """Lets the next schedule come as soon as it can: after the step in progress, or now."""
        if self._run is None:
            self._schedule(now_s)
        else:
            self._run.steps = self._run.done + 1

    def _schedule(self, start_s: float) -> None:
        budget = self.config.max_num_batched_tokens - len(self._decoding)
        chunks = self._continue_prefills(budget)
        budget -= sum(tokens for _, tokens in chunks)
        self._admit(budget, chunks)
        if not chunks and not self._decoding:
            self._run = None
            return
        sequences = len(self._decoding)
        kv_tokens = sum(sequence.computed + sequence.generated for sequence in self._decoding.values())
        step_s = self.timing.step_s(sum(tokens for _, tokens in chunks), sequences, kv_tokens)
        steps = 1 if chunks else min(sequence.remaining for sequence in self._decoding.values())
        self._run = _Run(start_s, steps, sequences, kv_tokens, chunks, step_s, self.timing)

    def _continue_prefills(self, budget: int) -> list[tuple[_Sequence, int]]:
        chunks = []
        for sequence in self._prefilling.values():
            if budget == 0:
                break
            tokens = min(budget, sequence.request.prompt_tokens - sequence.computed)
            chunks.append((sequence, tokens))
            budget -= tokens
        return chunks

    def _admit(self, budget: int, chunks: list[tuple[_Sequence, int]]) -> None:
        """Moves waiting requests into the step, first come first served; only a missing LoRA slot is stepped over."""
        admitted = []
        for sequence in self._waiting.values():
            if budget == 0 or len(self._prefilling) + len(self._decoding) >= self.config.max_num_seqs:
                break
            if not self._has_slot(sequence.request.lora):
                continue
            if not self._reserve(sequence):
                break
            tokens = min(budget, sequence.request.prompt_tokens - sequence.computed)
            budget -= tokens
            chunks.append((sequence, tokens))
            admitted.append(sequence.request.request_id)
            self._prefilling[sequence.request.request_id] = sequence
        for request_id in admitted:
            del self._waiting[request_id]

    def _has_slot(self, lora: str | None) -> bool:
        return lora is None or lora in self._loras or len(self._loras) < self.config.max_lora

    def _reserve(self, sequence: _Sequence) -> bool:
        """Takes the blocks a request needs, those of its cached prefix first; at least one token stays to compute."""
        request = sequence.request
        hits = self.blocks.match(request.keys, (request.prompt_tokens - 1) // self.config.block_size)
        shared = list(request.keys[:hits])
        private = self._blocks_for(request) - hits
        if not self.blocks.reserve(shared, private):
            return False
        sequence.shared, sequence.private, sequence.keys_done = shared, private, hits
        sequence.hit_tokens = sequence.computed = hits * self.config.block_size
        self._counts["prefix_queries"] += request.prompt_tokens
        self._counts["prefix_hits"] += sequence.hit_tokens
        if request.lora is not None:
            self._loras[request.lora] += 1
        return True

    # --- completing steps ---

    def _decode(self, steps: int, at_s: float, events: list[Progress]) -> None:
        finished = []
        for sequence in self._decoding.values():
            if sequence.cancelled:
                continue
            sequence.generated += steps
            self._report(sequence, at_s, steps, events)
            if sequence.remaining == 0:
                finished.append(sequence)
        for sequence in finished:
            self._retire(sequence)

    def _prefill(self, chunks: list[tuple[_Sequence, int]], at_s: float, events: list[Progress]) -> None:
        for sequence, tokens in chunks:
            sequence.computed += tokens
            self._publish(sequence)
            if sequence.cancelled or sequence.computed < sequence.request.prompt_tokens:
                continue
            sequence.generated = 1
            self._counts["prompt_tokens"] += sequence.request.prompt_tokens
            self._report(sequence, at_s, 1, events)
            if sequence.remaining == 0:
                self._retire(sequence)
            else:
                self._decoding[sequence.request.request_id] = self._prefilling.pop(sequence.request.request_id)

    def _report(self, sequence: _Sequence, at_s: float, tokens: int, events: list[Progress]) -> None:
        self._counts["generation_tokens"] += tokens
        first, finished = sequence.generated == tokens, sequence.remaining == 0
        if self.terse and not first and not finished:
            return
        events.append(
            Progress(
                sequence.request.request_id,
                at_s,
                tokens,
                submitted_s=sequence.submitted_s,
                cached_tokens=sequence.hit_tokens,
                first=first,
                finished=finished,
            )
        )

    def _publish(self, sequence: _Sequence) -> None:
        full = min(sequence.stored // self.config.block_size, len(sequence.request.keys))
        for key in sequence.request.keys[sequence.keys_done : full]:
            if self.blocks.publish(key):
                sequence.shared.append(key)
                sequence.private -= 1
        sequence.keys_done = max(sequence.keys_done, full)

    def _retire(self, sequence: _Sequence) -> None:
        """Gives back everything a running request holds."""
        request = sequence.request
        self._publish(sequence)
        self.blocks.release(sequence.shared, sequence.private)
        if request.lora is not None:
            self._loras[request.lora] -= 1
            self._loras += Counter()  # drops zero counts
        if self._prefilling.pop(request.request_id, None) is None:
            del self._decoding[request.request_id]
        if not sequence.cancelled:
            self._counts["finished"] += 1

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in (*self._prefilling.values(), *self._decoding.values()) if s.cancelled]:
            self._retire(sequence)

    def _check(self) -> None:
        """Raises AssertionError unless blocks and LoRA slots add up (tests call it after each action)."""
        running = [*self._prefilling.values(), *self._decoding.values()]
        held = {key for sequence in running for key in sequence.shared}
        assert self.blocks.used == len(held) + sum(s.private for s in running)  # noqa: S101
        assert len(running) <= self.config.max_num_seqs  # noqa: S101
        assert self._loras == Counter(s.request.lora for s in running if s.request.lora is not None)  # noqa: S101
        assert len(self._loras) <= self.config.max_lora  # noqa: S101
        assert running or self._run is None  # noqa: S101
        self.blocks._check()
