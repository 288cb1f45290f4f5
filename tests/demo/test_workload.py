from collections import Counter

from picker.demo import workload
from picker.demo.workload import Workload, make_workload


def build(**changes: float) -> Workload:
    return make_workload(**{"endpoints": 6, "duration_s": 200.0, "seed": 1, **changes})  # type: ignore[arg-type]


def test_a_seed_is_a_workload() -> None:
    assert build() == build()
    assert build() != build(seed=2)


def test_sizes_are_as_stated() -> None:
    load = build()
    assert {len(prompt) for prompt in load.system_prompts} == {workload.SYSTEM_TOKENS * 4}
    assert len(set(load.system_prompts)) == len(load.system_prompts) == 18
    turns = [turn for conversation in load.conversations for turn in conversation.turns]
    low, high = workload.QUESTION_TOKENS
    assert all(low * 4 <= len(turn.question) <= high * 4 for turn in turns)
    assert all(24 <= turn.answer_tokens <= 72 for turn in turns)
    assert {len(conversation.turns) for conversation in load.conversations} == {2, 3, 4, 5, 6}


def test_conversations_begin_in_order_at_the_stated_rate_in_all_groups() -> None:
    load = build()
    starts = [conversation.start_s for conversation in load.conversations]
    assert starts == sorted(starts)
    assert 0 < starts[0] and starts[-1] < 200
    wanted = 200 * 6 * workload.CONVERSATIONS_PER_ENDPOINT_S
    assert abs(len(starts) - wanted) < 4 * wanted**0.5
    assert len(Counter(conversation.group for conversation in load.conversations)) == 18
