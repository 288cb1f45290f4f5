from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

from typing_extensions import Buffer

from picker._core.quotas import Quota
from picker._core.rewrite import Rewrites, _Rule

_Step = tuple[int, float, Sequence[float], int]
_Plugins = Callable[[int, dict[str, Any], list[dict[str, Any]]], Sequence[float] | None]

def check_objectives(objectives: Mapping[str, int]) -> None:
    """Raise what `Engine.set_objectives` would raise for these."""

@final
class Engine:
    """Owns endpoints, prefix index, policy and stats. Sessions (`picker._core.session`) work on it.

    `limits`: overrides of endpoints, sessions, surplus (further ones, which are answered 429), models, prompt_blocks,
    endpoint_blocks, index_blocks (index blocks of 64 tokens), headers and header_bytes (of a request), body_bytes,
    buffered_bytes, chunk_bytes, json_values, json_depth. `hash_seed` keeps clients from aiming at each other's
    prefixes; replicas that share an index share it. `prior_rate` in prefill tokens per second. Without `set_policy`
    every request goes to a random endpoint. ValueError or OverflowError for limits that cannot be.
    """

    def __new__(
        cls,
        *,
        hash_seed: int,
        random_seed: int = 0,
        prior_rate: float = 15000.0,
        limits: Mapping[str, int] | Iterable[tuple[str, int]] = (),
    ) -> Engine: ...
    def set_policy(
        self,
        steps: Sequence[_Step],
        *,
        wanted: int = 1,
        plugins: _Plugins | None = None,
        ignore_subset: bool = False,
        session_header: str = "x-session-token",
        response_tracking: str = "full",
        restores_models: bool = True,
        apis: Iterable[str] | None = None,
        reads_test_header: bool = False,
        tells_served: bool = False,
    ) -> None:
        """Replace the pipeline: see `score.pipeline_fill`. In force from the next pick on; past decisions are dropped.

        `plugins(step, request, endpoints)` runs Python steps: `request` and `endpoints` are dicts; it returns what
        `score.frame_answer` takes (filters: slots to keep, scorers: scores in order, pickers: slots in order of
        preference), or None to be skipped. What it raises comes out of `Session.feed`. `session_header` holds a
        session's token, and responses carry it when a session scorer runs. `response_tracking` is full, headers
        (bodies of responses pass, or are not asked for) or off (sessions end when the request is answered, so that
        responses cost nothing and teach nothing). Responses of rewritten requests name the model as the client did
        unless `restores_models` is false. `apis`: names of the API families (`apis.FAMILIES`) whose bodies are read,
        None for all; others are picked for without model and prompt. For conformance tests: `reads_test_header` lets
        the request header test-epp-endpoint-selection pin the subset, `tells_served` adds
        x-conformance-test-served-endpoint to responses. ValueError or OverflowError for what no policy can be; the old
        one then stays.
        """

    def set_rewrites(self, rules: Sequence[_Rule] | Rewrites) -> None:
        """Replace the rewrite rules: (name of the object, model or None for any, ((target, weight or None), ...)) each.

        By precedence: the first for a model counts, and the first for any model where none is for the model itself. In
        force from the next request on, all at once. What was decided by what stays, stays counted. The models named
        have series of their own. Rules made before, a piece at a time, are taken out of a `Rewrites`. ValueError or
        OverflowError for what no rules can be, MemoryError; the old ones then stay.
        """

    def set_objectives(self, objectives: Mapping[str, int]) -> None:
        """Replace the objectives there are: a mapping of names to priorities, at most 4096 of them.

        A request that names one (x-llm-d-inference-objective, x-gateway-inference-objective) has its priority, else 0.
        In force from the next request on, all at once. OverflowError for too many of them, for a name of more than 253
        bytes and for a priority of more than 32 bits; TypeError, MemoryError; the old ones then stay.
        """

    def set_flow(self, rules: Mapping[str, Any] | None) -> None:
        """Flow control: who waits for whom, and how long. None: nobody does, and nobody is turned away.

        In force from the next turn on, also for those who wait; what was learned of endpoints stays. `rules` may hold:
        `detector`: ("adaptive",), ("utilization", queue, kv, headroom, staleness_s) or ("concurrency", mode, requests,
        tokens, headroom): when an endpoint has room; `queues` (true): false is to turn away what has a priority below 0
        where nobody has room, and to let all else through; `bands`: (priority, order, fairness, max_requests,
        max_bytes, ttl_s) each, `default_band`, `default_negative_band`: the same of other priorities, without the
        priority. `order`: fcfs, edf, slo-deadline. `fairness`: strict, round-robin, tokens. `max_requests`,
        `max_bytes`: of all who wait; caps of 0: none; a time of 0: no limit. `no_endpoint_ttl_s`: how long a request
        may wait for an endpoint to exist; 0: not at all. `ceiling`: None (a reserve for higher priorities),
        ("static", share), ("holdback", shape, domain, min, max) or ("reflective",). `fairness_headers`: names, the
        first that a request has says whose it is. `admitters`: ("probabilistic", queue, kv, power, k) and
        ("latency-slo",). `evicts`: running requests with a priority below 0 make room. ValueError, OverflowError or
        TypeError for what cannot be, MemoryError; the old rules then stay.
        """

    def dispatch(self, now_ns: int, most: int = 256) -> list[Any]:
        """Give turns to those who wait and can have them; the sessions to `resume`, also those that lost theirs.

        At most `most` at once: while `is_due` call again, behind them. Of the sessions that Python serves.
        """

    def turn_out(self, failure: int, now_ns: int) -> None:
        """Refuse all who wait, with one of `session`'s FAIL_*; the next `dispatch` has them."""

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""

    @property
    def is_due(self) -> bool:
        """Is there somebody whose turn may have come? Time alone may also bring it: look every 10 ms while any wait."""

    def flow(self, now_ns: int) -> dict[str, Any]:
        """What is known of flow control: rules in force, who waits, what endpoints have room for."""

    def set_quota(self, quota: Quota) -> None:
        """Hold requests to these rate limits, for as long as the engine lives; engines may share them.

        ValueError if there are others: requests under way hold something of theirs.
        """

    def rewrite_counts(self, first: int, most: int) -> list[tuple[str, str, str, int]] | None:
        """Decisions among the counters `first` to `first + most - 1`; None behind the last.

        Each as (name of the object, model asked for, target, decisions); what never happened is left out.
        """

    def add_endpoint(
        self, target: str | Buffer, address: str | Buffer, *, token: str | Buffer = b"", labels: int = 0
    ) -> tuple[int, int]:
        """(slot, generation) of a new endpoint at `target` ("ip:port") of `address` ("ip"), empty and idle.

        OverflowError at the limit, ValueError for texts that are too long or no header value, MemoryError.
        """

    def remove_endpoint(self, slot: int, generation: int) -> None:
        """Forget an endpoint and what it was thought to cache. KeyError if it has gone already."""

    def set_labels(self, slot: int, generation: int, labels: int) -> None:
        """Which label selectors of the policy the endpoint matches, by bit. KeyError if it has gone."""

    def observe(
        self,
        slot: int,
        generation: int,
        *,
        now_ns: int,
        waiting: float = -1.0,
        running: float = -1.0,
        kv_usage: float = -1.0,
        max_lora: float = -1.0,
        running_adapters: Iterable[str] = (),
        waiting_adapters: Iterable[str] = (),
        cache_tokens: int = -1,
    ) -> bool:
        """Scraped load of an endpoint; negative means the page did not say. False if the endpoint has gone.

        `cache_tokens`: what its KV cache holds at most; sets what the index thinks it keeps.
        """

    def is_busy(self, slot: int, generation: int) -> bool:
        """Has it requests under way?"""

    def count_scheduling(self, took_s: float) -> None:
        """How long a pick took, from the end of the body to the reply, in seconds."""

    def count_dispatch(self, took_s: float) -> None:
        """How long one round of dispatching what waits took, in seconds."""

    def endpoints(self, now_ns: int) -> list[dict[str, Any]]:
        """What is known of each endpoint, as dicts in slot order."""

    def stats(self) -> dict[str, Any]:
        """Counters and histograms as plain Python objects.

        A histogram is (((bound, observations not above it), ...), sum of observations); the last bound is infinity.
        """

    def decisions(self, limit: int = 100, *, before: int = 0) -> list[dict[str, Any]]:
        """The latest decisions, newest first: what was chosen, among how many, with which scores by step.

        `before`: none of this number or a later one; 0 for all.
        """

    @property
    def sessions(self) -> int:
        """Open ext_proc streams."""

    @property
    def buffered_bytes(self) -> int:
        """Of request bodies that wait to be complete."""

    @property
    def index_blocks(self) -> int:
        """(block, endpoint) pairs in the prefix index."""

    @property
    def index_bytes(self) -> int:
        """Memory of the prefix index."""

    @property
    def in_flight(self) -> int:
        """Requests booked on endpoints."""

    def _check(self) -> None:
        """Assert the invariants."""
