"""How long the steps of a simulated engine take.

The constants are those of the Gateway API Inference Extension's simulator, fitted to one A100-40GB:
prefill 0.01969 s + 6.769e-5 s a token; decode 0.014 s + 5.35e-7 s a cached token + 1.0265e-4 s a sequence. Its floor of
0.04 s under a prefill is left out: it is for whole prompts, and steps here are chunks.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TimingModel:
    """Seconds per step as a linear function of what the step computes; `speedup` divides all of them.

    A step that mixes prefill and decode is one forward pass: it pays the larger of the two bases once.
    """

    prefill_base_s: float = 0.01969
    prefill_s_per_token: float = 6.769e-5
    decode_base_s: float = 0.014
    decode_s_per_kv_token: float = 5.35e-7
    decode_s_per_sequence: float = 1.0265e-4
    speedup: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for a speedup, or a decode step, that takes no time or less."""
        if self.speedup <= 0 or self.decode_base_s <= 0 or self.prefill_base_s <= 0:
            raise ValueError("speedup and base times must be positive")

    def step_s(self, prefill_tokens: int, sequences: int, kv_tokens: int) -> float:
        """Seconds of one step that computes `prefill_tokens` and one token for each of `sequences`,
        which together hold `kv_tokens` in the cache."""
        base_s = self.decode_base_s if prefill_tokens == 0 else max(self.prefill_base_s, self.decode_base_s)
        prefill_s = self.prefill_s_per_token * prefill_tokens
        decode_s = self.decode_s_per_kv_token * kv_tokens + self.decode_s_per_sequence * sequences
        return (base_s + prefill_s + decode_s) / self.speedup

    def decode_steps_s(self, steps: int, sequences: int, kv_tokens: int) -> float:
        """Seconds of `steps` decode steps in a row: the cache grows by `sequences` tokens with each."""
        grown = sequences * (steps * (steps - 1) // 2)
        first_s = self.step_s(0, sequences, kv_tokens)
        return steps * first_s + self.decode_s_per_kv_token * grown / self.speedup

    def decode_steps_in(self, seconds: float, sequences: int, kv_tokens: int) -> int:
        """About how many whole decode steps fit into `seconds`: the root of `decode_steps_s`, floored.

        Rounding may put it one off; callers that need the exact count compare with `decode_steps_s`.
        """
        square = self.decode_s_per_kv_token * sequences / self.speedup / 2
        linear = self.step_s(0, sequences, kv_tokens) - square
        root = math.sqrt(linear * linear + 4 * square * max(seconds, 0.0))
        return int(2 * max(seconds, 0.0) / (linear + root))
