from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

MAX_STEPS: int
MAX_CHOSEN: int
MAX_PARAM: float
FILTER_LABELS: int
FILTER_PREFIX: int
FILTER_PLUGIN: int
FILTER_LOAD: int
SCORE_QUEUE: int
SCORE_RUNNING: int
SCORE_KV: int
SCORE_PREFIX: int
SCORE_LORA: int
SCORE_LOAD_AWARE: int
SCORE_TOKEN_LOAD: int
SCORE_ACTIVE: int
SCORE_SESSION: int
SCORE_TTFT: int
SCORE_PLUGIN: int
PICK_MAX: int
PICK_WEIGHTED: int
PICK_RANDOM: int
PICK_PLUGIN: int

@final
class Pipeline:
    """A pipeline over endpoints of its own, for tests and benchmarks; the engine runs the same kernel.

    `steps`: as `pipeline_fill` takes them. `endpoints`: mappings with waiting, running, kv_usage, max_lora,
    running_adapters, waiting_adapters, scraped_ns, requests, prefill_tokens, progress_ns, resident_tokens,
    prefill_rate, rate_ns, labels, session; what is left out is unknown or zero, prefill work not begun. ValueError or
    OverflowError for what no pipeline can be.
    """

    def __new__(
        cls,
        steps: Sequence[tuple[int, float, Sequence[float], int]],
        endpoints: Iterable[Mapping[str, Any]],
        *,
        wanted: int = 1,
        seed: int = 0,
        prior_rate: float = 15000.0,
    ) -> Pipeline: ...
    def run(
        self,
        match: Sequence[int] | None,
        *,
        prompt_tokens: int = 0,
        block_tokens: int = 64,
        model: str = "",
        session: bytes = b"",
        now_ns: int = 0,
        plugin: Callable[[int, list[int]], Sequence[float] | None] | None = None,
    ) -> list[int]:
        """Chosen slots in order of preference; empty when filters left none.

        `match`: leading blocks held, by slot; None for a request without a prompt. `plugin`: called as
        plugin(step, candidate slots) for the answer of a plugin's step, see `frame_answer`; None skips the step.
        """

    def rerun(self) -> int:
        """The last request once more, plugins skipped; the number of endpoints chosen. What benchmarks time."""

    def scores(self) -> list[tuple[int, float, list[float]]]:
        """(slot, total, scores by scorer) of the last run's candidates."""

    def margin(self) -> tuple[float, float]:
        """Total of the last run's first choice and the greatest total of the others, -1 if there was no other."""

    def _check(self) -> None:
        """Assert the last run's invariants."""
