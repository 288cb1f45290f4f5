"""An oracle: it knows caches and queues exactly, and how long every answer will be. No gateway can know that.

It sends each request to where it expects its first token soonest, and adds to that what it costs others: the time that
its prompt takes to compute, once for each request there whose answer has not begun and that shares steps with it, and
`burden` times for those still to come; and the longer steps that its answer makes for all who come while it is under
way. So it is greedy, in order of arrival: it knows nothing of what comes next. What others lose against it they lose by
not knowing; it is not a bound.
"""

import random
from collections.abc import Hashable, Sequence

from picker.sim.asked import Asked
from picker.sim.policies.base import Cluster
from picker.sim.policies.books import Booked, least


class Oracle(Booked):
    """See the module."""

    def __init__(self, seed: int = 0, *, burden: float = 1.0) -> None:
        self.dice = random.Random(seed)
        self.burden = burden

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.held_tokens = [0] * len(cluster.replicas)
        self.held_answers = [0] * len(cluster.replicas)
        self.unanswered = [0] * len(cluster.replicas)
        self._coming: list[dict[Hashable, int]] = [{} for _ in cluster.replicas]  # blocks that will have been computed
        self._awaited: dict[int, Sequence[Hashable]] = {}

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        names = self.cluster.names(asked)
        uncached = {slot: asked.prompt_tokens - self.found_tokens(slot, asked, names) for slot in self.slots}
        slot = least(self.slots, lambda slot: self.cost_s(slot, asked, uncached[slot], now_s), self.dice)
        self._awaited[asked.index] = names
        self.unanswered[slot] += 1
        for name in names:
            self._coming[slot][name] = self._coming[slot].get(name, 0) + 1
        self.held_tokens[slot] += asked.tokens
        self.held_answers[slot] += asked.output_tokens
        return self.book(asked, slot, uncached[slot])

    def found_tokens(self, slot: int, asked: Asked, names: Sequence[Hashable]) -> int:
        """What it will find when its turn comes: also what those before it will have computed by then."""
        depth = self.cluster.cached_tokens(slot, asked) // self.cluster.key_tokens
        coming = self._coming[slot]
        while depth < len(names) and names[depth] in coming:
            depth += 1
        return depth * self.cluster.key_tokens

    def cost_s(self, slot: int, asked: Asked, uncached: int, now_s: float) -> float:
        timing = self.cluster.engines[slot].timing
        own_s = timing.prefill_s_per_token * uncached / timing.speedup
        delays_s = (self.burden + self.unanswered[slot]) * own_s + self.crowd_s(slot, asked)
        return self.ttft_s(slot, asked, uncached, now_s) + delays_s

    def crowd_s(self, slot: int, asked: Asked) -> float:
        """What its answer costs those who come while it is under way, each a longer step.

        Steps of `s` seconds with so many answers that they would take `base` alone: s = base / (1 - load), where the
        load is the time that each answer adds to a step, times its tokens, times arrivals per second. So an answer adds
        s * s / base times what it adds to the load to the step of each; arrivals are those in flight over their time.
        """
        requests, answers = self.requests[slot], self.held_answers[slot]
        if not requests:
            return 0.0
        timing = self.cluster.engines[slot].timing
        tokens = asked.prompt_tokens + asked.output_tokens / 2
        adds_s = (timing.decode_s_per_sequence + timing.decode_s_per_kv_token * tokens) / timing.speedup
        step_s = timing.step_s(0, requests, self.held_tokens[slot])
        arrivals = requests / (answers / requests * step_s)
        return arrivals * asked.output_tokens * adds_s * step_s * step_s / timing.step_s(0, 0, 0)

    def ttft_s(self, slot: int, asked: Asked, uncached: int, now_s: float) -> float:
        """The step in progress, then as many steps as the prompts before it and its own need, beside the answers."""
        engine, replica = self.cluster.engines[slot], self.cluster.replicas[slot]
        answers, kv_tokens = engine.decoding
        tokens = max(self.prefill_tokens[slot] - engine.prefilled_tokens, 0) + uncached
        steps = -(-tokens // max(replica.max_batched_tokens - answers, 1))
        last_s = engine.timing.step_s(tokens - (steps - 1) * (tokens // steps), answers, kv_tokens)
        rest_s = (steps - 1) * engine.timing.step_s(tokens // steps, answers, kv_tokens)
        begun_s = max((engine.next_step_at() or now_s) - now_s, 0.0)
        return begun_s + rest_s + last_s + self.room_s(slot, asked)

    def room_s(self, slot: int, asked: Asked) -> float:
        """Until answers that end have made room for it, in the cache and in the batch, if there is none."""
        engine, replica = self.cluster.engines[slot], self.cluster.replicas[slot]
        missing = (self.held_tokens[slot] + asked.tokens) / replica.cache_tokens - 1.0
        missing = max(missing, (self.requests[slot] + 1) / replica.max_seqs - 1.0)
        if missing <= 0.0 or not self.requests[slot]:
            return 0.0
        answers, kv_tokens = engine.decoding
        mean_answer_s = self.held_answers[slot] / self.requests[slot] * engine.timing.step_s(0, answers, kv_tokens)
        return missing * mean_answer_s

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        super().first_token(asked, slot, now_s)
        self.computed(asked, slot)

    def computed(self, asked: Asked, slot: int) -> None:
        coming = self._coming[slot]
        names = self._awaited.pop(asked.index, None)
        self.unanswered[slot] -= names is not None
        for name in names or ():
            coming[name] -= 1
            if not coming[name]:
                del coming[name]

    def ended(self, asked: Asked, slot: int, now_s: float) -> None:
        super().ended(asked, slot, now_s)
        self.computed(asked, slot)
        self.held_tokens[slot] -= asked.tokens
        self.held_answers[slot] -= asked.output_tokens
